//! The capacity policy: how many objects of each class a shard may hold.
//!
//! Promises: the capacities of a shard together stay within the configured budget of bytes; a class
//! that alternates between empty and full gets more, at the expense of classes that rest. Decisions are
//! approximate (plain loads), only the `set_bounds` operation is exact.
//!
//! A flush that follows a refill shows that more capacity would have saved both, so that is when a
//! class grows; a thread that only allocates or only frees gains nothing and gets nothing.

use crate::atomic::{AtomicUsize, Ordering};
use crate::config::{self, Key};
use crate::cpu_cache::shard::{
    RETRIES, Shard, count_moved, fill, lengthen, locked, pop_into, regions_created,
};
use crate::cpu_cache::supply::{give_back, in_use_bytes};
use crate::object::Batch;
use crate::os;
use crate::parts;
use crate::postponed;
use crate::region::{Bounds, Moved, Region};
use crate::rseq::outcome::Failure;
use crate::rseq::registration;
use crate::size_class::{CLASS, CLASSES, Class};
use crate::slab::SLABS;
use crate::units::MAGAZINE_MAX;

const WORD: usize = size_of::<usize>();

/// Shards with less capacity are of no account, even 64 of them.
const LOOKED_AT_BYTES: usize = 16 << 10;

/// What the shards of a CPU may cache at least, however little is in use: with less, a load on eight CPUs
/// has thousands of times as many misses (docs/adr/0005).
const BUDGET_MIN_BYTES: usize = 2 << 20;

/// In `Region::references`: the class ran empty since its last flush.
const REFILLED: u8 = 1;
/// In `Region::references`, from this bit on: the reference count of the CLOCK policy, how often the hand passes the class
/// before it takes capacity from it.
const COUNT_SHIFT: u32 = 1;

/// The most classes that the clock hand passes at once; for a class of large objects fewer, for the same reason as in
/// [`first_count`].
const CLOCK_STEPS: usize = 8;

/// Records that `class` ran empty, and gives a class its first capacity.
pub(in crate::cpu_cache) fn grow_on_refill(
    shard: &dyn Shard,
    region: Option<&Region>,
    class: Class,
) {
    let Some(region) = region else { return };
    // Ordering: Relaxed, a hint of the policy.
    region.references[class].store(REFILLED | first_count(class), Ordering::Relaxed);
    if region.capacity(class) == 0 && CLASS[class].batch > 1 {
        grow(shard, region, class);
    }
}

/// Whether the last miss of `class` found it empty.
pub(in crate::cpu_cache) fn ran_empty_last(region: Option<&Region>, class: Class) -> bool {
    // Ordering: Relaxed, a hint of the policy.
    region.is_some_and(|region| region.references[class].load(Ordering::Relaxed) & REFILLED != 0)
}

/// Gives a full class more capacity if it has earned it; whether it got some.
pub(in crate::cpu_cache) fn grow_on_flush(
    shard: &dyn Shard,
    region: Option<&Region>,
    class: Class,
) -> bool {
    let Some(region) = region else { return false };
    // Ordering: Relaxed, a hint of the policy.
    let references = region.references[class].load(Ordering::Relaxed);
    // Ordering: Relaxed, as above.
    region.references[class].store(first_count(class), Ordering::Relaxed);
    let first = region.capacity(class) == 0 && !SLABS[class].has_decayed();
    (first || references & REFILLED != 0) && grow(shard, region, class)
}

/// The reference count after a miss: 1 to 7. A miss costs about the same whatever the size, and a large
/// object takes the bytes of a hundred small ones.
fn first_count(class: Class) -> u8 {
    (CLASS[class].batch.ilog2() as u8 + 1) << COUNT_SHIFT
}

#[inline(never)]
fn grow(shard: &dyn Shard, region: &Region, class: Class) -> bool {
    let info = &CLASS[class];
    let capacity = region.capacity(class);
    let wanted = (capacity + info.batch.max(capacity / 2)).min(info.slots_max);
    if wanted == capacity || !reclaim_budget(shard, region, class, (wanted - capacity) * info.size)
    {
        return false;
    }
    let seen = region.bounds(class);
    let is_short = region.bottom(class) == Region::bottom_offset(class);
    if is_short && wanted <= info.slots_short {
        return set_capacity(shard, region, class, wanted);
    }
    // Mapped before a position in it can be seen (region I4).
    lengthen(region, class, wanted)
        && match is_short {
            true => move_to_long_stack(shard, region, class, seen, wanted),
            false => set_capacity(shard, region, class, wanted),
        }
}

#[inline(never)]
fn set_capacity(shard: &dyn Shard, region: &Region, class: Class, capacity: usize) -> bool {
    let seen = region.bounds(class);
    shard.set_bounds(class, region, seen, seen.with_capacity(class, capacity)).is_ok()
}

/// Gives `class`, whose bounds were `seen`, its long stack with a `capacity`, and the objects of the short one, which are no more
/// than a magazine; whether that was done. Not inlined, for the stack that its batch takes.
#[inline(never)]
fn move_to_long_stack(
    shard: &dyn Shard,
    region: &Region,
    class: Class,
    seen: Bounds,
    capacity: usize,
) -> bool {
    let mut batch = Batch::new();
    // Whatever this pops or not, below the stack is only left if it is empty.
    let _ = pop_into(shard, class, &mut batch, MAGAZINE_MAX);
    let empty = Bounds { top: Region::bottom_offset(class) as u32, ..seen };
    let is_moved = shard.set_bounds(class, region, empty, Bounds::long(class, capacity)).is_ok();
    fill(shard, class, &mut batch);
    if !batch.is_empty() {
        count_moved(Some(region), class, Moved::Flushed, batch.len());
        give_back(class, &mut batch);
    }
    is_moved
}

/// Bytes that a shard may cache now: its setting, else its part of half of what is in use. So a small
/// program does not hold several times its live objects in caches, and a large heap pays in bytes for
/// hits.
pub(in crate::cpu_cache) fn budget() -> usize {
    match config::number(Key::Cache) {
        0 => (in_use_bytes() / (2 * regions_created())).max(budget_min()),
        configured => configured,
    }
}

fn budget_min() -> usize {
    match registration::sections() {
        Some(_) => part_of_floor(regions_created()),
        None => BUDGET_MIN_BYTES / locked::EACH_CPU,
    }
}

/// How many CPUs the process may keep busy, where that is bounded by a quota that is obeyed.
static USABLE_CPUS: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Shards that rested when they were last looked at.
static IDLE_SHARDS: AtomicUsize = AtomicUsize::new(0);

/// Has all per-CPU shards together cache as those of so many CPUs. For init.
pub(in crate::cpu_cache) fn set_usable_cpus(count: usize) {
    // Ordering: Relaxed, published with READY.
    USABLE_CPUS.store(count, Ordering::Relaxed);
}

/// How many CPUs that is; `usize::MAX` without a bound.
pub(in crate::cpu_cache) fn usable_cpus() -> usize {
    // Ordering: Relaxed, a constant after init.
    USABLE_CPUS.load(Ordering::Relaxed)
}

/// Whether there are more per-CPU shards than usable CPUs.
pub(in crate::cpu_cache) fn is_scarce() -> bool {
    parts::LIMITS && regions_created() > usable_cpus() && registration::sections().is_some()
}

/// Records how many shards rest, and so have no part of the floor.
pub(in crate::cpu_cache) fn set_idle_shards(count: usize) {
    // Ordering: Relaxed, a hint of the policy.
    IDLE_SHARDS.store(count, Ordering::Relaxed);
}

/// The floor of one shard: of `shards` that were created, those that do not rest share that of the usable CPUs
/// (docs/adr/0055).
fn part_of_floor(shards: usize) -> usize {
    // Ordering: Relaxed, a hint of the policy.
    let idle = IDLE_SHARDS.load(Ordering::Relaxed);
    let active = shards.saturating_sub(idle).max(1);
    match usable_cpus() {
        usable if active > usable => BUDGET_MIN_BYTES * usable / active,
        _ => BUDGET_MIN_BYTES,
    }
}

/// Bytes of all capacities of a region.
pub(in crate::cpu_cache) fn bytes_in(region: &Region) -> usize {
    (1..CLASSES).map(|class| bytes_of(region, class)).sum()
}

/// Frees `bytes` of the budget: a clock hand passes a few classes and takes half of what
/// those have whose reference count has fallen to 0.
#[inline(never)]
fn reclaim_budget(shard: &dyn Shard, region: &Region, class: Class, bytes: usize) -> bool {
    // Added up each time: a sum kept in the region would be corrected in another one by a thread that
    // migrates in between, and go wrong for ever.
    let mut wanted = bytes_in(region) + bytes;
    let limit = budget();
    // Nothing else looks at a shard that rests from now on, nor at a program that frees all it has without a flush.
    if wanted > LOOKED_AT_BYTES && !postponed::is_any() {
        postponed::put_off(os::seconds());
    }
    for _ in 0..CLASS[class].batch.min(CLOCK_STEPS) {
        if wanted <= limit {
            return true;
        }
        // Ordering: Relaxed, a hint of the policy.
        let victim = usize::from(region.clock_hand.load(Ordering::Relaxed)) % (CLASSES - 1) + 1;
        // Ordering: Relaxed, as above.
        region.clock_hand.store(victim as u8, Ordering::Relaxed);
        let capacity = region.capacity(victim);
        if victim == class || capacity == 0 {
            continue;
        }
        // Ordering: Relaxed, as above.
        let references = region.references[victim].load(Ordering::Relaxed);
        if references >> COUNT_SHIFT == 0 {
            let before = bytes_of(region, victim);
            shrink(shard, region, victim, capacity / 2, give_back);
            wanted -= before.saturating_sub(bytes_of(region, victim)).min(wanted);
        } else {
            // Ordering: Relaxed, as above.
            region.references[victim].store(references - (1 << COUNT_SHIFT), Ordering::Relaxed);
        }
    }
    wanted <= limit
}

/// By class: where its short stack starts in a region, and the size of its objects. Each search for budget reads all of it,
/// and is so rare that each cache line is a miss: 13, where `CLASS` has 74.
static SHAPES: [(u32, u32); CLASSES] = {
    let mut shapes = [(0, 0); CLASSES];
    let mut class = 1;
    while class < CLASSES {
        shapes[class] = (Region::bottom_offset(class) as u32, CLASS[class].size as u32);
        class += 1;
    }
    shapes
};

fn bytes_of(region: &Region, class: Class) -> usize {
    let (short, size) = SHAPES[class];
    // Ordering: Relaxed, a snapshot for the policy.
    let end = region.heads[class].end.load(Ordering::Relaxed) as usize;
    let bottom = Region::long_bottom_if(class, end).unwrap_or(short as usize);
    end.saturating_sub(bottom) / WORD * size as usize
}

/// Lowers the capacity of `class` and hands what is above it to `give`; whether all of that is done, which it is not
/// if the thread is moved to another shard meanwhile. Not inlined, as [`move_to_long_stack`].
#[inline(never)]
pub(in crate::cpu_cache) fn shrink(
    shard: &dyn Shard,
    region: &Region,
    class: Class,
    capacity: usize,
    give: fn(Class, &mut Batch),
) -> bool {
    if !(0..RETRIES).any(|_| set_capacity(shard, region, class, capacity)) {
        return false;
    }
    let mut batch = Batch::new();
    let mut aborts = 0;
    loop {
        let excess = region.len(class).saturating_sub(capacity).min(MAGAZINE_MAX);
        if excess == 0 {
            return true;
        }
        match pop_into(shard, class, &mut batch, excess) {
            Ok(1..) => {
                count_moved(Some(region), class, Moved::Flushed, batch.len());
                give(class, &mut batch);
            }
            Err(Failure::Aborted) if aborts < RETRIES => aborts += 1,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_shards_share_the_floor_of_the_usable_cpus() {
        let whole = BUDGET_MIN_BYTES;
        assert_eq!((part_of_floor(1), part_of_floor(64)), (whole, whole), "without a quota");
        set_usable_cpus(2);
        assert_eq!((part_of_floor(1), part_of_floor(2)), (whole, whole));
        assert_eq!(part_of_floor(64), whole / 32);
        set_idle_shards(60);
        assert_eq!(part_of_floor(64), whole / 2, "four are active");
        assert_eq!(
            part_of_floor(60),
            whole,
            "more rest than there are: counted at different times"
        );
        set_idle_shards(0);
        set_usable_cpus(usize::MAX);
    }
}
