//! Decline: a class of which the program has freed nearly all gives back what the caches hold of it.
//!
//! Promises: when a program frees what it has, the caches do not keep slabs from becoming empty, without a
//! thread or a timer: each flush that sends objects home may be the last one. A program that swings between
//! much and nothing pays a bounded part of its time for it. Called by free, when it holds nothing; calls
//! drain, depot and slab.
//!
//! Caches pin slabs: one cached object of 16 B keeps 64 KiB, and what is kept counts as in use, by which the
//! caches' budget and the free pages that may stay are measured. So it is looked at what is live.

use super::{Shard, capacity, drain, give_back_to_slab, is_still, regions, seats, shards};
use crate::depot::DEPOT;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::rseq::registration;
use crate::size_class::{CLASS, CLASSES, Class, ClassInfo};
use crate::slab::{self, SLABS};
use crate::sync::{Backoff, is_barred};
use crate::token_bucket::TokenBucket;
use crate::units::PAGE_BYTES;

/// A class that had less at its peak is let alone: refills would cost more than it keeps.
const PEAK_MIN_BYTES: usize = 64 << 10;
/// The part of its peak to which a class has declined when it is drained.
const PEAK_PARTS: usize = 4;
/// Live bytes below which the rest goes home object by object.
const FEW_BYTES: usize = 64 << 10;
/// The part of the live objects that may be cached in a decline.
const CACHED_PARTS: usize = 64;

/// What declines may cost at once, and in a second, in objects sent home: some 10 ns each, 50 one by one.
static ALLOWANCE: TokenBucket = TokenBucket::new(1 << 20, 1 << 18);
const ONE_BY_ONE: usize = 4;
/// Looking at one region's line; draining the own shard and the depot; each shard of a class, with two barriers and what
/// other threads lose by it; each shard of all classes.
const LOOK_COST: usize = 2;
const OWN_COST: usize = 256;
const CLASS_COST: usize = 2048;
const ALL_COST: usize = 8192;

/// All slabs together are let alone below this; all classes are drained when only this part of them is live.
const SLABS_MIN_BYTES: usize = 2 << 20;
const SLABS_PARTS: usize = 16;

/// Looks whether `class`, of which many objects came home, has declined, and acts on it. The caller holds nothing.
#[cold]
pub(super) fn look(class: Class) {
    // Who has the regions may be waiting for this free. The class stays fallen: the next free looks.
    if is_barred() || is_still() {
        return;
    }
    match registration::sections() {
        Some(sections) => look_on(Some(&sections), class),
        None => look_on(seats::mine(), class),
    }
}

fn look_on<S: Shard>(shard: Option<&S>, class: Class) {
    let Some((out, peak)) = SLABS[class].look(class) else { return };
    let size = CLASS[class].size;
    if peak * size < PEAK_MIN_BYTES || !may_cost(LOOK_COST * shards::regions_made()) {
        return;
    }
    let region = shard.and_then(Shard::region);
    let here = region.map_or(0, |region| region.len(class));
    let cached = cached_in_shards(class);
    let in_depot = DEPOT.magazines(class) * CLASS[class].batch;
    let live = out.saturating_sub(cached + in_depot);
    if live > peak / PEAK_PARTS {
        return;
    }
    let few = is_few(class, live);
    let fixed = if cached > here { CLASS_COST * shards::regions_made() } else { OWN_COST };
    if !may_cost(fixed + cached + in_depot + if few { ONE_BY_ONE * live } else { 0 }) {
        return;
    }
    let capacity = if few { 0 } else { live / CACHED_PARTS };
    let is_drained = cached > here && drain::drain_class(class);
    if !is_drained && let Some((shard, region)) = shard.zip(region) {
        let capacity = capacity.min(region.capacity(class));
        if !capacity::shrink(shard, region, class, capacity, give_back_to_slab) {
            // The thread was moved to another CPU meanwhile, and it may be the last look.
            drain::drain_class(class);
        }
    }
    drain::drain_depot_of(class);
    slab::decline(class, out, few);
    if few {
        look_at_all();
    }
    PAGE_HEAP.trim();
}

/// Drains all classes if next to nothing of all slabs is live: others may have fallen too, but by so few
/// objects that no flush came of it.
fn look_at_all() {
    let infos = || CLASS.iter().enumerate().skip(1);
    let slab_bytes_of =
        |(class, info): (Class, &ClassInfo)| SLABS[class].totals().0 * info.pages * PAGE_BYTES;
    let slab_bytes: usize = infos().map(slab_bytes_of).sum();
    // A line has the heads of eight classes.
    let lines = CLASSES / 8 * shards::regions_made();
    if slab_bytes < SLABS_MIN_BYTES || !may_cost(LOOK_COST * lines) {
        return;
    }
    let (mut live_bytes, mut cached) = (0, 0);
    for (class, info) in infos() {
        let idle = cached_in_shards(class) + DEPOT.magazines(class) * info.batch;
        live_bytes += SLABS[class].totals().1.saturating_sub(idle) * info.size;
        cached += idle;
    }
    if live_bytes < slab_bytes / SLABS_PARTS && may_cost(ALL_COST * shards::regions_made() + cached)
    {
        drain::drain_caches(&mut Backoff::none());
        for (class, slabs) in SLABS.iter().enumerate().skip(1) {
            // What was cached is home, but for what was busy.
            let out = slabs.totals().1;
            slab::decline(class, out, is_few(class, out));
        }
    }
}

/// Whether so many live objects are to go home one by one: they are few, or none of them may be cached.
fn is_few(class: Class, live: usize) -> bool {
    live * CLASS[class].size < FEW_BYTES || live < CACHED_PARTS
}

fn may_cost(tokens: usize) -> bool {
    ALLOWANCE.spend(tokens, os::seconds())
}

fn cached_in_shards(class: Class) -> usize {
    regions().map(|region| region.len(class)).sum()
}
