//! Resizing: where the object is, by page tables, or by a copy.
//!
//! Promises: what an object holds stays, up to the smaller size; a refused resize changes nothing; a resized
//! object may be freed by its new size. Called by the fronts; calls the engine's allocate and free, large,
//! and hardened where the process asked for it.

use super::{allocate, allocate_aligned, free_slow, hardened, is_impossible, large};
use crate::atomic::{AtomicU64, Ordering};
use crate::canary;
use crate::fail::Misuse;
use crate::page_map;
use crate::size_class::{CLASS, CLASSES, Class, class_of, class_of_aligned, natural_align};
use crate::sync::WaitBudget;
use crate::units::OBJECT_MAX_BYTES;

/// Resizes `ptr` (null: allocates). Null when out of memory; `ptr` is untouched then. The alignment of
/// the result is that of [`allocate`].
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
#[inline]
pub unsafe fn reallocate(ptr: *mut u8, size: usize) -> *mut u8 {
    if may_stay(ptr, size) {
        return ptr;
    }
    // SAFETY: duty 1.
    unsafe { reallocate_slow(ptr, size) }
}

/// By class, the sizes that its objects may be resized to where they are: the least in the low half, how
/// many in the high half. None at first, and none if hardened: each object is looked at then.
static IN_PLACE: [AtomicU64; 128] = [const { AtomicU64::new(0) }; 128];

/// Up to the class's size, and down to half of it as long as it may be freed as what it is then.
pub(super) fn open_in_place() {
    for class in 1..CLASSES {
        let most = CLASS[class].size;
        let below = (1..class).rev();
        let above = below.take_while(|&smaller| {
            CLASS[smaller].size > most / 2 && may_be_freed_as(class, CLASS[smaller].size)
        });
        let least = CLASS[above.last().unwrap_or(class) - 1].size.max(most / 2) + 1;
        let sizes = (most - least + 1) << 32 | least;
        // Ordering: Relaxed, published by READY.
        IN_PLACE[class].store(sizes as u64, Ordering::Relaxed);
    }
}

#[inline]
fn may_stay(ptr: *const u8, size: usize) -> bool {
    // Ordering: Relaxed, filled by init before any object exists.
    let sizes = IN_PLACE[page_map::class_at(ptr as usize)].load(Ordering::Relaxed) as usize;
    size.wrapping_sub(sizes & u32::MAX as usize) < sizes >> 32
}

/// Whether an object of `class` may come back as one of `size` bytes: C's `free_sized` puts it into the
/// cache of that size, which promises the alignment of its own objects.
fn may_be_freed_as(class: Class, size: usize) -> bool {
    // A free of a size without a class looks for the object's own.
    class == 0 || natural_align(class) >= natural_align(class_of(size))
}

/// Who grows by a little will do so again: a quarter more saves the next copies. The size of the least such
/// class whose objects may be freed as one of `size`.
fn roomy(old: usize, size: usize) -> usize {
    let generous = old + old / 4;
    let first = class_of(generous);
    if size <= old || size >= generous {
        return size;
    }
    if first == 0 {
        return generous;
    }
    let near = (first..CLASSES).take(4);
    let fitting = { near }.find(|&class| may_be_freed_as(class, size));
    fitting.map_or(size, |class| CLASS[class].size)
}

/// # Safety
/// 1. `ptr` is null or a live object.
unsafe fn reallocate_slow(ptr: *mut u8, size: usize) -> *mut u8 {
    if ptr.is_null() {
        return allocate(size);
    }
    let _budget = WaitBudget::bounded();
    if canary::is_on() {
        return hardened::reallocate(ptr as usize, None, 1, size);
    }
    let class = page_map::class_at(ptr as usize);
    if class == 0 {
        // SAFETY: duty 1.
        return unsafe { reallocate_large(ptr, size, 1) };
    }
    let old = CLASS[class].size;
    let wanted = roomy(old, size);
    // SAFETY: duty 1; the object has `old` bytes.
    let moved = unsafe { move_object(ptr, old, wanted, 1) };
    if !moved.is_null() || wanted == size {
        return moved;
    }
    // SAFETY: as above; a failed move left it alone.
    unsafe { move_object(ptr, old, size, 1) }
}

/// Resizes an object whose layout is known.
///
/// # Safety
/// 1. `ptr` is a live object that was allocated with `old_size` and `align`.
pub unsafe fn reallocate_sized(
    ptr: *mut u8,
    old_size: usize,
    align: usize,
    size: usize,
) -> *mut u8 {
    let _budget = WaitBudget::bounded();
    if canary::is_on() {
        return hardened::reallocate(ptr as usize, Some(old_size), align, size);
    }
    let old_class = class_of_aligned(old_size, align);
    if old_class == 0 {
        // SAFETY: duty 1.
        return unsafe { reallocate_large(ptr, size, align) };
    }
    if class_of_aligned(size, align) == old_class {
        return ptr;
    }
    // SAFETY: duty 1; a sized free of this layout finds the class again.
    unsafe { move_object(ptr, old_size, size, align) }
}

/// # Safety
/// 1. `ptr` is a live large object, or the process ends.
unsafe fn reallocate_large(ptr: *mut u8, size: usize, align: usize) -> *mut u8 {
    let old = large::bytes_at(ptr as usize, Misuse::ResizeOfFreed);
    if is_impossible(size, align) {
        return core::ptr::null_mut();
    }
    // In place the alignment stays; a move keeps that of a page only.
    if size > OBJECT_MAX_BYTES
        && align <= crate::os::page_bytes()
        && let Some(address) = large::resize(ptr as usize, size)
    {
        return address as *mut u8;
    }
    // SAFETY: duty 1; the object has `old` bytes.
    unsafe { move_object(ptr, old, size, align) }
}

/// # Safety
/// 1. `ptr` is a live object of at least `old` bytes.
unsafe fn move_object(ptr: *mut u8, old: usize, size: usize, align: usize) -> *mut u8 {
    let fresh = allocate_aligned(size, align);
    if !fresh.is_null() {
        // SAFETY: duty 1; two live objects don't overlap.
        unsafe { fresh.copy_from_nonoverlapping(ptr, old.min(size)) };
        free_slow(ptr as usize);
    }
    fresh
}
