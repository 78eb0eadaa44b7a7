//! The functions of jemalloc(3) that allocate: `mallocx` and its relatives.
//!
//! A program that is linked with jemalloc (redis 8, for its scripts) calls them beside malloc, and would
//! otherwise get objects of jemalloc that it hands to our `malloc_usable_size`. Promises objects like all others, aligned and zeroed
//! as the flags say; arenas and caches in the flags have no meaning here.
//!
//! All of them or none: an object of one may come to any other.

use crate::errno::{self, OBJECT_MAX};
use crate::posix;
use core::ffi::c_int;

/// MALLOCX_ZERO.
const ZERO: c_int = 0x40;

/// The alignment that the flags ask for: its logarithm is in the lowest six bits.
fn align_of(flags: c_int) -> usize {
    1 << (flags & 63)
}

/// An object of at least `size` bytes; null when out of memory.
#[unsafe(no_mangle)]
pub extern "C" fn mallocx(size: usize, flags: c_int) -> *mut u8 {
    let object = errno::null_is_enomem(posix::allocate(align_of(flags), size));
    if !object.is_null() && flags & ZERO != 0 {
        // SAFETY: it has that many bytes.
        unsafe { object.write_bytes(0, size) };
    }
    object
}

/// Resizes an object; null when out of memory, and it stays as it was then.
///
/// # Safety
/// 1. `object` is a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rallocx(object: *mut u8, size: usize, flags: c_int) -> *mut u8 {
    // SAFETY: duty 1.
    let before = unsafe { rsalloc_core::usable_size(object) };
    let align = align_of(flags);
    let resized = if align <= posix::natural_align(size) {
        if size > OBJECT_MAX {
            return errno::null_with(libc::ENOMEM);
        }
        // SAFETY: duty 1.
        errno::null_is_enomem(unsafe { rsalloc_core::reallocate(object, size.max(1)) })
    } else {
        let moved = errno::null_is_enomem(posix::allocate(align, size));
        if !moved.is_null() {
            // SAFETY: both have that many bytes, and are not the same; then duty 1.
            unsafe {
                moved.copy_from_nonoverlapping(object, before.min(size));
                errno::keeping(|| rsalloc_core::free(object));
            }
        }
        moved
    };
    if !resized.is_null() && flags & ZERO != 0 && size > before {
        // SAFETY: it has `size` bytes now.
        unsafe { resized.add(before).write_bytes(0, size - before) };
    }
    resized
}

/// Resizes an object where it is, which never goes here; its size.
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
