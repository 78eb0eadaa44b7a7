//! The sections in plain Rust: what the assembly must do, and what the atomic path runs under a lock.
//!
//! The functions are named as in `asm::sections` and tested against them; the one difference is that
//! the region is handed in instead of being found by the CPU, so tests choose the shard.
//!
//! Invariants: those of `shard` (I1, I2); each function ends in one store that commits.

use crate::rseq::{CHANGED, FULL};
use crate::shard::Region;
// Ordering: Relaxed throughout. In the atomic path the shard's lock orders everything; in tests one
// thread runs.
use crate::atomic::{AtomicUsize, Ordering::Relaxed};

/// The word at `address`.
///
/// # Safety
/// 1. `address` is that of a slot in a live region.
unsafe fn slot<'a>(address: usize) -> &'a AtomicUsize {
    // SAFETY: duty 1; slots are atomics.
    unsafe { &*(address as *const AtomicUsize) }
}

const WORD: usize = size_of::<usize>();

/// See `asm::sections::pop_cpu`.
///
/// # Safety
/// 1. Nobody else works on `region`.
pub unsafe fn pop(region: &Region, class: usize) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    // SAFETY: I1: top is a slot of the region.
    let object = unsafe { slot(top) }.load(Relaxed);
    if object != 0 {
        head.top.store(top - WORD, Relaxed); // COMMIT
    }
    object as isize
}

/// See `asm::sections::push_cpu`.
///
/// # Safety
/// 1. Nobody else works on `region`.
pub unsafe fn push(region: &Region, class: usize, object: usize) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    if top >= head.end.load(Relaxed) {
        return FULL;
    }
    // SAFETY: I2: below end there is a slot above top.
    unsafe { slot(top + WORD) }.store(object, Relaxed);
    head.top.store(top + WORD, Relaxed); // COMMIT
    0
}

/// See `asm::sections::pop_batch_cpu`.
///
/// # Safety
/// 1. Nobody else works on `region`.
pub unsafe fn pop_batch(region: &Region, class: usize, out: &mut [usize]) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    let count = out.len().min((top - region.bottom(class)) / WORD);
    for (i, out) in out[..count].iter_mut().enumerate() {
        // SAFETY: I1: between bottom and top.
        *out = unsafe { slot(top - i * WORD) }.load(Relaxed);
    }
    head.top.store(top - count * WORD, Relaxed); // COMMIT
    count as isize
}

/// See `asm::sections::push_batch_cpu`.
///
/// # Safety
/// 1. Nobody else works on `region`.
pub unsafe fn push_batch(region: &Region, class: usize, objects: &[usize]) -> isize {
    let head = &region.heads[class];
    let top = head.top.load(Relaxed);
    let room = head.end.load(Relaxed).saturating_sub(top) / WORD;
    let count = objects.len().min(room);
    for i in 1..=count {
        // SAFETY: I2: below end.
        unsafe { slot(top + i * WORD) }.store(objects[objects.len() - i], Relaxed);
    }
    head.top.store(top + count * WORD, Relaxed); // COMMIT
    count as isize
}

/// See `asm::sections::set_end_cpu`.
///
/// # Safety
/// 1. Nobody else works on `region`. 2. `end` is an address in the class's stack.
pub unsafe fn set_end(region: &Region, class: usize, expected: usize, end: usize) -> isize {
    let head = &region.heads[class];
    if head.end.load(Relaxed) != expected {
        return CHANGED;
    }
    head.end.store(end, Relaxed); // COMMIT
    0
}

/// See `asm::sections::add_cpu`.
///
/// # Safety
/// 1. Nobody else works on `region`.
pub unsafe fn add(region: &Region, counter: usize, delta: usize) -> isize {
    let word = &region.counters[counter];
    word.store(word.load(Relaxed).wrapping_add(delta), Relaxed); // COMMIT
    0
}
