//! errno as the C functions promise it: set to ENOMEM or EINVAL on failure, kept by every free.
//!
//! The naked `malloc` and `free` do not use this module: their slow paths keep the same promise inside the engine.

use core::ffi::c_int;

/// The largest object: a larger one would overflow a pointer difference.
pub const OBJECT_MAX: usize = isize::MAX as usize;

/// Sets errno and gives the null that the caller returns.
#[cold]
pub fn null_with(code: c_int) -> *mut u8 {
    set(code);
    core::ptr::null_mut()
}

/// `ptr`, with errno set to ENOMEM if it is null.
#[inline]
pub fn null_is_enomem(ptr: *mut u8) -> *mut u8 {
    if ptr.is_null() { null_with(libc::ENOMEM) } else { ptr }
}

/// Runs `f` and puts errno back as it was.
#[inline]
pub fn keeping<R>(f: impl FnOnce() -> R) -> R {
    let before = get();
    let result = f();
    set(before);
    result
}

/// Sets errno.
pub fn set(code: c_int) {
    // SAFETY: libc gives the calling thread's own errno, always valid.
    unsafe { *libc::__errno_location() = code }
}

/// Reads errno.
pub fn get() -> c_int {
    // SAFETY: as in `set`.
    unsafe { *libc::__errno_location() }
}
