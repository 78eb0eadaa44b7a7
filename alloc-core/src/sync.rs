//! A mutual-exclusion lock that knows its owner, for the shared tiers.
//!
//! Promises: acquiring a lock that the calling thread already holds (its signal handler interrupted
//! the holder) returns [`Reentered`] at once, so a handler never waits for itself. Ranks, in the order
//! in which they may be nested: slab class, huge table, region growth, region, magazine pool.
//! Called by slab, page_heap, huge, depot and the atomic path; calls os (futex).
//!
//! Invariants:
//! I1. `word` is 0 (free) or the owner's thread pointer, whose low bit is set if somebody may sleep.
//! I2. The owner is written by the same instruction that takes the lock, so there is no instant at
//!     which a handler could find its own thread's lock without an owner.

use crate::asm::thread_pointer;
use crate::os;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const SLEEPERS: usize = 1;
const SPINS: u32 = 100;

/// The calling thread holds the lock already.
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
}

impl Lock {
    /// A free lock.
    pub const fn new() -> Self {
        Lock { word: AtomicUsize::new(0) }
    }

    /// Takes the lock, waiting for other threads but never for the caller itself.
    #[inline]
    pub fn acquire(&self) -> Result<Guard<'_>, Reentered> {
        match self.try_acquire() {
            Some(guard) => Ok(guard),
            None => self.acquire_slow(),
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self) -> Option<Guard<'_>> {
        self.take(thread_pointer()).then(|| Guard { lock: self })
    }

    #[inline]
    fn take(&self, owner: usize) -> bool {
        // Ordering: Acquire pairs with the Release in `release`; Relaxed on failure reads nothing.
        self.word.compare_exchange(0, owner, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn acquire_slow(&self) -> Result<Guard<'_>, Reentered> {
        let me = thread_pointer();
        for _ in 0..SPINS {
            // Ordering: Relaxed, only a hint; `take` acquires.
            let seen = self.word.load(Ordering::Relaxed);
            if seen & !SLEEPERS == me {
                return Err(Reentered);
            }
            if seen == 0 && self.take(me) {
                return Ok(Guard { lock: self });
            }
            core::hint::spin_loop();
        }
        loop {
            // Ordering: Relaxed, only a hint.
            let seen = self.word.load(Ordering::Relaxed);
            // Whoever has slept takes the lock with the mark set: others may still sleep.
            if seen == 0 {
                if self.take(me | SLEEPERS) {
                    return Ok(Guard { lock: self });
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

    /// Makes the lock free whoever holds it.
    ///
    /// # Safety
    /// 1. No other thread exists (the child of a fork), and what the lock protects is consistent.
    pub unsafe fn reset(&self) {
        // Ordering: Relaxed, there is no other thread.
        self.word.store(0, Ordering::Relaxed);
    }

    /// Keeps the lock held past the guard, for fork; [`Lock::reset`] or [`Lock::release_forgotten`] undo it.
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
    }
}

/// A lock that is only tried: whoever finds it taken goes elsewhere, so giving it up is a plain store.
#[derive(Default)]
#[repr(transparent)]
pub struct TryLock {
    taken: AtomicU32,
}

/// Holds a [`TryLock`] until dropped.
pub struct TryGuard<'a> {
    lock: &'a TryLock,
}

impl TryLock {
    /// A free lock.
    pub const fn new() -> Self {
        TryLock { taken: AtomicU32::new(0) }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self) -> Option<TryGuard<'_>> {
        // Ordering: Acquire pairs with the Release in `release`; Relaxed on failure reads nothing.
        let result = self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        result.is_ok().then(|| TryGuard { lock: self })
    }

    /// Takes the lock, letting others run until it is free; none after a good while, in case the
    /// holder is the calling thread itself, below a signal handler.
    pub fn acquire_patiently(&self) -> Option<TryGuard<'_>> {
        (0..10_000).find_map(|_| {
            self.try_acquire().or_else(|| {
                os::yield_now();
                None
            })
        })
    }

    /// Keeps the lock taken past the guard, for fork; [`TryLock::release`] undoes it.
    pub fn forget(guard: TryGuard<'_>) {
        core::mem::forget(guard);
    }

    /// Makes the lock free.
    #[inline]
    pub fn release(&self) {
        // Ordering: Release publishes what the lock protects to the next `try_acquire`.
        self.taken.store(0, Ordering::Release);
    }
}

impl Drop for TryGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.lock.release();
    }
}

macro_rules! guarded {
    ($(#[$meta:meta])* $name:ident, $atomic:ty, $value:ty) => {
        $(#[$meta])*
        #[derive(Default)]
        #[repr(transparent)]
        pub struct $name($atomic);

        impl $name {
            /// With this value.
            pub const fn new(value: $value) -> Self {
                $name(<$atomic>::new(value))
            }
            /// The value; outside the lock a snapshot.
            #[inline]
            pub fn get(&self) -> $value {
                // Ordering: Relaxed, the lock that guards the word orders it.
                self.0.load(Ordering::Relaxed)
            }
            /// Sets the value, under the lock.
            #[inline]
            pub fn set(&self, value: $value) {
                // Ordering: Relaxed, the lock that guards the word orders it.
                self.0.store(value, Ordering::Relaxed);
            }
        }
    };
}

guarded!(
    /// A word that some lock guards and observers may glance at.
    Guarded, AtomicUsize, usize
);
guarded!(
    /// A half word that some lock guards and observers may glance at.
    Guarded32, AtomicU32, u32
);
guarded!(
    /// A bitmap word that some lock guards and observers may glance at.
    Guarded64, core::sync::atomic::AtomicU64, u64
);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::cell::UnsafeCell;

    #[test]
    fn reentry_is_reported() {
        let lock = Lock::new();
        let guard = lock.acquire().ok().unwrap();
        assert!(matches!(lock.acquire(), Err(Reentered)));
        // A refused attempt must leave the lock held: twice, since a bug here freed it.
        assert!(lock.try_acquire().is_none());
        assert!(lock.try_acquire().is_none());
        drop(guard);
        assert!(lock.acquire().is_ok());
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
                        let _guard = shared.0.acquire().ok().unwrap();
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
