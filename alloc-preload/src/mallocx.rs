//! The functions of jemalloc(3) that allocate: `mallocx` and its relatives.
//!
//! A program that is linked with jemalloc (redis 8, for its scripts) calls them beside malloc, and would
//! otherwise get objects of jemalloc that it hands to our `malloc_usable_size`. Promises objects like all others, aligned and zeroed
//! up to their real size as the flags say; arenas and caches in the flags have no meaning here.
//!
//! All of them or none: an object of one may come to any other.

use crate::errno::{self, OBJECT_MAX};
use crate::jemalloc;
use crate::posix;
use core::ffi::c_int;
use core::ptr;

/// MALLOCX_ZERO.
const ZERO: c_int = 0x40;

/// The alignment that the flags ask for: its logarithm is in the lowest six bits.
fn align_of(flags: c_int) -> usize {
    1 << (flags & 63)
}

/// An object of at least `size` bytes; null when out of memory.
#[unsafe(no_mangle)]
pub extern "C" fn mallocx(size: usize, flags: c_int) -> *mut u8 {
    let allocate = if flags & ZERO != 0 { posix::allocate_cleared } else { posix::allocate };
    errno::null_is_enomem(allocate(align_of(flags), size))
}

/// Resizes an object; null when out of memory, and it stays as it was then.
///
/// # Safety
/// 1. `object` is a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rallocx(object: *mut u8, size: usize, flags: c_int) -> *mut u8 {
    if flags & ZERO == 0 {
        // SAFETY: duty 1.
        return errno::null_is_enomem(unsafe { resize(object, size, align_of(flags)) });
    }
    // SAFETY: duty 1.
    let before = unsafe { rsalloc_core::usable_size(object) };
    // By real sizes: what a smaller object has behind `size` is the program's too, since the next growth clears nothing of it.
    let real = jemalloc::nallocx(size, flags).max(size);
    // SAFETY: duty 1.
    let resized = errno::null_is_enomem(unsafe { resize(object, real, align_of(flags)) });
    if !resized.is_null() {
        // It may have got more than it asked for, so that it grows where it is.
        let kept = if resized == object { before } else { before.min(real) };
        // SAFETY: a live object.
        let after = unsafe { rsalloc_core::usable_size(resized) };
        if after > kept {
            // SAFETY: it has `after` bytes.
            unsafe { resized.add(kept).write_bytes(0, after - kept) };
        }
    }
    resized
}

/// As [`rallocx`], without the flags. Null when out of memory.
///
/// # Safety
/// 1. `object` is a live object.
unsafe fn resize(object: *mut u8, size: usize, align: usize) -> *mut u8 {
    if align <= posix::natural_align(size) {
        if size > OBJECT_MAX {
            return ptr::null_mut();
        }
        // SAFETY: duty 1.
        return unsafe { rsalloc_core::reallocate(object, size.max(1)) };
    }
    let moved = posix::allocate(align, size);
    if !moved.is_null() {
        // SAFETY: duty 1; both have that many bytes, and are not the same.
        unsafe {
            let len = rsalloc_core::usable_size(object).min(size);
            moved.copy_from_nonoverlapping(object, len);
            errno::keeping(|| rsalloc_core::free(object));
        }
    }
    moved
}

/// Resizes an object where it is, which never goes here; its size. MALLOCX_ZERO has nothing to clear.
///
/// # Safety
/// 1. `object` is a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xallocx(
    object: *mut u8,
    _size: usize,
    _extra: usize,
    _flags: c_int,
) -> usize {
    // SAFETY: duty 1.
    unsafe { rsalloc_core::usable_size(object) }
}

/// The size of an object.
///
/// # Safety
/// 1. `object` is a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sallocx(object: *mut u8, _flags: c_int) -> usize {
    // SAFETY: duty 1.
    unsafe { rsalloc_core::usable_size(object) }
}

/// Frees an object.
///
/// # Safety
/// 1. `object` is a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dallocx(object: *mut u8, _flags: c_int) {
    // SAFETY: duty 1.
    errno::keeping(|| unsafe { rsalloc_core::free(object) });
}

/// Frees an object, whose size is found by the object.
///
/// # Safety
/// 1. `object` is a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdallocx(object: *mut u8, _size: usize, _flags: c_int) {
    // SAFETY: duty 1.
    errno::keeping(|| unsafe { rsalloc_core::free(object) });
}
