//! Out of memory at every call to the OS: for each n of a workload the n-th call fails, once or from then
//! on for ever. Null is returned, nothing is lost, and everything works again afterwards.

use alloc_core::os::faults;
use std::sync::{Mutex, MutexGuard};

static ALONE: Mutex<()> = Mutex::new(());

/// The whole run is one program's life, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const SIZES: [(usize, usize); 12] = [
    (8, 8),
    (100, 8),
    (1000, 8),
    (4096, 4096),
    (20_000, 8),
    (40_000, 8),
    (200_000, 8),
    (300_000, 8),
    (1 << 20, 8),
    (100, 1 << 20),
    (40 << 20, 8),
    (1 << 20, 32 << 20),
];

/// Allocates, grows, shrinks and frees objects of all kinds; how many requests got null.
fn workload() -> usize {
    let mut refused = 0;
    let mut live = Vec::with_capacity(1000);
    for (i, &(size, align)) in SIZES.iter().enumerate() {
        // Enough to need a new slab or a new tract now and then.
        for j in 0..if size < 50_000 { 40 } else { 6 } {
            let byte = (i * 16 + j) as u8;
            let object = match j % 2 {
                0 => alloc_core::allocate_aligned(size, align),
                _ => alloc_core::allocate_zeroed(size, align),
            };
            if object.is_null() {
                refused += 1;
                continue;
            }
            assert!((object as usize).is_multiple_of(align));
            if j % 2 == 1 {
                assert!(holds(object, size, 0), "zeroed");
            }
            // SAFETY: live.
            unsafe { object.write_bytes(byte, size) };
            live.push((object, size, align, byte));
        }
    }
    for (i, entry) in live.iter_mut().enumerate() {
        let (object, size, align, byte) = *entry;
        let wanted = if i % 3 == 0 { size / 2 + 1 } else { size * 2 };
        // SAFETY: live, with its layout.
        let moved = unsafe { alloc_core::reallocate_sized(object, size, align, wanted) };
        if moved.is_null() {
            refused += 1;
            assert!(holds(object, size, byte), "a refused reallocate leaves the object alone");
            continue;
        }
        assert!(holds(moved, size.min(wanted), byte), "contents of {size} -> {wanted}");
        // SAFETY: live.
        unsafe { moved.write_bytes(byte, wanted) };
        *entry = (moved, wanted, align, byte);
    }
    for (i, (object, size, align, byte)) in live.into_iter().enumerate() {
        assert!(holds(object, size, byte), "contents of {size} at the end");
        // SAFETY: live, with its layout.
        unsafe {
            match i % 2 {
                0 => alloc_core::free(object),
                _ => alloc_core::free_sized(object, size, align),
            }
        }
    }
    alloc_core::release();
    refused
}

fn holds(object: *const u8, len: usize, byte: u8) -> bool {
    // SAFETY: a live object of at least that size.
    unsafe { std::slice::from_raw_parts(object, len) }.iter().all(|&seen| seen == byte)
}

fn none() {
    faults::refuse(u64::MAX, 0);
}

/// Calls to the OS that a workload makes on a warm heap.
fn calls() -> u64 {
    none();
    assert_eq!(workload(), 0, "memory was there");
    faults::count()
}

/// Live bytes with every cache empty.
fn settled() -> u64 {
    none();
    alloc_core::release();
    assert_eq!(alloc_core::check(), Ok(()));
    alloc_core::stats().live_bytes
}

#[test]
fn each_call_fails_once() {
    let _alone = alone();
    // SAFETY: live.
    unsafe { alloc_core::free(alloc_core::allocate(1)) };
    let calls = calls();
    let live = settled();
    assert!(calls > 20, "only {calls} calls: nothing is tested");
    let mut refused = 0;
    for n in 0..calls {
        faults::refuse(n, n);
        refused += workload();
        assert_eq!(settled(), live, "after the failure of call {n}");
    }
    println!("{calls} calls; {refused} requests refused");
}

#[test]
fn each_call_and_all_behind_it_fail() {
    let _alone = alone();
    // SAFETY: live.
    unsafe { alloc_core::free(alloc_core::allocate(1)) };
    let calls = calls();
    let live = settled();
    let mut refused = 0;
    for n in 0..calls {
        faults::refuse(n, u64::MAX);
        refused += workload();
        assert_eq!(settled(), live, "after failures from call {n} on");
        assert_eq!(workload(), 0, "memory is back");
    }
    println!("{calls} calls; {refused} requests refused");
    assert!(refused > 0, "nothing was ever refused");
}
