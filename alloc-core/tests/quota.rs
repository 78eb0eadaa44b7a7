//! A quota of fewer CPUs than have shards: a shard that rests gives back what it caches, one that is worked on keeps it.

#[path = "support/cpus.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod cpus;

use cpus::Cpus;
use rsalloc_core::internals::cpu_cache::shard::percpu;
use rsalloc_core::internals::cpu_cache::{self, shard::regions_created};
use rsalloc_core::internals::region::Region;
use rsalloc_core::internals::size_class::CLASSES;
use std::time::{Duration, Instant};

const OBJECTS: usize = 400;
const SIZE: usize = 1000;

/// Fills the shard of this CPU. Half of the objects stay live: else all shards give back what the program has no more.
fn work() {
    let objects = [(); OBJECTS].map(|()| rsalloc_core::allocate(SIZE));
    for (index, object) in objects.into_iter().enumerate() {
        assert!(!object.is_null());
        if index % 2 == 0 {
            continue;
        }
        // SAFETY: live.
        unsafe { rsalloc_core::free(object) };
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

#[test]
fn a_shard_that_rests_is_emptied_where_a_quota_bounds_the_cpus() {
    let cpus = Cpus::allowed();
    for number in [1, 0] {
        cpus.move_to(number);
        work();
    }
    if percpu::regions().count() < 2 {
        println!("skipped: it takes two CPUs and rseq, and there are {} shards", regions_created());
        return;
    }
    // The control: without a quota the other shard keeps what it has.
    let with_objects = |shards: &[usize]| shards.iter().filter(|&&cached| cached > 0).count();
    let before = work_on_first(&cpus, 4);
    assert_eq!(with_objects(&before), 2, "{before:?}");
    cpu_cache::set_usable_cpus(1);
    // Init decides before there is a shard, and a new shard's first growth notices; here another class's does.
    assert!(!rsalloc_core::allocate(3000).is_null());
    let after = work_on_first(&cpus, 6);
    assert_eq!(with_objects(&after), 1, "{after:?}");
    cpus.move_to(1);
    work();
    assert_eq!(rsalloc_core::check(), Ok(()));
}
