//! The lock of a locked shard, for which no thread waits: one that finds it taken uses another shard.

use super::Backoff;
use crate::arch::thread_id;
use crate::atomic::{AtomicUsize, Ordering};

/// The guard was forgotten, see [`TryLock::forget`].
const FORGOTTEN: usize = 1;

/// A lock that is only tried, so its release is a plain store.
#[derive(Default)]
#[repr(transparent)]
pub struct TryLock {
    /// 0 or the owner's thread id, perhaps with the mark.
    taken: AtomicUsize,
}

/// Holds a [`TryLock`] until dropped.
pub struct TryGuard<'a> {
    lock: &'a TryLock,
    /// What the word becomes when the guard is dropped: 0, or its mark of a guard that the thread, which forks, had forgotten.
    after: usize,
}

impl TryLock {
    /// A free lock.
    pub const fn new() -> Self {
        TryLock { taken: AtomicUsize::new(0) }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_acquire(&self) -> Option<TryGuard<'_>> {
        // Ordering: Acquire pairs with the Release in `release`; Relaxed on failure reads nothing.
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        match self.taken.compare_exchange(0, thread_id(), order, failed) {
            Ok(_) => Some(TryGuard { lock: self, after: 0 }),
            Err(seen) => self.take_again(seen),
        }
    }

    /// Takes a lock whose guard the calling thread forgot, as [`Lock`](super::Lock) does.
    #[cold]
    fn take_again(&self, seen: usize) -> Option<TryGuard<'_>> {
        let me = thread_id();
        // Ordering: Acquire pairs with the Release in `TryGuard::drop`; Relaxed on failure reads nothing.
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        let is_taken =
            seen == me | FORGOTTEN && self.taken.compare_exchange(seen, me, order, failed).is_ok();
        // `then_some` would make a guard, and drop it, in the other case too.
        is_taken.then(|| TryGuard { lock: self, after: seen })
    }

    /// Takes the lock, and lets other threads run until it is free. None if the calling thread itself holds it, below a
    /// signal handler, or when `backoff` ends.
    pub fn acquire_with(&self, backoff: &mut Backoff) -> Option<TryGuard<'_>> {
        loop {
            let guard = self.try_acquire();
            if guard.is_some() || self.is_taken_here() || !backoff.spend() {
                return guard;
            }
        }
    }

    /// Whether the calling thread holds the lock.
    pub fn is_taken_here(&self) -> bool {
        // Ordering: Relaxed, a thread sees its own store.
        self.taken.load(Ordering::Relaxed) & !FORGOTTEN == thread_id()
    }

    /// Whether the calling thread holds the lock by a forgotten guard and does not use it.
    pub fn is_forgotten_here(&self) -> bool {
        // Ordering: Relaxed, a thread sees its own store.
        self.taken.load(Ordering::Relaxed) == thread_id() | FORGOTTEN
    }

    /// Keeps the lock taken past the guard, for a fork; [`TryLock::release`] undoes it. The calling thread may take it again
    /// meanwhile.
    pub fn forget(guard: TryGuard<'_>) {
        // Ordering: Relaxed, for this thread.
        guard.lock.taken.store(thread_id() | FORGOTTEN, Ordering::Relaxed);
        core::mem::forget(guard);
    }

    /// As [`TryLock::forget`], for the validator: the calling thread can't take it again meanwhile.
    pub fn keep(guard: TryGuard<'_>) {
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
        // Ordering: Release publishes what the lock protects to the next `try_acquire`.
        self.lock.taken.store(self.after, Ordering::Release);
    }
}
