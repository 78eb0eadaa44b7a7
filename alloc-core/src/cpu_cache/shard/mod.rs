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

use crate::atomic::{AtomicUsize, Ordering};
use crate::object::{Batch, Object};
use crate::os::{self, Place};
use crate::region::{Counter, Region};
use crate::rseq::outcome::{Failure, Pop, Push};
use crate::size_class::Class;

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
    /// Moves the end of `class` from `expected` to `end`, if the shard still works on `region`.
    fn set_end(
        &self,
        class: Class,
        region: &Region,
        expected: usize,
        end: usize,
    ) -> Result<(), Failure>;
    /// Adds to a counter.
    fn add(&self, counter: Counter, delta: usize) -> Result<(), Failure>;
    /// The region that the shard works on now, if it has one; for sections only a hint.
    fn region(&self) -> Option<&'static Region>;
}

/// Counts an event of the shard; lost if the section aborts, which a statistic may.
pub fn count<S: Shard>(shard: &S, counter: Counter) {
    let _ = shard.add(counter, 1);
}

/// Adds up to `most` objects from the shard to `batch`: how many slots there were, with an object or with a null.
pub fn pop_into<S: Shard>(
    shard: &S,
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

/// Regions ever created.
static CREATED: AtomicUsize = AtomicUsize::new(0);

/// A fresh region, empty and without capacity; none if memory is out.
pub fn create_region() -> Option<&'static Region> {
    let len = size_of::<Region>().next_multiple_of(os::page_bytes());
    let address = os::map(Place::Anywhere, len).ok()?;
    // SAFETY: fresh zeroed memory of that size, mapped for ever; zero is valid.
    let region = unsafe { &*(address as *const Region) };
    region.reset();
    // Ordering: Relaxed, a number that stands alone.
    CREATED.fetch_add(1, Ordering::Relaxed);
    Some(region)
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
