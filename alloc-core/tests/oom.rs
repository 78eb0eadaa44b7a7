//! Out of memory at every call to the OS: for each n of a workload the n-th call fails, once or from then
//! on for ever. Null is returned, nothing is lost, and everything works again afterwards.

#[path = "support/child.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod child;

use rsalloc_core::internals::os::faults;
use rsalloc_core::internals::page_heap::huge::HUGE;
use rsalloc_core::internals::page_heap::{PAGE_HEAP, SpanRequest};
use rsalloc_core::internals::sync::Rank;

/// Size, alignment, and how many: enough to need a new slab or a new segment now and then.
const SIZES: [(usize, usize, usize); 12] = [
    (8, 8, 9),
    (100, 8, 20),
    (1000, 8, 40),
    (4096, 4096, 40),
    (20_000, 8, 20),
    (40_000, 8, 20),
    (200_000, 8, 6),
    (300_000, 8, 6),
    (1 << 20, 8, 8),
    (100, 1 << 20, 3),
    (40 << 20, 8, 1),
    (1 << 20, 32 << 20, 1),
];

/// Allocates, grows, shrinks and frees objects of all kinds; how many requests got null.
fn workload() -> usize {
    let mut refused = 0;
    let mut live = Vec::with_capacity(1000);
    for (i, &(size, align, count)) in SIZES.iter().enumerate() {
        for j in 0..count {
            let byte = (i * 16 + j) as u8;
            let object = match j % 2 {
                0 => rsalloc_core::allocate_aligned(size, align),
                _ => rsalloc_core::allocate_zeroed(size, align),
            };
            if object.is_null() {
                refused += 1;
                continue;
            }
            assert!((object as usize).is_multiple_of(align));
            if j % 2 == 1 {
                assert!(holds(object, size, 0), "zeroed");
            }
            fill(object, size, byte);
            live.push((object, size, align, byte));
        }
    }
    for (i, entry) in live.iter_mut().enumerate() {
        let (object, size, align, byte) = *entry;
        let wanted = if i % 3 == 0 { size / 2 + 1 } else { size * 2 };
        // SAFETY: live, with its layout.
        let moved = unsafe { rsalloc_core::reallocate_sized(object, size, align, wanted) };
        if moved.is_null() {
            refused += 1;
            assert!(holds(object, size, byte), "a refused reallocate leaves the object alone");
            continue;
        }
        assert!(holds(moved, size.min(wanted), byte), "contents of {size} -> {wanted}");
        fill(moved, wanted, byte);
        *entry = (moved, wanted, align, byte);
    }
    for (i, (object, size, align, byte)) in live.into_iter().enumerate() {
        assert!(holds(object, size, byte), "contents of {size} at the end");
        // SAFETY: live, with its layout.
        unsafe {
            match i % 2 {
                0 => rsalloc_core::free(object),
                _ => rsalloc_core::free_sized(object, size, align),
            }
        }
    }
    rsalloc_core::release();
    refused
}

/// The bytes of an object that are looked at: the first 1018, then every 509th, so each OS page.
fn places(len: usize) -> impl Iterator<Item = usize> {
    (0..len.min(1018)).chain((1018..len).step_by(509))
}

fn fill(object: *mut u8, len: usize, byte: u8) {
    // SAFETY: inside a live object.
    places(len).for_each(|place| unsafe { object.add(place).write(byte) });
}

fn holds(object: *const u8, len: usize, byte: u8) -> bool {
    // SAFETY: inside a live object.
    places(len).all(|place| unsafe { object.add(place).read() } == byte)
}

/// Runs `life` in a child whose engine has not started, where calls `first..=last` to the OS fail.
fn in_child(first: u64, last: u64, life: fn() -> u64) -> u64 {
    let mut pipe = [0; 2];
    // SAFETY: a live array, then descriptors of this function's own.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        let is_whole = child::holds_in_child(|| {
            faults::refuse(first, last);
            let result = life();
            libc::write(pipe[1], (&raw const result).cast(), 8);
            true
        });
        libc::close(pipe[1]);
        let mut result = 0;
        libc::read(pipe[0], (&raw mut result).cast(), 8);
        libc::close(pipe[0]);
        assert!(is_whole, "the child in which calls {first}..={last} fail");
        result
    }
}

/// The calls of a whole life in which nothing fails.
fn calls() -> u64 {
    let calls = in_child(u64::MAX, 0, || {
        assert_eq!(workload(), 0, "memory was there");
        faults::count()
    });
    assert!(calls > 20, "only {calls} calls: nothing is tested");
    calls
}

/// Lives through the refusals, then once more without: how many requests were refused.
fn life() -> u64 {
    let refused = workload();
    faults::refuse(u64::MAX, 0);
    settle();
    assert_eq!(workload(), 0, "memory is back");
    settle();
    refused as u64
}

fn settle() {
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()));
    assert_eq!(rsalloc_core::stats().live_bytes, 0, "nothing is lost: {:?}", rsalloc_core::stats());
}

#[test]
fn each_call_to_the_os_fails_once() {
    let calls = calls();
    let refused: u64 = (0..calls).map(|n| in_child(n, n, life)).sum();
    println!("{calls} calls; {refused} requests refused");
}

#[test]
fn each_call_to_the_os_and_all_later_ones_fail() {
    let calls = calls();
    let refused: u64 = (0..calls).map(|n| in_child(n, u64::MAX, life)).sum();
    println!("{calls} calls; {refused} requests refused");
    assert!(refused > 0, "nothing was ever refused");
}

/// Pages that are locked in memory: the kernel does not take them, however often it is asked.
#[test]
fn refused_pages_are_not_offered_again_with_each_free() {
    const OBJECTS: usize = 800;
    let calls = in_child(u64::MAX, 0, || {
        let objects = [(); OBJECTS].map(|()| rsalloc_core::allocate(270_000));
        for object in objects {
            fill(object, 270_000, 1);
        }
        faults::refuse(0, u64::MAX);
        // With gaps, so that there are many runs of pages.
        for parity in [0, 1] {
            for object in objects.into_iter().skip(parity).step_by(2) {
                // SAFETY: live.
                unsafe { rsalloc_core::free(object) };
            }
        }
        let calls = faults::count();
        faults::refuse(u64::MAX, 0);
        settle();
        calls
    });
    assert!(calls > 0, "nothing was offered: nothing is tested");
    assert!(calls < 8 * OBJECTS as u64, "{calls} calls for {OBJECTS} objects");
}

/// A heap that grows asks the OS seldom.
#[test]
fn a_heap_of_one_gib_takes_few_calls() {
    let calls = in_child(u64::MAX, 0, || {
        faults::refuse(u64::MAX, 0);
        // 16 of them are 5 MiB, which stay untouched.
        (0..16 * 205).for_each(|_| assert!(!rsalloc_core::allocate(320 << 10).is_null()));
        assert!(rsalloc_core::stats().live_bytes >= 1 << 30);
        faults::count()
    });
    assert!(calls < 80, "{calls} calls");
}

/// Sizes and alignments that no address space can hold, up to the largest that the type has.
const IMPOSSIBLE: [(usize, usize); 6] = [
    (1 << 47, 8),
    (1 << 50, 16),
    (usize::MAX >> 1, 8),
    (usize::MAX - 4096, 8),
    (100, 1 << 47),
    (1 << 46, 1 << 47),
];

/// Frees a quarter of many objects, of which the caches keep some; the others, and what is cached now.
fn cache_something() -> (Vec<*mut u8>, usize) {
    let mut objects: Vec<_> = (0..20_000).map(|n| rsalloc_core::allocate(16 + n % 1000)).collect();
    free_all(&objects.split_off(15_000));
    let cached = rsalloc_core::stats().cached_bytes;
    assert!(cached > 20_000, "{cached} bytes cached: nothing is tested");
    (objects, cached)
}

fn free_all(objects: &[*mut u8]) {
    // SAFETY: each is live, and freed here once.
    objects.iter().for_each(|&object| unsafe { rsalloc_core::free(object) });
}

/// Objects of `size` until there is no memory for another one.
fn fill_up(size: usize) -> Vec<*mut u8> {
    let next = || Some(rsalloc_core::allocate(size)).filter(|object| !object.is_null());
    std::iter::from_fn(next).collect()
}

/// A heap that is full of objects of one page each.
fn full_heap() -> Vec<*mut u8> {
    let mut objects = Vec::with_capacity(2_000);
    objects.extend((0..600).map(|_| rsalloc_core::allocate(40_000)));
    faults::refuse(0, u64::MAX);
    objects.extend(fill_up(40_000));
    assert!(objects.len() < 2_000 && !objects.contains(&std::ptr::null_mut()));
    objects
}

#[test]
fn an_impossible_request_makes_no_system_call_and_empties_nothing() {
    in_child(u64::MAX, 0, || {
        let objects = [rsalloc_core::allocate(100), rsalloc_core::allocate(1 << 20)];
        let (others, cached) = cache_something();
        faults::refuse(u64::MAX, 0);
        for (size, align) in IMPOSSIBLE {
            assert!(rsalloc_core::allocate_aligned(size, align).is_null());
            assert!(rsalloc_core::allocate_zeroed(size, align).is_null());
            for object in objects {
                // SAFETY: live; a refused resize leaves the object alone.
                assert!(unsafe { rsalloc_core::reallocate(object, size.max(1 << 47)) }.is_null());
            }
        }
        assert_eq!(faults::count(), 0, "calls to the OS");
        assert_eq!(rsalloc_core::stats().cached_bytes, cached);
        free_all(&objects);
        free_all(&others);
        settle();
        0
    });
}

/// 96 TiB: there are as many addresses, but never in one piece. What this process caches can't help.
#[test]
fn a_refused_mapping_is_requested_once_and_empties_nothing() {
    in_child(u64::MAX, 0, || {
        let (others, cached) = cache_something();
        for align in [8, 1 << 20] {
            assert!(rsalloc_core::allocate_aligned(3 << 45, align).is_null());
            faults::refuse(u64::MAX, 0);
            for _ in 0..100 {
                assert!(rsalloc_core::allocate_aligned(3 << 45, align).is_null());
            }
            assert_eq!(faults::count(), 100, "calls to the OS, of 100 requests");
        }
        assert_eq!(rsalloc_core::stats().cached_bytes, cached);
        free_all(&others);
        settle();
        0
    });
}

/// Of four freed objects one stays in the cache: its page serves another class after a release.
#[test]
fn memory_from_a_release_serves_the_request() {
    in_child(u64::MAX, 0, || {
        let mut objects = full_heap();
        free_all(&objects.split_off(objects.len() - 4));
        assert!(rsalloc_core::stats().cached_bytes > 0, "nothing is cached: nothing is tested");
        let others = fill_up(33_000);
        assert_eq!(others.len(), 4, "pages that were free or cached");
        free_all(&objects);
        free_all(&others);
        faults::refuse(u64::MAX, 0);
        settle();
        0
    });
}

/// A request fails for want of a run of pages, though as much is cached, in single pages: some releases in
/// vain, then the caches are left alone for the rest of the second.
#[test]
fn releases_in_vain_are_few() {
    const ROUNDS: usize = 1000;
    in_child(u64::MAX, 0, || {
        let begin = std::time::Instant::now();
        let objects = full_heap();
        let kept: Vec<_> = objects.iter().copied().step_by(2).collect();
        let others: Vec<_> = objects.iter().copied().skip(1).step_by(2).collect();
        free_all(&others);
        let mut emptied = 0;
        for _ in 0..ROUNDS {
            free_all(&[33_000, 40_000, 45_000, 50_000, 60_000].map(rsalloc_core::allocate));
            let cached = rsalloc_core::stats().cached_bytes;
            assert!(cached >= 100_000, "{cached} bytes cached: nothing is tested");
            assert!(rsalloc_core::allocate(100_000).is_null());
            emptied += u64::from(rsalloc_core::stats().cached_bytes < cached);
        }
        let seconds = begin.elapsed().as_secs() + 2;
        assert!(emptied > 0 && emptied <= 8 * seconds, "{emptied} of {ROUNDS} in {seconds} s");
        free_all(&kept);
        faults::refuse(u64::MAX, 0);
        settle();
        0
    });
}

/// Bytes of address space.
fn address_space() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<usize>().unwrap() * 4096
}

/// Bytes of address space, and what the heap says is mapped.
fn mapped() -> (usize, usize, usize) {
    let stats = rsalloc_core::stats();
    (address_space(), stats.metadata_bytes, stats.mapped_bytes)
}

/// Wherever in a step the OS refuses, pages or what describes them.
#[test]
fn a_refused_growth_leaves_what_is_mapped_as_it_was() {
    in_child(u64::MAX, 0, || {
        let acquire = |pages| PAGE_HEAP.acquire(SpanRequest::large(pages));
        assert!(acquire(1).is_some());
        let before = mapped();
        for made in [0, 1] {
            faults::refuse(made, u64::MAX);
            assert!(acquire(100).is_none());
            assert!(faults::count() > made, "nothing was refused: nothing is tested");
            let now = mapped();
            assert_eq!(now, before, "{made} calls before the first refusal");
        }
        faults::refuse(2, u64::MAX);
        assert!(acquire(100).is_some(), "two calls are enough");
        faults::refuse(u64::MAX, 0);
        settle_heap();
        0
    });
}

fn settle_heap() {
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// Its addresses may be what the next one lacks.
#[test]
fn a_deferred_span_is_unmapped_before_another_is_refused() {
    in_child(u64::MAX, 0, || {
        let (first, _) = (HUGE.acquire(40 << 20, 8).unwrap(), HUGE.acquire(40 << 20, 8).unwrap());
        let before = address_space();
        let held = HUGE.raw_lock().acquire(Rank::HUGE).expect("free");
        // SAFETY: held, from above.
        assert!(unsafe { HUGE.release(first.address()) });
        drop(held);
        assert!(address_space() >= before, "unmapped at once: nothing is tested");
        faults::refuse(0, 0);
        assert!(HUGE.acquire(40 << 20, 8).is_some());
        assert!(address_space() <= before, "the first one is still mapped");
        // And nothing is asked for twice where nothing was given up.
        faults::refuse(0, 0);
        assert_eq!(HUGE.acquire(40 << 20, 8), None);
        faults::refuse(u64::MAX, 0);
        settle_heap();
        0
    });
}
