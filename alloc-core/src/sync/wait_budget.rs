//! How long a thread waits for a lock whose holder does not come to its end.
//!
//! A holder that was preempted can be kept from its processor for long (by real-time threads: for ever), and a
//! thread that forks holds all locks while libc takes locks of its own, whose holders may be waiting for one of
//! ours. So an operation of the program waits for a while and then goes the ways that a signal handler on top of a
//! holder goes: from there on until its end the thread is *late*, and only tries locks.
//!
//! Promises: the marks in the thread's word are as they were when an operation, and each handler on top of it,
//! ends. Called by the engine around its operations and by the locks; calls asm (the thread's own word).

use super::rank::{RANK_BITS, Rank};
use crate::arch;
use crate::atomic::{AtomicBool, Ordering};

/// An operation with a budget is under way.
const BOUNDED: u32 = 1 << 30;
/// The operation has used up its budget.
const LATE: u32 = 1 << 31;
const MARKS: u32 = BOUNDED | LATE;
const _: () = assert!(MARKS & RANK_BITS == 0);

/// How long an operation waits for an ordinary holder, in microseconds: many times what one needs that runs, and a
/// small part of a time slice.
pub(super) const HOLDER_US: usize = 200;
/// How long anybody waits for a lock that a forking thread holds: longer than all but the largest forks take. And how
/// long once somebody has waited so long for a fork that is not over.
pub(super) const FORK_US: usize = 50_000;
const LATE_FORK_US: usize = 2_000;

/// A thread has waited for `FORK_US` in vain, and the fork is not over.
static IS_FORK_LATE: AtomicBool = AtomicBool::new(false);

/// How long a forking thread's lock is worth a wait at this moment, in microseconds.
pub(super) fn fork_us() -> usize {
    // Ordering: Relaxed, a hint.
    if IS_FORK_LATE.load(Ordering::Relaxed) { LATE_FORK_US } else { FORK_US }
}

/// Says that a fork takes longer than all but the largest do.
pub(super) fn note_late_fork() {
    // Ordering: Relaxed, a hint.
    IS_FORK_LATE.store(true, Ordering::Relaxed);
}

/// Says that a fork is over.
pub fn end_late_fork() {
    // Ordering: Relaxed, a hint.
    IS_FORK_LATE.store(false, Ordering::Relaxed);
}

/// The marks of the thread's word, which an operation replaces by its own until it is dropped.
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

    /// Begins a part of an operation that waits as long as it takes, but for forks.
    pub fn unbounded() -> WaitBudget {
        WaitBudget { before: replace(0) }
    }

    /// Whether an operation that has a budget is under way.
    pub fn is_bounded() -> bool {
        word() & BOUNDED != 0
    }

    /// Whether the operation under way has used up its budget.
    pub(super) fn is_spent() -> bool {
        word() & LATE != 0
    }

    /// Says that the operation under way, if there is one, has used up its budget.
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

/// Whether locks may be what the calling thread lacks when a tier refuses: it is a signal handler on top of a holder, or
/// late. In code that holds no lock itself.
pub fn is_barred() -> bool {
    Rank::is_any_held() || WaitBudget::is_spent()
}

fn word() -> u32 {
    // Ordering: Relaxed, the thread's own word; its handlers leave it as they found it.
    arch::held_rank().load(Ordering::Relaxed)
}

/// Replaces the marks; those before.
#[inline]
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
