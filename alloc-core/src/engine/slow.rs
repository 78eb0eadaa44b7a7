//! The slow twins of the entries, by the names the assembly jumps to.
//!
//! Promises: the same contract as the entry, whatever made the hot path leave; C twins set errno on
//! failure and frees leave it alone. Called by `asm::entry` only, with the arguments untouched.

use crate::cpu_cache::locked;
use crate::engine;
use crate::os;
use crate::page_map;
use crate::size_class::{class_of, class_of_aligned};

/// `malloc`: empty class, large size or an aborted section.
pub extern "C" fn malloc(size: usize) -> *mut u8 {
    if let Some(object) = locked::pop_quickly(class_of(size)) {
        return object as *mut u8;
    }
    let object = engine::allocate_slow(size);
    if object.is_null() {
        os::set_errno(libc::ENOMEM);
    }
    object
}

/// `calloc`: as [`malloc`], or a product that overflows.
pub extern "C" fn calloc(count: usize, size: usize) -> *mut u8 {
    let len = count.checked_mul(size).filter(|&len| len <= isize::MAX as usize);
    let object = len.map_or(core::ptr::null_mut(), |len| {
        engine::allocate_zeroed(len, if len <= 8 { 8 } else { 16 })
    });
    if object.is_null() {
        os::set_errno(libc::ENOMEM);
    }
    object
}

/// `alloc`: as [`malloc`], or a larger alignment.
pub extern "C" fn alloc(size: usize, align: usize) -> *mut u8 {
    if let Some(object) = locked::pop_quickly(class_of_aligned(size, align)) {
        return object as *mut u8;
    }
    engine::allocate_aligned_slow(size, align)
}

/// `free`: null, full class, large or foreign pointer, or an aborted section.
pub extern "C" fn free(ptr: *mut u8) {
    if locked::push_quickly(page_map::class_at(ptr as usize), ptr as usize) {
        return;
    }
    engine::free_slow(ptr as usize);
}

/// `free_sized`: null, full class, large size or an aborted section.
pub extern "C" fn free_sized(ptr: *mut u8, size: usize) {
    dealloc(ptr, size, 1);
}

/// `dealloc`: as [`free_sized`], or a larger alignment.
pub extern "C" fn dealloc(ptr: *mut u8, size: usize, align: usize) {
    if locked::push_quickly(page_map::class_at(ptr as usize), ptr as usize) {
        return;
    }
    engine::free_sized_slow(ptr as usize, size, align);
}
