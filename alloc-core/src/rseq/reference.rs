//! The sections in plain Rust: what the assembly must do, and what the atomic path runs under a lock.
//!
//! The functions are named as in `arch::sections` and tested against them; the one difference is that
//! the region is handed in instead of being found by the CPU, so tests choose the shard.
//!
//! Invariants: those of `region` (I1, I2); each function ends in one store that commits.

use crate::region::{Bounds, Region};
use crate::rseq::{CHANGED, FULL};
// Ordering: Relaxed throughout. In the atomic path the shard's lock orders everything; in tests one
// thread runs.
use crate::atomic::{AtomicUsize, Ordering::Relaxed};

/// The word `offset` bytes from the start of a region.
///
/// # Safety
/// 1. A mapped slot of the region lies there.
unsafe fn slot(region: &Region, offset: u32) -> &AtomicUsize {
    // SAFETY: duty 1.
    unsafe { region.slot(offset as usize) }
}

const WORD: u32 = size_of::<usize>() as u32;

/// See `arch::sections::pop_cpu`.
///
/// # Safety
/// 1. No other thread works on `region`.
pub unsafe fn pop(region: &Region, class: usize) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    // SAFETY: I1: top is a slot of the region.
    let object = unsafe { slot(region, top) }.load(Relaxed);
    if object != 0 {
        head.top.store(top - WORD, Relaxed); // COMMIT
    }
    object as isize
}

/// See `arch::sections::push_cpu`.
///
/// # Safety
/// 1. No other thread works on `region`.
pub unsafe fn push(region: &Region, class: usize, object: usize) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    if top >= head.end.load(Relaxed) {
        return FULL;
    }
    // SAFETY: I2: below end there is a slot above top.
    unsafe { slot(region, top + WORD) }.store(object, Relaxed);
    head.top.store(top + WORD, Relaxed); // COMMIT
    0
}

/// See `arch::sections::pop_batch_cpu`.
///
/// # Safety
/// 1. No other thread works on `region`.
pub unsafe fn pop_batch(region: &Region, class: usize, out: &mut [usize]) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    let count = out.len().min(region.len(class));
    for (i, out) in out[..count].iter_mut().enumerate() {
        // SAFETY: I1: between bottom and top.
        *out = unsafe { slot(region, top - i as u32 * WORD) }.load(Relaxed);
    }
    head.top.store(top - count as u32 * WORD, Relaxed); // COMMIT
    count as isize
}

/// See `arch::sections::push_batch_cpu`.
///
/// # Safety
/// 1. No other thread works on `region`.
pub unsafe fn push_batch(region: &Region, class: usize, objects: &[usize]) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    let space = head.end.load(Relaxed).saturating_sub(top) / WORD;
    let count = objects.len().min(space as usize);
    for i in 1..=count {
        // SAFETY: I2: below end.
        unsafe { slot(region, top + i as u32 * WORD) }.store(objects[objects.len() - i], Relaxed);
    }
    head.top.store(top + count as u32 * WORD, Relaxed); // COMMIT
    count as isize
}

/// See `arch::sections::set_bounds_cpu`.
///
/// # Safety
/// 1. No other thread works on `region`. 2. `bounds` are those of a stack of the class, with the objects that it has now.
pub unsafe fn set_bounds(region: &Region, class: usize, expected: Bounds, bounds: Bounds) -> isize {
    if region.bounds(class) != expected {
        return CHANGED;
    }
    // Two stores here, one in the sections: no other thread works on the region.
    let head = &region.heads[class];
    head.top.store(bounds.top, Relaxed);
    head.end.store(bounds.end, Relaxed); // COMMIT
    0
}

/// See `arch::sections::add_cpu`.
///
/// # Safety
/// 1. No other thread works on `region`.
pub unsafe fn add(region: &Region, counter: usize, delta: usize) -> isize {
    let word = &region.counters[counter];
    word.store(word.load(Relaxed).wrapping_add(delta), Relaxed); // COMMIT
    0
}
