//! How long somebody tries what he may not wait for.
//!
//! Called by the locks and by those who try several of them; calls os.

use crate::atomic::BACKOFF_YIELDS;
use crate::os;

/// How long a caller tries locks that it may not wait for: one budget for all of them together.
///
/// In turns given to other threads, and in seconds: on a starved machine a turn costs milliseconds.
pub struct Backoff {
    pub(super) turns: u32,
    pub(super) until: usize,
}

impl Backoff {
    /// A good while, after which whoever still holds a lock is taken to wait for the caller.
    pub fn usual() -> Backoff {
        Backoff::of(1)
    }

    /// One that outlasts [`Backoff::usual`] of another thread, and what that thread then does.
    pub fn longer() -> Backoff {
        Backoff::of(3)
    }

    /// No backoff: each lock is tried once.
    pub fn none() -> Backoff {
        Backoff { turns: 0, until: 0 }
    }

    /// Whether there never was any.
    pub(super) fn is_none(&self) -> bool {
        self.until == 0
    }

    fn of(whiles: u32) -> Backoff {
        // At least one second each: the one that has begun is not a whole one.
        Backoff { turns: BACKOFF_YIELDS * whiles, until: os::seconds() + 1 + whiles as usize }
    }

    /// Lets others run; false once the budget is used up.
    pub fn spend(&mut self) -> bool {
        if self.turns == 0 || os::seconds() >= self.until {
            return false;
        }
        self.turns -= 1;
        os::yield_now();
        true
    }

    /// Whether nothing was spent yet, for tests.
    #[doc(hidden)]
    pub fn is_whole(&self) -> bool {
        self.turns == BACKOFF_YIELDS
    }
}
