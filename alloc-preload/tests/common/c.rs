//! The C functions under test, called so that the compiler neither knows nor removes them.

use std::ffi::{CStr, c_int, c_void};
use std::hint::black_box;

pub type Ptr = *mut c_void;

macro_rules! functions {
    ($($name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        mod raw {
            use super::*;
            unsafe extern "C" { $( pub fn $name($($arg: $type),*) $(-> $result)?; )* }
        }
        $( pub unsafe fn $name($($arg: $type),*) $(-> $result)? {
            type Function = unsafe extern "C" fn($($type),*) $(-> $result)?;
            // SAFETY: the caller's duties are those of the C function.
            unsafe { black_box(raw::$name as Function)($($arg),*) }
        } )*
    };
}

functions! {
    malloc(size: usize) -> Ptr;
    free(ptr: Ptr);
    calloc(count: usize, size: usize) -> Ptr;
    realloc(ptr: Ptr, size: usize) -> Ptr;
    reallocarray(ptr: Ptr, count: usize, size: usize) -> Ptr;
    posix_memalign(out: *mut Ptr, align: usize, size: usize) -> c_int;
    aligned_alloc(align: usize, size: usize) -> Ptr;
    memalign(align: usize, size: usize) -> Ptr;
    valloc(size: usize) -> Ptr;
    pvalloc(size: usize) -> Ptr;
    malloc_usable_size(ptr: Ptr) -> usize;
    malloc_trim(pad: usize) -> c_int;
    mallopt(param: c_int, value: c_int) -> c_int;
    malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int;
    malloc_stats();
    mallinfo() -> libc::mallinfo;
    mallinfo2() -> libc::mallinfo2;
}

pub type FreeSized = unsafe extern "C" fn(Ptr, usize);
pub type FreeAlignedSized = unsafe extern "C" fn(Ptr, usize, usize);

/// C23's `free_sized`: glibc has it since 2.43, so it is looked up.
pub fn free_sized() -> Option<FreeSized> {
    // SAFETY: the function of that name has that type.
    unsafe { std::mem::transmute(look_up(c"free_sized")) }
}

/// C23's `free_aligned_sized`.
pub fn free_aligned_sized() -> Option<FreeAlignedSized> {
    // SAFETY: the function of that name has that type.
    unsafe { std::mem::transmute(look_up(c"free_aligned_sized")) }
}

pub fn look_up(name: &CStr) -> Ptr {
    // SAFETY: the name ends with a zero.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

pub fn errno() -> c_int {
    // SAFETY: the calling thread's own errno.
    unsafe { *libc::__errno_location() }
}

pub fn set_errno(code: c_int) {
    // SAFETY: the calling thread's own errno.
    unsafe { *libc::__errno_location() = code }
}

/// Asserts that `f` gives null and sets errno to `code`.
#[track_caller]
pub fn assert_null_with(code: c_int, f: impl FnOnce() -> Ptr) {
    set_errno(0);
    let ptr = f();
    let errno = errno();
    assert!(ptr.is_null(), "{ptr:?}, but null was expected");
    assert_eq!(errno, code);
}

/// Writes a pattern of `seed` to all `len` bytes.
///
/// # Safety
/// 1. They may be written.
pub unsafe fn fill(ptr: Ptr, len: usize, seed: u8) {
    for i in 0..len {
        // SAFETY: duty 1.
        unsafe { ptr.cast::<u8>().add(i).write(pattern(seed, i)) };
    }
}

/// Asserts the pattern of [`fill`].
///
/// # Safety
/// 1. The bytes may be read.
#[track_caller]
pub unsafe fn assert_filled(ptr: Ptr, len: usize, seed: u8) {
    for i in 0..len {
        // SAFETY: duty 1.
        let seen = unsafe { ptr.cast::<u8>().add(i).read() };
        assert_eq!(seen, pattern(seed, i), "byte {i} of {len} at {ptr:?}");
    }
}

fn pattern(seed: u8, i: usize) -> u8 {
    seed.wrapping_add((i as u8).wrapping_mul(31)).wrapping_add((i >> 8) as u8)
}
