//! What was put off: a slow allocation in a later second of the coarse clock looks again. The functions are for what policies of memory put off.
//!
//! Promises: one thread looks for each second in which something was put off; a look that takes longer than the second may meet the
//! next one. Where nothing was put off, asking is one load.

use crate::atomic::{AtomicUsize, Ordering};

/// The second in which something was put off, plus 1; 0 if nothing is.
pub struct Since(AtomicUsize);

static SINCE: Since = Since::never();

/// Whether something was put off.
#[inline]
pub fn is_any() -> bool {
    SINCE.is_any()
}

/// Puts something off at second `now`.
pub fn put_off(now: usize) {
    SINCE.put_off(now);
}

/// Whether something was put off in another second than `now`, and the caller is the one that looks.
pub fn take_due(now: usize) -> bool {
    SINCE.take_due(now)
}

impl Since {
    /// Nothing is put off.
    pub const fn never() -> Self {
        Since(AtomicUsize::new(0))
    }

    /// See [`is_any`].
    #[inline]
    pub fn is_any(&self) -> bool {
        // Ordering: Relaxed throughout, a hint of a policy that carries nothing.
        self.0.load(Ordering::Relaxed) != 0
    }

    /// See [`put_off`].
    pub fn put_off(&self, now: usize) {
        if !self.is_any() {
            self.0.store(now.wrapping_add(1).max(1), Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }

    /// See [`take_due`].
    pub fn take_due(&self, now: usize) -> bool {
        // Ordering: Relaxed, as above.
        let since = self.0.load(Ordering::Relaxed);
        let is_due = since != 0 && since != now.wrapping_add(1).max(1);
        // Ordering: Relaxed, as above.
        is_due && self.0.compare_exchange(since, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_looks_a_second_later() {
        let since = Since::never();
        since.put_off(1000);
        assert!(since.is_any() && !since.take_due(1000), "in the same second");
        since.put_off(1001);
        assert!(since.take_due(1001), "the first time counts");
        assert!(!since.is_any() && !since.take_due(1002), "once");
    }
}
