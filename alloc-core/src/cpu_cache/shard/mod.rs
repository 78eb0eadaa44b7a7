//! The shards: the parts of the caches that one CPU or one thread works on, and the operations that all kinds have.
//!
//! Promises: an operation of [`Shard`] commits whole, or changes nothing and says why; a region is created on first
//! use and never unmapped.
//!
//! | kind | serves | one at a time because |
//! |---|---|---|
//! | [`percpu`] | threads that can run restartable sequences | the kernel aborts a section that another one interrupts |
//! | [`biased`], [`leases`] | a process without rseq | one thread has the lease of the region |
//! | [`locked`] | threads and handlers without either | the shard has a lock, which is only tried |
//!
//! Invariants:
//! I1. A region belongs to one shard of one kind: sections never see the region of a biased or a locked shard.

pub mod biased;
pub mod cpus;
pub mod leases;
pub mod locked;
pub mod percpu;

use crate::arch;
use crate::atomic::{AtomicUsize, Ordering};
use crate::hot::HOT;
use crate::object::{Batch, Object};
use crate::os::{self, Place};
use crate::page_heap::PAGE_HEAP;
use crate::region::{Bounds, Counter, LongStacks, Moved, Region, SPAN_BYTES, Transfers};
use crate::rseq::outcome::{Failure, Pop, Push};
use crate::size_class::{CLASS, CLASSES, Class};
use crate::units::REGION_PLACES;
use core::ptr;

/// How often an operation that a section aborted is tried again before the caller takes another way.
pub const RETRIES: usize = 4;

/// The operations of a shard, by sections, under a lease or under a lock; see `rseq::reference` for what they do.
pub trait Shard {
    /// Takes the object on top.
    fn pop(&self, class: Class) -> Pop;
    /// Puts an object on top.
    fn push(&self, class: Class, object: Object) -> Push;
    /// Takes the topmost slots, which may hold nulls; see [`pop_into`]. How many.
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> Result<usize, Failure>;
    /// Pushes as many of the objects as the capacity allows, the last ones first. How many.
    fn push_batch(&self, class: Class, objects: &[usize]) -> Result<usize, Failure>;
    /// Changes the bounds of `class` from `from` to `to`, if the shard still works on `region`.
    fn set_bounds(
        &self,
        class: Class,
        region: &Region,
        from: Bounds,
        to: Bounds,
    ) -> Result<(), Failure>;
    /// Adds to a counter.
    fn add(&self, counter: Counter, delta: usize) -> Result<(), Failure>;
    /// The region that the shard works on now, if it has one; for sections only a hint.
    fn region(&self) -> Option<&'static Region>;
}

/// Counts an event of the shard; lost if the section aborts, which a statistic may.
pub fn count(shard: &dyn Shard, counter: Counter) {
    let _ = shard.add(counter, 1);
}

/// What moved between the tiers below and threads that had no shard at that moment, by class.
static PAST_SHARDS: [Transfers; CLASSES] = [const { Transfers::none() }; CLASSES];

/// Counts objects that moved between the tiers below and a shard, on whose region the caller works or has just worked; none: the
/// shard was stopped before.
#[inline]
pub fn count_moved(region: Option<&Region>, class: Class, moved: Moved, objects: usize) {
    match region {
        Some(region) => arch::add_here(region.transfers[class].word(moved), objects),
        None => count_past_shards(class, moved, objects),
    }
}

/// Counts objects that moved between the tiers below and a thread that has no shard.
pub fn count_past_shards(class: Class, moved: Moved, objects: usize) {
    PAST_SHARDS[class].add(moved, objects);
}

/// What moved past the shards, from class 0 on, for `publish`.
pub const fn transfers_past_shards() -> &'static Transfers {
    &PAST_SHARDS[0]
}

/// Adds up to `most` objects from the shard to `batch`: how many slots there were, with an object or with a null.
#[inline(never)]
pub fn pop_into(
    shard: &dyn Shard,
    class: Class,
    batch: &mut Batch,
    most: usize,
) -> Result<usize, Failure> {
    let mut popped = Ok(0);
    // SAFETY: what the shard pops was the shard's.
    unsafe {
        batch.receive_slots(most, |out| {
            popped = shard.pop_batch(class, out);
            popped.unwrap_or(0)
        });
    }
    popped
}

/// Moves as much of `batch` into the shard as it has capacity for.
#[inline(never)]
pub fn fill(shard: &dyn Shard, class: Class, batch: &mut Batch) {
    for _ in 0..RETRIES {
        match shard.push_batch(class, batch.addresses()) {
            Ok(pushed) => return batch.forget_last(pushed),
            Err(Failure::Aborted) => count(shard, Counter::Aborts),
            Err(_) => return,
        }
    }
}

/// Places for regions that were tried.
static PLACES: AtomicUsize = AtomicUsize::new(0);

/// Regions ever created.
static CREATED: AtomicUsize = AtomicUsize::new(0);

/// A fresh region, empty and without capacity; none if memory is out.
pub fn create_region() -> Option<&'static Region> {
    let len = os::whole_pages(size_of::<Region>());
    let (address, long_stacks) = map_in_place(len).or_else(|| map_sealed(len)).or_else(|| {
        os::map(Place::Anywhere, len).ok().map(|address| (address, LongStacks::None))
    })?;
    // SAFETY: fresh zeroed memory of that size, mapped for ever; zero is valid.
    let region = unsafe { &*ptr::with_exposed_provenance::<Region>(address) };
    region.set_long_stacks(long_stacks);
    region.reset();
    // Ordering: Relaxed, a number that stands alone.
    CREATED.fetch_add(1, Ordering::Relaxed);
    Some(region)
}

/// Maps the first `len` bytes of a region in the next place below the page-map range, where the rest can be mapped later.
fn map_in_place(len: usize) -> Option<(usize, LongStacks)> {
    // Ordering: Relaxed, written once by init.
    let range = HOT.page_map_base.load(Ordering::Relaxed);
    // Ordering: Relaxed, a number that stands alone.
    let place = PLACES.fetch_add(1, Ordering::Relaxed) + 1;
    if range == 0 || place > REGION_PLACES {
        return None;
    }
    let address = os::map(Place::Exactly(range - place * SPAN_BYTES), len).ok()?;
    Some((address, LongStacks::Unmapped))
}

/// Reserves the addresses of a region anywhere, and makes the first `len` bytes accessible.
fn map_sealed(len: usize) -> Option<(usize, LongStacks)> {
    let address = os::map_sealed(SPAN_BYTES).ok()?;
    // SAFETY: just reserved, known to no other code.
    match unsafe { os::unseal(address, len) } {
        Ok(()) => Some((address, LongStacks::Sealed)),
        Err(_) => {
            // SAFETY: as above.
            unsafe { os::unmap(address, SPAN_BYTES) };
            None
        }
    }
}

/// Maps the long stack of `class` as far as `capacity` objects need, rounded up to a power of two; whether it can hold them: no more than
/// `slots_max` objects.
pub fn lengthen(region: &Region, class: Class, capacity: usize) -> bool {
    let (start, mapped) = region.long_mapped(class);
    let needed = Region::long_needed(class, capacity);
    let most = Region::long_needed(class, CLASS[class].slots_max);
    if needed <= mapped || needed > most {
        return needed <= mapped;
    }
    let wanted = os::whole_pages(needed.next_power_of_two().min(most));
    let (address, len) = (start + mapped, wanted - mapped);
    let is_mapped = match region.long_stacks() {
        LongStacks::None => false,
        // Where another thread is about to do the same, the place is taken.
        LongStacks::Unmapped => os::map(Place::Exactly(address), len).is_ok(),
        // SAFETY: a reserved part of the region, which nothing uses yet.
        LongStacks::Sealed => unsafe { os::unseal(address, len) }.is_ok(),
    };
    if is_mapped {
        region.set_long_mapped(class, wanted);
        PAGE_HEAP.add_metadata(len);
    }
    is_mapped
}

/// Regions ever created, of all kinds of shards; at least 1.
pub fn regions_created() -> usize {
    // Ordering: Relaxed, a number that stands alone.
    CREATED.load(Ordering::Relaxed).max(1)
}

/// Slow-path operations of biased and locked shards since start.
static ATOMIC_OPERATIONS: AtomicUsize = AtomicUsize::new(0);

/// Counts one of them.
pub(super) fn count_atomic_operation() {
    // Ordering: Relaxed, a statistic.
    ATOMIC_OPERATIONS.fetch_add(1, Ordering::Relaxed);
}

/// Slow-path operations of the atomic path since start, for `publish`.
pub const fn atomic_operations_counter() -> &'static AtomicUsize {
    &ATOMIC_OPERATIONS
}
