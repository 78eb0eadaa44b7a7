//! The biased shards: an owner's operations while other threads stop its shard, take its region, or a handler
//! comes on top.

use super::{Found, Model, object, on, shards, threads};
use crate::atomic::Ordering;
use crate::cpu_cache::exclusive;
use crate::cpu_cache::shard::{Shard, biased::BiasedShard, leases};
use crate::machine::{self, BLOCKS};
use crate::region::Region;
use crate::size_class::Class;
use crate::sync::Backoff;
use crate::world::{bytes_of, explore_only};

const CLASS: Class = 4;
const OWNER: usize = 1;

/// Gives thread `OWNER` the only lease, with one object and a capacity of three.
fn start() -> &'static BiasedShard {
    assert!(leases::enable(1));
    let shard = leases::own_shard().expect("a biased shard");
    // The thread that prepares the model has taken it.
    let word = BLOCKS[0].words.biased_shard.load(Ordering::Relaxed);
    BLOCKS[0].words.biased_shard.store(0, Ordering::Relaxed);
    BLOCKS[OWNER].words.biased_shard.store(word, Ordering::Relaxed);
    let region = shard.region().expect("a region");
    let to = region.bounds(CLASS).with_capacity(CLASS, 3);
    assert!(shard.set_bounds(CLASS, region, region.bounds(CLASS), to).is_ok());
    assert!(shard.push(CLASS, object(1)).left().is_none());
    explore_only(bytes_of(shard));
    explore_only(bytes_of(&region.heads[CLASS]));
    shards::watch_slots(region, CLASS);
    shard
}

fn pop(found: &Found) {
    let popped = leases::own_shard().and_then(|shard| shard.pop(CLASS).object());
    found.add(popped.map(|object| object.address()));
}

fn push(number: usize, found: &Found) {
    let left = match leases::own_shard() {
        Some(shard) => shard.push(CLASS, object(number)).left(),
        None => Some(object(number)),
    };
    found.add(left.map(|object| object.address()));
}

/// Takes what is left.
fn drain(found: &Found) {
    leases::regions().for_each(|region| found.add(shards::empty(region, CLASS)));
}

/// The owner works while another thread stops all shards and takes what is there.
pub const STOPPED: Model = Model {
    name: "biased-stopped",
    preemptions: 3,
    body: || {
        start();
        let found = Found::default();
        let (one, two) = (found.clone(), found.clone());
        threads(vec![
            on(0, move || {
                pop(&one);
                push(2, &one);
                pop(&one);
            }),
            on(1, move || {
                let stopped = exclusive::stop_all(&mut Backoff::usual(), |regions| {
                    regions.for_each(|region| two.add(shards::empty(region.region(), CLASS)));
                });
                assert!(stopped.is_some());
            }),
        ]);
        drain(&found);
        assert_eq!(found.sorted(), [1, 2]);
    },
};

thread_local! {
    static ABOVE: std::cell::RefCell<Found> = std::cell::RefCell::default();
}

/// A handler, anywhere on top of the owner, pops and pushes as well.
pub const HANDLER: Model = Model {
    name: "biased-handler",
    preemptions: 3,
    body: || {
        start();
        let found = Found::default();
        ABOVE.set(found.clone());
        machine::handle(OWNER, || {
            ABOVE.with_borrow(|found| {
                pop(found);
                push(3, found);
            });
        });
        let one = found.clone();
        threads(vec![
            on(0, move || {
                push(2, &one);
                pop(&one);
            }),
            on(1, || machine::signal(OWNER)),
        ]);
        drain(&found);
        // If the thread was over first, there was no handler.
        let all = found.sorted();
        assert!(all == [1, 2] || all == [1, 2, 3], "{all:?}");
    },
};

/// A handler on top of the owner stops all shards, its own too, and takes what is there.
pub const STOPPED_ABOVE: Model = Model {
    name: "biased-stopped-above",
    preemptions: 3,
    body: || {
        start();
        let found = Found::default();
        ABOVE.set(found.clone());
        machine::handle(OWNER, || {
            ABOVE.with_borrow(|found| {
                let stopped = exclusive::stop_all(&mut Backoff::usual(), |regions| {
                    regions.for_each(|region| found.add(shards::empty(region.region(), CLASS)));
                });
                assert!(stopped.is_some());
            });
        });
        let one = found.clone();
        threads(vec![
            on(0, move || {
                pop(&one);
                push(2, &one);
                pop(&one);
            }),
            on(1, || machine::signal(OWNER)),
        ]);
        drain(&found);
        assert_eq!(found.sorted(), [1, 2]);
    },
};

/// Another thread wants a region, and takes the owner's if the owner does nothing between two searches.
pub const HANDOVER: Model = Model {
    name: "biased-handover",
    preemptions: 3,
    body: || {
        start();
        let found = Found::default();
        let (one, two) = (found.clone(), found.clone());
        threads(vec![
            on(0, move || {
                pop(&one);
                push(2, &one);
            }),
            on(1, move || {
                leases::acquire();
                leases::acquire();
                pop(&two);
                push(3, &two);
            }),
        ]);
        drain(&found);
        assert_eq!(found.sorted(), [1, 2, 3]);
    },
};
