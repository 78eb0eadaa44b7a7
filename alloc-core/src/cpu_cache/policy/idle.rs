//! Idle shards: what the caches of a CPU keep on which the program has not worked for a while.
//!
//! Threads come to many CPUs and leave a shard on each of them. Decay does not see it: what they freed last is all
//! cached, and other objects of the program may be live.
//!
//! Promises: a shard that has rested for [`REST_LOOKS`] looks is emptied; after as many looks in which the program had next to no
//! misses, the depot, the classes' empty slabs and free pages go back as well. A look is made by a slow allocation, in each
//! second in which there is one, while there is something to give back. Where a quota bounds the CPUs that the process can keep busy, one
//! look is enough for a shard, and one with more capacity than its part of those of the usable CPUs is emptied. All objects
//! that go home are paid for by the allowance of decay.

use super::capacity;
use crate::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::cpu_cache::drain;
use crate::cpu_cache::exclusive::stop_each;
use crate::cpu_cache::shard::{percpu, regions_created};
use crate::depot::DEPOT;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::postponed;
use crate::region::{Counter, Region};
use crate::size_class::CLASSES;
use crate::slab;
use crate::sync::Backoff;
use core::cell::Cell;

/// Looks after which a shard that has not changed is emptied: four to six seconds.
const REST_LOOKS: u32 = 5;
/// With no more than this to give back, nothing is looked at.
const KEPT_MIN_BYTES: usize = 1 << 20;
/// Under a quota, a shard may have this many times its part before it is emptied: parts change as shards come and rest.
const SPARE: usize = 2;
/// A program that has no more misses between two looks has no use for the depot.
const FEW_MISSES: usize = 64;
/// Prices, in tokens of decay's allowance: to read one line of a region.
pub(super) const READ_COST: usize = 2;
/// To stop one shard and visit all its classes, with two barriers and what other threads lose by it.
pub(super) const ALL_COST: usize = 8192;
/// Cache lines of a region that a look reads.
const REGION_LINES: usize = CLASSES / 8 + 1;

/// What the last look saw of the program. One thread looks, or two that hardly ever meet: then a count is off by one.
struct Seen {
    /// Misses of all shards.
    misses: AtomicUsize,
    /// Looks in a row that found next to no misses.
    quiet: AtomicUsize,
    /// Whether anything was cached since depot, slabs and pages were given back.
    is_due: AtomicBool,
}

static SEEN: Seen =
    Seen { misses: AtomicUsize::new(0), quiet: AtomicUsize::new(0), is_due: AtomicBool::new(true) };

/// Empties shards that rest, and those with more than their part, as far as `may_cost` permits it; then what a program does not need that
/// rests as a whole. The caller holds no shard and no lock.
#[cold]
#[inline(never)]
pub(super) fn look(may_cost: &dyn Fn(usize) -> bool) {
    if !may_cost(READ_COST * REGION_LINES * regions_created()) {
        return;
    }
    let is_scarce = capacity::is_scarce();
    let (mut idle, mut held, mut misses) = (0, 0, 0_usize);
    for region in percpu::regions() {
        idle += usize::from(region.look() > 0);
        held += capacity::bytes_in(region);
        misses = misses.wrapping_add(region.counter(Counter::Refills));
        misses = misses.wrapping_add(region.counter(Counter::Flushes));
    }
    let quiet = SEEN.note(misses);
    if is_scarce {
        capacity::set_idle_shards(idle);
    } else if held + DEPOT.bytes() + PAGE_HEAP.bytes_to_purge() <= KEPT_MIN_BYTES {
        return;
    }
    if empty_shards(is_scarce, may_cost) && quiet >= REST_LOOKS as usize {
        give_back_the_rest(may_cost);
    }
    postponed::put_off(os::seconds());
}

/// Whether all was emptied that is to be.
fn empty_shards(is_scarce: bool, may_cost: &dyn Fn(usize) -> bool) -> bool {
    let part = capacity::budget();
    let rest = if is_scarce { 1 } else { REST_LOOKS };
    let is_refused = Cell::new(false);
    let wanted = |region: &Region| {
        let is_too_large = is_scarce && capacity::bytes_in(region) > SPARE * part;
        (is_too_large || region.rested() >= rest) && holds_any(region) && !is_refused.get()
    };
    if !percpu::regions().any(&wanted) {
        return true;
    }
    let all = stop_each(&mut Backoff::none(), &wanted, &mut |stopped| {
        // Paid when it is stopped: where no shard can be, nothing is.
        let objects: usize = (1..CLASSES).map(|class| stopped.region().len(class)).sum();
        if may_cost(ALL_COST + objects) {
            drain::drain_stopped(stopped);
            SEEN.is_due.store(true, Ordering::Relaxed); // Ordering: Relaxed, a hint of the policy.
        } else {
            is_refused.set(true);
        }
    });
    all && !is_refused.get()
}

/// The depot, the classes' empty slabs and free pages of a program that rests, once.
fn give_back_the_rest(may_cost: &dyn Fn(usize) -> bool) {
    // Ordering: Relaxed, a hint of the policy.
    if !SEEN.is_due.load(Ordering::Relaxed) {
        return;
    }
    let objects: usize = (1..CLASSES).map(|class| DEPOT.objects(class)).sum();
    if may_cost(ALL_COST + objects) {
        drain::drain_depot();
        slab::release_empty();
        if PAGE_HEAP.purge_at_rest() {
            SEEN.is_due.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }
}

fn holds_any(region: &Region) -> bool {
    (1..CLASSES).any(|class| region.capacity(class) > 0 || region.len(class) > 0)
}

impl Seen {
    /// How many looks in a row have found few misses, with this one, which finds so many since the start.
    fn note(&self, misses: usize) -> usize {
        // Ordering: Relaxed throughout, hints of a policy.
        let since = misses.wrapping_sub(self.misses.swap(misses, Ordering::Relaxed));
        let is_quiet = since <= FEW_MISSES;
        let quiet = if is_quiet { self.quiet.load(Ordering::Relaxed) + 1 } else { 0 };
        self.quiet.store(quiet, Ordering::Relaxed); // Ordering: Relaxed, as above.
        if !is_quiet {
            self.is_due.store(true, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
        quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_misses_is_not_quiet() {
        let seen = Seen {
            misses: AtomicUsize::new(0),
            quiet: AtomicUsize::new(0),
            is_due: AtomicBool::new(false),
        };
        assert_eq!((1..4).map(|at| seen.note(at * FEW_MISSES)).max(), Some(3));
        assert!(!seen.is_due.load(Ordering::Relaxed));
        assert_eq!((seen.note(4 * FEW_MISSES + 1), seen.note(4 * FEW_MISSES + 1)), (0, 1));
        assert!(seen.is_due.load(Ordering::Relaxed));
    }
}
