//! Forks of a thread that holds a lock, as in a signal handler on top of its own allocator call, while others
//! want that lock with more in hand: the child's heap is whole, every class of it.
//!
//! Played without signals, as in `reentry`: the test holds the lock and forks.

use alloc_core::page_heap::PAGE_HEAP;
use alloc_core::size_class::{CLASSES, Class, object_size};
use alloc_core::slab::{self, SLABS};
use alloc_core::sync::{Guard, Rank};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// For what comes at once or, with locks left taken, never.
const SECONDS: u32 = 20;
/// The class whose lock is held; classes below it have locks that are taken before.
const HELD: Class = 20;
const OTHER: Class = 12;

/// The heap is the process's; the tests of this file hold its locks.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    use_all_classes();
    guard
}

fn hold_class(class: Class) -> Guard<'static> {
    SLABS[class].raw_lock().acquire(Rank::slab(class)).expect("free")
}

/// Whether another thread has the lock of `class`.
fn is_taken(class: Class) -> bool {
    SLABS[class].raw_lock().try_acquire(Rank::slab(class)).is_none()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(u64::from(SECONDS)), "it never was so");
        thread::sleep(Duration::from_millis(1));
    }
    // Into its sleep, as a rule.
    thread::sleep(Duration::from_millis(20));
}

/// As `assert`, without the allocations of a panic's message: libc's heap may be locked in a child.
fn expect(fine: bool, what: &str) {
    if !fine {
        // SAFETY: writes a text and ends the child.
        unsafe {
            libc::write(2, what.as_ptr().cast(), what.len());
            libc::abort();
        }
    }
}

/// Takes more of each class than the caches have, and gives it back.
fn use_all_classes() {
    for class in 1..CLASSES {
        let mut batches = [[0; 64]; 4];
        for batch in &mut batches {
            let taken = slab::take(class, batch).expect("no handler runs");
            expect(taken.count > 0, "out of memory\n");
        }
        for batch in &batches {
            expect(slab::put(batch) == batch.len(), "a class refuses\n");
        }
        let object = alloc_core::allocate(object_size(class));
        expect(!object.is_null(), "out of memory\n");
        // SAFETY: live.
        unsafe { alloc_core::free(object) };
    }
    alloc_core::release();
    expect(alloc_core::check() == Ok(()), "check\n");
}

/// Forks; in the child the locks of `held` are given up, as when the handler is over, and all is used.
fn fork_holding(held: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child uses nothing that another thread could have left locked but the engine.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // Hung: the parent sees the signal.
        // SAFETY: a plain call.
        unsafe { libc::alarm(SECONDS) };
        held();
        use_all_classes();
        // SAFETY: ends the child, without destructors of threads that are not there.
        unsafe { libc::_exit(0) };
    }
    child
}

fn await_child(child: libc::pid_t) {
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "child: {status:#x}");
}

/// The other fork has taken the locks below the one that it waits for.
#[test]
fn another_fork_gives_way() {
    let _alone = alone();
    thread::scope(|scope| {
        let held = hold_class(HELD);
        scope.spawn(|| await_child(fork_holding(|| ())));
        wait_until(|| is_taken(OTHER));
        let mut held = Some(held);
        let begin = Instant::now();
        let child = fork_holding(|| drop(held.take()));
        let took = begin.elapsed();
        await_child(child);
        drop(held);
        assert!(took < Duration::from_secs(1), "gave way to nobody for {took:?}");
    });
    use_all_classes();
}

/// A thread with a class in hand waits for the tract that the forking one holds.
#[test]
fn who_holds_a_class_gives_way() {
    let _alone = alone();
    thread::scope(|scope| {
        let tracts: Vec<_> = PAGE_HEAP.tracts().map(|tract| tract.lock().expect("free")).collect();
        // A fresh slab for each.
        let taker = scope.spawn(|| {
            let mut objects = vec![0; 64];
            let taken = slab::take(OTHER, &mut objects).expect("it need not wait").count;
            (taken, slab::put(&objects[..taken]))
        });
        wait_until(|| is_taken(OTHER));
        let mut tracts = Some(tracts);
        let child = fork_holding(|| tracts.take().into_iter().for_each(give_up));
        await_child(child);
        tracts.take().into_iter().for_each(give_up);
        let (taken, put) = taker.join().expect("no panic");
        assert!(taken > 0 && put == taken, "{taken} taken, {put} put back");
    });
    use_all_classes();
}

/// In the reverse order of their making.
fn give_up(mut guards: Vec<Guard<'static>>) {
    while let Some(guard) = guards.pop() {
        drop(guard);
    }
    // Libc's heap may be locked in a child.
    std::mem::forget(guards);
}

/// A check would find its own locks taken, or what the fork left half way.
#[test]
fn the_validator_gives_way() {
    let _alone = alone();
    thread::scope(|scope| {
        let held = hold_class(HELD);
        let checker = scope.spawn(alloc_core::check);
        wait_until(|| is_taken(OTHER));
        let mut held = Some(held);
        let child = fork_holding(|| drop(held.take()));
        await_child(child);
        drop(held);
        assert_eq!(checker.join().expect("no panic"), Ok(()));
    });
    use_all_classes();
}
