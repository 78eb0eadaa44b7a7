//! A lock that nobody waits for.
//!
//! Called by the atomic path and by fork; calls os (yield).

use super::held;
use crate::os;
use core::sync::atomic::{AtomicU32, Ordering};

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

    /// Takes the lock, letting others run until it is free. None after a good while, in case the
    /// holder is the calling thread itself, below a signal handler; and at once where the thread holds
    /// a [`Lock`](super::Lock), whose waiters the holder here may be among.
    pub fn acquire_patiently(&self) -> Option<TryGuard<'_>> {
        let patience = if held() == 0 { 10_000 } else { 1 };
        (0..patience).find_map(|_| {
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
