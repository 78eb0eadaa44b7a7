//! Draining: every cached object back to its slab, every free span back to the OS.
//!
//! Called by the release function and when memory is out; calls every tier below.

use super::{Shard, each_still, locked, seats};
use crate::depot::DEPOT;
use crate::object::Batch;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::huge::HUGE;
use crate::region::Region;
use crate::rseq::registration;
use crate::size_class::{CLASSES, Class};
use crate::slab;
use crate::sync::{Backoff, WaitBudget};
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

/// As [`drain_all`], but the free spans stay, and what is busy for longer than `backoff`.
pub(super) fn drain_caches(backoff: &mut Backoff) {
    match registration::sections() {
        _ if each_still(backoff, |_| true, empty_stopped) => {}
        // No fence, or not the turn: at least this CPU's own shard.
        Some(sections) => drain_by_ops(&sections),
        None => seats::mine().into_iter().for_each(drain_by_ops),
    }
    locked::for_each(backoff, |locked| {
        drain_by_ops(locked);
        locked.region().into_iter().for_each(forget_slots);
    });
    drain_depot();
    slab::release_empty();
}

/// Takes the objects of `class` out of all shards that are not busy, if the kernel has the fence; the capacities go
/// to 0. Who has nothing stopped (false) has at least its own shard, and does that itself.
pub(super) fn drain_class(class: Class) -> bool {
    let mut backoff = Backoff::none();
    // What has room would cache what comes next.
    let wanted = |region: &Region| region.capacity(class) > 0 || region.len(class) > 0;
    let drain = |region| drain_class_stopped(region, class);
    let all = each_still(&mut backoff, wanted, drain);
    locked::for_each(&mut backoff, |locked| drain_class_by_ops(locked, class));
    all
}

/// Empties a region that nobody else can touch.
fn empty_stopped(region: &Region) {
    (1..CLASSES).for_each(|class| drain_class_stopped(region, class));
    forget_slots(region);
}

/// Gives the stacks of a region back that nobody else can touch, if they are empty: a page or more for each class.
fn forget_slots(region: &Region) {
    if (1..CLASSES).all(|class| region.len(class) == 0) {
        let (address, len) = region.slot_pages(os::page_bytes());
        // SAFETY: shard I1: no slot holds an object, so what lies there is as good as zero; a bottom is zero.
        unsafe { os::give_back(address, len) };
    }
}

fn drain_class_stopped(region: &Region, class: Class) {
    let bottom = region.bottom(class) as *const usize;
    // SAFETY: shard I1: the slots above the sentinel hold objects; the region is ours alone.
    let objects = unsafe { core::slice::from_raw_parts(bottom.add(1), region.len(class)) };
    // Without a purge, while others find their shards closed. A handler on top of its own thread's slab lock: the
    // depot needs none, only memory, as in `give_back_to_slab`.
    for (index, slots) in objects.chunks(MAGAZINE_MAX).enumerate() {
        // SAFETY: the objects are the region's, which forgets them below.
        let mut batch = unsafe { Batch::from_slots(slots) };
        slab::put_cached(class, &mut batch);
        if !batch.is_empty() && !DEPOT.put_unbounded(class, &mut batch) {
            // No memory for a magazine either: they stay where they are.
            let first = batch.addresses()[0];
            let put = slots.iter().take_while(|&&slot| slot != first).count();
            batch.forget_all();
            return region.keep_last(class, objects.len() - index * MAGAZINE_MAX - put);
        }
    }
    region.reset_class(class);
}

fn drain_by_ops<S: Shard>(shard: &S) {
    (1..CLASSES).for_each(|class| drain_class_by_ops(shard, class));
}

fn drain_class_by_ops<S: Shard>(shard: &S, class: Class) {
    let mut batch = Batch::new();
    while super::pop_into(shard, class, &mut batch, MAGAZINE_MAX) > 0 {
        super::give_back_to_slab(class, &mut batch);
    }
}

fn drain_depot() {
    (1..CLASSES).for_each(drain_depot_of);
}

/// Puts the depot's objects of `class` back into their slabs.
pub(super) fn drain_depot_of(class: Class) {
    let mut batch = Batch::new();
    for _ in 0..DEPOT.magazines(class) {
        DEPOT.take(class, &mut batch);
        if batch.is_empty() {
            break;
        }
        super::give_back_to_slab(class, &mut batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_cache::shards;
    use crate::rseq::emulated;
    use crate::size_class::CLASS;

    /// Its callers have emptied the region before; what they missed must not be lost.
    #[test]
    fn slots_that_hold_an_object_are_kept() {
        let region = shards::new_region().unwrap();
        for (class, info) in CLASS.iter().enumerate().skip(1) {
            let end = Region::bottom_offset(class) + info.slots_max * size_of::<usize>();
            // SAFETY: the region is the test's own; these are the slots of the class.
            unsafe {
                assert_eq!(emulated::set_end(region, class, 0, end), 0);
                for object in 1..=info.slots_max {
                    assert_eq!(emulated::push(region, class, object), 0);
                }
                forget_slots(region);
                for object in (1..=info.slots_max).rev() {
                    assert_eq!(emulated::pop(region, class), object as isize, "class {class}");
                }
            }
            region.reset_class(class);
        }
    }

    #[test]
    fn slots_without_objects_read_as_zero() {
        let region = shards::new_region().unwrap();
        let last = CLASSES - 1;
        let end = Region::bottom_offset(last) + size_of::<usize>();
        // SAFETY: as above; the slot above the sentinel lies in the region.
        unsafe {
            assert_eq!(emulated::set_end(region, last, 0, end), 0);
            assert_eq!(emulated::push(region, last, 16), 0);
            assert_eq!(emulated::pop(region, last), 16);
            forget_slots(region);
            assert_eq!((region.at(end) as *const usize).read(), 0, "the page is still there");
        }
    }
}
