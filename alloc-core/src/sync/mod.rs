//! Mutual-exclusion locks that no signal handler can wait on for ever, for the shared tiers.
//!
//! Promises: a thread waits for a lock only if its [`Rank`] is above that of every lock the thread holds.
//! Whoever nests locks nests upwards, so a request from above a held lock of the same or a higher rank
//! comes from a signal handler on top of the holder. It may only try: [`Reentered`]. Waiting upwards only,
//! threads can't wait for each other in a circle, handlers included. An operation of the program waits for a bounded
//! time only ([`WaitBudget`]), and nobody for long for a fork, so that no circle closes through locks of others either.
//! Called by slab, page_heap, huge, shards and fork; calls os (futex) and asm (the thread's own word).
//!
//! Invariants:
//! I1. `word` is 0 (free) or the owner's thread pointer, whose lowest bits are marks.
//! I2. The thread's word is at least the rank of each lock it holds, from before the lock is taken until
//!     after it is given up, so there is no instant at which a handler could miss one. Not of locks whose guards it
//!     forgot: nothing is half way under those, and the thread may use them again ([`Lock::forget`]).
//! I3. Guards are dropped in the reverse order of their making.
//! I4. What marks beside `SLEEPERS` a word has is changed by its owner alone.

mod backoff;
mod guarded;
mod rank;
mod try_lock;
mod wait_budget;

pub use backoff::Backoff;
pub use guarded::{Guarded, Guarded32, Guarded64};
pub use rank::Rank;
pub use try_lock::{TryGuard, TryLock};
pub use wait_budget::{WaitBudget, end_late_fork, is_barred};

use crate::arch::thread_id;
use crate::atomic::{AtomicU32, AtomicUsize, Ordering, SPINS, spin_loop};
use crate::os;
use wait_budget::{FORK_US, HOLDER_US, fork_us, note_late_fork};

/// Somebody may sleep.
const SLEEPERS: usize = 1;
/// The guard was forgotten, see [`Lock::forget`].
const FORGOTTEN: usize = 2;
/// The holder forks in a signal handler, see [`Lock::announce_fork`].
const FORKING: usize = 4;
/// The guard was kept, see [`Lock::keep`].
const KEPT: usize = FORGOTTEN | FORKING;
/// Which of the three, if any.
const STATE: usize = FORGOTTEN | FORKING;
const MARKS: usize = SLEEPERS | STATE;

/// The lock is taken, and the caller may not wait for it, or not any longer: it runs on top of a holder, or it holds
/// another lock which a fork on top of this one's holder needs, or its [`WaitBudget`] is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reentered;

/// The lock; all zeroes is free.
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
    /// The thread had forgotten a guard before, and still has that one.
    Forgotten,
}

impl Lock {
    /// A free lock.
    pub const fn new() -> Self {
        Lock { word: AtomicUsize::new(0) }
    }

    /// Takes the lock, waiting for other threads if the order allows it, as long as the caller's [`WaitBudget`] lets it,
    /// and nobody forks on top of its holder while the caller holds another lock.
    #[inline]
    pub fn acquire(&self, rank: Rank) -> Result<Guard<'_>, Reentered> {
        let before = rank.enter();
        let after = match self.take(thread_id()) {
            true => After::Free,
            false => self.take_slow(rank, before)?,
        };
        #[cfg(feature = "counters")]
        crate::counters::lock_taken();
        Ok(Guard { lock: self, before, after })
    }

    #[cold]
    fn take_slow(&self, rank: Rank, before: Rank) -> Result<After, Reentered> {
        if self.take_again() {
            return Ok(After::Forgotten);
        }
        #[cfg(feature = "counters")]
        crate::counters::lock_contended();
        if rank <= before || WaitBudget::is_spent() || !self.wait(before) {
            before.restore();
            return Err(Reentered);
        }
        Ok(After::Free)
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self, rank: Rank) -> Option<Guard<'_>> {
        let before = rank.enter();
        let after = if self.take(thread_id()) {
            After::Free
        } else if self.take_again() {
            After::Forgotten
        } else {
            #[cfg(feature = "counters")]
            crate::counters::lock_contended();
            before.restore();
            return None;
        };
        #[cfg(feature = "counters")]
        crate::counters::lock_taken();
        Some(Guard { lock: self, before, after })
    }

    /// As [`Lock::acquire`], but for who has no backoff at all: he only tries.
    pub fn acquire_or_try(&self, rank: Rank, backoff: &Backoff) -> Option<Guard<'_>> {
        if backoff.is_none() { self.try_acquire(rank) } else { self.acquire(rank).ok() }
    }

    /// As [`Lock::acquire`]; where the caller may not wait, it tries with `backoff`: a holder that does
    /// not wait for the caller will be done. None if the calling thread is the holder, or after that.
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

    /// Takes a lock whose guard the calling thread forgot for one operation more, in which a handler on top finds it
    /// held: until the guard is dropped it is not forgotten.
    ///
    /// By an exchange: a child on one memory (docs/adr/0021) may have the thread pointer of the thread that forks.
    fn take_again(&self) -> bool {
        // Ordering: Relaxed, the exchange confirms it.
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & !SLEEPERS == thread_id() | FORGOTTEN {
            let used = seen & !FORGOTTEN;
            // Ordering: Acquire pairs with the Release in `Guard::drop`; Relaxed on failure, the value is only tried again.
            match self.word.compare_exchange(seen, used, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => seen = changed,
            }
        }
        false
    }

    /// False, without the lock, if its holder forks in a signal handler and the caller had another lock
    /// `before`, which that fork needs; or if it took too long.
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
            // Whoever has slept takes the lock with the mark set: others may still sleep.
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
                // Marked before it leaves: the wake that it may have had was another one's too.
                if before.is_any() && seen & STATE == FORKING {
                    WaitBudget::spend_all();
                    return false;
                }
                let now = os::microseconds();
                let waited = now.wrapping_sub(*begin.get_or_insert(now));
                let limit = longest_wait(seen);
                if waited >= limit {
                    if matches!(seen & STATE, FORGOTTEN | FORKING) {
                        note_late_fork();
                    }
                    WaitBudget::spend_all();
                    return false;
                }
                // Whoever has no limit looks again now and then: a fork may have taken the lock since.
                os::futex_wait(self.low_half(), marked as u32, FORK_US.min(limit - waited));
            }
        }
    }

    #[inline]
    fn release(&self) {
        // Ordering: Release publishes what the lock protects to the next `take`.
        if self.word.swap(0, Ordering::Release) & SLEEPERS != 0 {
            os::futex_wake(self.low_half());
        }
    }

    /// Keeps the lock held past the guard, for a fork; [`Lock::release_forgotten`] and [`Rank::restore`] undo it. What
    /// the lock guards is whole, so the calling thread may take it again on top of that.
    pub fn forget(guard: Guard<'_>) {
        // Ordering: Relaxed, for this thread.
        guard.lock.word.fetch_or(FORGOTTEN, Ordering::Relaxed);
        core::mem::forget(guard);
    }

    /// As [`Lock::forget`], for the validator: nobody takes the lock on top of that.
    pub fn keep(guard: Guard<'_>) {
        // Ordering: Relaxed, for this thread.
        guard.lock.word.fetch_or(KEPT, Ordering::Relaxed);
        core::mem::forget(guard);
    }

    /// To be called before a fork: if the calling thread, in a signal handler, lies on top of itself holding
    /// this lock, whoever waits for it with another lock in hand goes on without. [`Lock::end_fork`] undoes it.
    pub fn announce_fork(&self) {
        if self.state_here() == Some(0) {
            // Ordering: Relaxed, the mark carries no data, and the kernel orders it before the wake.
            self.word.fetch_or(FORKING, Ordering::Relaxed);
            os::futex_wake_all(self.low_half());
        }
    }

    /// To be called after a fork, on both sides.
    pub fn end_fork(&self) {
        if self.state_here() == Some(FORKING) {
            // Ordering: Relaxed, as above.
            self.word.fetch_and(!FORKING, Ordering::Relaxed);
        }
    }

    /// Whether the holder forks in a signal handler, as one look can tell.
    pub fn is_forking(&self) -> bool {
        // Ordering: Relaxed, a hint.
        self.word.load(Ordering::Relaxed) & STATE == FORKING
    }

    /// Whether anybody holds the lock, as one look can tell.
    pub fn is_held(&self) -> bool {
        // Ordering: Relaxed, a hint.
        self.word.load(Ordering::Relaxed) != 0
    }

    /// Whether the calling thread holds the lock.
    pub fn is_held_here(&self) -> bool {
        self.state_here().is_some()
    }

    /// Whether the calling thread holds the lock by a forgotten guard, and does not use it.
    pub fn is_forgotten_here(&self) -> bool {
        self.state_here() == Some(FORGOTTEN)
    }

    /// The state of a lock that the calling thread holds.
    fn state_here(&self) -> Option<usize> {
        // Ordering: Relaxed, a thread sees its own store.
        let word = self.word.load(Ordering::Relaxed);
        (word & !MARKS == thread_id()).then_some(word & STATE)
    }

    /// Releases a lock whose guard the calling thread forgot, and no other: not one of another thread's,
    /// nor of a holder below the handler that runs.
    pub fn release_forgotten(&self) {
        if self.is_forgotten_here() {
            self.release();
        }
    }

    /// Releases a lock whose guard the calling thread kept, and no other.
    pub fn release_kept(&self) {
        if self.state_here() == Some(KEPT) {
            self.release();
        }
    }

    /// The half of the word with the mark, which the futex watches.
    fn low_half(&self) -> &AtomicU32 {
        let half = if cfg!(target_endian = "big") { 1 } else { 0 };
        // SAFETY: a 4-byte half of a live, aligned 8-byte atomic.
        unsafe { &*self.word.as_ptr().cast::<AtomicU32>().add(half) }
    }
}

impl Guard<'_> {
    /// Whether the thread had forgotten a guard of this lock before: it forks.
    pub fn is_of_fork(&self) -> bool {
        self.after == After::Forgotten
    }
}

impl Drop for Guard<'_> {
    #[inline]
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::UnsafeCell;

    const LOW: Rank = Rank::slab(1);
    const HIGH: Rank = Rank::slab(2);

    #[test]
    fn reentry_is_reported() {
        let lock = Lock::new();
        let guard = lock.acquire(LOW).ok().unwrap();
        assert!(matches!(lock.acquire(LOW), Err(Reentered)));
        // A refused attempt must leave the lock held: twice, since a bug here freed it.
        assert!(lock.try_acquire(LOW).is_none());
        assert!(lock.try_acquire(LOW).is_none());
        drop(guard);
        assert!(lock.acquire(LOW).is_ok());
        assert_eq!(Rank::held(), Rank::of_number(0));
    }

    /// Else a shard is lost for good to a thread that found it busy, or two threads work on it.
    #[test]
    fn a_refused_attempt_leaves_a_try_lock_to_its_holder() {
        let lock = TryLock::new();
        let guard = lock.try_acquire().unwrap();
        std::thread::scope(|scope| {
            let refused = scope.spawn(|| lock.try_acquire().is_none());
            assert!(refused.join().unwrap());
        });
        assert!(lock.is_taken_here(), "held by its holder");
        drop(guard);
        assert!(lock.try_acquire().is_some(), "free");
        let lock = &lock;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200_000).for_each(|_| drop(lock.try_acquire())));
            }
        });
        assert!(lock.try_acquire().is_some(), "free when all are done");
    }

    /// Else two handlers on top of two holders could wait for each other's locks.
    #[test]
    fn a_thread_does_not_wait_for_a_lower_rank() {
        let (low, high) = (Lock::new(), Lock::new());
        std::thread::scope(|scope| {
            let _low = low.acquire(LOW).ok().unwrap();
            let downwards = scope.spawn(|| {
                let _high = high.acquire(HIGH).ok().unwrap();
                low.acquire(LOW).is_err()
            });
            assert!(downwards.join().unwrap(), "refused, not waited for");
            let _high = high.acquire(HIGH).ok().unwrap();
            assert!(Lock::new().acquire(LOW).is_ok(), "a free lock is taken in any order");
            assert_eq!(Rank::held(), HIGH);
        });
    }

    /// Else a fork in a handler would free the lock of the holder below.
    #[test]
    fn only_forgotten_guards_are_released() {
        let lock = Lock::new();
        let guard = lock.acquire(LOW).ok().unwrap();
        lock.release_forgotten();
        assert!(lock.try_acquire(LOW).is_none());
        drop(guard);
        Lock::forget(lock.acquire(LOW).ok().unwrap());
        lock.release_forgotten();
        Rank::of_number(0).restore();
        assert!(lock.try_acquire(LOW).is_some());
    }

    /// Else a fork on a starved machine would wait for minutes.
    #[test]
    fn a_backoff_ends_once_for_all_locks_and_by_the_clock() {
        let (tried, other) = (TryLock::new(), TryLock::new());
        let lock = Lock::new();
        let _mine = (tried.try_acquire(), lock.acquire(HIGH).ok());
        let mut backoff = Backoff::usual();
        assert!(tried.acquire_with(&mut backoff).is_none());
        assert!(lock.acquire_with(LOW, &mut backoff).is_none());
        assert!(backoff.is_whole(), "nobody waits for what he holds himself");
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| {
                let mut backoff = Backoff::usual();
                let none = tried.acquire_with(&mut backoff).is_none();
                assert!(other.acquire_with(&mut backoff).is_some(), "what is free is taken");
                none && !backoff.spend()
            });
            assert!(blocked.join().unwrap(), "tried until the backoff was used up");
        });
        let mut slow = Backoff { turns: u32::MAX, ..Backoff::usual() };
        let begin = std::time::Instant::now();
        while slow.spend() {}
        assert!(begin.elapsed().as_secs() < 10 && slow.turns > 0);
    }

    #[test]
    fn excludes_under_contention() {
        struct Shared(Lock, UnsafeCell<u64>);
        // SAFETY: the counter is touched under the lock only.
        unsafe impl Sync for Shared {}
        let owned = Shared(Lock::new(), UnsafeCell::new(0));
        let shared = &owned;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    let shared: &Shared = shared;
                    for _ in 0..20_000 {
                        let _guard = shared.0.acquire(LOW).ok().unwrap();
                        let counter = &shared.1;
                        // SAFETY: the lock is held.
                        unsafe { *counter.get() += 1 };
                    }
                });
            }
        });
        assert_eq!(owned.1.into_inner(), 160_000);
    }
}
