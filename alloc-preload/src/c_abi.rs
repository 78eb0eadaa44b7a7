//! The malloc family of C: malloc(3) and C23's sized frees.
//!
//! Promises glibc 2.36's behaviour: nothing above PTRDIFF_MAX, a unique object for size 0,
//! `realloc(p, 0)` frees and gives null, overflow is ENOMEM, frees keep errno.
//!
//! `malloc`, `calloc`, `free` and `free_sized` are naked entries made by the engine. The `__libc_` names are
//! here because a program that wraps `malloc` around `__libc_malloc` would otherwise get glibc's
//! objects from its own wrapper and ours from `posix_memalign`, and free both by one function.

use crate::errno::{self, OBJECT_MAX};
use crate::posix;
use core::ffi::c_void;

rsalloc_core::c_malloc!(malloc);
rsalloc_core::c_malloc!(__libc_malloc);
rsalloc_core::c_malloc! {
    /// [`malloc`] for functions of this library, which a program's own `malloc` does not replace.
    local rsalloc_own_malloc, rsalloc_core::internals::engine::slow::malloc
}
rsalloc_core::c_calloc!(calloc);
rsalloc_core::c_calloc!(__libc_calloc);
rsalloc_core::c_free!(free);
rsalloc_core::c_free!(__libc_free);
rsalloc_core::c_free_sized!(free_sized);

/// See realloc(3).
///
/// # Safety
/// 1. `ptr` is null or a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(ptr: *mut u8, size: usize) -> *mut u8 {
    // SAFETY: the caller's duty.
    unsafe { resize(ptr, size) }
}

/// See realloc(3); glibc's other name.
///
/// # Safety
/// 1. `ptr` is null or a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_realloc(ptr: *mut u8, size: usize) -> *mut u8 {
    // SAFETY: the caller's duty.
    unsafe { resize(ptr, size) }
}

/// See reallocarray(3).
///
/// # Safety
/// 1. `ptr` is null or a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(ptr: *mut u8, count: usize, size: usize) -> *mut u8 {
    match count.checked_mul(size) {
        // SAFETY: the caller's duty.
        Some(len) => unsafe { resize(ptr, len) },
        None => errno::null_with(libc::ENOMEM),
    }
}

/// C23: frees what `aligned_alloc(align, size)` gave; null is ignored.
///
/// # Safety
/// 1. `ptr` is null or a live object of `aligned_alloc` with this `align` and `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(ptr: *mut u8, align: usize, size: usize) {
    // SAFETY: the caller's duty.
    unsafe { posix::free_aligned(ptr, align, size) }
}

/// See malloc_usable_size(3).
///
/// # Safety
/// 1. `ptr` is null or a live object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(ptr: *mut c_void) -> usize {
    // SAFETY: the caller's duty.
    unsafe { rsalloc_core::usable_size(ptr.cast()) }
}

/// # Safety
/// 1. `ptr` is null or a live object.
#[inline]
unsafe fn resize(ptr: *mut u8, size: usize) -> *mut u8 {
    if ptr.is_null() {
        // Interpreters allocate by realloc(3) only (lua).
        return rsalloc_own_malloc(size);
    }
    if size == 0 || size > OBJECT_MAX {
        // SAFETY: duty 1.
        return unsafe { free_or_refuse(ptr, size) };
    }
    // SAFETY: duty 1.
    errno::null_is_enomem(unsafe { rsalloc_core::reallocate(ptr, size) })
}

/// # Safety
/// 1. `ptr` is a live object.
#[cold]
#[inline(never)]
unsafe fn free_or_refuse(ptr: *mut u8, size: usize) -> *mut u8 {
    if size != 0 {
        return errno::null_with(libc::ENOMEM);
    }
    // SAFETY: duty 1.
    errno::keeping(|| unsafe { rsalloc_core::free(ptr) });
    core::ptr::null_mut()
}
