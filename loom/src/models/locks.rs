//! The locks: mutual exclusion, sleeping and waking, signal handlers on top of holders, and the shards of
//! the atomic path.

use super::{Found, Model, object, on, threads};
use crate::atomic::UnsafeCell;
use crate::cpu_cache::shard::Shard;
use crate::cpu_cache::shard::locked::{self, Locked};
use crate::machine;
use crate::region::Region;
use crate::sync::{Lock, Backoff, Rank, WaitBudget, is_barred};

static LOW: Lock = Lock::new();
static HIGH: Lock = Lock::new();
const LOW_RANK: Rank = Rank::slab(1);
const HIGH_RANK: Rank = Rank::slab(2);

struct Counter(UnsafeCell<u32>);
// SAFETY: touched under the lock, which the model is to show.
unsafe impl Sync for Counter {}
static COUNTER: Counter = Counter(UnsafeCell::new(0));

fn count() {
    let _guard = LOW.acquire(LOW_RANK).ok().expect("no handler runs");
    // SAFETY: the lock is held.
    unsafe { *COUNTER.0.get() += 1 };
}

/// Three threads and one lock: each gets it, one at a time, and no sleeper is forgotten.
pub const FUTEX: Model = Model {
    name: "lock-futex",
    preemptions: 2,
    body: || {
        // SAFETY: no other thread runs.
        unsafe { *COUNTER.0.get() = 0 };
        threads(vec![on(0, count), on(1, count), on(1, count)]);
        // SAFETY: as above.
        assert_eq!(unsafe { *COUNTER.0.get() }, 3);
        assert!(LOW.try_acquire(LOW_RANK).is_some(), "free again");
    },
};

/// A handler, anywhere on top of a thread that takes and gives up the lock, wants it too.
pub const REENTRY: Model = Model {
    name: "lock-reentry",
    preemptions: 3,
    body: || {
        machine::handle(1, || drop(LOW.acquire(LOW_RANK)));
        threads(vec![
            on(0, || {
                drop(LOW.acquire(LOW_RANK));
                assert!(!Rank::is_any_held());
            }),
            on(1, || machine::signal(1)),
        ]);
        assert!(LOW.try_acquire(LOW_RANK).is_some(), "free again");
    },
};

/// Two handlers, on top of the holders of two locks, each want the other lock.
pub const HANDLERS: Model = Model {
    name: "lock-handlers",
    preemptions: 2,
    body: || {
        machine::handle(1, || drop(HIGH.acquire(HIGH_RANK)));
        machine::handle(2, || drop(LOW.acquire(LOW_RANK)));
        threads(vec![
            on(0, || drop(LOW.acquire(LOW_RANK))),
            on(1, || drop(HIGH.acquire(HIGH_RANK))),
            on(1, || {
                machine::signal(1);
                machine::signal(2);
            }),
        ]);
        assert!(LOW.try_acquire(LOW_RANK).is_some() && HIGH.try_acquire(HIGH_RANK).is_some());
    },
};

/// A handler forks on top of the holder of the higher lock, and needs the lower one, which another thread has
/// that wants the higher.
pub const FORKING: Model = Model {
    name: "lock-forking",
    preemptions: 2,
    body: || {
        machine::handle(1, || {
            let before = Rank::held();
            HIGH.announce_fork();
            // As without an end of its backoff: what never comes is a deadlock.
            Rank::of_number(0).restore();
            drop(LOW.acquire(LOW_RANK).ok().expect("no fork runs above it"));
            before.restore();
            HIGH.end_fork();
        });
        threads(vec![
            on(0, || drop(HIGH.acquire(HIGH_RANK))),
            on(1, || {
                let _low = LOW.acquire(LOW_RANK);
                drop(HIGH.acquire(HIGH_RANK));
            }),
            on(1, || machine::signal(1)),
        ]);
        assert!(LOW.try_acquire(LOW_RANK).is_some() && HIGH.try_acquire(HIGH_RANK).is_some());
    },
};

/// A thread that waits for a bounded time goes, perhaps with a wake that another sleeper needs as well.
pub const LATE: Model = Model {
    name: "lock-late",
    preemptions: 2,
    body: || {
        threads(vec![
            on(0, || (0..2).for_each(|_| drop(LOW.acquire(LOW_RANK)))),
            on(1, || drop(LOW.acquire(LOW_RANK).ok().expect("as long as it takes"))),
            on(1, || {
                let budget = WaitBudget::bounded();
                // The clock of the models goes further than the budget with each look.
                let is_had = LOW.acquire(LOW_RANK).is_ok();
                assert_eq!(is_barred(), !is_had);
                drop(budget);
                assert!(!is_barred() && !Rank::is_any_held());
            }),
        ]);
        assert!(LOW.try_acquire(LOW_RANK).is_some(), "free again");
    },
};

/// A thread that forks, and handlers on top of it, use a lock that it forgot; another thread waits for it.
pub const AGAIN: Model = Model {
    name: "lock-again",
    preemptions: 2,
    body: || {
        // SAFETY: no other thread runs.
        unsafe { *COUNTER.0.get() = 0 };
        machine::handle(1, || {
            if let Ok(_guard) = LOW.acquire(LOW_RANK) {
                // SAFETY: the lock is held.
                let count = unsafe { *COUNTER.0.get() };
                assert_eq!(count % 2, 0, "in the middle of the operation below");
            }
        });
        threads(vec![
            on(0, || {
                Lock::forget(LOW.acquire(LOW_RANK).ok().expect("it may wait"));
                Rank::of_number(0).restore();
                let again = LOW.acquire(LOW_RANK).ok().expect("its own");
                // SAFETY: the lock is held.
                unsafe { *COUNTER.0.get() += 1 };
                assert!(LOW.is_held_here() && !LOW.is_forgotten_here());
                // SAFETY: as above.
                unsafe { *COUNTER.0.get() += 1 };
                drop(again);
                LOW.release_forgotten();
                assert!(!Rank::is_any_held());
            }),
            on(1, || {
                let _guard = LOW.acquire(LOW_RANK).ok().expect("the fork is soon over");
                // SAFETY: the lock is held.
                unsafe { *COUNTER.0.get() += 2 };
            }),
            on(1, || machine::signal(1)),
        ]);
        // SAFETY: no other thread runs.
        assert_eq!(unsafe { *COUNTER.0.get() }, 4);
        assert!(LOW.try_acquire(LOW_RANK).is_some(), "free again");
    },
};

const CLASS: usize = 4;

/// The atomic path: two threads on one locked shard, which take another way when it is busy.
pub const TRIED: Model = Model {
    name: "locked-shard",
    preemptions: 3,
    body: || {
        {
            let shard = Locked::take_any().expect("a shard");
            let region = shard.region().expect("a region");
            let to = region.bounds(CLASS).with_capacity(CLASS, 4);
            assert!(shard.set_bounds(CLASS, region, region.bounds(CLASS), to).is_ok());
            assert!(shard.push(CLASS, object(1)).left().is_none());
        }
        let found = Found::default();
        let work = |number: usize, found: Found| {
            move || {
                let left = match Locked::take_any() {
                    Some(shard) => shard.push(CLASS, object(number)).left(),
                    None => Some(object(number)),
                };
                found.add(left.map(|object| object.address()));
                let popped = Locked::take_any().and_then(|shard| shard.pop(CLASS).object());
                found.add(popped.map(|object| object.address()));
            }
        };
        threads(vec![on(0, work(2, found.clone())), on(1, work(3, found.clone()))]);
        // A thread that found it busy has made more of them.
        locked::for_each(&mut Backoff::none(), &mut |shard| {
            while let Some(object) = shard.pop(CLASS).object() {
                found.add([object.address()]);
            }
        });
        assert_eq!(found.sorted(), [1, 2, 3]);
    },
};
