//! A token bucket: how much costly work may be done in a time.
//!
//! Over a long time no more is spent than flows in. A full bucket grants an expense of any size, which is paid back before the
//! next. Threads that race may spend some tokens twice.

use crate::atomic::{AtomicUsize, Ordering};

/// A bucket of `size` tokens into which `rate` flow each second.
pub struct TokenBucket {
    size: usize,
    rate: usize,
    spent: AtomicUsize,
    /// The second up to which tokens have flowed.
    filled_at: AtomicUsize,
}

impl TokenBucket {
    /// A full one.
    pub const fn new(size: usize, rate: usize) -> Self {
        let (spent, filled_at) = (AtomicUsize::new(0), AtomicUsize::new(0));
        TokenBucket { size, rate, spent, filled_at }
    }

    /// Takes `tokens` at second `now`, if there are as many or the bucket is full.
    #[inline(never)]
    pub fn spend(&self, tokens: usize, now: usize) -> bool {
        // Ordering: Relaxed throughout, hints of a policy that carry nothing.
        let before = self.filled_at.swap(now, Ordering::Relaxed);
        // `now` may be older than `filled_at` if this thread was preempted after reading the clock.
        let seconds = (now.wrapping_sub(before) as isize).max(0) as usize;
        // Ordering: Relaxed, as above.
        let spent =
            self.spent.load(Ordering::Relaxed).saturating_sub(seconds.saturating_mul(self.rate));
        let is_given = spent == 0 || spent + tokens <= self.size;
        let taken = if is_given { tokens } else { 0 };
        // Ordering: Relaxed, as above.
        self.spent.store(spent + taken, Ordering::Relaxed);
        is_given
    }
}

#[cfg(test)]
mod tests {
    use super::TokenBucket;

    #[test]
    fn tokens_that_flow_in_may_be_spent() {
        let bucket = TokenBucket::new(100, 10);
        assert!(bucket.spend(60, 1000));
        assert!(!bucket.spend(60, 1000));
        assert!(bucket.spend(40, 1000));
        assert!(!bucket.spend(1, 1000));
        assert!(!bucket.spend(21, 1002));
        assert!(bucket.spend(20, 1002));
        // More than fits, once it is full; not before, and not again until it is paid back.
        assert!(!bucket.spend(500, 1011));
        assert!(bucket.spend(500, 1012));
        assert!(!bucket.spend(1, 1051));
        assert!(bucket.spend(1, 1053));
        assert!(bucket.spend(500, 1063));
        assert!(!bucket.spend(1, 1062));
    }
}
