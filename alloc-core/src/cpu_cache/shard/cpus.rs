//! The CPUs that threads of the process were seen on, by which the atomic path is sized.
//!
//! Promises: no system call where libc reads the CPU from the thread's rseq area or the vDSO (a filter may kill
//! for `sched_getaffinity`, and the files of /sys may not be there); the number only grows, as far as the
//! affinity of the threads that are recorded allows.
#![forbid(unsafe_code)]

use crate::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::os;

/// CPUs above this many count as some of the first ones.
const CPUS_MAX: usize = 1024;

static SEEN: [AtomicU64; CPUS_MAX / 64] = [const { AtomicU64::new(0) }; CPUS_MAX / 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many CPUs were seen; at least 1.
pub fn count() -> usize {
    // Ordering: Relaxed, a number that stands alone.
    COUNT.load(Ordering::Relaxed).max(1)
}

/// Records the CPU that the calling thread runs on; how many were seen by now.
#[cold]
pub fn record_current() -> usize {
    let cpu = os::current_cpu() % CPUS_MAX;
    let (word, bit) = (&SEEN[cpu / 64], 1 << (cpu % 64));
    // Ordering: Relaxed throughout, a set that only grows and its size.
    if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        COUNT.fetch_add(1, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
    count()
}
