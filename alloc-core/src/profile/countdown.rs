//! The countdown: which allocation is a sample, and how many it stands for.
//!
//! Promises that an object of `size` bytes is a sample with probability `1 - exp(-size / interval)`, whatever was allocated before
//! it: each thread counts bytes down from a number of exponential distribution, which forgets the past. So a thread that begins,
//! ends, or is reset changes no probability.
//!
//! ```text
//! word = floor + 1 + bytes until the sample;   sample: word - size <= floor
//! ```
//!
//! Each start raises the floor by [`FLOOR_STEP`], so the countdowns of all threads, which nothing else can reach, are out of date. The
//! sections compare with a sign, so the floor ends at [`FLOOR_MAX`], after eight million starts: a thread's next sample then comes
//! where the profile before has put it, and only those after it are drawn anew.

use super::PROFILE;
use super::layout::WEIGHT_ONE;
use crate::arch;
use crate::atomic::{AtomicU64, Ordering};
use crate::hot::HOT;

/// More than any countdown, and than what is subtracted at once.
const FLOOR_STEP: usize = 1 << 40;
/// A countdown above it is a positive number still.
const FLOOR_MAX: usize = isize::MAX as usize + 1 - FLOOR_STEP;
/// What is subtracted at most: such an object is a sample at any interval.
const COUNTED_MAX: usize = 1 << 38;

/// Bytes of the mean interval unless another is asked for.
pub const DEFAULT_INTERVAL: usize = 512 << 10;
/// The smallest and the largest interval.
pub const INTERVALS: core::ops::RangeInclusive<usize> = crate::units::PROFILE_INTERVALS;

/// State of the generator of random numbers.
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// Puts the countdowns of all threads out of date. For the start of a profile.
pub fn restart(seed: u64) {
    // Ordering: Relaxed, any number does.
    RANDOM.fetch_add(seed, Ordering::Relaxed);
    // Ordering: Relaxed, a thread that sees it late counts down from its former number for so long.
    HOT.sample_floor.store(raised(HOT.sample_floor.load(Ordering::Relaxed)), Ordering::Relaxed);
}

/// The floor after that of the profile before.
const fn raised(floor: usize) -> usize {
    if floor < FLOOR_MAX { floor + FLOOR_STEP } else { FLOOR_MAX }
}

/// Counts `size` bytes of the calling thread; whether they are a sample.
pub fn count(size: usize) -> bool {
    let counted = size.min(COUNTED_MAX);
    let word = arch::sample_countdown();
    // Ordering: Relaxed, the thread's own word. What a handler in between begins anew is lost, and what was left goes on, which has
    // the same distribution.
    let left = word.load(Ordering::Relaxed).wrapping_sub(counted);
    word.store(left, Ordering::Relaxed); // Ordering: Relaxed, as above.
    is_due(counted)
}

/// Whether `size` bytes, which were counted down from the calling thread's word, are a sample. Begins the next countdown then.
pub fn is_due(size: usize) -> bool {
    let word = arch::sample_countdown();
    // Ordering: Relaxed, the thread's own word, and a number that stands alone.
    let (left, floor) = (word.load(Ordering::Relaxed), HOT.sample_floor.load(Ordering::Relaxed));
    let (next, is_sample) = after(size, left as isize, floor as isize);
    if let Some(next) = next {
        word.store(next as usize, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
    is_sample
}

/// The thread's next word, if it is another one, and whether `size` bytes are a sample, which have left `left` in its word.
fn after(size: usize, left: isize, floor: isize) -> (Option<isize>, bool) {
    if left > floor {
        return (None, false); // A handler in between began another countdown.
    }
    let is_out_of_date = left.wrapping_add(size as isize) <= floor;
    let left = if is_out_of_date { floor + 1 + interval() - size as isize } else { left };
    let is_sample = left <= floor;
    let next = if is_sample { floor + 1 + interval() } else { left };
    (Some(next), is_sample)
}

/// Objects that a sample of `size` bytes stands for, in units of [`WEIGHT_ONE`].
pub fn weight(size: usize) -> u64 {
    // Ordering: Relaxed, a number that stands alone.
    let mean = PROFILE.interval_bytes.load(Ordering::Relaxed).max(1);
    (WEIGHT_ONE as f64 / one_minus_exp(size as f64 / mean as f64) + 0.5) as u64
}

/// A number of exponential distribution with the profile's mean, rounded down.
#[inline(never)]
fn interval() -> isize {
    // Ordering: Relaxed, a number that stands alone.
    let mean = PROFILE.interval_bytes.load(Ordering::Relaxed);
    (-ln(uniform()) * mean as f64) as isize
}

/// A number above 0, up to 1 (SplitMix64: Steele, Lea, Flood 2014).
fn uniform() -> f64 {
    // Ordering: Relaxed, each caller gets another number.
    let mut z = RANDOM.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    ((z >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// 1/1, 1/2, ..: a division takes as long as several products.
const INVERSES: [f64; 24] = {
    let mut inverses = [1.0; 24];
    let mut at = 0;
    while at < 24 {
        inverses[at] = 1.0 / (at + 1) as f64;
        at += 1;
    }
    inverses
};

/// The natural logarithm of a normal, positive number: `x = m * 2^e` with m from 2/3 to 4/3, then the series of the inverse
/// hyperbolic tangent. core has none.
#[inline(never)]
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > 4.0 / 3.0 {
        m *= 0.5;
        exponent += 1;
    }
    let t = (m - 1.0) / (m + 1.0);
    let (square, mut power, mut sum) = (t * t, t, 0.0);
    for inverse in INVERSES.iter().step_by(2) {
        sum += power * inverse;
        power *= square;
    }
    f64::from(exponent) * core::f64::consts::LN_2 + 2.0 * sum
}

/// `1 - exp(-x)` for positive x, by its series near 0; further up by `1 - exp(-2x) = p * (2 - p)`, where p is `1 - exp(-x)`.
fn one_minus_exp(x: f64) -> f64 {
    if x > 64.0 {
        return 1.0;
    }
    let mut halvings = 0;
    let mut small = x;
    while small > 0.25 {
        small *= 0.5;
        halvings += 1;
    }
    let (mut term, mut p) = (small, 0.0);
    for inverse in &INVERSES[1..16] {
        p += term;
        term *= -small * inverse;
    }
    (0..halvings).fold(p, |p, _| p * (2.0 - p))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn the_functions_are_those_of_the_library() {
        for step in 1..4000 {
            let x = f64::from(step) / 37.0;
            assert!((ln(x) - x.ln()).abs() < 1e-11, "ln {x}");
            let p = -(-x).exp_m1();
            assert!((one_minus_exp(x) - p).abs() < 1e-13, "1 - exp(-{x})");
        }
        for exponent in [-53, -40, -20, -10, -3] {
            let x = 2f64.powi(exponent);
            assert!((ln(x) / x.ln() - 1.0).abs() < 1e-13);
            let p = -(-x).exp_m1();
            assert!((one_minus_exp(x) / p - 1.0).abs() < 1e-13);
        }
    }

    /// What a section and `is_due` make of a thread's word.
    fn countdown_after(word: isize, size: usize, floor: usize) -> (isize, bool) {
        let (left, floor) = (word.wrapping_sub_unsigned(size), floor as isize);
        let (next, is_sample) =
            if left <= floor { after(size, left, floor) } else { (None, false) };
        (next.unwrap_or(left), is_sample)
    }

    #[test]
    fn threads_have_samples_after_any_number_of_starts() {
        let (mut floor, mut starts) = (0, 0usize);
        // A thread that counts through all profiles, and new ones.
        let mut word = 0;
        while starts < (1 << 23) + 1000 {
            floor = raised(floor);
            starts += 1;
            let is_seldom = !starts.is_multiple_of(1 << 16);
            if is_seldom && (100..(1 << 23) - 100).contains(&starts) {
                continue;
            }
            for word in [&mut word, &mut 0] {
                (*word, _) = countdown_after(*word, 16, floor);
                let left = word.wrapping_sub(floor as isize);
                assert!((1..=INTERVAL_MAX).contains(&left), "{starts} starts: {left}");
            }
            // So much is a sample whatever is left.
            let (after, is_sample) = countdown_after(word, COUNTED_MAX, floor);
            assert!(is_sample && after > floor as isize, "{starts} starts");
        }
    }

    /// More than the longest interval at the largest mean: the generator has 53 bits.
    const INTERVAL_MAX: isize = 37 << 30;
    const _: () = assert!(INTERVAL_MAX < COUNTED_MAX as isize && COUNTED_MAX < FLOOR_STEP);

    #[test]
    fn intervals_have_the_mean_and_the_distribution_that_is_asked_for() {
        // Ordering: Relaxed, the only test of this process that sets it.
        PROFILE.interval_bytes.store(1 << 20, Ordering::Relaxed);
        restart(4711);
        const DRAWS: usize = 200_000;
        let (mut sum, mut above) = (0.0, 0);
        for _ in 0..DRAWS {
            let drawn = interval() as f64 / f64::from(1 << 20);
            sum += drawn;
            above += usize::from(drawn > 2.0);
        }
        // Seven standard deviations, which chance exceeds once in 1e11: 1 / sqrt(200000), and of the share 0.00077.
        assert!((sum / DRAWS as f64 - 1.0).abs() < 0.0157, "mean {}", sum / DRAWS as f64);
        let share = above as f64 / DRAWS as f64;
        assert!((share - (-2f64).exp()).abs() < 0.0054, "above twice the mean: {share}");
        let heaviest = weight(16);
        assert!((heaviest as f64 / WEIGHT_ONE as f64 - 65536.5).abs() < 0.01);
        assert_eq!(weight(1 << 40), WEIGHT_ONE);
    }
}
