//! What a signal handler meets when it comes on top of a holder of a lock, played without signals: the
//! test holds the lock and then asks for more. Nothing hangs, is lost, given out twice or misaligned.

use rsalloc_core::internals::cpu_cache::shard::locked;
use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::internals::page_heap::huge::HUGE;
use rsalloc_core::internals::size_class::{CLASS, Class, class_of, object_size};
use rsalloc_core::internals::slab::SLABS;
use rsalloc_core::internals::sync::{Backoff, Guard, Rank, TryLock};
use std::sync::{Mutex, MutexGuard};
use std::thread;

#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod support;
use support::FakeCpus;

/// The heap is the process's; the tests of this file hold its locks.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: a live object.
    unsafe { rsalloc_core::free(rsalloc_core::allocate(1)) };
    rsalloc_core::release();
    guard
}

fn hold_class(class: Class) -> Guard<'static> {
    SLABS[class].raw_lock().acquire(Rank::slab(class)).expect("free")
}

fn free_all(objects: &[usize]) {
    for &object in objects {
        // SAFETY: live.
        unsafe { rsalloc_core::free(object as *mut u8) };
    }
}

fn assert_sound() {
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()));
}

#[test]
fn a_larger_class_that_replaces_a_held_one_is_aligned_as_well() {
    let _alone = alone();
    for align in [32, 64, 256, 4096] {
        let held = hold_class(class_of(align));
        let objects: Vec<usize> =
            (0..300).map(|_| rsalloc_core::allocate_aligned(align, align) as usize).collect();
        drop(held);
        for &object in &objects {
            assert!(object != 0 && object.is_multiple_of(align), "{object:#x} at {align}");
        }
        free_all(&objects);
    }
    assert_sound();
}

/// A cache may hold objects of a larger class; when their class refuses, the others of the batch, which
/// are home already, must not be kept as well.
#[test]
fn a_batch_of_which_a_part_returned_is_not_kept_whole() {
    let _alone = alone();
    let cpus = FakeCpus::new(1);
    let (low, high) = (class_of(4096), class_of(4608));
    // More than the cache and the depot take.
    let count = 1024 + 40 * CLASS[low].batch;
    let mut objects: Vec<usize> = Vec::new();
    for i in 0..count {
        let size = if i % 3 > 0 { 4096 } else { 4608 };
        objects.push(rsalloc_core::allocate(size) as usize);
    }
    rsalloc_core::release();
    let held = hold_class(high);
    objects.iter().for_each(|&object| cpus.free(low, object));
    drop(held);
    cpus.empty(low);
    assert_sound();
}

#[test]
fn all_sizes_are_served_in_a_handler_above_any_lock() {
    let _alone = alone();
    let growth = PAGE_HEAP.raw_growth_lock().acquire(Rank::GROWTH).expect("free");
    let segments: Vec<_> =
        PAGE_HEAP.segments().map(|segment| segment.lock().expect("free")).collect();
    let sizes = [1, 64, 1000, 5000, 40_000, 300_000, 5 << 20, 40 << 20];
    let mut objects = Vec::new();
    for size in sizes {
        // More than the caches can have.
        let count = if size < 100_000 { 40 } else { 2 };
        for _ in 0..count {
            let object = rsalloc_core::allocate(size) as usize;
            assert!(object != 0, "{size} B");
            // SAFETY: a live object of that size.
            unsafe { (object as *mut u8).write_bytes(1, size) };
            objects.push((object, size));
        }
    }
    segments.into_iter().rev().for_each(drop);
    drop(growth);
    for (object, size) in objects {
        // By size: what was served apart is put into a cache of its class.
        // SAFETY: live, with its layout.
        unsafe { rsalloc_core::free_sized(object as *mut u8, size, 1) };
    }
    assert_eq!(rsalloc_core::check(), Ok(()));
    assert_sound();
}

/// Where handlers take all the time, one after the other comes on top of the same holder.
#[test]
fn any_number_is_served_and_freed_in_a_handler_above_any_lock() {
    const COUNT: usize = 500;
    let _alone = alone();
    let before = rsalloc_core::stats();
    let huge = |_| rsalloc_core::allocate(40 << 20) as usize;
    let below: Vec<usize> = (0..COUNT).map(huge).collect();
    let growth = PAGE_HEAP.raw_growth_lock().acquire(Rank::GROWTH).expect("free");
    let segments: Vec<_> =
        PAGE_HEAP.segments().map(|segment| segment.lock().expect("free")).collect();
    let held = HUGE.raw_lock().acquire(Rank::HUGE).expect("free");
    let above: Vec<usize> = (0..COUNT).map(huge).collect();
    free_all(&below);
    drop(held);
    segments.into_iter().rev().for_each(drop);
    drop(growth);
    assert!(!below.contains(&0) && !above.contains(&0), "refused");
    free_all(&above);
    // The next thread that takes the lock releases what was given up.
    free_all(&[huge(0)]);
    assert_sound();
    let after = rsalloc_core::stats();
    assert_eq!((before.live_bytes, before.large_count), (after.live_bytes, after.large_count));
}

#[test]
fn objects_freed_in_a_handler_above_the_locks_return_later() {
    let _alone = alone();
    let before = rsalloc_core::stats();
    let sizes = [40_000, 300_000, 5 << 20, 40 << 20];
    let objects: Vec<usize> =
        sizes.iter().map(|&size| rsalloc_core::allocate(size) as usize).collect();
    {
        let _huge = HUGE.raw_lock().acquire(Rank::HUGE).expect("free");
        let _segments: Vec<_> =
            PAGE_HEAP.segments().map(|segment| segment.lock().expect("free")).collect();
        free_all(&objects);
        // Guards go in the reverse order of their making.
        _segments.into_iter().rev().for_each(drop);
    }
    assert_eq!(rsalloc_core::check(), Ok(()));
    // The next thread that takes the locks releases them.
    rsalloc_core::release();
    assert_sound();
    let after = rsalloc_core::stats();
    assert_eq!((before.live_bytes, before.large_count), (after.live_bytes, after.large_count));
}

#[test]
fn huge_objects_are_measured_and_resized_in_a_handler_above_their_lock() {
    let _alone = alone();
    let before = rsalloc_core::stats();
    let (len, grown) = (40 << 20, 50 << 20);
    let object = rsalloc_core::allocate(len);
    // SAFETY: live; the last byte but one of what was asked for.
    unsafe { object.add(len - 2).write(7) };
    let moved = {
        let _huge = HUGE.raw_lock().acquire(Rank::HUGE).expect("free");
        // SAFETY: live.
        unsafe {
            assert!(rsalloc_core::usable_size(object) >= len);
            let moved = rsalloc_core::reallocate(object, grown);
            assert!(rsalloc_core::usable_size(moved) >= grown);
            moved
        }
    };
    // SAFETY: live, of the new size.
    unsafe {
        assert_eq!(moved.add(len - 2).read(), 7);
        assert!(rsalloc_core::usable_size(moved) >= grown, "moved into the table, or not");
        rsalloc_core::free(moved);
    }
    // The next thread that takes the lock releases what was given up above it.
    free_all(&[rsalloc_core::allocate(len) as usize]);
    assert_sound();
    assert_eq!(before.live_bytes, rsalloc_core::stats().live_bytes);
}

/// What handlers make aside must not stay there: the places are few.
#[test]
fn huge_objects_made_in_a_handler_leave_the_table_usable() {
    let _alone = alone();
    let mut objects = Vec::new();
    for _ in 0..10 {
        let held = HUGE.raw_lock().acquire(Rank::HUGE).expect("free");
        objects.extend((0..30).map(|_| rsalloc_core::allocate(40 << 20) as usize));
        drop(held);
        objects.push(rsalloc_core::allocate(40 << 20) as usize);
    }
    assert!(objects.iter().all(|&object| object != 0));
    for &object in &objects {
        // SAFETY: live.
        assert_eq!(unsafe { rsalloc_core::usable_size(object as *mut u8) }, 40 << 20);
    }
    free_all(&objects);
    assert_sound();
}

/// Forks in a handler on top of a holder: the holder must still hold its lock afterwards.
#[test]
fn a_fork_in_a_handler_leaves_the_interrupted_lock_held() {
    let _alone = alone();
    let class = class_of(64);
    let held = hold_class(class);
    // SAFETY: the child ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    assert!(child > 0);
    let taken = thread::scope(|scope| {
        let try_it = || SLABS[class].raw_lock().try_acquire(Rank::slab(class)).is_some();
        scope.spawn(try_it).join().expect("no panic")
    });
    assert!(!taken, "the fork gave up a lock that was not its own");
    drop(held);
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_sound();
}

/// Fork and the validator take all locked shards. Else a handler that forks would wait for its own thread, and
/// for each shard of the others as long as for all of them.
#[test]
fn busy_shards_share_one_backoff_and_own_ones_are_not_waited_for() {
    let _alone = alone();
    let all = locked::locks().count();
    let own: Vec<_> =
        locked::locks().take(2).map(|lock| lock.try_acquire().expect("free")).collect();
    let hold = |backoff: &mut Backoff| {
        let held = locked::hold_all(backoff, TryLock::keep);
        locked::release_all(held);
        held.count_ones() as usize
    };
    let mut backoff = Backoff::usual();
    assert_eq!(hold(&mut backoff), all - own.len());
    assert!(backoff.is_whole(), "waited for its own thread");
    thread::scope(|scope| {
        let others = || {
            let mut backoff = Backoff::usual();
            (hold(&mut backoff), backoff.spend())
        };
        let seen = scope.spawn(others).join().expect("no panic");
        assert_eq!(seen, (all - own.len(), false), "tried until the backoff was used up");
    });
    drop(own);
    assert_sound();
}

/// libc runs the handlers of two forks at once; each must give up what it took itself.
#[test]
fn forks_at_once_leave_every_lock_free() {
    let _alone = alone();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    // SAFETY: the child ends at once.
                    match unsafe { libc::fork() } {
                        // SAFETY: ends the child.
                        0 => unsafe { libc::_exit(0) },
                        child => {
                            assert!(child > 0);
                            // SAFETY: our own child.
                            assert_eq!(unsafe { libc::waitpid(child, &mut 0, 0) }, child);
                        }
                    }
                }
            });
        }
    });
    let busy = locked::locks().filter(|lock| lock.try_acquire().is_none()).count();
    assert_eq!(busy, 0, "locked shards that stay held");
    assert_sound();
}

/// An object that is larger than its class's objects in every way is what `larger` classes are.
#[test]
fn the_tests_classes_have_the_expected_sizes() {
    assert_eq!(object_size(class_of(4096)), 4096);
    assert_eq!(object_size(class_of(4608)), 4608);
}
