//! A count of the sections that the kernel aborted, in this process' children.
//!
//! The kernel's tracepoint `rseq:rseq_ip_fixup` is counted by perf_event_open(2), inherited by what
//! is started afterwards. The C library has no sections: all of them are the allocator's.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::FromRawFd;

/// Where the tracepoint's number stands, on new and old kernels.
const IDS: [&str; 2] = [
    "/sys/kernel/tracing/events/rseq/rseq_ip_fixup/id",
    "/sys/kernel/debug/tracing/events/rseq/rseq_ip_fixup/id",
];

// From linux/perf_event.h.
const TYPE_TRACEPOINT: u32 = 2;
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
/// The bit `inherit`.
const INHERIT: u64 = 1 << 1;

/// The first fields of `struct perf_event_attr` (PERF_ATTR_SIZE_VER0).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// A running count.
pub struct Fixups(File);

impl Fixups {
    /// Begins to count in what this thread starts from now on; none if the kernel can't.
    pub fn count() -> Option<Fixups> {
        let id = IDS.iter().find_map(|path| fs::read_to_string(path).ok())?;
        let attributes = Attributes {
            kind: TYPE_TRACEPOINT,
            size: size_of::<Attributes>() as u32,
            config: id.trim().parse().ok()?,
            flags: INHERIT,
            ..Attributes::default()
        };
        // This thread, every CPU, no group.
        let (call, own) = (libc::SYS_perf_event_open, CLOSE_ON_EXEC);
        // SAFETY: the kernel reads `size` bytes of a live value.
        let file = unsafe { libc::syscall(call, &raw const attributes, 0, -1, -1, own) };
        // SAFETY: a descriptor that was just made for us.
        (file >= 0).then(|| Fixups(unsafe { File::from_raw_fd(file as i32) }))
    }

    /// The count so far.
    pub fn read(&self) -> Option<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count).ok()?;
        Some(u64::from_ne_bytes(count))
    }
}
