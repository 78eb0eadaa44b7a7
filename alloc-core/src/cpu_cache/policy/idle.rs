//! Idle shards: what the caches of a CPU keep on which the program has not worked for a while.
//!
//! Threads come to many CPUs and leave a shard on each of them. Decay does not see it: what they freed last is all cached, and other objects of
//! the program may be live.
//!
//! Promises: a shard that has rested for [`REST_SECONDS`] gives back what it caches, at the next slow allocation, and the depot, the
//! classes' empty slabs and free pages go back when all but one rest. Where a quota bounds the CPUs that the process can keep busy, a second is enough, and a shard that has got more capacity
//! than its part of those of the usable CPUs loses it. What that costs is bounded, as decay is. Nothing is looked at while the shards
//! together hold little.

use super::capacity;
use crate::cpu_cache::drain;
use crate::cpu_cache::exclusive::stop_each;
use crate::cpu_cache::shard::percpu;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::postponed;
use crate::region::Region;
use crate::size_class::CLASSES;
use crate::slab;
use crate::sync::Backoff;

/// Looks, one in a second, after which a shard that has not changed is emptied.
const REST_SECONDS: u32 = 5;
/// Shards that together may hold no more than this are left alone.
const HELD_MIN_BYTES: usize = 1 << 20;
/// Under a quota, a shard may have this many times its part before it is emptied: parts change as shards come and rest.
const SPARE: usize = 2;

/// Empties shards that rest, and those with more than their part, as far as `may_cost` permits it for each. The caller holds no shard
/// and no lock.
#[cold]
#[inline(never)]
pub(in crate::cpu_cache) fn look(may_cost: impl Fn() -> bool) {
    let is_scarce = capacity::is_scarce();
    let (mut idle, mut active, mut held) = (0, 0, 0);
    for region in percpu::regions() {
        match region.look() {
            0 => active += 1,
            _ => idle += 1,
        }
        held += capacity::bytes_in(region);
    }
    if is_scarce {
        capacity::set_idle_shards(idle);
    } else if held <= HELD_MIN_BYTES {
        return;
    }
    let part = capacity::budget();
    let rest = if is_scarce { 1 } else { REST_SECONDS };
    let wanted = |region: &Region| {
        let is_too_large = is_scarce && capacity::bytes_in(region) > SPARE * part;
        (is_too_large || region.rested() >= rest && holds_any(region)) && may_cost()
    };
    let mut is_any_emptied = false;
    stop_each(&mut Backoff::none(), wanted, |stopped| {
        is_any_emptied = true;
        drain::drain_stopped(stopped);
    });
    // What it has came from the others, too.
    if is_any_emptied && active <= 1 && may_cost() {
        drain::drain_depot();
        slab::release_empty();
        PAGE_HEAP.purge_at_rest();
    }
    postponed::put_off(os::seconds());
}

fn holds_any(region: &Region) -> bool {
    (1..CLASSES).any(|class| region.capacity(class) > 0 || region.len(class) > 0)
}
