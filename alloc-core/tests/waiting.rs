//! No call of `free`, and none of `malloc` that the caches can serve, waits for a lock that may be held for longer than a
//! critical section: the test holds it until the calls are over.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{MODES, ModeCase, in_modes};
use rsalloc_core::internals::cpu_cache::shard::{leases, percpu};
use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::internals::rseq::vfork;
use rsalloc_core::internals::sync::{Lock, Rank};
use rsalloc_core::{allocate, check, free};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(150);
/// Calls that wait are not over then; no other one takes so long.
const LATE: Duration = Duration::from_secs(60);
/// Of each size: more than the capacity of a shard.
const OBJECTS: usize = 300;
const SIZES: [usize; 6] = [16, 64, 1500, 20_000, 60_000, 300_000];

fn main() {
    in_modes(&MODES, LIMIT, |case| {
        nothing_waits_where_no_shard_exists_yet(case);
        let locks = [
            (percpu::raw_lock(), Rank::SHARDS),
            (vfork::raw_lock(), Rank::VFORK),
            (leases::raw_lock(), Rank::LEASES),
            (PAGE_HEAP.raw_growth_lock(), Rank::GROWTH),
        ];
        locks.into_iter().for_each(|(lock, rank)| no_free_waits_for(lock, rank));
        assert_eq!(check(), Ok(()));
    });
}

/// Runs `f` in a thread of its own while this one holds the lock.
fn beside_a_holder<R: Send + 'static>(
    lock: &Lock,
    rank: Rank,
    f: impl FnOnce() -> R + Send + 'static,
) -> R {
    let held = lock.acquire(rank).expect("no handler runs");
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(f()));
    let result = result.recv_timeout(LATE);
    drop(held);
    result.unwrap_or_else(|_| panic!("waits for the lock of {rank:?}"))
}

fn make() -> Vec<usize> {
    let objects = SIZES.iter().flat_map(|&size| (0..OBJECTS).map(move |_| allocate(size) as usize));
    let objects: Vec<_> = objects.collect();
    assert!(objects.iter().all(|&object| object != 0));
    objects
}

fn free_all(objects: impl IntoIterator<Item = usize>) {
    // SAFETY: live objects, each once.
    objects.into_iter().for_each(|object| unsafe { free(object as *mut u8) });
}

/// The first shard of all is created by a call that finds the lock free, and only by such a one: shards are stopped under
/// that lock, which can take as long as a release of everything.
fn nothing_waits_where_no_shard_exists_yet(case: &ModeCase) {
    // Init is over, and no object was made: the CPUs have no shards.
    assert_eq!(percpu::highest_created(), 0);
    // The segment of all objects, so that none of them waits for growth, and nothing else.
    let held = percpu::raw_lock().acquire(Rank::SHARDS).expect("free");
    free_all(make());
    assert_eq!(percpu::highest_created(), 0, "created without the lock");
    drop(held);
    let objects = beside_a_holder(percpu::raw_lock(), Rank::SHARDS, || {
        free_all(make());
        make()
    });
    assert_eq!(percpu::highest_created(), 0, "created without the lock");
    free_all(objects);
    // Hardened, too: its slow path uses the shards.
    assert_eq!(percpu::highest_created() > 0, case.has_sections(), "found the lock free");
}

/// Of objects that this thread made, so that the thread which frees them has no shard of its own.
fn no_free_waits_for(lock: &'static Lock, rank: Rank) {
    let objects = make();
    beside_a_holder(lock, rank, || free_all(objects));
    assert_eq!(check(), Ok(()));
}
