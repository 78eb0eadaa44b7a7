//! The processor's time stamp counter around one call.
//!
//! Fences keep the call between the two readings; what they and the readings cost is part of every figure, the same for
//! each allocator, and is measured by timing nothing.
#![allow(unsafe_code)]

use anyhow::ensure;
use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};
use std::time::Instant;

/// Runs `call`; what it gave, and the ticks it took.
#[inline(always)]
pub fn ticks<T>(call: impl FnOnce() -> T) -> (T, u64) {
    let begin = now();
    let value = call();
    let end = now();
    // A thread that was moved may read another CPU's counter, which may be behind.
    (value, end.saturating_sub(begin))
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: every x86-64 processor has both; they have no effect on memory.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// What a tick is worth, found by running a second clock beside the counter.
pub struct Calibration {
    wall: Instant,
    ticks: u64,
}

impl Calibration {
    /// Starts both clocks; an error where the counter's pace depends on the processor's.
    pub fn start() -> anyhow::Result<Self> {
        const ADVANCED_POWER: u32 = 0x8000_0007;
        // SAFETY: every x86-64 processor has it. (Safe to call from Rust 1.94 or so on.)
        #[allow(unused_unsafe)]
        let leaf = |number| unsafe { __cpuid(number) };
        let known = leaf(0x8000_0000).eax >= ADVANCED_POWER;
        let invariant = known && leaf(ADVANCED_POWER).edx & (1 << 8) != 0;
        ensure!(invariant, "this processor's time stamp counter is not invariant: no latency here");
        Ok(Calibration { wall: Instant::now(), ticks: now() })
    }

    /// Nanoseconds of a tick since the start.
    pub fn ns_per_tick(&self) -> f64 {
        self.wall.elapsed().as_nanos() as f64 / (now() - self.ticks).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_tick_has_its_worth() {
        let calibration = Calibration::start().unwrap();
        let ((), ticks) = ticks(|| std::thread::sleep(Duration::from_millis(50)));
        let ns = ticks as f64 * calibration.ns_per_tick();
        // A busy machine may sleep longer, never shorter.
        assert!((49e6..5e9).contains(&ns), "{ns} ns");
        assert!((0.1..2.0).contains(&calibration.ns_per_tick()), "0.5 to 10 GHz");
    }
}
