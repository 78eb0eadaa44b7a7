//! What a thread is said to hold after each way in which asking for a lock can end: what it held before, if it got
//! none. Said to hold more, it would be refused what it may wait for from then on, as if it were a signal handler.

use rsalloc_core::internals::sync::{Backoff, Lock, Rank};
use std::thread;

const NONE: Rank = Rank::of_number(0);
const LOW: Rank = Rank::slab(10);
const MIDDLE: Rank = Rank::slab(20);
const HIGH: Rank = Rank::slab(30);

#[test]
fn a_thread_has_no_rank_after_its_guard_is_dropped() {
    let (low, high) = (Lock::new(), Lock::new());
    let outer = low.acquire(LOW).expect("free");
    assert_eq!(Rank::held(), LOW);
    let inner = high.try_acquire(HIGH).expect("free");
    assert_eq!(Rank::held(), HIGH);
    drop(inner);
    assert_eq!(Rank::held(), LOW);
    drop(outer);
    assert_eq!(Rank::held(), NONE);
}

#[test]
fn a_thread_that_gets_no_lock_keeps_its_rank() {
    let (low, middle, high) = (Lock::new(), Lock::new(), Lock::new());
    let _taken = [low.acquire(LOW), high.acquire(HIGH)];
    let asks = || {
        assert!(high.try_acquire(HIGH).is_none());
        assert_eq!(Rank::held(), NONE, "tried with nothing in hand");
        let guard = middle.acquire(MIDDLE).expect("free");
        assert!(high.try_acquire(HIGH).is_none());
        assert_eq!(Rank::held(), MIDDLE, "tried");
        assert!(high.acquire_or_try(HIGH, &Backoff::none()).is_none());
        assert_eq!(Rank::held(), MIDDLE, "had no backoff");
        assert!(low.acquire(LOW).is_err());
        assert_eq!(Rank::held(), MIDDLE, "asked downwards");
        assert!(low.acquire_with(LOW, &mut Backoff::none()).is_none());
        assert_eq!(Rank::held(), MIDDLE, "asked downwards without backoff");
        drop(guard);
        assert_eq!(Rank::held(), NONE);
    };
    thread::scope(|scope| scope.spawn(asks).join().expect("as said"));
}

#[test]
fn a_thread_that_gives_way_to_a_fork_keeps_its_rank() {
    let (middle, high) = (Lock::new(), Lock::new());
    let holder = high.acquire(HIGH).expect("free");
    high.announce_fork();
    let gives_way = || {
        let guard = middle.acquire(MIDDLE).expect("free");
        assert!(high.acquire(HIGH).is_err(), "its holder forks");
        assert_eq!(Rank::held(), MIDDLE);
        drop(guard);
        assert_eq!(Rank::held(), NONE);
    };
    thread::scope(|scope| scope.spawn(gives_way).join().expect("as said"));
    high.end_fork();
    drop(holder);
    assert_eq!(Rank::held(), NONE);
}

#[test]
fn a_forgotten_lock_is_held_until_it_is_released() {
    let lock = Lock::new();
    let before = Rank::held();
    Lock::forget(lock.acquire(LOW).expect("free"));
    assert_eq!(Rank::held(), LOW);
    lock.release_forgotten();
    before.restore();
    assert_eq!(Rank::held(), NONE);
    assert!(lock.try_acquire(LOW).is_some());
}
