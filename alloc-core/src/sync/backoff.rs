//! How long a caller tries locks that it may not wait for.

use crate::atomic::BACKOFF_YIELDS;
use crate::os;

/// A budget for tries, one for all locks of an operation together: in yields to other threads and, since a yield takes
/// milliseconds on a starved machine, in seconds.
pub struct Backoff {
    pub(super) yields: u32,
    pub(super) until: usize,
}

impl Backoff {
    /// So long that a holder which is not done by then is taken to wait for the caller.
    pub fn usual() -> Backoff {
        Backoff::times(1)
    }

    /// Outlasts another thread's [`Backoff::usual`], and what that thread does then.
    pub fn longer() -> Backoff {
        Backoff::times(3)
    }

    /// For the operation of another thread, which may be preempted in it again and again: as many yields as four of
    /// [`Backoff::longer`], and at most so many seconds.
    pub fn within(seconds: usize) -> Backoff {
        Backoff { yields: 4 * 3 * BACKOFF_YIELDS, until: os::seconds() + seconds }
    }

    /// Zero: each lock is tried once.
    pub fn none() -> Backoff {
        Backoff { yields: 0, until: 0 }
    }

    /// Whether this was [`Backoff::none`] from the start.
    pub(super) fn is_none(&self) -> bool {
        self.until == 0
    }

    fn times(factor: u32) -> Backoff {
        // One second more, since the current one has begun already.
        Backoff { yields: BACKOFF_YIELDS * factor, until: os::seconds() + 1 + factor as usize }
    }

    /// Lets other threads run; false once the budget is used up.
    pub fn spend(&mut self) -> bool {
        if self.yields == 0 || os::seconds() >= self.until {
            return false;
        }
        self.yields -= 1;
        os::yield_now();
        true
    }

    /// Whether nothing was spent yet, for tests.
    #[doc(hidden)]
    pub fn is_whole(&self) -> bool {
        self.yields == BACKOFF_YIELDS
    }
}
