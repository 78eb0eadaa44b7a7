//! The aligned allocations: posix_memalign(3), aligned_alloc, memalign, valloc, pvalloc.
//!
//! Promises glibc 2.36's rules: `posix_memalign` refuses a bad alignment and leaves errno alone then; out of
//! memory it sets errno beside what it returns; its result stays when it fails. `memalign` and `aligned_alloc` (one function there) round a bad
//! alignment up to a power of two.
//!
//! I1. Every object is allocated with [`effective_align`] of what was asked for, so that a sized
//!     free computes the same size class from the same two numbers.

use crate::errno::{self, OBJECT_MAX};
use core::ffi::c_int;
use rsalloc_core::internals::engine::api;
use rsalloc_core::internals::os;

rsalloc_core::c_posix_memalign!(
    /// See posix_memalign(3).
    posix_memalign,
    posix_memalign_slow
);

/// What the entry could not do.
///
/// # Safety
/// 1. `out` may be written.
#[cold]
unsafe extern "C" fn posix_memalign_slow(out: *mut *mut u8, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut u8>() {
        return libc::EINVAL;
    }
    // The engine leaves errno alone: its system calls are its own (`os`).
    let ptr = allocate(align, size);
    if ptr.is_null() {
        // As glibc and others do, which POSIX neither asks for nor forbids.
        errno::set(libc::ENOMEM);
        return libc::ENOMEM;
    }
    // SAFETY: duty 1.
    unsafe { *out = ptr };
    0
}

/// See aligned_alloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut u8 {
    allocate_rounding(align, size)
}

/// See memalign(3).
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut u8 {
    allocate_rounding(align, size)
}

/// See memalign(3); glibc's other name.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_memalign(align: usize, size: usize) -> *mut u8 {
    allocate_rounding(align, size)
}

/// See valloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut u8 {
    allocate_rounding(os::page_bytes(), size)
}

/// See valloc(3); glibc's other name.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_valloc(size: usize) -> *mut u8 {
    allocate_rounding(os::page_bytes(), size)
}

/// See pvalloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut u8 {
    allocate_pages(size)
}

/// See pvalloc(3); glibc's other name.
#[unsafe(no_mangle)]
pub extern "C" fn __libc_pvalloc(size: usize) -> *mut u8 {
    allocate_pages(size)
}

/// Frees what `allocate_rounding(align, size)` gave, without a look-up; null is ignored.
///
/// # Safety
/// 1. `ptr` is null or such an object, live.
#[inline]
pub unsafe fn free_aligned(ptr: *mut u8, align: usize, size: usize) {
    if !ptr.is_null() {
        let align = effective_align(align.next_power_of_two(), size);
        // SAFETY: duty 1, and I1: allocated with this very size and alignment.
        unsafe { rsalloc_core::free_sized(ptr, size, align) };
    }
}

/// What `malloc(size)` is aligned to.
#[inline]
pub fn natural_align(size: usize) -> usize {
    if size <= 8 { 8 } else { 16 }
}

fn allocate_pages(size: usize) -> *mut u8 {
    let page = os::page_bytes();
    match size.checked_next_multiple_of(page) {
        Some(len) => allocate_rounding(page, len),
        None => errno::null_with(libc::ENOMEM),
    }
}

fn allocate_rounding(align: usize, size: usize) -> *mut u8 {
    match align.checked_next_power_of_two() {
        Some(align) => errno::null_is_enomem(allocate(align, size)),
        None => errno::null_with(libc::EINVAL),
    }
}

/// `align` is a power of two. Null when out of memory or out of range.
#[inline]
pub fn allocate(align: usize, size: usize) -> *mut u8 {
    allocate_by(|size, align| rsalloc_core::allocate_aligned(size, align), align, size)
}

/// As [`allocate`], of which all that may be used is zero. What is fresh from the OS is not touched.
pub fn allocate_cleared(align: usize, size: usize) -> *mut u8 {
    allocate_by(api::allocate_cleared, align, size)
}

#[inline]
fn allocate_by(allocate: impl Fn(usize, usize) -> *mut u8, align: usize, size: usize) -> *mut u8 {
    let align = effective_align(align, size);
    // Where the object may start within its mapping counts against the same limit.
    if size.checked_add(align).is_none_or(|end| end > OBJECT_MAX) {
        return core::ptr::null_mut();
    }
    allocate(size, align)
}

#[inline]
fn effective_align(align: usize, size: usize) -> usize {
    align.max(natural_align(size))
}
