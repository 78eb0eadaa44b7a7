//! Settings that several threads change at once: the allocator does what the settings say afterwards.

#[path = "support/child.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod child;

use child::holds_in_child;
use rsalloc_core::internals::config::{self, Key, Origin};
use rsalloc_core::internals::engine::command::Refusal;
use rsalloc_core::internals::engine::settings::{self, Unchanged};
use rsalloc_core::internals::guard;
use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::internals::page_heap::huge::HUGE;
use rsalloc_core::internals::profile;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

const ROUNDS: usize = 20_000;
/// Held by tests of the limits.
static LIMITS: Mutex<()> = Mutex::new(());
/// A limit that no test reaches, in a number that `Bound` reads.
const FAR: usize = 1 << 40;

fn set(key: Key, value: usize) {
    loop {
        match settings::change(key, value, Origin::Call) {
            // On a starved machine.
            Err(Unchanged::Refused(Refusal::Busy)) => {}
            changed => return assert_eq!(changed, Ok(())),
        }
    }
}

/// In each round, calls both at the same time, then looks whether `is_obeyed`, and calls `reset`. The rounds after which it was not.
fn disobeyed(
    first: impl Fn() + Sync,
    second: impl Fn() + Sync,
    is_obeyed: impl Fn() -> bool,
    reset: impl Fn(),
) -> usize {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                barrier.wait();
                first();
                barrier.wait();
            }
        });
        let rounds = (0..ROUNDS).filter(|_| {
            barrier.wait();
            second();
            barrier.wait();
            let is_obeyed = is_obeyed();
            reset();
            !is_obeyed
        });
        rounds.count()
    })
}

/// A thread that saw no limit must not switch off what another one has set since.
#[test]
fn a_limit_that_is_set_while_the_other_is_taken_off_is_obeyed() {
    let _one_at_a_time = LIMITS.lock();
    set(Key::LimitHard, FAR);
    let rounds = disobeyed(
        || set(Key::LimitHard, 0),
        || set(Key::Limit, FAR),
        || PAGE_HEAP.is_limited() && PAGE_HEAP.bounds().soft.is_some(),
        || {
            set(Key::LimitHard, FAR);
            set(Key::Limit, 0);
        },
    );
    set(Key::LimitHard, 0);
    assert_eq!(rounds, 0, "of {ROUNDS}");
}

/// A thread that was reading the bounds, for a huge span, must not put back what they were.
#[test]
fn a_limit_that_is_set_while_a_thread_reads_the_bounds_stays() {
    const SPAN: usize = 40 << 20;
    let _one_at_a_time = LIMITS.lock();
    set(Key::LimitHard, 8 * SPAN);
    let rounds = disobeyed(
        || {
            // What the heap has differs from span to span by more than a part of the limit, so the bounds are read for each.
            let spans = [(); 3].map(|()| HUGE.acquire(SPAN, 1).expect("memory").address());
            // SAFETY: huge spans from above.
            assert!(spans.into_iter().all(|span| unsafe { HUGE.release(span) }));
        },
        || set(Key::Limit, 7 * SPAN),
        || PAGE_HEAP.bounds().soft.is_some(),
        || set(Key::Limit, 0),
    );
    set(Key::LimitHard, 0);
    assert_eq!(rounds, 0, "of {ROUNDS}");
}

/// Else one of two threads has objects in a pool that is forgotten, and dies of a foreign pointer when it frees them.
#[test]
fn guards_that_two_threads_ask_for_at_once_have_one_pool() {
    const PROCESSES: usize = 400;
    let lives = (0..PROCESSES).filter(|_| holds_in_child(guards_of_two_threads_are_known)).count();
    assert_eq!(lives, PROCESSES);
}

fn guards_of_two_threads_are_known() -> bool {
    let ready = AtomicUsize::new(0);
    let ask = || {
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::SeqCst) < 2 {
            std::hint::spin_loop();
        }
        set(Key::Guard, 1);
        guard::allocate(40, 8).expect("a slot").address()
    };
    let objects = thread::scope(|scope| {
        let other = scope.spawn(ask);
        [ask(), other.join().expect("no panic")]
    });
    objects.into_iter().all(guard::owns)
}

/// Else the child's settings say what nothing in it obeys, since the change has no thread there.
#[test]
fn a_change_that_a_fork_interrupts_is_obeyed_in_the_child() {
    assert!(holds_in_child(children_obey_their_settings));
}

fn children_obey_their_settings() -> bool {
    const FORKS: usize = 300;
    let stop = AtomicBool::new(false);
    set(Key::Guard, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                set(Key::Guard, [0, 5][round % 2]);
                set(Key::Profile, [0, 4 << 10, 64 << 10][round % 3]);
            }
        });
        let obeys = (0..FORKS).filter(|_| holds_in_child(obeys_its_settings)).count();
        stop.store(true, Ordering::Relaxed);
        if obeys != FORKS {
            eprintln!("{} of {FORKS} children do not obey", FORKS - obeys);
        }
        obeys == FORKS
    })
}

fn obeys_its_settings() -> bool {
    let (guard, interval) = (config::number(Key::Guard), config::number(Key::Profile));
    let published = rsalloc_core::report().guard_one_in;
    let header = profile::own_header();
    guard::is_sampling() == (guard != 0)
        && published == Some(guard).filter(|&calls| calls != 0)
        && profile::is_on() == (interval != 0)
        && (interval == 0 || header.interval_bytes == interval as u64)
        // And can go on from there.
        && settings::change(Key::Guard, 7, Origin::Call) == Ok(())
        && guard::is_sampling()
}
