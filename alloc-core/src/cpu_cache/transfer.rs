//! Refill and flush: what a pop from an empty class and a push to a full one do.
//!
//! Promises: the object asked for is served if there is memory, the object freed is kept; at most one magazine is between
//! two tiers for each thread (cpu_cache I3).
#![forbid(unsafe_code)]

use super::policy::capacity;
use super::shard::{Shard, count, count_moved, fill, pop_into};
use super::supply::{depot_may_grow, give_back, give_back_one, prefetch, supply};
use crate::fail::{Misuse, deny};
use crate::object::{Batch, Fresh, Object};
use crate::region::{Counter, Moved, Region};
use crate::size_class::{CLASS, Class};

/// The least that [`swing_batch`] makes of a batch.
const SWING_BATCH_MIN: usize = 8;

/// Serves one object of an empty class and fills the shard with the rest of a magazine.
///
/// A batch takes half a KiB of stack, and the policy takes its own where it moves objects. So this function and [`flush`] have
/// none while the policy works: every page that the stack of a thread touches once stays resident (`docs/adr/0036`).
#[cold]
pub(super) fn refill(shard: &dyn Shard, class: Class) -> Option<Fresh> {
    prefetch(class);
    let region = shard.region();
    let wanted = match capacity::ran_empty_last(region, class) {
        true => CLASS[class].batch,
        false => swing_batch(class),
    };
    if region.is_some_and(|region| region.len(class) > 0) {
        discard_nulls(shard, class);
    }
    count(shard, Counter::Refills);
    capacity::grow_on_refill(shard, region, class);
    fill_from_below(shard, region, class, wanted)
}

/// One object from the tiers below; the rest of the magazine goes to the shard.
#[inline(never)]
fn fill_from_below(
    shard: &dyn Shard,
    region: Option<&Region>,
    class: Class,
    wanted: usize,
) -> Option<Fresh> {
    let mut batch = Batch::new();
    let contents = supply(region, class, &mut batch, wanted);
    let object = batch.pop_first()?;
    fill(shard, class, &mut batch);
    if !batch.is_empty() {
        count_moved(region, class, Moved::Flushed, batch.len());
        give_back(class, &mut batch);
    }
    Some(Fresh { object, contents })
}

/// Moves a magazine out of a full class, or raises its capacity, then pushes `object`.
#[cold]
pub(super) fn flush(shard: &dyn Shard, class: Class, object: Object) {
    prefetch(class);
    let region = shard.region();
    let swings = capacity::ran_empty_last(region, class);
    count(shard, Counter::Flushes);
    if !capacity::grow_on_flush(shard, region, class) {
        let wanted = match swings && !depot_may_grow(class) {
            true => swing_batch(class),
            false => CLASS[class].batch,
        };
        move_out(shard, region, class, wanted, &object);
    }
    if let Some(object) = shard.push(class, object).left() {
        give_back_one(class, object);
    }
}

/// Moves `wanted` objects from the shard to the tiers below. `freed` is to be pushed next.
#[inline(never)]
fn move_out(
    shard: &dyn Shard,
    region: Option<&Region>,
    class: Class,
    wanted: usize,
    freed: &Object,
) {
    let mut batch = Batch::new();
    if pop_into(shard, class, &mut batch, wanted).is_ok_and(|popped| popped > 0) {
        // The last of the batch are what was freed last: the place to look for a double free.
        let is_there = batch.addresses().contains(&freed.address());
        deny(is_there, Misuse::DoubleFree, freed.address());
        count_moved(region, class, Moved::Flushed, batch.len());
        give_back(class, &mut batch);
    }
}

/// What a class moves to or from the slabs when it alternates between empty and full. A class that runs empty, or full,
/// again and again moves a whole batch, for the fixed cost; where it alternates, whole batches dominate the longest
/// times of an allocation, for objects that are not needed.
fn swing_batch(class: Class) -> usize {
    let batch = CLASS[class].batch;
    (batch / 4).max(batch.min(SWING_BATCH_MIN))
}

/// A sized free of null leaves a null on the stack, which pops as "empty": throws such away.
#[cold]
#[inline(never)]
fn discard_nulls(shard: &dyn Shard, class: Class) {
    let mut batch = Batch::new();
    while shard.region().is_some_and(|region| region.len(class) > 0) {
        match pop_into(shard, class, &mut batch, 1) {
            Ok(1) if batch.is_empty() => {}
            Ok(1) => {
                count_moved(shard.region(), class, Moved::Flushed, batch.len());
                return give_back(class, &mut batch);
            }
            _ => return,
        }
    }
}
