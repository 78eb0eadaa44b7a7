//! The buffer that the kernel writes one CPU's samples into.

use crate::process::Edge;
use anyhow::{bail, ensure};
use perf_event_open_sys as sys;
use std::sync::atomic::{AtomicU64, Ordering, fence};

const OS_PAGE_BYTES: usize = 4096;
/// The register `ip` in `sample_regs_user` of x86-64.
const REGISTER_IP: u64 = 1 << 8;

/// What is written.
pub struct Wanted {
    /// Time between two samples of a CPU.
    pub period_ns: u64,
    /// Bytes of the buffer behind its first page, a power of two: a sample takes 48.
    pub bytes: usize,
    /// Whether starts of processes and their mappings of code are recorded too.
    pub has_processes: bool,
}

/// See the head of the file.
pub struct Buffer {
    event: libc::c_int,
    memory: *mut u8,
    bytes: usize,
}

/// A record.
pub struct Record<'a> {
    /// What it is: `PERF_RECORD_...`.
    pub kind: u32,
    /// The flags of its head.
    pub misc: u32,
    /// What follows the head.
    pub words: &'a [u64],
}

impl Buffer {
    /// An event that is switched off, and its buffer. None for a CPU that is offline.
    pub fn new(cpu: i32, wanted: &Wanted) -> anyhow::Result<Option<Buffer>> {
        let mut attributes = sys::bindings::perf_event_attr {
            type_: sys::bindings::PERF_TYPE_SOFTWARE,
            size: size_of::<sys::bindings::perf_event_attr>() as u32,
            config: sys::bindings::PERF_COUNT_SW_CPU_CLOCK.into(),
            sample_type: u64::from(
                sys::bindings::PERF_SAMPLE_IP
                    | sys::bindings::PERF_SAMPLE_TID
                    | sys::bindings::PERF_SAMPLE_TIME
                    | sys::bindings::PERF_SAMPLE_REGS_USER,
            ),
            sample_regs_user: REGISTER_IP,
            clockid: libc::CLOCK_MONOTONIC,
            ..Default::default()
        };
        attributes.__bindgen_anon_1.sample_period = wanted.period_ns;
        attributes.set_disabled(1);
        attributes.set_exclude_idle(1);
        // One clock for all CPUs, so that records can be sorted.
        attributes.set_use_clockid(1);
        if wanted.has_processes {
            attributes.set_task(1);
            attributes.set_comm(1);
            attributes.set_comm_exec(1);
            attributes.set_mmap(1);
            attributes.set_mmap2(1);
            attributes.set_sample_id_all(1);
        }
        // SAFETY: the attributes are complete; pid -1 is all that runs on the CPU, and there is no group.
        let event = unsafe {
            let close_on_exec = sys::bindings::PERF_FLAG_FD_CLOEXEC.into();
            sys::perf_event_open(&mut attributes, -1, cpu, -1, close_on_exec)
        };
        if event < 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ENODEV) {
                return Ok(None);
            }
            bail!(
                "the kernel refuses samples ({error}): be root, or write 0 to \
                 /proc/sys/kernel/perf_event_paranoid; a container's filter may refuse them anyhow"
            );
        }
        // SAFETY: a new mapping of an open event, at an address that the kernel chooses.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                OS_PAGE_BYTES + wanted.bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            let error = std::io::Error::last_os_error();
            // SAFETY: the event is open, and nothing refers to it.
            unsafe { libc::close(event) };
            bail!("no buffer for samples ({error}): raise /proc/sys/kernel/perf_event_mlock_kb");
        }
        Ok(Some(Buffer { event, memory: memory.cast(), bytes: wanted.bytes }))
    }

    /// Switches the event on at the beginning, off at the end.
    pub fn switch(&self, edge: Edge) {
        // SAFETY: the event is open, and neither request has a further argument.
        let done = unsafe {
            match edge {
                Edge::Begin => sys::ioctls::ENABLE(self.event, 0),
                Edge::End => sys::ioctls::DISABLE(self.event, 0),
            }
        };
        assert_eq!(done, 0, "an open event can be switched");
    }

    /// Calls `take` with each record; the event must be off.
    pub fn read(&self, mut take: impl FnMut(&Record<'_>)) -> anyhow::Result<()> {
        let all = self.written()?;
        let mut at = 0;
        while at < all.len() {
            // type: u32, misc: u16, size: u16
            let head = all[at];
            let words = (head >> 48) as usize / size_of::<u64>();
            ensure!(words > 0 && at + words <= all.len(), "a record of a wrong length");
            let (kind, misc) = (head as u32, (head >> 32) as u32 & 0xffff);
            ensure!(kind != sys::bindings::PERF_RECORD_LOST, "the kernel lost samples");
            take(&Record { kind, misc, words: &all[at + 1..at + words] });
            at += words;
        }
        Ok(())
    }

    /// What the kernel has written since the buffer was made.
    fn written(&self) -> anyhow::Result<&[u64]> {
        // SAFETY: the first page of the mapping is this structure, and `data_head` an aligned word that the kernel
        // stores to.
        let head = unsafe {
            let page: *mut sys::bindings::perf_event_mmap_page = self.memory.cast();
            let head = AtomicU64::from_ptr(&raw mut (*page).data_head);
            // Ordering: Relaxed, the fence below orders it.
            head.load(Ordering::Relaxed) as usize
        };
        // Ordering: Acquire, pairs with the kernel's barrier between records and `data_head`.
        fence(Ordering::Acquire);
        ensure!(head <= self.bytes, "more samples than the buffer holds: sample a shorter run");
        // SAFETY: `head` bytes behind the first page are written, within the mapping and aligned to 8, as the kernel
        // makes all records; the event is off, so the kernel writes no more.
        Ok(unsafe {
            let first = self.memory.add(OS_PAGE_BYTES).cast();
            std::slice::from_raw_parts(first, head / size_of::<u64>())
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping and the event are this value's, and nothing refers to them any more.
        unsafe {
            libc::munmap(self.memory.cast(), OS_PAGE_BYTES + self.bytes);
            libc::close(self.event);
        }
    }
}
