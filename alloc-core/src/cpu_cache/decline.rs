//! Decline: a class of which the program has freed nearly all gives back what the caches hold of it.
//!
//! Promises: when a program frees what it has, the caches do not keep slabs from becoming empty, without a
//! thread or a timer: each flush that sends objects home may be the last one. A program that swings between
//! much and nothing pays a bounded part of its time for it. Called by flush, when it holds no lock; calls
//! drain, depot and slab.
//!
//! Caches pin slabs: one cached object of 16 B keeps 64 KiB, and what is kept counts as in use, by which the
//! caches' budget and the free pages that may stay are measured. So it is looked at what is live.

use super::{Shard, capacity, drain, give_back_to_slab, locked, seats, shards};
use crate::depot::DEPOT;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::shard::Region;
use crate::size_class::{CLASS, CLASSES, Class};
use crate::slab::{self, SLABS};
use crate::sync::{Patience, Rank};
use crate::token_bucket::TokenBucket;
use crate::units::PAGE_BYTES;

/// A class that had less at its peak is let alone: refills would cost more than it keeps.
const PEAK_MIN_BYTES: usize = 64 << 10;
/// The part of its peak to which a class has declined when it is drained.
const PEAK_PARTS: usize = 8;
/// Live bytes below which the rest goes home object by object.
const FEW_BYTES: usize = 64 << 10;
/// The part of the live objects that may be cached in a decline.
const CACHED_PARTS: usize = 64;

/// Objects that may be sent home by declines, in a second and at once: some 10 ns each, 50 one by one.
static ALLOWANCE: TokenBucket = TokenBucket::new(1 << 18, 1 << 18);
const ONE_BY_ONE: usize = 4;

/// All slabs together are let alone below this; all classes are drained when only this part of them is live.
const SLABS_MIN_BYTES: usize = 2 << 20;
const SLABS_PARTS: usize = 16;

/// Looks whether `class`, of which many objects came home, has declined, and acts on it.
#[cold]
pub(super) fn look<S: Shard>(shard: &S, class: Class) {
    if Rank::is_any_held() {
        return;
    }
    let Some((out, peak)) = SLABS[class].look(class) else { return };
    let size = CLASS[class].size;
    if peak * size < PEAK_MIN_BYTES {
        return;
    }
    let here = shard.region().map_or(0, |region| region.len(class));
    let cached = cached_in_shards(class);
    let in_depot = DEPOT.magazines(class) * CLASS[class].batch;
    let live = out.saturating_sub(cached + in_depot);
    if live > peak / PEAK_PARTS {
        return;
    }
    let few = live * size < FEW_BYTES || live < CACHED_PARTS;
    let cost = cached + in_depot + if few { ONE_BY_ONE * live } else { 0 };
    if !ALLOWANCE.spend(cost, os::seconds()) {
        return;
    }
    if cached > here {
        drain::drain_class(class);
    } else if let Some(region) = shard.region() {
        let capacity = if few { 0 } else { live / CACHED_PARTS };
        let capacity = capacity.min(region.capacity(class));
        capacity::shrink(shard, region, class, capacity, give_back_to_slab);
    }
    drain::drain_depot_of(class);
    slab::decline(class, live, few);
    if few {
        look_at_all();
    }
}

/// Drains all classes if next to nothing of all slabs is live: others may have fallen too, but by so few
/// objects that no flush came of it.
fn look_at_all() {
    let (mut slab_bytes, mut live_bytes, mut cached) = (0, 0, 0);
    for class in 1..CLASSES {
        let info = &CLASS[class];
        let (slabs, out) = SLABS[class].totals();
        let idle = cached_in_shards(class) + DEPOT.magazines(class) * info.batch;
        slab_bytes += slabs * info.pages * PAGE_BYTES;
        live_bytes += out.saturating_sub(idle) * info.size;
        cached += idle;
    }
    let is_little = slab_bytes >= SLABS_MIN_BYTES && live_bytes < slab_bytes / SLABS_PARTS;
    if is_little && ALLOWANCE.spend(cached, os::seconds()) {
        // The caller may have a locked shard, and so may others who come here.
        drain::drain_caches(&mut Patience::none());
        for (class, slabs) in SLABS.iter().enumerate().skip(1) {
            // What was cached is home.
            slab::decline(class, slabs.totals().1, true);
        }
        PAGE_HEAP.trim();
    }
}

fn cached_in_shards(class: Class) -> usize {
    regions().map(|region| region.len(class)).sum()
}

fn regions() -> impl Iterator<Item = &'static Region> {
    shards::regions().chain(seats::regions()).chain(locked::regions())
}
