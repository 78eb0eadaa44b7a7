//! What the caches get from and give to the tiers below: whole magazines by the depot, single objects and batches by the
//! slabs.
//!
//! Promises: an object that is given back is in exactly one place afterwards; a handler above its own thread's lock, and a
//! thread that may wait no longer, find another way or another class.
#![forbid(unsafe_code)]

use super::shard::{count_moved, count_past_shards};
use crate::depot::DEPOT;
use crate::domain::{self, Domain};
use crate::node;
use crate::object::{Batch, Contents, Fresh, Object};
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::region::{Moved, Region};
use crate::rseq::{Index, registration};
use crate::size_class::{CLASS, CLASSES, Class, natural_align};
use crate::slab::{self, SLABS};
use crate::sync::{Reentered, is_barred};

/// Objects of a magazine that say of which domain it is.
const LOOKED_AT: usize = 8;

/// Below this much in use the caches are not cut any further.
const IN_USE_MIN_BYTES: usize = 8 << 20;

/// What the caches are measured by: the bytes in spans, cached objects included.
pub(super) fn in_use_bytes() -> usize {
    PAGE_HEAP.held_bytes().max(IN_USE_MIN_BYTES)
}

/// Asks the memory for the lines of the tiers below, which a rare miss finds in no near cache.
#[inline(never)]
pub(super) fn prefetch(class: Class) {
    DEPOT.prefetch(class, domain_here(class));
    slab::prefetch_class(class);
    if CLASS[class].batch == 1 {
        PAGE_HEAP.prefetch();
    }
}

/// Objects from the depot or, if it has none, `wanted` ones from a slab; what the first of them holds. They are counted as
/// the region's.
pub(super) fn supply(
    region: Option<&Region>,
    class: Class,
    batch: &mut Batch,
    wanted: usize,
) -> Contents {
    let count = |objects| count_moved(region, class, Moved::Refilled, objects);
    let domain = domain_here(class);
    DEPOT.take(class, domain, batch);
    if batch.is_empty() && domain::are_many_of(class) && !slab::has_or_may_open(class, domain) {
        take_of_others(class, domain, batch);
    }
    if !batch.is_empty() {
        count(batch.len());
        return Contents::Any;
    }
    match slab::take(class, domain, batch, wanted) {
        Ok(contents) if !batch.is_empty() || !is_barred() => {
            count(batch.len());
            contents
        }
        // The thread was interrupted inside this class or below, or is late: a larger object serves as well.
        Ok(_) | Err(Reentered) => take_one(class).map_or(Contents::Any, |fresh| {
            batch.push(fresh.object);
            fresh.contents
        }),
    }
}

/// One object straight from a slab, for a thread that has no shard at this moment. If the lock of the class or of
/// the pages is held below the caller, an object of a larger class serves, which is aligned as well. Not inlined, as
/// [`give_back_one`].
#[cold]
#[inline(never)]
pub(super) fn take_one(class: Class) -> Option<Fresh> {
    let mut batch = Batch::new();
    let align = natural_align(class);
    for larger in (class..CLASSES).filter(|&larger| natural_align(larger) >= align) {
        match slab::take(larger, domain_here(larger), &mut batch, 1) {
            Ok(contents) if !batch.is_empty() => {
                count_past_shards(larger, Moved::Refilled, 1);
                return batch.pop_first().map(|object| Fresh { object, contents });
            }
            // Out of memory; if a lock is barred, only of pages, and another class may have objects.
            Ok(_) if !is_barred() => return None,
            Ok(_) | Err(Reentered) => {}
        }
    }
    None
}

/// Puts objects of `class` that no shard holds into the depot, else into their slabs. The caller has counted them.
pub(super) fn give_back(class: Class, batch: &mut Batch) {
    let whole = batch.len() == CLASS[class].batch;
    let wanted = whole && !SLABS[class].was_drained() && depot_may_grow(class);
    if wanted
        && let Some(domain) = domain_of(class, batch)
        && DEPOT.put(class, domain, batch)
    {
        return;
    }
    give_back_to_slab(class, batch);
}

/// As [`give_back`], of one object, which came past the shards. Not inlined: a batch takes half a KiB of stack, which most frees
/// do not need.
#[cold]
#[inline(never)]
pub(super) fn give_back_one(class: Class, object: Object) {
    count_past_shards(class, Moved::Flushed, 1);
    give_back(class, &mut Batch::of(object));
}

/// As [`give_back`], without the depot if the slabs can be had.
#[inline(never)]
pub(super) fn give_back_to_slab(class: Class, batch: &mut Batch) {
    slab::put_cached(class, batch);
    // A handler above its own thread's slab lock, or a late thread: leave them where no lock is needed. If the OS has
    // not even memory for a magazine they are never used again.
    if !batch.is_empty() && !put_aside(class, batch) {
        batch.forget_all();
    }
    PAGE_HEAP.trim();
}

/// Puts objects that can't be put into their slabs into the depot, whichever domains they are of; false if there is no memory for that.
pub(super) fn put_aside(class: Class, batch: &mut Batch) -> bool {
    DEPOT.put_unbounded(class, domain_here(class), batch)
}

/// A magazine that another domain has.
#[inline(never)]
fn take_of_others(class: Class, domain: Domain, batch: &mut Batch) {
    for other in domain::others(domain) {
        DEPOT.take(class, other, batch);
        if !batch.is_empty() {
            return;
        }
    }
}

/// The domain of the slabs in which the objects of `batch` lie; none if they are of several. On one node a few of them are looked at: what
/// they say of the others is a matter of speed.
fn domain_of(class: Class, batch: &Batch) -> Option<Domain> {
    if !domain::are_many_of(class) {
        return Some(Domain::FIRST);
    }
    let objects = batch.addresses();
    // An odd step sees both ends, and what alternates.
    let step = if node::are_many() { 1 } else { objects.len().div_ceil(LOOKED_AT) | 1 };
    let of = |&object: &usize| match CLASS[class].size < domain::APART_BYTES {
        true => slab::domain_of(object),
        false => Domain::of_node(PAGE_HEAP.node_at(object)),
    };
    let mut domains = objects.iter().step_by(step).map(of);
    let first = domains.next()?;
    domains.all(|domain| domain == first).then_some(first)
}

/// The domain of the CPU on which the calling thread is, for objects of `class`. No system call: where the CPU is not known
/// without one, the first domain serves, but for machines with several nodes.
fn domain_here(class: Class) -> Domain {
    if !domain::are_many_of(class) {
        return Domain::FIRST;
    }
    match registration::sections().and_then(|_| registration::current_index(Index::CpuId)) {
        Some(cpu) => Domain::of(cpu, class),
        None if node::are_many() => Domain::of(os::current_cpu(), class),
        None => Domain::FIRST,
    }
}

/// Whether one magazine more lies within what the depot may hold: a quarter of what is in use, and one
/// magazine of each class of small objects and domain.
pub(super) fn depot_may_grow(class: Class) -> bool {
    DEPOT.bytes() < in_use_bytes() / 4
        || CLASS[class].batch > 1 && DEPOT.magazines_on(class, domain_here(class)) == 0
}
