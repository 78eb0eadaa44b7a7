//! One thread's own shard on the atomic path: the owner's side, and how others close it.
//!
//! Promises: the owner pops and pushes without an atomic instruction; a handler on top of an operation is
//! turned away; who closes a seat has its region for himself. Called by the slow twins and cpu_cache (as a
//! [`Shard`]) and by `seats`, which says whose a seat is and what it shows; calls emulated.
//!
//! The protocol is Dekker's with an asymmetric barrier (docs/adr/0010):
//!
//! ```text
//! owner, each operation                     whoever closes the seat
//!   turn += 1: odd                            region = null
//!   (light fence: the compiler's)             membarrier
//!   region, or null: go elsewhere             wait until turn is even, or another one
//!   work on the region                        the region is his
//!   turn += 1: even, Release
//! ```
//!
//! Invariants:
//! I1. `turn` is written by the owner only, in operations that do not nest: odd as long as one is under way.
//! I2. A region that a seat shows is written by the owner only, inside of an operation.

use super::Shard;
use crate::atomic::{AtomicPtr, AtomicU32, Ordering, light_fence};
use crate::region::{Counter, Region};
use crate::rseq::{CHANGED, NO_SHARD, emulated};
use crate::size_class::Class;
use core::ptr;

/// What a thread works on by plain stores. All zeroes is closed.
pub struct Seat {
    turn: AtomicU32,
    /// What the owner works on; null: closed.
    region: AtomicPtr<Region>,
}

/// Whether an operation is under way at this turn.
pub(super) fn is_odd(turn: u32) -> bool {
    turn % 2 == 1
}

impl Seat {
    pub(super) const fn new() -> Self {
        Seat { turn: AtomicU32::new(0), region: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Runs `f` on the seat's region; [`NO_SHARD`] if it is closed, or if the caller is a handler on top of
    /// this. The caller is the owner.
    #[inline(always)]
    fn operate(&self, f: impl FnOnce(&'static Region) -> isize) -> isize {
        // Ordering: Relaxed, the thread's own stores. A handler between this and the next store is done with
        // the seat when it returns; that turns go back then harms nobody.
        let turn = self.turn.load(Ordering::Relaxed);
        if is_odd(turn) {
            return NO_SHARD;
        }
        // Ordering: Release: who sees a new turn, sees the region as the one before left it. That it comes
        // before the load is the work of the fence and of the other side's barrier.
        self.turn.store(turn.wrapping_add(1), Ordering::Release);
        light_fence();
        // Ordering: Acquire pairs with the Release in `show`: what others did to the region.
        let region = self.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        let result = unsafe { region.as_ref() }.map_or(NO_SHARD, f);
        // Ordering: Release: who sees it, sees the region as it was left.
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
        result
    }

    /// Shows the owner a region that nobody else works on; null closes the seat.
    pub(super) fn show(&self, region: Option<&'static Region>) {
        let region = region.map_or(ptr::null_mut(), |region| ptr::from_ref(region).cast_mut());
        // Ordering: Release publishes the region to the owner.
        self.region.store(region, Ordering::Release);
    }

    /// Begins to close the seat; a barrier, and an operation's end if one is under way, complete it.
    pub(super) fn hide(&self) {
        // Ordering: SeqCst with the barrier: operations that start after it see null.
        self.region.store(ptr::null_mut(), Ordering::SeqCst);
    }

    /// Whether the seat shows nothing; to others than the owner under the lock of `seats`.
    pub(super) fn is_hidden(&self) -> bool {
        // Ordering: Relaxed, the lock orders it; to the owner a hint.
        self.region.load(Ordering::Relaxed).is_null()
    }

    /// Odd while an operation is under way. After a barrier on a hidden seat: an operation that knows the
    /// region is under way as long as this stays what it is, and odd.
    pub(super) fn turn(&self) -> u32 {
        // Ordering: Acquire pairs with the Release in `operate`: the region as the last operation left it.
        self.turn.load(Ordering::Acquire)
    }

    /// Ends whatever was under way: the owner has left, or was left behind by fork.
    pub(super) fn forget(&self) {
        // Ordering: Relaxed, nobody else is left.
        self.turn.store(0, Ordering::Relaxed);
    }
}

// SAFETY, for each block: the seat shows the region, so nobody else works on it until the operation is over
// (I2); handlers on top are turned away.
impl Shard for Seat {
    #[inline(always)]
    fn pop(&self, class: Class) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::pop(region, class) })
    }
    #[inline(always)]
    fn push(&self, class: Class, object: usize) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::push(region, class, object) })
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::pop_batch(region, class, out) })
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::push_batch(region, class, objects) })
    }
    fn set_end(&self, class: Class, region: &Region, expected: usize, end: usize) -> isize {
        self.operate(|own| match ptr::eq(own, region) {
            // SAFETY: see above; the caller computes `end` in the stack of `class`.
            true => unsafe { emulated::set_end(own, class, expected, end) },
            false => CHANGED,
        })
    }
    fn add(&self, counter: Counter, delta: usize) -> isize {
        super::locked::count_operation();
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::add(region, counter as usize, delta) })
    }
    fn region(&self) -> Option<&'static Region> {
        // Ordering: Acquire, as in `operate`.
        // SAFETY: regions live for ever.
        unsafe { self.region.load(Ordering::Acquire).as_ref() }
    }
}
