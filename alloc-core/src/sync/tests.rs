//! The locks under threads, and their order.

extern crate std;
use super::*;
use crate::atomic::{AtomicU64, Ordering};

const LOW: Rank = Rank::slab(1);
const HIGH: Rank = Rank::slab(2);

#[test]
fn reentry_is_reported() {
    let lock = Lock::new();
    let guard = lock.acquire(LOW).ok().unwrap();
    assert!(matches!(lock.acquire(LOW), Err(Reentered)));
    // A refused attempt must leave the lock held: twice, since a bug here freed it.
    assert!(lock.try_acquire(LOW).is_none());
    assert!(lock.try_acquire(LOW).is_none());
    drop(guard);
    assert!(lock.acquire(LOW).is_ok());
    assert_eq!(Rank::held(), Rank::of_number(0));
}

/// Otherwise a thread that found a shard busy would take it for good, or two threads would work on it.
#[test]
fn a_refused_attempt_leaves_a_try_lock_to_its_holder() {
    let lock = TryLock::new();
    let guard = lock.try_acquire().unwrap();
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| lock.try_acquire().is_none());
        assert!(refused.join().unwrap());
    });
    assert!(lock.is_taken_here(), "held by its holder");
    drop(guard);
    assert!(lock.try_acquire().is_some(), "free");
    let lock = &lock;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200_000).for_each(|_| drop(lock.try_acquire())));
        }
    });
    assert!(lock.try_acquire().is_some(), "free when all are done");
}

/// Otherwise two handlers on top of two holders could wait for each other's locks.
#[test]
fn a_thread_does_not_wait_for_a_lower_rank() {
    let (low, high) = (Lock::new(), Lock::new());
    std::thread::scope(|scope| {
        let _low = low.acquire(LOW).ok().unwrap();
        let downwards = scope.spawn(|| {
            let _high = high.acquire(HIGH).ok().unwrap();
            low.acquire(LOW).is_err()
        });
        assert!(downwards.join().unwrap(), "refused, not waited for");
        let _high = high.acquire(HIGH).ok().unwrap();
        assert!(Lock::new().acquire(LOW).is_ok(), "a free lock is taken in any order");
        assert_eq!(Rank::held(), HIGH);
    });
}

/// Otherwise a fork in a handler would free the lock of the holder below.
#[test]
fn only_forgotten_guards_are_released() {
    let lock = Lock::new();
    let guard = lock.acquire(LOW).ok().unwrap();
    lock.release_forgotten();
    assert!(lock.try_acquire(LOW).is_none());
    drop(guard);
    Lock::forget(lock.acquire(LOW).ok().unwrap());
    lock.release_forgotten();
    Rank::of_number(0).restore();
    assert!(lock.try_acquire(LOW).is_some());
}

/// Otherwise a fork on a starved machine would wait for minutes.
#[test]
fn a_backoff_ends_once_for_all_locks_and_by_the_clock() {
    let (tried, other) = (TryLock::new(), TryLock::new());
    let lock = Lock::new();
    let _mine = (tried.try_acquire(), lock.acquire(HIGH).ok());
    let mut backoff = Backoff::usual();
    assert!(tried.acquire_with(&mut backoff).is_none());
    assert!(lock.acquire_with(LOW, &mut backoff).is_none());
    assert!(backoff.is_whole(), "a thread does not wait for its own lock");
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            let mut backoff = Backoff::usual();
            let none = tried.acquire_with(&mut backoff).is_none();
            assert!(other.acquire_with(&mut backoff).is_some(), "what is free is taken");
            none && !backoff.spend()
        });
        assert!(blocked.join().unwrap(), "tried until the backoff was used up");
    });
    let mut slow = Backoff { yields: u32::MAX, ..Backoff::usual() };
    let begin = std::time::Instant::now();
    while slow.spend() {}
    assert!(begin.elapsed().as_secs() < 10 && slow.yields > 0);
}

#[test]
fn excludes_under_contention() {
    let (lock, counter) = (Lock::new(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let _guard = lock.acquire(LOW).ok().unwrap();
                    // Ordering: Relaxed: a load and a store, which the lock must keep together.
                    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(counter.load(Ordering::Relaxed), 160_000); // Ordering: Relaxed, the threads are over.
}
