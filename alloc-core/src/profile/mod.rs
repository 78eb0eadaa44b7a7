//! The sampled heap profile: which allocations are live, and which call stacks made them.

pub mod layout;
pub mod read;

use crate::atomic::AtomicUsize;
use layout::Header;

/// The header of the one profile of this process.
pub static PROFILE: Header<AtomicUsize> = Header {
    state: AtomicUsize::new(0),
    generation: AtomicUsize::new(0),
    interval_bytes: AtomicUsize::new(0),
    started_ns: AtomicUsize::new(0),
    stopped_ns: AtomicUsize::new(0),
    stacks: AtomicUsize::new(0),
    stack_stride: AtomicUsize::new(0),
    stacks_used: AtomicUsize::new(0),
    frames: AtomicUsize::new(0),
    frames_used: AtomicUsize::new(0),
    samples: AtomicUsize::new(0),
    sample_stride: AtomicUsize::new(0),
    samples_used: AtomicUsize::new(0),
    dropped_stacks: AtomicUsize::new(0),
    dropped_samples: AtomicUsize::new(0),
    truncated_stacks: AtomicUsize::new(0),
};

/// Starts a profile with a mean interval of so many bytes, 0: the default. 0, or an errno. Async-signal-safe.
///
/// A reader outside finds the address of this function in the published block, and may have a stopped thread call it.
pub extern "C" fn start_for_c(_interval_bytes: usize) -> i32 {
    libc::ENOSYS
}

/// Stops the profile; its records stay. 0, or an errno. As [`start_for_c`].
pub extern "C" fn stop_for_c() -> i32 {
    libc::ENOSYS
}
