//! The depot: its stacks of magazines, and the memory behind them.

use super::{Found, Model, on, threads};
use crate::domain::Domain;
use crate::depot::DEPOT;
use crate::object::Batch;

fn put(class: usize, object: usize) {
    // SAFETY: a number that nothing reads or writes.
    assert!(DEPOT.put_unbounded(class, Domain::FIRST, &mut unsafe { Batch::from_slots(&[object]) }));
}

fn take(class: usize) -> Vec<usize> {
    let mut batch = Batch::new();
    DEPOT.take(class, Domain::FIRST, &mut batch);
    let objects = batch.addresses().to_vec();
    batch.forget_all();
    objects
}

/// Takes all there is, twice over: a magazine that lies in two places is found the second time.
fn everything(classes: std::ops::Range<usize>) -> Vec<usize> {
    let mut all = Vec::new();
    for class in classes.clone() {
        for _ in 0..4 {
            all.extend(take(class));
        }
    }
    all.sort();
    // All are home: each can be filled, and none holds two things.
    for class in [1, 2] {
        (1..=3).for_each(|object| put(class, class * 100 + object));
    }
    for class in [1, 2] {
        let mut again: Vec<_> = (0..3).flat_map(|_| take(class)).collect();
        again.sort();
        assert_eq!(again, [1, 2, 3].map(|object| class * 100 + object), "a magazine in two places");
    }
    all
}

/// The free stack loses its top, gets it back with as many magazines below, but others, and a pop is in flight.
pub const ABA: Model = Model {
    name: "depot-aba",
    preemptions: 3,
    body: || {
        (11..=13).for_each(|object| put(1, object));
        assert_eq!((take(1), take(1)), (vec![13], vec![12]));
        threads(vec![
            on(0, || put(3, 31)),
            on(1, || {
                put(4, 41);
                put(2, 21);
                assert_eq!((take(1), take(4)), (vec![11], vec![41]));
            }),
        ]);
        assert_eq!(everything(1..5), [21, 31]);
    },
};

/// The first magazines of all: two threads map a chunk.
pub const MAKE: Model = Model {
    name: "depot-make",
    preemptions: 3,
    body: || {
        threads(vec![on(0, || put(1, 11)), on(1, || put(1, 12))]);
        assert_eq!(everything(1..2), [11, 12]);
    },
};

/// An object goes from one thread to another, or to a third.
pub const HANDOVER: Model = Model {
    name: "depot-handover",
    preemptions: 2,
    body: || {
        let found = Found::default();
        let (one, other) = (found.clone(), found.clone());
        threads(vec![
            on(0, || put(1, 11)),
            on(1, move || one.add(take(1))),
            on(0, move || {
                put(1, 12);
                other.add(take(1));
            }),
        ]);
        found.add(everything(1..2));
        assert_eq!(found.sorted(), [11, 12]);
    },
};
