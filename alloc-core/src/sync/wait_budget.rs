//! How long a thread waits for a lock whose holder does not release it.
//!
//! A preempted holder can be kept from its processor for long, by real-time threads for ever. And a thread that forks holds
//! all locks while libc takes locks of its own, whose holders may wait for one of ours. So an operation of the program waits
//! for a bounded time. Then the thread is *late* until the operation ends: it only tries locks, and takes the same ways
//! around them as a signal handler on top of a holder.
//!
//! Invariants:
//! I1. When an operation ends, and each handler on top of it, the marks in the thread's word are what they were before.

use super::rank::{RANK_BITS, Rank};
use crate::arch;
use crate::atomic::{AtomicBool, Ordering};

/// An operation with a budget is under way.
const BOUNDED: u32 = 1 << 30;
/// The operation has used up its budget.
const LATE: u32 = 1 << 31;
const MARKS: u32 = BOUNDED | LATE;
const _: () = assert!(MARKS & RANK_BITS == 0);

/// How long an operation waits for an ordinary holder, in microseconds: many times what a holder needs that runs, and a small
/// part of a time slice.
pub(super) const HOLDER_US: usize = 200;
/// How long a thread waits for a lock that a forking thread holds, in microseconds: longer than all but the largest forks take.
pub(super) const FORK_US: usize = 50_000;
/// The same, after one thread has waited for `FORK_US` in vain and the fork is not over.
const LATE_FORK_US: usize = 2_000;

/// Whether a thread has waited for `FORK_US` in vain and the fork is not over.
static IS_FORK_LATE: AtomicBool = AtomicBool::new(false);

/// How long a thread waits now for a lock that a forking thread holds, in microseconds.
pub(super) fn fork_us() -> usize {
    // Ordering: Relaxed, a hint.
    if IS_FORK_LATE.load(Ordering::Relaxed) { LATE_FORK_US } else { FORK_US }
}

/// Says that the fork takes longer than `FORK_US`.
pub(super) fn mark_fork_late() {
    // Ordering: Relaxed, a hint.
    IS_FORK_LATE.store(true, Ordering::Relaxed);
}

/// Says that the fork is over.
pub fn end_late_fork() {
    // Ordering: Relaxed, a hint.
    IS_FORK_LATE.store(false, Ordering::Relaxed);
}

/// An operation's marks in the thread's word; dropping it restores the marks from before.
#[must_use]
pub struct WaitBudget {
    before: u32,
}

impl WaitBudget {
    /// Begins an operation of the program, which waits for a bounded time.
    #[inline]
    pub fn bounded() -> WaitBudget {
        WaitBudget { before: replace(BOUNDED) }
    }

    /// Begins a part of an operation that waits for as long as it takes, except for forks.
    pub fn unbounded() -> WaitBudget {
        WaitBudget { before: replace(0) }
    }

    /// Whether an operation with a budget is under way.
    pub fn is_bounded() -> bool {
        word() & BOUNDED != 0
    }

    /// Whether the operation under way has used up its budget.
    pub(super) fn is_spent() -> bool {
        word() & LATE != 0
    }

    /// Uses up the budget of the operation under way, if there is one.
    pub(super) fn spend_all() {
        if WaitBudget::is_bounded() {
            replace(MARKS);
        }
    }
}

impl Drop for WaitBudget {
    #[inline]
    fn drop(&mut self) {
        replace(self.before);
    }
}

/// Whether a tier may have refused for want of a lock and not of memory: the calling thread runs in a signal handler on top of
/// a holder, or is late. For code that holds no lock itself.
pub fn is_barred() -> bool {
    Rank::is_any_held() || WaitBudget::is_spent()
}

fn word() -> u32 {
    // Ordering: Relaxed, the thread's own word; its handlers leave it as they found it.
    arch::held_rank().load(Ordering::Relaxed)
}

/// Replaces the marks and returns those from before.
#[inline(never)]
fn replace(marks: u32) -> u32 {
    let before = word();
    // Ordering: Relaxed, as above.
    arch::held_rank().store(before & !MARKS | marks, Ordering::Relaxed);
    before & MARKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_leave_the_marks_as_they_found_them() {
        let outer = WaitBudget::bounded();
        WaitBudget::spend_all();
        assert!(is_barred());
        {
            // A handler on top of it has a budget of its own, and a part of it none.
            let _handler = WaitBudget::bounded();
            assert!(!is_barred() && WaitBudget::is_bounded());
            let part = WaitBudget::unbounded();
            WaitBudget::spend_all();
            assert!(!is_barred() && !WaitBudget::is_bounded(), "nothing to be used up");
            drop(part);
            assert!(WaitBudget::is_bounded());
        }
        assert!(is_barred() && !Rank::is_any_held());
        Rank::HUGE.restore();
        assert!(
            is_barred() && Rank::held() == Rank::HUGE,
            "rank and marks do not disturb each other"
        );
        Rank::of_number(0).restore();
        drop(outer);
        assert!(!is_barred() && !WaitBudget::is_bounded());
    }
}
