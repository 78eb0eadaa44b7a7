//! What a program leaves behind that has freed everything, without a call of release.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{MODES, in_modes_by_twos};
use rsalloc_core::internals::cpu_cache::exclusive::stop_all;
use rsalloc_core::internals::sync::Backoff;
use rsalloc_core::internals::units::{PAGE_BYTES, SEGMENT_BYTES};
use rsalloc_core::{allocate, check, free, stats};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(90);
/// What may be left in caches, in slabs, and in free spans.
const LEFT_BYTES: usize = 3 << 20;

fn main() {
    in_modes_by_twos(&MODES, LIMIT, |case| {
        if case.name == "hardened" && !case.has_sections() {
            println!("         skipped: locked shards keep what they cache of a class that shrank");
            return;
        }
        a_fallen_class_leaves_nothing_cached();
        the_depot_takes_nothing_of_a_class_that_was_drained();
        many_fallen_classes_leave_nothing_cached();
        objects_cached_by_other_threads_return_as_well();
        classes_in_use_keep_their_caches();
        other_threads_keep_their_caches_while_two_hand_over();
        metadata_of_free_pages_is_given_back_as_well();
        a_free_does_not_wait_for_the_stopper();
        what_a_swing_left_goes_back_with_a_later_allocation();
        what_the_allowance_refused_goes_back_with_a_later_allocation();
        what_no_flush_has_seen_goes_back_with_a_later_allocation();
        assert_eq!(check(), Ok(()));
    });
}

/// A pseudo-random order, from a fixed seed.
fn shuffle<T>(objects: &mut [T]) {
    let mut state = 1_u64;
    for last in (1..objects.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        objects.swap(last, (state >> 33) as usize % (last + 1));
    }
}

fn make(sizes: impl Iterator<Item = usize>) -> Vec<usize> {
    let make = |size| {
        let object = allocate(size);
        // SAFETY: a live object of at least one byte.
        unsafe { object.write(1) };
        object as usize
    };
    sizes.map(make).collect()
}

fn free_all(objects: impl IntoIterator<Item = usize>) {
    // SAFETY: live objects, each once.
    objects.into_iter().for_each(|object| unsafe { free(object as *mut u8) });
}

fn left() -> usize {
    let stats = stats();
    stats.cached_bytes + stats.slab_free_bytes + stats.dirty_bytes
}

fn assert_little_is_left(of: usize) {
    let left = left();
    assert!(of > 8 * LEFT_BYTES, "{of} B are no load");
    assert!(left < LEFT_BYTES, "{left} B left of {of}: {:?}", stats());
}

fn a_fallen_class_leaves_nothing_cached() {
    for size in [64, 1500, 40_000] {
        let mut objects = make((0..(26 << 20) / size).map(|_| size));
        let held = stats().live_bytes;
        shuffle(&mut objects);
        hold();
        free_all(objects);
        assert_little_is_left(held);
        rest();
    }
}

/// What the depot has does not come home, so the class would not be seen to fall on: 4,000 objects could keep all slabs.
fn the_depot_takes_nothing_of_a_class_that_was_drained() {
    let mut objects = make((0..(26 << 20) / 64).map(|_| 64));
    shuffle(&mut objects);
    hold();
    let (mut most, mut is_drained) = (0, false);
    for objects in objects.chunks(64) {
        free_all(objects.iter().copied());
        let bytes = stats().depot_cached_bytes;
        is_drained |= bytes < most / 2;
        most = most.max(bytes);
        assert!(!is_drained || bytes < most / 4, "{bytes} B, it had {most}");
    }
    assert!(is_drained, "it had {most} B");
    rest();
}

fn many_fallen_classes_leave_nothing_cached() {
    let mut objects = make((0..20_000).map(|index| 16 << (index % 10)));
    let held = stats().live_bytes;
    shuffle(&mut objects);
    hold();
    free_all(objects);
    assert_little_is_left(held);
    rest();
}

/// A heap that rose just now keeps for a while what it frees.
fn hold() {
    std::thread::sleep(Duration::from_millis(600));
}

/// Declines have an allowance, which flows in with time.
fn rest() {
    std::thread::sleep(Duration::from_secs(2));
}

fn objects_cached_by_other_threads_return_as_well() {
    let mut objects = make((0..300_000).map(|_| 100));
    let held = stats().live_bytes;
    shuffle(&mut objects);
    hold();
    let last = objects.split_off(200_000);
    let parts: Vec<_> = objects.chunks(50_000).map(<[_]>::to_vec).collect();
    std::thread::scope(|scope| {
        for part in parts {
            scope.spawn(|| free_all(part));
        }
    });
    free_all(last);
    assert_little_is_left(held);
}

/// The thread that has shards stopped may wait for a free of another thread; here it does.
fn a_free_does_not_wait_for_the_stopper() {
    rest();
    let mut objects = make((0..1000).map(|_| 1500));
    let last = objects.split_off(60);
    // So that it is not this thread alone which has some.
    std::thread::scope(|scope| scope.spawn(|| free_all(objects)).join().expect("no panic"));
    let freed = stop_all(&mut Backoff::usual(), |_| {
        let (done, freed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            free_all(last);
            done.send(())
        });
        // What waits for this thread is not over then; on a busy machine all else is.
        freed.recv_timeout(Duration::from_secs(30)).is_ok()
    });
    assert_eq!(freed, Some(true), "a free waits");
}

/// A program that swings at full speed uses up the allowance, so its last fall leaves what it had.
fn what_the_allowance_refused_goes_back_with_a_later_allocation() {
    let swing = || free_all(make((0..700).map(|_| 40_000)));
    assert!((0..50).any(|_| left() > 8 * LEFT_BYTES || (swing(), false).1), "{:?}", stats());
    assert_woken_leaves_little();
}

/// What a heap keeps that falls just after it rose goes back a second later.
fn what_a_swing_left_goes_back_with_a_later_allocation() {
    rest();
    let held = 700 * 40_000;
    // The first fall after a while goes back at once.
    (0..2).for_each(|_| free_all(make((0..700).map(|_| 40_000))));
    assert!(left() > held / 2, "it would be taken again: {:?}", stats());
    assert_woken_leaves_little();
}

/// What fits in the caches of a shard comes back without a slow call.
fn what_no_flush_has_seen_goes_back_with_a_later_allocation() {
    let sizes = || (0..8000).map(|index| 16 + index % 64 * 16);
    (0..8).for_each(|_| free_all(make(sizes())));
    let cached = stats().cached_bytes;
    // Where each call is a slow one, it was given back by now.
    assert_woken_leaves_little();
    assert!(cached < (1 << 20) || stats().cached_bytes < cached / 2, "{cached} B are still cached");
}

/// A few allocations a second later, or when the allowance has flowed in.
fn assert_woken_leaves_little() {
    for at in 0..20 {
        std::thread::sleep(Duration::from_millis(1100));
        // Of a class that no cache has objects of.
        free_all(make(std::iter::once(2000 + 256 * at)));
        if left() < LEFT_BYTES {
            return;
        }
    }
    panic!("{} B are left: {:?}", left(), stats());
}

/// Else each object of a steady load would go home and come back.
fn classes_in_use_keep_their_caches() {
    let held = make((0..200_000).map(|_| 64));
    let refills = stats().refills;
    for _ in 0..1000 {
        free_all(make((0..1000).map(|_| 64)));
    }
    let refills = stats().refills - refills;
    assert!(refills < 3000, "{refills} refills for 1,000,000 objects");
    free_all(held);
}

/// In a heap of slabs that are nearly empty, each hand-over of a few large objects looks like a decline. Else all
/// caches would be emptied each time.
fn other_threads_keep_their_caches_while_two_hand_over() {
    const ROUNDS: usize = 2000;
    const LARGE: usize = 16;
    const SMALL: usize = 32;
    let objects = make((0..500_000).map(|_| 48));
    let (kept, freed) =
        objects.into_iter().enumerate().partition::<Vec<_>, _>(|(n, _)| n % 64 == 0);
    free_all(freed.into_iter().map(|(_, object)| object));
    let refills = stats().refills;
    let (send, receive) = std::sync::mpsc::sync_channel(0);
    let (freed, wait) = std::sync::mpsc::sync_channel(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for objects in receive {
                free_all(objects as Vec<usize>);
                freed.send(()).expect("the first thread");
            }
        });
        for _ in 0..ROUNDS {
            send.send(make((0..LARGE).map(|_| 200_000))).expect("the other thread");
            wait.recv().expect("the other thread");
            free_all(make((0..SMALL).map(|n| 16 * (1 + n))));
        }
        drop(send);
    });
    // Each large object misses. With a drain in each round some five of the small ones did, too.
    let refills = stats().refills - refills;
    assert!(refills < (LARGE + 2) * ROUNDS, "{refills} refills in {ROUNDS} rounds");
    free_all(kept.into_iter().map(|(_, object)| object));
}

/// Entries and bitmaps of a segment, 576 KiB, are touched where small objects are; nothing of them is needed when
/// all its pages are free.
fn metadata_of_free_pages_is_given_back_as_well() {
    let objects = make((0..2_000_000).map(|index| 16 + index % 10 * 16));
    let mut segments: Vec<_> = objects.iter().map(|object| object & !(SEGMENT_BYTES - 1)).collect();
    segments.sort_unstable();
    // Guarded objects are mapped elsewhere, one by one.
    let segments: Vec<_> =
        segments.chunk_by(|a, b| a == b).filter(|of| of.len() > 1000).map(|of| of[0]).collect();
    let before = segments.iter().filter(|&&segment| resident_pages(segment) > 20).count();
    assert!(before >= 3, "{before} segments are no load");
    hold();
    free_all(objects);
    rsalloc_core::release();
    let after: Vec<_> = segments.iter().map(|&segment| resident_pages(segment)).collect();
    // What the process has had from the start is in one of them.
    assert!(after.iter().filter(|&&pages| pages > 2).count() <= 1, "{after:?}");
    // They are as new.
    free_all(make((0..2_000_000).map(|index| 16 + index % 10 * 16)));
    assert_eq!(check(), Ok(()));
}

/// OS pages of a segment's metadata that are resident.
fn resident_pages(segment: usize) -> usize {
    let mut pages = [0u8; 9 * PAGE_BYTES / 4096];
    let end = pages.len() * 4096;
    // SAFETY: mapped memory, and a byte for each of its pages.
    let done = unsafe { libc::mincore(segment as *mut _, end, pages.as_mut_ptr()) };
    assert_eq!(done, 0);
    pages.iter().filter(|&&page| page & 1 == 1).count()
}
