//! Decay: a class of which the program has freed nearly all gives back what the caches hold of it.
//!
//! Promises: when a program frees what it has, the caches do not keep slabs from becoming empty, without a
//! thread or a timer: each flush that sends objects home may be the last one. A program that swings between
//! much and nothing pays a bounded part of its time for it.
//!
//! Caches pin slabs: one cached object of 16 B keeps 64 KiB, and what is kept counts as in use, by which the
//! caches' budget and the free pages that may stay are measured. So the policy measures what is live.

use super::capacity;
use super::idle::{self, ALL_COST, READ_COST};
use crate::atomic::{AtomicU64, Ordering};
use crate::cpu_cache::census::cached_in_shards;
use crate::cpu_cache::shard::{Shard, leases, regions_created};
use crate::cpu_cache::supply::give_back_to_slab;
use crate::cpu_cache::{drain, exclusive};
use crate::depot::DEPOT;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::postponed;
use crate::rseq::registration;
use crate::size_class::{CLASS, CLASSES, Class, ClassInfo};
use crate::slab::{self, Rest, SLABS};
use crate::sync::{Backoff, is_barred};
use crate::token_bucket::TokenBucket;
use crate::units::PAGE_BYTES;

/// A class that had less at its peak is left alone: refills would cost more than it keeps.
const PEAK_MIN_BYTES: usize = 64 << 10;
/// A class is drained when no more than this part of its peak is live.
const PEAK_PARTS: usize = 4;
/// Live bytes below which the rest goes home object by object.
const FEW_BYTES: usize = 64 << 10;
/// The part of the live objects that may stay cached then.
const CACHED_PARTS: usize = 64;

/// A class keeps its caches in a swing if its slabs have no more: what is cached keeps them.
const KEPT_MAX_BYTES: usize = 4 << 20;

/// What decay may cost at once, and in a second, in objects sent home: some 10 ns each, 50 one by one.
static ALLOWANCE: TokenBucket = TokenBucket::new(1 << 20, 1 << 18);
const ONE_BY_ONE: usize = 4;
/// Draining the own shard and the depot; each shard of a class, with two barriers and what other threads lose by it.
const OWN_COST: usize = 256;
const CLASS_COST: usize = 2048;

/// All slabs together are left alone below this; all classes are drained when only this part of them is live.
const SLABS_MIN_BYTES: usize = 2 << 20;
const SLABS_PARTS: usize = 16;

/// Classes whose decay was put off, a bit for each.
static PUT_OFF: [AtomicU64; CLASSES.div_ceil(64)] =
    [const { AtomicU64::new(0) }; CLASSES.div_ceil(64)];

/// Looks again at what was put off, and at all classes: for programs that have freed everything and went on much
/// later. The caller holds no shard and no lock.
#[cold]
#[inline(never)]
pub(in crate::cpu_cache) fn resume() {
    if is_barred() || exclusive::is_stopping() || !postponed::take_due(os::seconds()) {
        return;
    }
    for (index, word) in PUT_OFF.iter().enumerate() {
        // Ordering: Relaxed, a hint of the policy.
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            decay_on_own_shard(index * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
    decay_all();
    idle::look(&|tokens| may_cost(tokens).is_some());
    PAGE_HEAP.trim();
}

/// Gives back what the caches hold of `class`, of which many objects came home, if few of its objects are live. The
/// caller holds no shard and no lock.
#[cold]
pub(in crate::cpu_cache) fn decay_if_shrunk(class: Class) {
    // Not while shards are stopped: the stopper may be waiting for this free. The class stays fallen, so a later free
    // tries again.
    if is_barred() || exclusive::is_stopping() {
        return;
    }
    decay_on_own_shard(class);
}

fn decay_on_own_shard(class: Class) {
    let is_put_off = match registration::sections() {
        Some(sections) => decay_class(Some(&sections), class).is_none(),
        None => {
            let own = leases::own_shard();
            decay_class(own.map(|shard| shard as &dyn Shard), class).is_none()
        }
    };
    if is_put_off {
        // Ordering: Relaxed, a hint of the policy.
        PUT_OFF[class / 64].fetch_or(1 << (class % 64), Ordering::Relaxed);
    }
}

/// None if it is put off: the allowance does not permit it now, or the heap swings.
#[inline(never)]
fn decay_class(shard: Option<&dyn Shard>, class: Class) -> Option<()> {
    let Some((out, peak)) = SLABS[class].take_fall(class) else { return Some(()) };
    let size = CLASS[class].size;
    if peak * size < PEAK_MIN_BYTES {
        return Some(());
    }
    may_cost(READ_COST * regions_created())?;
    let region = shard.and_then(Shard::region);
    let here = region.map_or(0, |region| region.len(class));
    let cached = cached_in_shards(class);
    let in_depot = DEPOT.objects(class);
    let live = out.saturating_sub(cached + in_depot);
    if live > peak / PEAK_PARTS {
        return Some(());
    }
    let slab_bytes = SLABS[class].totals().0 * CLASS[class].pages * PAGE_BYTES;
    if slab_bytes <= KEPT_MAX_BYTES && PAGE_HEAP.is_swinging() {
        postponed::put_off(os::seconds());
        return None;
    }
    let few = is_few(class, live);
    let fixed = if cached > here { CLASS_COST * regions_created() } else { OWN_COST };
    may_cost(fixed + cached + in_depot + if few { ONE_BY_ONE * live } else { 0 })?;
    let capacity = if few { 0 } else { live / CACHED_PARTS };
    let is_drained = cached > here && drain::drain_class(class);
    if !is_drained && let Some((shard, region)) = shard.zip(region) {
        let capacity = capacity.min(region.capacity(class));
        if !capacity::shrink(shard, region, class, capacity, give_back_to_slab) {
            // The thread was moved to another CPU meanwhile, and this may have been the last free of the class.
            drain::drain_class(class);
        }
    }
    drain::drain_depot_of(class);
    slab::decay(class, out, if few { Rest::PutBack } else { Rest::Cached });
    if few {
        decay_all();
    }
    PAGE_HEAP.trim();
    // What is freed from now on may all be cached: no flush sees that.
    postponed::put_off(os::seconds());
    Some(())
}

/// Drains all classes if next to nothing of all slabs is live: others may have fallen too, but by so few
/// objects that no flush came of it.
fn decay_all() {
    let infos = || CLASS.iter().enumerate().skip(1);
    let slab_bytes_of =
        |(class, info): (Class, &ClassInfo)| SLABS[class].totals().0 * info.pages * PAGE_BYTES;
    let slab_bytes: usize = infos().map(slab_bytes_of).sum();
    // A line has the heads of eight classes.
    let lines = CLASSES / 8 * regions_created();
    if slab_bytes < SLABS_MIN_BYTES || may_cost(READ_COST * lines).is_none() {
        return;
    }
    let (mut live_bytes, mut cached) = (0, 0);
    for (class, info) in infos() {
        let idle = cached_in_shards(class) + DEPOT.objects(class);
        live_bytes += SLABS[class].totals().1.saturating_sub(idle) * info.size;
        cached += idle;
    }
    if live_bytes < slab_bytes / SLABS_PARTS
        && may_cost(ALL_COST * regions_created() + cached).is_some()
    {
        drain::drain_caches(&mut Backoff::none());
        for (class, slabs) in SLABS.iter().enumerate().skip(1) {
            // What was cached is home, but for what was busy.
            let out = slabs.totals().1;
            let rest = if is_few(class, out) { Rest::PutBack } else { Rest::Cached };
            slab::decay(class, out, rest);
        }
    }
}

/// Whether so many live objects are to go home one by one: they are few, or none of them may be cached.
fn is_few(class: Class, live: usize) -> bool {
    live * CLASS[class].size < FEW_BYTES || live < CACHED_PARTS
}

/// None if the allowance does not permit it now: a later slow allocation tries again.
#[inline(never)]
fn may_cost(tokens: usize) -> Option<()> {
    let now = os::seconds();
    let is_given = ALLOWANCE.spend(tokens, now);
    if !is_given {
        postponed::put_off(now);
    }
    is_given.then_some(())
}
