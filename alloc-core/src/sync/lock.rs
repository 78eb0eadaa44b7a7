//! The lock of the shared tiers: taken with one exchange, waited for with a futex.

use super::wait_budget::{FORK_US, HOLDER_US, fork_us, mark_fork_late};
use super::{Backoff, Rank, Reentered, WaitBudget};
use crate::arch::thread_id;
use crate::atomic::{AtomicUsize, Ordering, SPINS, spin_loop};
use crate::counters;
use crate::os;

/// A thread may sleep until the lock is free.
const SLEEPERS: usize = 1;
/// The guard was forgotten, see [`Lock::forget`].
const FORGOTTEN: usize = 2;
/// The holder forks in a signal handler, see [`Lock::announce_fork`].
const FORKING: usize = 4;
/// The guard was kept, see [`Lock::keep`].
const KEPT: usize = FORGOTTEN | FORKING;
/// The bits that say which of these three states the lock is in, if any.
const STATE: usize = FORGOTTEN | FORKING;
const MARKS: usize = SLEEPERS | STATE;

/// A lock; all zeroes is a free one.
#[derive(Default)]
#[repr(transparent)]
pub struct Lock {
    word: AtomicUsize,
}

/// Holds a [`Lock`] until dropped.
pub struct Guard<'a> {
    lock: &'a Lock,
    before: Rank,
    after: After,
}

/// What a lock becomes when its guard is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Free,
    /// Held by the guard that the thread forgot before.
    Forgotten,
}

impl Lock {
    /// A free lock.
    pub const fn new() -> Self {
        Lock { word: AtomicUsize::new(0) }
    }

    /// Takes the lock. Waits for other threads if the order allows it, while the caller's [`WaitBudget`] lasts, unless the
    /// caller holds another lock and a handler on top of this lock's holder forks.
    #[inline]
    pub fn acquire(&self, rank: Rank) -> Result<Guard<'_>, Reentered> {
        let before = rank.enter();
        let after = match self.take(thread_id()) {
            true => After::Free,
            false => self.take_slow(rank, before)?,
        };
        counters::lock_taken();
        Ok(Guard { lock: self, before, after })
    }

    #[cold]
    fn take_slow(&self, rank: Rank, before: Rank) -> Result<After, Reentered> {
        if self.take_again() {
            return Ok(After::Forgotten);
        }
        counters::lock_contended();
        if rank <= before || WaitBudget::is_spent() || !self.wait(before) {
            before.restore();
            return Err(Reentered);
        }
        Ok(After::Free)
    }

    /// Takes the lock if it is free.
    #[inline(never)]
    pub fn try_acquire(&self, rank: Rank) -> Option<Guard<'_>> {
        let before = rank.enter();
        let after = if self.take(thread_id()) {
            After::Free
        } else if self.take_again() {
            After::Forgotten
        } else {
            counters::lock_contended();
            before.restore();
            return None;
        };
        counters::lock_taken();
        Some(Guard { lock: self, before, after })
    }

    /// As [`Lock::acquire`]; with a `backoff` of zero, tries once.
    pub fn acquire_or_try(&self, rank: Rank, backoff: &Backoff) -> Option<Guard<'_>> {
        if backoff.is_none() { self.try_acquire(rank) } else { self.acquire(rank).ok() }
    }

    /// As [`Lock::acquire`]; where the caller may not wait, tries again as long as `backoff` lasts, in which a holder
    /// finishes that does not wait for the caller. None if the calling thread itself is the holder, or when `backoff` ends.
    pub fn acquire_with(&self, rank: Rank, backoff: &mut Backoff) -> Option<Guard<'_>> {
        loop {
            let guard = self.acquire(rank).ok();
            if guard.is_some() || self.is_held_here() || !backoff.spend() {
                return guard;
            }
        }
    }

    #[inline]
    fn take(&self, owner: usize) -> bool {
        // Ordering: Acquire pairs with the Release in `release`; Relaxed on failure reads nothing.
        self.word.compare_exchange(0, owner, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes a lock whose guard the calling thread forgot, for one more operation. Until that operation's guard is dropped
    /// the lock is not forgotten, so a handler on top finds it held.
    ///
    /// By an exchange: a child of vfork, which shares the memory (docs/adr/0021), may have the id of the thread
    /// that forks.
    #[inline(never)]
    fn take_again(&self) -> bool {
        // Ordering: Relaxed, the exchange confirms it.
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & !SLEEPERS == thread_id() | FORGOTTEN {
            let used = seen & !FORGOTTEN;
            // Ordering: Acquire pairs with the Release in `Guard::drop`; Relaxed on failure, the value is only compared again.
            match self.word.compare_exchange(seen, used, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => seen = changed,
            }
        }
        false
    }

    /// Waits until the lock is free and takes it. False, without the lock, if the wait took too long, or if the holder forks
    /// in a signal handler and the caller held another lock `before`, which that fork needs.
    #[cold]
    fn wait(&self, before: Rank) -> bool {
        let me = thread_id();
        let mut begin = None;
        for _ in 0..SPINS {
            // Ordering: Relaxed, only a hint; `take` acquires.
            if self.word.load(Ordering::Relaxed) == 0 && self.take(me) {
                return true;
            }
            spin_loop();
        }
        loop {
            // Ordering: Relaxed, only a hint.
            let seen = self.word.load(Ordering::Relaxed);
            // A thread that slept takes the lock with the mark set: other threads may still sleep.
            if seen == 0 {
                if self.take(me | SLEEPERS) {
                    return true;
                }
                continue;
            }
            let marked = seen | SLEEPERS;
            // Ordering: Relaxed, the mark carries no data; the kernel orders it before the sleep.
            let mark =
                self.word.compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed);
            if mark.is_ok() {
                // Marked before this thread leaves: a wake that it may have used up was meant for other sleepers too.
                if before.is_any() && seen & STATE == FORKING {
                    WaitBudget::spend_all();
                    return false;
                }
                let now = os::microseconds();
                let waited = now.wrapping_sub(*begin.get_or_insert(now));
                let limit = longest_wait(seen);
                if waited >= limit {
                    if matches!(seen & STATE, FORGOTTEN | FORKING) {
                        mark_fork_late();
                    }
                    WaitBudget::spend_all();
                    return false;
                }
                // A wait without a limit wakes now and then: a fork may have taken the lock since.
                os::futex_wait(&self.word, marked as u32, FORK_US.min(limit - waited));
            }
        }
    }

    #[inline]
    fn release(&self) {
        // Ordering: Release publishes what the lock protects to the next `take`.
        if self.word.swap(0, Ordering::Release) & SLEEPERS != 0 {
            os::futex_wake(&self.word);
        }
    }

    /// Keeps the lock held past the guard, for a fork; [`Lock::release_forgotten`] and [`Rank::restore`] undo it. What the
    /// lock guards is whole, so the calling thread may take the lock again meanwhile.
    pub fn forget(guard: Guard<'_>) {
        // Ordering: Relaxed, for this thread.
        guard.lock.word.fetch_or(FORGOTTEN, Ordering::Relaxed);
        core::mem::forget(guard);
    }

    /// As [`Lock::forget`], for the validator: the calling thread can't take the lock again meanwhile.
    pub fn keep(guard: Guard<'_>) {
        // Ordering: Relaxed, for this thread.
        guard.lock.word.fetch_or(KEPT, Ordering::Relaxed);
        core::mem::forget(guard);
    }

    /// Announces a fork. If the calling thread holds this lock below the signal handler that it runs, threads that wait for
    /// the lock and hold another one stop waiting. [`Lock::end_fork`] undoes it.
    pub fn announce_fork(&self) {
        if self.state_here() == Some(0) {
            // Ordering: Relaxed, the mark carries no data, and the kernel orders it before the wake.
            self.word.fetch_or(FORKING, Ordering::Relaxed);
            os::futex_wake_all(&self.word);
        }
    }

    /// Undoes [`Lock::announce_fork`], after the fork, in the parent and in the child.
    pub fn end_fork(&self) {
        if self.state_here() == Some(FORKING) {
            // Ordering: Relaxed, as above.
            self.word.fetch_and(!FORKING, Ordering::Relaxed);
        }
    }

    /// Whether the holder forks in a signal handler; a snapshot.
    pub fn is_forking(&self) -> bool {
        // Ordering: Relaxed, a hint.
        self.word.load(Ordering::Relaxed) & STATE == FORKING
    }

    /// Whether a thread holds the lock; a snapshot.
    pub fn is_held(&self) -> bool {
        // Ordering: Relaxed, a hint.
        self.word.load(Ordering::Relaxed) != 0
    }

    /// Whether the calling thread holds the lock.
    pub fn is_held_here(&self) -> bool {
        self.state_here().is_some()
    }

    /// Whether the calling thread holds the lock by a forgotten guard and does not use it.
    pub fn is_forgotten_here(&self) -> bool {
        self.state_here() == Some(FORGOTTEN)
    }

    /// The state of a lock that the calling thread holds.
    #[inline(never)]
    fn state_here(&self) -> Option<usize> {
        // Ordering: Relaxed, a thread sees its own store.
        let word = self.word.load(Ordering::Relaxed);
        (word & !MARKS == thread_id()).then_some(word & STATE)
    }

    /// Releases the lock if the calling thread forgot its guard: not if another thread holds it, nor if the calling thread
    /// holds it below the handler that runs.
    pub fn release_forgotten(&self) {
        if self.is_forgotten_here() {
            self.release();
        }
    }

    /// Releases the lock if the calling thread kept its guard.
    pub fn release_kept(&self) {
        if self.state_here() == Some(KEPT) {
            self.release();
        }
    }
}

impl Guard<'_> {
    /// Whether the thread had forgotten a guard of this lock before, as a thread that forks has.
    pub fn is_of_fork(&self) -> bool {
        self.after == After::Forgotten
    }
}

impl Drop for Guard<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        match self.after {
            After::Free => self.lock.release(),
            // Ordering: Release pairs with the Acquire in `take_again`.
            After::Forgotten => drop(self.lock.word.fetch_or(FORGOTTEN, Ordering::Release)),
        }
        self.before.restore();
    }
}

/// How long a lock with such a word may be waited for, in microseconds.
fn longest_wait(word: usize) -> usize {
    match word & STATE {
        FORGOTTEN | FORKING => fork_us(),
        KEPT if WaitBudget::is_bounded() => FORK_US,
        0 if WaitBudget::is_bounded() => HOLDER_US,
        _ => usize::MAX,
    }
}
