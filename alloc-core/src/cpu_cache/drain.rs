//! Draining: every cached object back to its slab, every free span back to the OS.
//!
//! Promises: what is drained is in the slabs, or in the depot if a slab's lock cannot be had; shards that stay busy
//! keep their objects.
#![forbid(unsafe_code)]

use super::exclusive::{Stopped, stop_each};
use super::shard::{Shard, count_moved, leases, locked, pop_into};
use super::supply::{give_back_to_slab, put_aside};
use crate::depot::DEPOT;
use crate::domain;
use crate::object::Batch;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::huge::HUGE;
use crate::region::{Moved, Region};
use crate::rseq::registration;
use crate::size_class::{CLASSES, Class};
use crate::slab;
use crate::sync::{Backoff, WaitBudget, is_barred};
use crate::units::MAGAZINE_MAX;

/// Drains everything; bytes that went back to the OS.
#[cold]
pub fn drain_all() -> usize {
    // A release gives back in full: it waits for the holders of locks.
    let _budget = WaitBudget::unbounded();
    drain_caches(&mut Backoff::usual());
    HUGE.collect();
    PAGE_HEAP.purge(0)
}

/// Whether a drain left something out because a lock was held for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It did not.
    Nothing,
    /// It did.
    Busy,
}

/// As [`drain_all`], for a caller that may wait for no lock for long: other threads may be stopped.
pub fn drain_in_time() -> (usize, Left) {
    let mut bytes = 0;
    for _ in 0..ATTEMPTS {
        let _budget = WaitBudget::bounded();
        drain_caches(&mut Backoff::usual());
        HUGE.collect();
        bytes += PAGE_HEAP.purge(0);
        if !is_barred() {
            return (bytes, Left::Nothing);
        }
    }
    (bytes, Left::Busy)
}

/// Drains what is not busy, for a thread in the middle of an allocation.
pub fn drain_idle() {
    drain_caches(&mut Backoff::none());
    HUGE.collect();
    PAGE_HEAP.purge(0);
}

/// Drains that [`drain_in_time`] begins when locks are busy: a holder that was preempted is done by then.
const ATTEMPTS: usize = 3;

/// As [`drain_all`], but the free spans stay, and what is busy for longer than `backoff`.
pub(super) fn drain_caches(backoff: &mut Backoff) {
    match registration::sections() {
        _ if stop_each(backoff, &|_| true, &mut drain_stopped) => {}
        // No fence, or another thread has shards stopped: at least the calling thread's own shard.
        Some(sections) => drain_by_ops(&sections),
        None => leases::own_shard().into_iter().for_each(|shard| drain_by_ops(shard)),
    }
    locked::for_each(backoff, &mut |locked| {
        drain_by_ops(locked);
        Stopped::of_locked(locked).forget_slots();
    });
    drain_depot();
    slab::release_empty();
}

/// Takes the objects of `class` out of all shards that are not busy, if the kernel has the fence; the capacities go
/// to 0. False if a shard was left out: the caller can still drain its own shard.
pub(super) fn drain_class(class: Class) -> bool {
    let mut backoff = Backoff::none();
    // A shard with capacity would cache the next frees.
    let wanted = |region: &Region| region.capacity(class) > 0 || region.len(class) > 0;
    let mut drain = |stopped: Stopped<'_>| drain_class_stopped(stopped, class);
    let all = stop_each(&mut backoff, &wanted, &mut drain);
    locked::for_each(&mut backoff, &mut |locked| drain_class_by_ops(locked, class));
    all
}

/// All objects of a stopped shard to their slabs, and its stacks' memory to the OS.
pub(super) fn drain_stopped(stopped: Stopped<'_>) {
    (1..CLASSES).for_each(|class| drain_class_stopped(stopped, class));
    stopped.forget_slots();
}

fn drain_class_stopped(stopped: Stopped<'_>, class: Class) {
    // Without a purge, while other threads find their shards stopped. In a handler on top of its own thread's slab lock:
    // the depot needs no lock, only memory, as in `give_back_to_slab`.
    stopped.take_objects(class, |batch| {
        slab::put_cached(class, batch);
        // With no memory for a magazine either, they stay where they are.
        batch.is_empty() || put_aside(class, batch)
    });
}

fn drain_by_ops(shard: &dyn Shard) {
    (1..CLASSES).for_each(|class| drain_class_by_ops(shard, class));
}

#[inline(never)]
fn drain_class_by_ops(shard: &dyn Shard, class: Class) {
    let mut batch = Batch::new();
    while pop_into(shard, class, &mut batch, MAGAZINE_MAX).is_ok_and(|popped| popped > 0) {
        count_moved(shard.region(), class, Moved::Flushed, batch.len());
        give_back_to_slab(class, &mut batch);
    }
}

/// All objects of the depot to their slabs.
pub(super) fn drain_depot() {
    (1..CLASSES).for_each(drain_depot_of);
}

/// Puts the depot's objects of `class` back into their slabs.
// Not once for each class in `drain_depot`.
#[inline(never)]
pub(super) fn drain_depot_of(class: Class) {
    let mut batch = Batch::new();
    for domain in domain::all() {
        for _ in 0..DEPOT.magazines_on(class, domain) {
            DEPOT.take(class, domain, &mut batch);
            if batch.is_empty() {
                break;
            }
            give_back_to_slab(class, &mut batch);
        }
    }
}
