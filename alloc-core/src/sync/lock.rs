//! The mutual-exclusion lock of the shared tiers, safe under signal handlers.
//!
//! Promises: nobody waits in a circle, handlers included. Each lock has a [`Rank`]; a thread waits for a
//! lock only if its rank is above all that the thread holds, *its interrupted code included*. A handler
//! on top of a holder therefore waits only for locks whose holders wait, if at all, for higher ones
//! still. Where waiting is not allowed the lock is tried, and [`Busy`] says to go another way.
//! Called by cpu_cache, slab, page_heap and huge; calls os (futex) and asm (thread pointer, held rank).
//!
//! Invariants:
//! I1. `word` is 0 (free) or the owner's thread pointer, whose low bit is set if somebody may sleep.
//! I2. A thread's held rank is at least that of every lock it holds: raised before a lock is taken,
//!     lowered after it is given up, so a handler at any instant sees enough.

use crate::asm::{held_rank, thread_pointer};
use crate::os;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering, compiler_fence};

const SLEEPERS: usize = 1;
const SPINS: u32 = 100;

/// The place of a lock in the order in which locks may be waited for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank(u32);

impl Rank {
    /// Stopping shards and their birth.
    pub const STOP: Rank = Rank(1);
    /// Growth of the page heap.
    pub const GROWTH: Rank = Rank(1 << 10);
    /// The table of huge spans: a leaf, whose holder waits for nothing.
    pub const HUGE: Rank = Rank(u32::MAX);

    /// The slabs of a class.
    pub const fn slab(class: usize) -> Rank {
        Rank(2 + class as u32)
    }

    /// A tract by its number.
    pub const fn tract(index: usize) -> Rank {
        Rank((1 << 11) + index as u32)
    }
}

/// The lock is taken, and the calling thread may not wait for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// The lock; all zeroes is free.
#[derive(Default)]
#[repr(transparent)]
pub struct Lock {
    word: AtomicUsize,
}

/// Holds a [`Lock`] until dropped.
pub struct Guard<'a> {
    lock: &'a Lock,
    /// The thread's held rank before.
    before: u32,
}

impl Lock {
    /// A free lock.
    pub const fn new() -> Self {
        Lock { word: AtomicUsize::new(0) }
    }

    /// Takes the lock; waits for it if `rank` is above all that the thread holds.
    #[inline]
    pub fn acquire(&self, rank: Rank) -> Result<Guard<'_>, Busy> {
        let before = raise_held(rank);
        if self.take(thread_pointer()) || (rank.0 > before && self.wait()) {
            return Ok(Guard { lock: self, before });
        }
        set_held(before);
        Err(Busy)
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self, rank: Rank) -> Option<Guard<'_>> {
        let before = raise_held(rank);
        if self.take(thread_pointer()) {
            return Some(Guard { lock: self, before });
        }
        set_held(before);
        None
    }

    #[inline]
    fn take(&self, owner: usize) -> bool {
        // Ordering: Acquire pairs with the Release in `release`; Relaxed on failure reads nothing.
        self.word.compare_exchange(0, owner, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Waits for the lock and takes it.
    #[cold]
    fn wait(&self) -> bool {
        let me = thread_pointer();
        for _ in 0..SPINS {
            // Ordering: Relaxed, only a hint; `take` acquires.
            if self.word.load(Ordering::Relaxed) == 0 && self.take(me) {
                return true;
            }
            core::hint::spin_loop();
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
                os::futex_wait(self.low_half(), marked as u32);
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

    /// Keeps the lock past its guard, for those who hold a whole tier: [`Lock::release_forgotten`]
    /// undoes it, and [`set_held`] with the rank that was held before all of them.
    pub fn forget(guard: Guard<'_>) {
        core::mem::forget(guard);
    }

    /// Releases a lock whose guard was forgotten; does nothing if another thread holds it.
    pub fn release_forgotten(&self) {
        // Ordering: Relaxed, a thread sees its own store.
        if self.word.load(Ordering::Relaxed) & !SLEEPERS == thread_pointer() {
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

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lock.release();
        set_held(self.before);
    }
}

/// The highest rank that the calling thread may hold.
#[inline]
pub fn held() -> u32 {
    // Ordering: Relaxed, the thread's own word.
    held_rank().load(Ordering::Relaxed)
}

/// Sets the held rank to what it was before, when the locks above it are given up.
#[inline]
pub fn set_held(rank: u32) {
    // Ordering: the fence keeps the compiler from moving it before the release (I2); handlers run on
    // the same thread, so the processor has nothing to order.
    compiler_fence(Ordering::SeqCst);
    // Ordering: Relaxed, the thread's own word.
    held_rank().store(rank, Ordering::Relaxed);
}

/// Raises the held rank to `rank`; what it was before.
#[inline]
fn raise_held(rank: Rank) -> u32 {
    let before = held();
    if rank.0 > before {
        // Ordering: Relaxed, the thread's own word.
        held_rank().store(rank.0, Ordering::Relaxed);
    }
    // Ordering: keeps the compiler from moving it behind the taking (I2).
    compiler_fence(Ordering::SeqCst);
    before
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::UnsafeCell;

    #[test]
    fn a_thread_never_waits_for_itself_or_downwards() {
        let (low, high) = (Lock::new(), Lock::new());
        let (rank_low, rank_high) = (Rank::slab(3), Rank::slab(7));
        let guard = high.acquire(rank_high).ok().unwrap();
        assert!(matches!(high.acquire(rank_high), Err(Busy)));
        assert!(matches!(high.acquire(rank_high), Err(Busy)), "a refused attempt freed the lock");
        // Downwards it is tried: free is fine, taken is busy.
        let below = low.acquire(rank_low).ok().unwrap();
        drop(below);
        assert_eq!(held(), rank_high.0, "a lower lock does not lower the held rank");
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| Lock::forget(low.acquire(rank_low).ok().unwrap()));
            taken.join().unwrap();
        });
        assert!(matches!(low.acquire(rank_low), Err(Busy)));
        drop(guard);
        assert_eq!(held(), 0);
        assert!(high.acquire(rank_high).is_ok());
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
                        let _guard = shared.0.acquire(Rank::STOP).ok().unwrap();
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
