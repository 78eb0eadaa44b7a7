//! A biased shard: a thread's own shard on the atomic path, which it works on without an atomic instruction.
//!
//! Promises: the owner pops and pushes by plain stores; a signal handler on top of an operation is refused; after a
//! revocation the region belongs to the revoking thread alone. `leases` says which thread owns a biased shard and which
//! region it may use.
//!
//! The protocol is Dekker's with an asymmetric barrier (docs/adr/0010):
//!
//! ```text
//! owner, each operation                     revoking thread
//!   sequence += 1: odd                        region = null
//!   (light fence: the compiler's)             membarrier
//!   region, or null: take another way         wait until the sequence is even, or another one
//!   work on the region                        the region is its own
//!   sequence += 1: even, Release
//! ```
//!
//! Invariants:
//! I1. `sequence` is written by the owner only, in operations that do not nest: odd as long as one is under way.
//! I2. A region that is granted is written by the owner only, inside of an operation.

use super::{Shard, count_atomic_operation};
use crate::atomic::{AtomicPtr, AtomicU32, Ordering, light_fence};
use crate::object::Object;
use crate::region::{Bounds, Counter, Region};
use crate::rseq::outcome::{Failure, Pop, Push, number};
use crate::rseq::{CHANGED, NO_SHARD, reference};
use crate::size_class::Class;
use core::ptr;

/// A shard that one thread works on by plain stores. All zeroes is one without a region.
pub struct BiasedShard {
    /// The kernel's seqcount: odd while an operation is under way.
    sequence: AtomicU32,
    /// What the owner works on; null while it has no lease, or the lease is revoked.
    region: AtomicPtr<Region>,
}

/// Whether an operation is under way at this sequence count.
pub(super) fn is_odd(sequence: u32) -> bool {
    sequence % 2 == 1
}

impl BiasedShard {
    pub(super) const fn new() -> Self {
        BiasedShard { sequence: AtomicU32::new(0), region: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Runs `f` on the shard's region; [`NO_SHARD`] if it has none, or if the caller is a handler on top of
    /// an operation. The caller is the owner.
    #[inline(always)]
    fn operate(&self, f: impl FnOnce(&'static Region) -> isize) -> isize {
        // Ordering: Relaxed, the thread's own stores. A handler between this and the next store is done with
        // the shard when it returns; that the sequence goes back then does no harm.
        let sequence = self.sequence.load(Ordering::Relaxed);
        if is_odd(sequence) {
            return NO_SHARD;
        }
        // Ordering: Release: a thread that sees the new value sees the region as the operation before left it. That it
        // comes before the load is the work of the fence and of the revoking thread's barrier.
        self.sequence.store(sequence.wrapping_add(1), Ordering::Release);
        light_fence();
        // Ordering: Acquire pairs with the Release in `grant`: what other threads did to the region.
        let region = self.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        let result = unsafe { region.as_ref() }.map_or(NO_SHARD, f);
        // Ordering: Release: a thread that sees it sees the region as it was left.
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
        result
    }

    /// Puts an object on top, or the null of a sized free; whether the class was not full, and there was a region.
    #[inline(always)]
    pub fn push_slot(&self, class: Class, slot: Option<Object>) -> bool {
        let word = slot.map_or(0, |object| object.address());
        // SAFETY: the region is granted, so no other thread works on it until the operation is over (I2).
        self.operate(|region| unsafe { reference::push(region, class, word) }) == 0
    }

    /// Lets the owner work on a region that no other thread uses; with none, the shard stays without.
    pub(super) fn grant(&self, region: Option<&'static Region>) {
        let region = region.map_or(ptr::null_mut(), |region| ptr::from_ref(region).cast_mut());
        // Ordering: Release publishes the region to the owner.
        self.region.store(region, Ordering::Release);
    }

    /// Begins to take the region away; a barrier, and the end of an operation if one is under way, complete it.
    pub(in crate::cpu_cache) fn begin_revoke(&self) {
        // Ordering: SeqCst with the barrier: operations that start after it see null.
        self.region.store(ptr::null_mut(), Ordering::SeqCst);
    }

    /// Whether the owner may not use a region now: for other threads under the lock of `leases`, for the owner a hint.
    pub(super) fn is_revoked(&self) -> bool {
        // Ordering: Relaxed, the lock orders it.
        self.region.load(Ordering::Relaxed).is_null()
    }

    /// Odd while an operation is under way. After a barrier on a revoked shard: an operation that knows the
    /// region is under way as long as this stays what it is, and odd.
    pub(super) fn sequence(&self) -> u32 {
        // Ordering: Acquire pairs with the Release in `operate`: the region as the last operation left it.
        self.sequence.load(Ordering::Acquire)
    }

    /// Ends whatever was under way: the owner has ended, or was left behind by fork.
    pub(super) fn reset(&self) {
        // Ordering: Relaxed, no thread uses the shard.
        self.sequence.store(0, Ordering::Relaxed);
    }
}

// SAFETY, for each block: the region is granted, so no other thread works on it until the operation is over
// (I2); handlers on top are refused.
impl Shard for BiasedShard {
    #[inline(always)]
    fn pop(&self, class: Class) -> Pop {
        // SAFETY: see above.
        unsafe { Pop::of(self.operate(|region| reference::pop(region, class))) }
    }
    #[inline(always)]
    fn push(&self, class: Class, object: Object) -> Push {
        Push::of(object, |address| {
            // SAFETY: see above.
            self.operate(|region| unsafe { reference::push(region, class, address) })
        })
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> Result<usize, Failure> {
        // SAFETY: see above.
        number(self.operate(|region| unsafe { reference::pop_batch(region, class, out) }))
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> Result<usize, Failure> {
        // SAFETY: see above.
        number(self.operate(|region| unsafe { reference::push_batch(region, class, objects) }))
    }
    fn set_bounds(
        &self,
        class: Class,
        region: &Region,
        from: Bounds,
        to: Bounds,
    ) -> Result<(), Failure> {
        let set = |own: &'static Region| match ptr::eq(own, region) {
            // SAFETY: see above; the caller computes the bounds of a stack of `class`.
            true => unsafe { reference::set_bounds(own, class, from, to) },
            false => CHANGED,
        };
        number(self.operate(set)).map(drop)
    }
    fn add(&self, counter: Counter, delta: usize) -> Result<(), Failure> {
        count_atomic_operation();
        // SAFETY: see above.
        let add = |region| unsafe { reference::add(region, counter as usize, delta) };
        number(self.operate(add)).map(drop)
    }
    fn region(&self) -> Option<&'static Region> {
        // Ordering: Acquire, as in `operate`.
        // SAFETY: regions live for ever.
        unsafe { self.region.load(Ordering::Acquire).as_ref() }
    }
}
