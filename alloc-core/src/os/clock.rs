//! The clocks that policies, waits and statistics read.
//!
//! The one that policies decide by, of seconds and milliseconds, is slow in a build with the feature `counters`, which runs
//! in translated machines (`counters::slowed`).

use crate::counters;

/// Seconds of a monotonic clock; cheap, since the vDSO reads no counter for it.
#[inline(never)]
pub fn seconds() -> usize {
    coarse().tv_sec as usize
}

/// Milliseconds of the same clock, which moves in steps of 1 to 10.
#[inline(never)]
pub fn milliseconds() -> usize {
    let now = coarse();
    now.tv_sec as usize * 1_000 + now.tv_nsec as usize / 1_000_000
}

/// Microseconds of a monotonic clock.
#[inline(never)]
pub fn microseconds() -> usize {
    let now = read(libc::CLOCK_MONOTONIC);
    now.tv_sec as usize * 1_000_000 + now.tv_nsec as usize / 1_000
}

/// Nanoseconds since the epoch.
pub fn nanoseconds_since_epoch() -> usize {
    let now = read(libc::CLOCK_REALTIME);
    now.tv_sec as usize * 1_000_000_000 + now.tv_nsec as usize
}

/// Milliseconds since 1970.
pub fn unix_time_ms() -> u64 {
    let now = read(libc::CLOCK_REALTIME);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

fn coarse() -> libc::timespec {
    counters::slowed(read(libc::CLOCK_MONOTONIC_COARSE))
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live struct. If the clock does not exist, no time passes.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now
}
