//! Draining: every cached object back to its slab, every free span back to the OS.
//!
//! Called by the release function and when memory is out; calls every tier below.

use super::{Shard, locked, seats, shards};
use crate::depot::DEPOT;
use crate::page_heap::PAGE_HEAP;
use crate::rseq::registration;
use crate::shard::Region;
use crate::size_class::CLASSES;
use crate::slab;
use crate::units::MAGAZINE_MAX;

/// Drains everything; bytes that went back to the OS.
#[cold]
pub fn drain_all() -> usize {
    match registration::sections() {
        // No fence: at least this CPU's own shard.
        Some(sections) => shards::while_stopped(|regions| regions.for_each(drain_stopped))
            .unwrap_or_else(|| drain_by_ops(&sections)),
        // As above.
        None => seats::while_closed(|regions| regions.for_each(drain_stopped))
            .unwrap_or_else(|| seats::mine().into_iter().for_each(drain_by_ops)),
    }
    locked::for_each(drain_by_ops);
    drain_depot();
    slab::release_empty();
    PAGE_HEAP.purge(0)
}

/// Empties a region that nobody else can touch.
fn drain_stopped(region: &Region) {
    for class in 1..CLASSES {
        let bottom = region.bottom(class) as *const usize;
        // SAFETY: shard I1: the slots above the sentinel hold objects; the region is ours alone.
        let objects = unsafe { core::slice::from_raw_parts(bottom.add(1), region.len(class)) };
        // A handler on top of its own thread's slab lock: the depot needs none.
        for magazine in objects[slab::put_cached(class, objects)..].chunks(MAGAZINE_MAX) {
            DEPOT.put_unbounded(class, magazine);
        }
    }
    region.reset();
}

fn drain_by_ops<S: Shard>(shard: &S) {
    let mut buffer = [0; MAGAZINE_MAX];
    for class in 1..CLASSES {
        while let popped @ 1.. = shard.pop_batch(class, &mut buffer) {
            super::give_back_to_slab(class, &buffer[..popped as usize]);
        }
    }
}

fn drain_depot() {
    let mut buffer = [0; MAGAZINE_MAX];
    for class in 1..CLASSES {
        for _ in 0..DEPOT.magazines(class) {
            match DEPOT.take(class, &mut buffer) {
                0 => break,
                count => super::give_back_to_slab(class, &buffer[..count]),
            }
        }
    }
}
