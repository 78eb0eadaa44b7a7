//! What a policy of memory put off: a slow allocation in a later second of the coarse clock looks again.
//!
//! Promises: one thread looks for each second in which something was put off; a look that takes longer than the second may meet the
//! next one. Where nothing was put off, asking is one load.

use crate::atomic::{AtomicUsize, Ordering};

/// The second in which something was put off, plus 1; 0 if nothing is.
static SINCE: AtomicUsize = AtomicUsize::new(0);

/// Whether something was put off.
#[inline]
pub fn is_any() -> bool {
    // Ordering: Relaxed throughout, a hint of a policy that carries nothing.
    SINCE.load(Ordering::Relaxed) != 0
}

/// Puts something off at second `now`.
pub fn put_off(now: usize) {
    if !is_any() {
        SINCE.store(now.wrapping_add(1).max(1), Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
}

/// Whether something was put off in another second than `now`, and the caller is the one that looks.
pub fn take_due(now: usize) -> bool {
    // Ordering: Relaxed, as above.
    let since = SINCE.load(Ordering::Relaxed);
    let is_due = since != 0 && since != now.wrapping_add(1).max(1);
    // Ordering: Relaxed, as above.
    is_due && SINCE.compare_exchange(since, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_looks_a_second_later() {
        put_off(1000);
        assert!(is_any() && !take_due(1000), "in the same second");
        put_off(1001);
        assert!(take_due(1001), "the first time counts");
        assert!(!is_any() && !take_due(1002), "once");
    }
}
