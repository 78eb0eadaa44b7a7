//! Biased shards in the child of a fork of a process with many of them: the forking thread keeps its own, those of the
//! threads that are not there are free for new ones, and no two threads have the same.

#[path = "support/child.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod child;
#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use child::in_child;
use modes::{in_modes, mode};
use rsalloc_core::internals::cpu_cache::exclusive;
use rsalloc_core::internals::cpu_cache::shard::leases;
use rsalloc_core::internals::sync::Backoff;
use std::collections::BTreeSet;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// For what comes after a few hundred calls, or never.
const SOON: Duration = Duration::from_secs(15);

fn main() {
    in_modes(&[mode("atomic")], LIMIT, |_| {
        let threads = 4 * thread::available_parallelism().expect("a number").get();
        let mine = shard_of_its_own();
        let leased = Barrier::new(threads + 1);
        let end = Barrier::new(threads + 1);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    shard_of_its_own();
                    leased.wait();
                    end.wait();
                });
            }
            leased.wait();
            assert!(leases::shards_used() > threads, "a biased shard for each thread");
            in_child(|| the_child_has_all_shards(mine, threads));
            end.wait();
        });
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

/// Works until the calling thread has a biased shard; its address.
fn shard_of_its_own() -> usize {
    let begin = Instant::now();
    loop {
        work();
        if let Some(shard) = leases::own_shard() {
            return std::ptr::from_ref(shard) as usize;
        }
        assert!(begin.elapsed() < SOON, "a thread that works gets no biased shard");
    }
}

fn work() {
    for call in 0..100 {
        let objects = [16, 100, 1000].map(|size| rsalloc_core::allocate(size + call));
        assert!(objects.iter().all(|object| !object.is_null()));
        // SAFETY: live.
        objects.into_iter().for_each(|object| unsafe { rsalloc_core::free(object) });
    }
}

/// Each of as many threads as there were before gets a biased shard, while all of them live.
fn the_child_has_all_shards(mine: usize, threads: usize) {
    assert_eq!(shard_of_its_own(), mine, "the forking thread keeps its biased shard");
    let taken = Mutex::new(BTreeSet::from([mine]));
    let all = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let shard = shard_of_its_own();
                assert!(
                    taken.lock().expect("no panic").insert(shard),
                    "two threads have one biased shard"
                );
                all.wait();
                work();
            });
        }
    });
    let stopped = exclusive::stop_all(&mut Backoff::usual(), |regions| regions.count());
    assert_eq!(stopped, Some(leases::regions().count()), "no region is out of reach");
    assert_eq!(rsalloc_core::check(), Ok(()));
}
