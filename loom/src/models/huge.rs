//! Huge spans: an owner asks for its span's length, without a lock, while others change the table.

use super::{Model, on, threads};
use crate::atomic::HUGE_SLOTS;
use crate::os;
use crate::page_heap::huge::{HUGE, hash};
use crate::sync::Rank;
use crate::world::{bytes_of, explore_only, leave_plain};

const PAGE: usize = 4096;
/// Length of the span that is asked for, and of all others.
const OWN: usize = PAGE;
const OTHER: usize = 2 * PAGE;

/// Explores the table's words and all memory that tables may get, but not the lock that guards both.
fn start() {
    let next = os::map(os::Place::Anywhere, 0).expect("an address");
    explore_only(next..next + 1024 * PAGE);
    explore_only(bytes_of(&HUGE));
    leave_plain(bytes_of(HUGE.raw_lock()));
    // The kernel may give the address to another thread at once.
    os::judge_unmapped(|address| assert_eq!(HUGE.len_of(address), None, "still listed"));
}

fn acquire(len: usize) -> usize {
    HUGE.acquire(len, 1).expect("memory").address()
}

/// As a signal handler on top of the lock's holder makes one.
fn acquire_deferred(len: usize) -> usize {
    let _held = HUGE.raw_lock().acquire(Rank::HUGE).ok().expect("free");
    acquire(len)
}

/// Makes and unmaps others until the table has been replaced so often.
fn rebuild(times: usize) {
    let mut left = times;
    while left > 0 {
        let before = HUGE.table();
        release(acquire(OTHER));
        left -= usize::from(HUGE.table() != before);
    }
}

fn release(span: usize) {
    // SAFETY: the model's own span.
    unsafe { HUGE.release(span) };
}

/// Makes a span whose look-up begins at slot `home`.
fn acquire_at(home: usize, len: usize) -> usize {
    let next = |bytes| os::map(os::Place::Anywhere, bytes).expect("an address");
    while hash(next(0), HUGE_SLOTS) != Some(home) {
        next(PAGE);
    }
    let span = acquire(len);
    assert_eq!(hash(span, HUGE_SLOTS), Some(home));
    span
}

/// The table is replaced twice, so that the first one serves again, with another span in the owner's slot.
pub const REBUILT: Model = Model {
    name: "huge",
    preemptions: 2,
    body: || {
        start();
        // The first table.
        release(acquire(OTHER));
        let first = acquire_at(3, OTHER);
        let span = acquire_at(3, OWN);
        // The owner's span is at slot 4, and goes home with the next table.
        release(first);
        threads(vec![
            on(0, move || assert_eq!(HUGE.len_of(span), Some(OWN), "a span's length")),
            on(1, || {
                rebuild(2);
                acquire_at(3, OTHER);
            }),
        ]);
        assert_eq!(HUGE.len_of(span), Some(OWN));
    },
};

/// A span that a handler made is moved into the table, and its place serves another one.
pub const MOVED: Model = Model {
    name: "huge-deferred",
    preemptions: 3,
    body: || {
        start();
        rebuild(1);
        let span = acquire_deferred(OWN);
        threads(vec![
            on(0, move || assert_eq!(HUGE.len_of(span), Some(OWN), "a span's length")),
            on(1, || {
                HUGE.collect();
                acquire_deferred(OTHER);
            }),
        ]);
        assert_eq!(HUGE.len_of(span), Some(OWN));
    },
};
