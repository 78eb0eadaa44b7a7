//! The biased shards: an owner's operations while others close its seat, take its region, or a handler
//! comes on top.

use super::{Found, Model, on, shards, threads};
use crate::atomic::Ordering;
use crate::cpu_cache::{Shard, seat, seats};
use crate::machine::{self, BLOCKS};
use crate::region::Region;
use crate::size_class::Class;
use crate::sync::Backoff;
use crate::world::{bytes_of, explore_only};

const CLASS: Class = 4;
const OWNER: usize = 1;

/// Gives thread `OWNER` the only seat with a region, with one object and room for another two.
fn start() -> &'static seat::Seat {
    assert!(seats::open(1));
    let seat = seats::mine().expect("a seat");
    // The thread that prepares the model has taken it.
    let word = BLOCKS[0].seat.load(Ordering::Relaxed);
    BLOCKS[0].seat.store(0, Ordering::Relaxed);
    BLOCKS[OWNER].seat.store(word, Ordering::Relaxed);
    let region = seat.region().expect("a region");
    let end = Region::bottom_offset(CLASS) + 3 * size_of::<usize>();
    assert_eq!(seat.set_end(CLASS, region, 0, end), 0);
    assert_eq!(seat.push(CLASS, 1), 0);
    explore_only(bytes_of(seat));
    explore_only(bytes_of(&region.heads[CLASS]));
    shards::watch_slots(region, CLASS);
    seat
}

fn pop(found: &Found) {
    let popped = seats::mine().map_or(0, |seat| seat.pop(CLASS));
    found.add((popped > 0).then_some(popped as usize));
}

fn push(object: usize, found: &Found) {
    if seats::mine().is_none_or(|seat| seat.push(CLASS, object) != 0) {
        found.add([object]);
    }
}

/// Takes what is left.
fn drain(found: &Found) {
    seats::regions().for_each(|region| found.add(shards::empty(region, CLASS)));
}

/// The owner works while another thread closes all seats and takes what is there.
pub const CLOSED: Model = Model {
    name: "seat-closed",
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
                let closed = seats::while_closed(&mut Backoff::usual(), |regions| {
                    regions.for_each(|region| two.add(shards::empty(region, CLASS)));
                });
                assert!(closed.is_some());
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
    name: "seat-handler",
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

/// A handler on top of the owner closes all seats, its own too, and takes what is there.
pub const CLOSED_ABOVE: Model = Model {
    name: "seat-above",
    preemptions: 3,
    body: || {
        start();
        let found = Found::default();
        ABOVE.set(found.clone());
        machine::handle(OWNER, || {
            ABOVE.with_borrow(|found| {
                let closed = seats::while_closed(&mut Backoff::usual(), |regions| {
                    regions.for_each(|region| found.add(shards::empty(region, CLASS)));
                });
                assert!(closed.is_some());
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

/// Another thread wants a region, and takes the owner's if that one does nothing between two looks.
pub const HANDOVER: Model = Model {
    name: "seat-handover",
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
                seats::sit();
                seats::sit();
                pop(&two);
                push(3, &two);
            }),
        ]);
        drain(&found);
        assert_eq!(found.sorted(), [1, 2, 3]);
    },
};
