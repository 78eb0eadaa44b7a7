//! A shard that rests gives back what it caches, sooner under a quota of fewer CPUs than have shards; one that is worked on keeps it.

#[path = "support/cpus.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod cpus;

use cpus::Cpus;
use rsalloc_core::internals::cpu_cache::shard::percpu;
use rsalloc_core::internals::cpu_cache::{self, shard::regions_created};
use rsalloc_core::internals::region::Region;
use rsalloc_core::internals::size_class::CLASSES;
use std::time::{Duration, Instant};

const OBJECTS: usize = 2000;
const SIZE: usize = 1000;

/// Has the shard of this CPU cache much. Some objects stay live: else all shards give back what the program has no more.
fn work() {
    for _ in 0..20 {
        let objects = [(); OBJECTS].map(|()| rsalloc_core::allocate(SIZE));
        for (index, object) in objects.into_iter().enumerate() {
            assert!(!object.is_null());
            if index % 16 == 0 {
                continue;
            }
            // SAFETY: live.
            unsafe { rsalloc_core::free(object) };
        }
    }
}

fn cached(region: &Region) -> usize {
    (1..CLASSES).map(|class| region.len(class)).sum()
}

/// Works on the first CPU, with sizes that no class has cached yet, so that calls are slow, for so long; what each shard caches then.
fn work_on_first(cpus: &Cpus, seconds: u64) -> Vec<usize> {
    cpus.move_to(0);
    // Live for ever, for the same reason.
    (0..1000).for_each(|_| assert!(!rsalloc_core::allocate(2000).is_null()));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        let kept: Vec<_> = (0..2000).map(|_| rsalloc_core::allocate(2000)).collect();
        // SAFETY: live.
        kept.into_iter().for_each(|object| unsafe { rsalloc_core::free(object) });
        std::thread::sleep(Duration::from_millis(10));
    }
    percpu::regions().map(cached).collect()
}

/// What could go back to the system: in the depot, in slabs, free pages.
fn kept() -> [usize; 3] {
    let stats = rsalloc_core::stats();
    [stats.depot_cached_bytes, stats.slab_free_bytes, stats.dirty_bytes]
}

/// With a slow allocation in each second. Much of what the program has stays live.
fn rest_leaves_little() {
    let objects: Vec<_> =
        (0..100_000).map(|index| rsalloc_core::allocate(16 + index % 64 * 16)).collect();
    for (index, &object) in objects.iter().enumerate() {
        if index % 1000 >= 200 {
            // SAFETY: live.
            unsafe { rsalloc_core::free(object) };
        }
    }
    let before = kept();
    for _ in 0..9 {
        std::thread::sleep(Duration::from_millis(1100));
        free_large();
    }
    let after = kept();
    assert!(before.iter().sum::<usize>() > 8 << 20, "no load: {before:?}");
    // The large object is freed once more after the last look.
    assert!(
        after[0] < 64 << 10 && after[2] <= (1 << 20) + 2 * LARGE,
        "{after:?}, before {before:?}"
    );
}

/// A rest does not change that pages which come and go stay.
fn pages_that_come_and_go_stay() {
    let purged = rsalloc_core::stats().purged_bytes_total;
    (0..200).for_each(|_| free_large());
    let purged = rsalloc_core::stats().purged_bytes_total - purged;
    assert!(purged < 20 * LARGE, "{purged} B purged");
}

const LARGE: usize = 2 << 20;

fn free_large() {
    let large = rsalloc_core::allocate(LARGE);
    // SAFETY: live, and of that size.
    unsafe {
        large.write_bytes(1, LARGE);
        rsalloc_core::free(large);
    }
}

#[test]
fn a_shard_that_rests_is_emptied() {
    let cpus = Cpus::allowed();
    let fill_both = || {
        for number in [1, 0] {
            cpus.move_to(number);
            work();
        }
    };
    fill_both();
    if percpu::regions().count() < 2 {
        println!(
            "NOT TESTED: it takes two CPUs and rseq, and there are {} shards",
            regions_created()
        );
        return;
    }
    let with_objects = |shards: &[usize]| shards.iter().filter(|&&cached| cached > 0).count();
    let begin = Instant::now();
    let soon = work_on_first(&cpus, 2);
    // On a machine that is so busy this says nothing.
    if begin.elapsed() < Duration::from_secs(4) {
        assert_eq!(with_objects(&soon), 2, "the control, before five looks: {soon:?}");
    }
    let later = work_on_first(&cpus, 8);
    assert_eq!(with_objects(&later), 1, "{later:?}");
    rest_leaves_little();
    pages_that_come_and_go_stay();
    fill_both();
    cpu_cache::set_usable_cpus(1);
    let after = work_on_first(&cpus, 4);
    assert_eq!(with_objects(&after), 1, "under a quota: {after:?}");
    cpus.move_to(1);
    work();
    assert_eq!(rsalloc_core::check(), Ok(()));
}
