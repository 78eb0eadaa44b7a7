//! The functions that are recorded: malloc(3) and its family, posix_memalign(3) and C23's sized frees.
//!
//! Promises what the allocator below promises. `malloc_usable_size` and the operators of C++ are not here: the former
//! changes nothing, the latter call these.

use crate::format::{ALIGNED, CALLOC, FREE, FREE_SIZED, MALLOC, RESIZE};
use crate::next::{self, Ptr};
use crate::writer;
use core::ffi::c_int;
use core::ptr::null_mut;

const _: () = assert!(RESIZE != 0, "an event's first byte is not 0");

/// See malloc(3).
///
/// # Safety
/// 1. None; C's functions are declared so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> Ptr {
    let Some(next) = next::get() else { return next::arena(size) };
    // SAFETY: no duties.
    let object = unsafe { (next.malloc)(size) };
    writer::made(MALLOC, object, size, 0);
    object
}

/// See calloc(3).
///
/// # Safety
/// 1. None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> Ptr {
    let Some(next) = next::get() else { return next::arena(count.saturating_mul(size)) };
    // SAFETY: no duties.
    let object = unsafe { (next.calloc)(count, size) };
    // Where the product is too large there is no object.
    writer::made(CALLOC, object, count.wrapping_mul(size), 0);
    object
}

/// See realloc(3).
///
/// # Safety
/// 1. `object` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(object: Ptr, size: usize) -> Ptr {
    // SAFETY: duty 1.
    unsafe { resize(object, size) }
}

/// See reallocarray(3).
///
/// # Safety
/// 1. `object` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(object: Ptr, count: usize, size: usize) -> Ptr {
    match count.checked_mul(size) {
        // SAFETY: duty 1.
        Some(len) => unsafe { resize(object, len) },
        None => {
            // SAFETY: libc's thread-local, valid in every thread.
            unsafe { *libc::__errno_location() = libc::ENOMEM };
            null_mut()
        }
    }
}

/// # Safety
/// 1. `object` is null or live.
unsafe fn resize(object: Ptr, size: usize) -> Ptr {
    let arena_size = next::arena_size(object);
    let Some(next) = next::get().filter(|_| arena_size.is_none()) else {
        // SAFETY: no duties.
        let fresh = unsafe { malloc(size) };
        if let Some(old) = arena_size.filter(|_| !fresh.is_null()) {
            // SAFETY: both have so many bytes.
            unsafe { fresh.cast::<u8>().copy_from_nonoverlapping(object.cast(), old.min(size)) };
        }
        return fresh;
    };
    if object.is_null() {
        // SAFETY: duty 1.
        let fresh = unsafe { (next.realloc)(object, size) };
        writer::made(MALLOC, fresh, size, 0);
        return fresh;
    }
    if size == 0 {
        // As glibc has it, a free.
        writer::unmade(FREE, object);
        // SAFETY: duty 1.
        let fresh = unsafe { (next.realloc)(object, size) };
        writer::made(MALLOC, fresh, size, 0);
        return fresh;
    }
    let number = writer::resizing();
    // SAFETY: duty 1.
    let fresh = unsafe { (next.realloc)(object, size) };
    writer::resized(number, object, fresh, size);
    fresh
}

/// See free(3).
///
/// # Safety
/// 1. `object` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(object: Ptr) {
    // SAFETY: duty 1.
    unsafe { give_up(FREE, object) }
}

/// C23: see free(3); the size is the object's.
///
/// # Safety
/// 1. `object` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(object: Ptr, _size: usize) {
    // SAFETY: duty 1.
    unsafe { give_up(FREE_SIZED, object) }
}

/// C23: see free(3).
///
/// # Safety
/// 1. `object` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(object: Ptr, _align: usize, _size: usize) {
    // SAFETY: duty 1.
    unsafe { give_up(FREE_SIZED, object) }
}

/// # Safety
/// 1. `object` is null or live.
unsafe fn give_up(kind: u8, object: Ptr) {
    let Some(next) = next::get().filter(|_| next::arena_size(object).is_none()) else { return };
    writer::unmade(kind, object);
    // SAFETY: duty 1. Every allocator's plain free may be called in place of a sized one.
    unsafe { (next.free)(object) }
}

/// See posix_memalign(3).
///
/// # Safety
/// 1. `out` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut Ptr, align: usize, size: usize) -> c_int {
    let Some(next) = next::get() else { return libc::ENOMEM };
    // SAFETY: duty 1.
    let error = unsafe { (next.posix_memalign)(out, align, size) };
    if error == 0 {
        // SAFETY: it was written.
        writer::made(ALIGNED, unsafe { *out }, size, align);
    }
    error
}

/// See aligned_alloc(3).
///
/// # Safety
/// 1. None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> Ptr {
    let Some(next) = next::get() else { return null_mut() };
    // SAFETY: no duties.
    let object = unsafe { (next.aligned_alloc)(align, size) };
    writer::made(ALIGNED, object, size, rounded(align));
    object
}

/// See memalign(3).
///
/// # Safety
/// 1. None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memalign(align: usize, size: usize) -> Ptr {
    let Some(next) = next::get() else { return null_mut() };
    // SAFETY: no duties.
    let object = unsafe { (next.memalign)(align, size) };
    writer::made(ALIGNED, object, size, rounded(align));
    object
}

/// See valloc(3).
///
/// # Safety
/// 1. None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn valloc(size: usize) -> Ptr {
    // SAFETY: no duties.
    unsafe { memalign(page(), size) }
}

/// See pvalloc(3).
///
/// # Safety
/// 1. None.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pvalloc(size: usize) -> Ptr {
    // SAFETY: no duties. What can't be rounded can't be had either.
    unsafe { memalign(page(), size.checked_next_multiple_of(page()).unwrap_or(size)) }
}

fn page() -> usize {
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_PAGESZ) as usize }
}

/// The power of two that glibc makes of an alignment.
fn rounded(align: usize) -> usize {
    align.checked_next_power_of_two().unwrap_or(1)
}
