//! The capacity policy, driven to its bounds: no stack gets more than its slots, no shard more than its budget.
//!
//! A stack with one slot too many would have its last object in the sentinel of the next class.

#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod support;

use rsalloc_core::internals::config::{self, Key};
use rsalloc_core::internals::cpu_cache::allocate_on;
use rsalloc_core::internals::domain::Domain;
use rsalloc_core::internals::object::Batch;
use rsalloc_core::internals::region::Region;
use rsalloc_core::internals::size_class::{CLASS, CLASSES, Class};
use rsalloc_core::internals::slab;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use support::FakeCpus;

/// The budget is the process's.
static BUDGET: Mutex<()> = Mutex::new(());

fn with_budget(bytes: usize) -> MutexGuard<'static, ()> {
    let guard = BUDGET.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    config::set_number(Key::Cache, bytes);
    guard
}

/// More than enough to come from nothing to the most.
const SWINGS: usize = 40;

/// How many objects of the class are tried: as many as a stack can hold, but no more than 4 MiB, or twice a short stack.
fn tried(class: Class) -> usize {
    let info = &CLASS[class];
    ((4 << 20) / info.size).max(2 * info.slots_short).min(info.slots_max)
}

/// Empties and fills the class on this shard: each time it may get some capacity more.
fn swing(cpus: &FakeCpus, class: Class) {
    let count = tried(class) + CLASS[class].batch + 1;
    let objects: Vec<_> =
        (0..count).map(|_| allocate_on(cpus, class).expect("memory").object.address()).collect();
    objects.into_iter().for_each(|object| cpus.free(class, object));
}

/// Pushes until the class is full.
fn fill(cpus: &FakeCpus, class: Class) {
    let mut one = Batch::new();
    loop {
        slab::take(class, Domain::FIRST, &mut one, 1).expect("no handler runs");
        if cpus.push(class, one.addresses()[0]) != 0 {
            return slab::put(&mut one);
        }
        one.forget_all();
    }
}

/// Of the short and of the long stack.
fn sentinels(region: &Region, class: Class) -> [usize; 2] {
    [Region::bottom_offset(class), Region::long_bottom_offset(class)].map(|bottom| {
        // SAFETY: a slot of the region, whose shard is the test's own.
        unsafe { region.slot(bottom) }.load(Ordering::Relaxed)
    })
}

fn cached_bytes_at_most(region: &Region) -> usize {
    (1..CLASSES).map(|class| region.capacity(class) * CLASS[class].size).sum()
}

#[test]
fn a_stack_gets_all_of_its_slots_and_no_more() {
    let _budget = with_budget(1 << 40);
    let cpus = FakeCpus::new(1);
    let region = cpus.regions()[0];
    for (class, info) in CLASS.iter().enumerate().skip(1) {
        for _ in 0..SWINGS {
            swing(&cpus, class);
            let (capacity, len) = (region.capacity(class), region.len(class));
            assert!(capacity <= info.slots_max, "class {class}: capacity {capacity}");
            assert!(len <= info.slots_max, "class {class}: {len} objects");
        }
        let capacity = region.capacity(class);
        assert!(capacity >= tried(class), "class {class} grew to {capacity}");
        assert!(capacity > info.slots_short, "class {class} has left its short stack");
        fill(&cpus, class);
        assert_eq!(region.len(class), capacity, "class {class} is full");
    }
    assert!(
        (1..CLASSES).any(|class| region.len(class) == CLASS[class].slots_max),
        "a stack is as long as can be"
    );
    for class in 1..CLASSES {
        assert_eq!(sentinels(region, class), [0, 0], "class {class}: a sentinel is overwritten");
    }
}

#[test]
fn all_stacks_together_stay_within_the_budget() {
    const BYTES: usize = 1 << 20;
    let _budget = with_budget(BYTES);
    let cpus = FakeCpus::new(1);
    let region = cpus.regions()[0];
    let mut most = 0;
    for _ in 0..3 {
        for class in 1..CLASSES {
            swing(&cpus, class);
            let bytes = cached_bytes_at_most(region);
            assert!(bytes <= BYTES, "{bytes} B after class {class}");
            most = most.max(bytes);
        }
    }
    assert!(most > BYTES / 2, "only {most} B were ever wanted: nothing is tested");
}
