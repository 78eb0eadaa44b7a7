//! Whether the heap swings: it falls so soon after it rose that it is likely to rise again.
//!
//! Pages that a swing frees and takes again would cost a purge and page faults each time. So they stay for a while, up to what the
//! heap held. A heap that has held its pages for longer, or falls for the first time, gives them back at once (docs/adr/0056).
//!
//! Invariants:
//! I1. All of this steers purging and nothing else: threads that race here purge too early or too late.

use crate::atomic::{AtomicUsize, Ordering};

/// A heap that falls within so many milliseconds after its last low swings, and keeps what it frees for as long.
const PERIOD_MS: usize = 500;
/// A rise counts if it takes one of so many pages that the last low left free. So at most so many times what a swing takes again stays.
const RISE_PARTS: usize = 4;

/// The last low of the heap, and the fall that goes on.
pub(super) struct Swing {
    /// The pages held at the last low.
    low: AtomicUsize,
    /// When that was, in milliseconds.
    low_at: AtomicUsize,
    /// Until when the pages of this fall stay.
    stay_until: AtomicUsize,
}

impl Swing {
    /// Of a heap that never fell.
    pub(super) const fn new() -> Swing {
        let (low, low_at, stay_until) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        Swing { low, low_at, stay_until }
    }

    /// Whether the `free` pages of a heap are to stay that has fallen to `held` pages at `now`, in milliseconds.
    pub(super) fn keeps(&self, held: usize, free: usize, now: usize) -> bool {
        // Ordering: Relaxed (I1).
        let low = self.low.load(Ordering::Relaxed);
        if held > low && (held - low) * RISE_PARTS > held + free - low {
            // It has risen: this is another fall.
            // Ordering: Relaxed (I1).
            let is_swing = now.wrapping_sub(self.low_at.load(Ordering::Relaxed)) < PERIOD_MS;
            let until = if is_swing { now.wrapping_add(PERIOD_MS) } else { now };
            // Ordering: Relaxed (I1).
            self.stay_until.store(until, Ordering::Relaxed);
            // Not a low: the heap may go on rising.
            self.low.store(held, Ordering::Relaxed); // Ordering: Relaxed (I1).
        } else if held < low {
            // Ordering: Relaxed (I1).
            self.low.store(held, Ordering::Relaxed);
            self.low_at.store(now, Ordering::Relaxed); // Ordering: Relaxed (I1).
        }
        self.lasts(now)
    }

    /// Whether the pages of the last fall are still to stay at `now`.
    pub(super) fn lasts(&self, now: usize) -> bool {
        // Ordering: Relaxed (I1). The difference is large if the time is over, or the clock was set back.
        let left = self.stay_until.load(Ordering::Relaxed).wrapping_sub(now);
        (1..=PERIOD_MS).contains(&left)
    }
}

#[cfg(test)]
mod tests {
    use super::{PERIOD_MS, Swing};

    /// A heap of which `held` pages are held, of 100 that it has.
    fn keeps(swing: &Swing, held: usize, now: usize) -> bool {
        swing.keeps(held, 100 - held, now)
    }

    /// A heap that fell to nothing then, for the first time.
    fn swing_at(now: usize) -> Swing {
        let swing = Swing::new();
        assert!(!keeps(&swing, 80, now - 1) && !keeps(&swing, 0, now), "the first fall");
        swing
    }

    #[test]
    fn a_look_at_a_heap_that_rises_is_no_low() {
        let swing = swing_at(1000);
        assert!(!keeps(&swing, 50, 3000));
        assert!(!keeps(&swing, 80, 3200), "it held that for long, or rose for long");
        assert!(!keeps(&swing, 0, 3201));
    }

    #[test]
    fn a_heap_that_held_its_pages_for_long_gives_them_back() {
        let swing = swing_at(1000);
        for (at, held) in [80, 60, 20, 0].into_iter().enumerate() {
            assert!(!keeps(&swing, held, 1000 + PERIOD_MS + at), "{held}");
        }
    }

    #[test]
    fn what_a_swing_frees_stays_for_a_period() {
        let swing = swing_at(1000);
        for round in 0..20 {
            let now = 1000 + round * (PERIOD_MS - 10);
            for held in [80, 60, 20, 0] {
                assert!(keeps(&swing, held, now + 5), "{round}: {held}");
            }
        }
        let last = 1000 + 19 * (PERIOD_MS - 10) + 5;
        assert!(keeps(&swing, 0, last + PERIOD_MS - 1));
        assert!(!keeps(&swing, 0, last + PERIOD_MS));
        assert!(!keeps(&swing, 0, last - 10 * PERIOD_MS), "the clock was set back");
    }

    #[test]
    fn small_rises_do_not_keep_what_a_large_one_left() {
        let swing = swing_at(1000);
        assert!(keeps(&swing, 80, 1001));
        assert!(keeps(&swing, 0, 1002));
        for now in (1003..3000).step_by(10) {
            let expected = now < 1001 + PERIOD_MS;
            assert_eq!(keeps(&swing, 20, now), expected, "{now}");
            assert_eq!(keeps(&swing, 0, now), expected, "{now}");
        }
    }
}
