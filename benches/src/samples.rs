//! Samples of where the threads of this process are, taken by the kernel every 250 us on each CPU.
//!
//! Promises that nothing is allocated while samples are taken: the kernel writes them into buffers mapped before, one
//! for each CPU, which are read after the clock has stopped. All that runs on a CPU is sampled, and what is not of this
//! process is left out: an event of a thread would never see threads that end within 250 us. The event is the kernel's `cpu-clock`, which needs no
//! hardware counters. Layouts: perf_event_open(2).
#![allow(unsafe_code)]

use crate::process::Edge;
use anyhow::{Context, bail, ensure};
use perf_event_open_sys as sys;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Time between two samples of a CPU.
const PERIOD_NS: u64 = 250_000;
/// Bytes of a CPU's buffer behind its first page: samples of 6 s.
const BUFFER_BYTES: usize = 1 << 20;
const OS_PAGE_BYTES: usize = 4096;
/// The register `ip` in `sample_regs_user` of x86-64.
const REGISTER_IP: u64 = 1 << 8;

/// What was sampled.
#[derive(Debug, Default, Serialize)]
pub struct Samples {
    /// The files of `user`.
    pub files: Vec<String>,
    /// In the program and its libraries: index of the file, offset in it, number of samples.
    pub user: Vec<(usize, u64, u64)>,
    /// In the kernel, in a system call of the program.
    pub system_calls: u64,
    /// In the kernel, but not in a system call: page faults, and a few interrupts.
    pub faults: u64,
    /// In code that belongs to no file (the kernel's vdso).
    pub elsewhere: u64,
}

/// Takes samples of this process.
pub struct Sampler {
    buffers: Vec<Buffer>,
}

struct Buffer {
    event: libc::c_int,
    memory: *mut u8,
}

impl Sampler {
    /// A sampler that is switched off.
    pub fn new() -> anyhow::Result<Sampler> {
        ensure!(cfg!(target_arch = "x86_64"), "samples are taken on x86-64 only");
        // SAFETY: sysconf has no preconditions.
        let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) } as i32;
        let buffers = (0..cpus).filter_map(|cpu| Buffer::new(cpu).transpose());
        let buffers = buffers.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!buffers.is_empty(), "no CPU can be sampled");
        Ok(Sampler { buffers })
    }

    /// Switches it on at the beginning, off at the end.
    pub fn at(&self, edge: Edge) {
        for buffer in &self.buffers {
            // SAFETY: the event is open, and neither request has a further argument.
            let done = unsafe {
                match edge {
                    Edge::Begin => sys::ioctls::ENABLE(buffer.event, 0),
                    Edge::End => sys::ioctls::DISABLE(buffer.event, 0),
                }
            };
            assert_eq!(done, 0, "an open event can be switched");
        }
    }

    /// What was sampled while it was on. An error if samples were lost.
    pub fn read(&self) -> anyhow::Result<Samples> {
        let maps = Maps::read()?;
        let (mut samples, mut places) = (Samples::default(), BTreeMap::new());
        for buffer in &self.buffers {
            buffer.read(|sample| {
                let Sample { kernel, ip, user_ip } = sample;
                match (kernel, maps.place(ip)) {
                    (true, _) if maps.follows_system_call(user_ip) => samples.system_calls += 1,
                    (true, _) => samples.faults += 1,
                    (false, Some(place)) => *places.entry(place).or_insert(0) += 1,
                    (false, None) => samples.elsewhere += 1,
                }
            })?;
        }
        samples.user = places.into_iter().map(|((file, at), count)| (file, at, count)).collect();
        samples.files = maps.files;
        Ok(samples)
    }
}

/// One record of the kernel's.
struct Sample {
    kernel: bool,
    ip: u64,
    /// Where the program was when it entered the kernel.
    user_ip: u64,
}

impl Buffer {
    /// None for a CPU that is offline.
    fn new(cpu: i32) -> anyhow::Result<Option<Buffer>> {
        let mut attributes = sys::bindings::perf_event_attr {
            type_: sys::bindings::PERF_TYPE_SOFTWARE,
            size: size_of::<sys::bindings::perf_event_attr>() as u32,
            config: sys::bindings::PERF_COUNT_SW_CPU_CLOCK.into(),
            sample_type: u64::from(
                sys::bindings::PERF_SAMPLE_IP
                    | sys::bindings::PERF_SAMPLE_TID
                    | sys::bindings::PERF_SAMPLE_REGS_USER,
            ),
            sample_regs_user: REGISTER_IP,
            ..Default::default()
        };
        attributes.__bindgen_anon_1.sample_period = PERIOD_NS;
        attributes.set_disabled(1);
        // SAFETY: the attributes are complete; pid -1 is all that runs on the CPU, and there is no group.
        let event = unsafe { sys::perf_event_open(&mut attributes, -1, cpu, -1, 0) };
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
                OS_PAGE_BYTES + BUFFER_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            let error = std::io::Error::last_os_error();
            bail!("no buffer for samples ({error}): raise /proc/sys/kernel/perf_event_mlock_kb");
        }
        Ok(Some(Buffer { event, memory: memory.cast() }))
    }

    /// Calls `take` with each sample; the event is off.
    fn read(&self, mut take: impl FnMut(Sample)) -> anyhow::Result<()> {
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
        ensure!(head <= BUFFER_BYTES, "more samples than the buffer holds: sample fewer seconds");
        let word = |at: usize| {
            // SAFETY: below `head`, so within the buffer; the kernel aligns records to 8 bytes.
            unsafe { self.memory.add(OS_PAGE_BYTES + at).cast::<u64>().read() }
        };
        let mut at = 0;
        while at < head {
            // type: u32, misc: u16, size: u16
            let header = word(at);
            let (kind, misc, size) =
                (header as u32, (header >> 32) as u32, (header >> 48) as usize);
            match kind {
                sys::bindings::PERF_RECORD_SAMPLE => {
                    // ip, pid and tid, abi (0: no registers), the register
                    let user_ip = if word(at + 24) == 0 { 0 } else { word(at + 32) };
                    let is_own = word(at + 16) as u32 == std::process::id();
                    let mode = misc & sys::bindings::PERF_RECORD_MISC_CPUMODE_MASK;
                    let kernel = mode == sys::bindings::PERF_RECORD_MISC_KERNEL;
                    if is_own {
                        take(Sample { kernel, ip: word(at + 8), user_ip });
                    }
                }
                sys::bindings::PERF_RECORD_LOST => bail!("the kernel lost samples"),
                _ => {}
            }
            ensure!(size >= 8, "a record without a length");
            at += size;
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping and the event are this value's, and nothing refers to them any more.
        unsafe {
            libc::munmap(self.memory.cast(), OS_PAGE_BYTES + BUFFER_BYTES);
            libc::close(self.event);
        }
    }
}

/// The executable mappings of this process.
struct Maps {
    ranges: Vec<Range>,
    files: Vec<String>,
}

struct Range {
    start: u64,
    end: u64,
    offset: u64,
    /// None: not of a file.
    file: Option<usize>,
    is_readable: bool,
}

impl Maps {
    fn read() -> anyhow::Result<Maps> {
        let text = std::fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
        let mut maps = Maps { ranges: Vec::new(), files: Vec::new() };
        for line in text.lines() {
            maps.add(line).with_context(|| format!("/proc/self/maps has the line {line}"))?;
        }
        Ok(maps)
    }

    /// `START-END PERMISSIONS OFFSET DEVICE INODE PATH`
    fn add(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let permissions = words.next()?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end, offset) = (number(start)?, number(end)?, number(words.next()?)?);
        if !permissions.contains('x') {
            return Some(());
        }
        let path = words.nth(2).filter(|path| path.starts_with('/'));
        let file = path.map(|path| {
            self.files.iter().position(|known| known == path).unwrap_or_else(|| {
                self.files.push(path.to_owned());
                self.files.len() - 1
            })
        });
        let is_readable = permissions.starts_with('r');
        self.ranges.push(Range { start, end, offset, file, is_readable });
        Some(())
    }

    fn range(&self, address: u64) -> Option<&Range> {
        self.ranges.iter().find(|range| (range.start..range.end).contains(&address))
    }

    /// The file that an instruction is of, and its offset there.
    fn place(&self, ip: u64) -> Option<(usize, u64)> {
        let range = self.range(ip)?;
        Some((range.file?, ip - range.start + range.offset))
    }

    /// Whether the instruction before `ip` is `syscall`: so the program entered the kernel by itself.
    fn follows_system_call(&self, ip: u64) -> bool {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let Some(before) = ip.checked_sub(2) else { return false };
        let is_text =
            self.range(before).is_some_and(|r| r.is_readable && ip <= r.end && r.file.is_some());
        // SAFETY: both bytes are in a mapping of a file that can be read, and libraries stay loaded.
        is_text && unsafe { (before as *const [u8; 2]).read_unaligned() } == SYSCALL
    }
}
