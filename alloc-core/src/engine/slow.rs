//! The slow twins of the entries, by the names the assembly jumps to.
//!
//! Promises: the same contract as the entry, whatever made the hot path leave; C twins set errno on
//! failure and frees leave it alone. Called by `arch::entry` only, with the arguments untouched.
//!
//! Each first tries the biased shard of the thread: on the atomic path this is the hot path.

use crate::atomic::Ordering;
use crate::cpu_cache::shard::leases;
use crate::cpu_cache::{self, Shard};
use crate::engine;
use crate::hot::HOT;
use crate::os;
use crate::page_map;
use crate::size_class::{
    CLASSES, Class, MEDIUM_MAX_BYTES, MEDIUM_SHIFT, TINY_MAX_BYTES, class_of, class_of_aligned,
};

/// `malloc`: empty class, large size or an aborted section.
pub extern "C" fn malloc(size: usize) -> *mut u8 {
    match pop(small_class_of(size)) {
        object @ 1.. => object as *mut u8,
        _ => malloc_slow(size),
    }
}

#[cold]
#[inline(never)]
fn malloc_slow(size: usize) -> *mut u8 {
    if let Some(object) = cpu_cache::try_pop(class_of(size)) {
        return object as *mut u8;
    }
    let object = engine::allocate_slow(size);
    if object.is_null() {
        os::set_errno(libc::ENOMEM);
    }
    object
}

/// `calloc`: as [`malloc`], or a product that overflows. What may be used is cleared, not only what was asked
/// for.
pub extern "C" fn calloc(count: usize, size: usize) -> *mut u8 {
    let len = count.checked_mul(size).filter(|&len| len <= isize::MAX as usize);
    let object = len.map_or(core::ptr::null_mut(), engine::allocate_cleared);
    if object.is_null() {
        os::set_errno(libc::ENOMEM);
    }
    object
}

/// `alloc`: as [`malloc`], or a larger alignment.
pub extern "C" fn alloc(size: usize, align: usize) -> *mut u8 {
    match pop(class_of_aligned(size, align)) {
        object @ 1.. => object as *mut u8,
        _ => alloc_slow(size, align),
    }
}

#[cold]
#[inline(never)]
fn alloc_slow(size: usize, align: usize) -> *mut u8 {
    if let Some(object) = cpu_cache::try_pop(class_of_aligned(size, align)) {
        return object as *mut u8;
    }
    engine::allocate_aligned_slow(size, align)
}

/// `free`: null, full class, large or foreign pointer, or an aborted section.
pub extern "C" fn free(ptr: *mut u8) {
    if push(ptr as usize) != 0 {
        free_slow(ptr as usize);
    }
}

#[cold]
#[inline(never)]
fn free_slow(address: usize) {
    if !cpu_cache::try_push(page_map::class_at(address), address) {
        engine::free_slow(address);
    }
}

/// `free_sized`: null, full class, large size or an aborted section; or an object of a smaller class than the
/// size's, which ends the process here and on the way home elsewhere (docs/misuse.md).
pub extern "C" fn free_sized(ptr: *mut u8, size: usize) {
    let is_smaller = page_map::class_in_page_map(ptr as usize) < small_class_of(size);
    if is_smaller || push(ptr as usize) != 0 {
        dealloc_slow(ptr as usize, size, 1);
    }
}

/// `dealloc`: as [`free_sized`], or a larger alignment.
pub extern "C" fn dealloc(ptr: *mut u8, size: usize, align: usize) {
    let is_smaller = page_map::class_in_page_map(ptr as usize) < class_of_aligned(size, align);
    if is_smaller || push(ptr as usize) != 0 {
        dealloc_slow(ptr as usize, size, align);
    }
}

#[cold]
#[inline(never)]
fn dealloc_slow(address: usize, size: usize, align: usize) {
    let class = page_map::class_at(address);
    let is_smaller = class < class_of_aligned(size, align);
    if is_smaller || !cpu_cache::try_push(class, address) {
        engine::free_sized_slow(address, size, align);
    }
}

/// As [`class_of`], by the tables of the entries; 0 for larger sizes, and before they are filled.
#[inline(always)]
fn small_class_of(size: usize) -> Class {
    let class = if size <= TINY_MAX_BYTES {
        &HOT.tiny[size]
    } else if size <= MEDIUM_MAX_BYTES {
        &HOT.medium[(size + (1 << MEDIUM_SHIFT) - 1) >> MEDIUM_SHIFT]
    } else {
        return 0;
    };
    // Ordering: Relaxed: a thread with a biased shard has come past READY.
    let class = usize::from(class.load(Ordering::Relaxed));
    // SAFETY: the tables hold classes.
    unsafe { core::hint::assert_unchecked(class < CLASSES) };
    class
}

/// Pops from the thread's own shard: an object, 0 or a status.
#[inline(always)]
fn pop(class: Class) -> isize {
    leases::own_shard().map_or(0, |shard| shard.pop(class))
}

/// Pushes to the thread's own shard: 0 or a status.
#[inline(always)]
fn push(address: usize) -> isize {
    leases::own_shard()
        .map_or(-1, |shard| shard.push(page_map::class_in_page_map(address), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_the_classes_that_are_computed() {
        assert!(engine::init::ensure());
        for size in 0..=MEDIUM_MAX_BYTES {
            assert_eq!(small_class_of(size), class_of(size), "{size} B");
        }
        assert_eq!(small_class_of(MEDIUM_MAX_BYTES + 1), 0);
    }
}
