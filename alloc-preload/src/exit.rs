//! `_exit`, `_Exit` and `quick_exit`: the statistics are printed and the published file is removed, as at `exit`.
//!
//! Promises what libc's do besides: all threads end at once, and no function of `atexit` is called. In a child on its parent's
//! memory, which ends so where its exec fails, nothing is said of the parent. libc's own `exit`, `abort` and children of
//! `posix_spawn` end by system calls of libc, and do not come here.

use core::ffi::c_int;
#[cfg(not(target_env = "musl"))]
use core::ffi::c_void;
use rsalloc_core::internals::engine;

/// See _exit(2).
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    engine::end_process(status)
}

/// See _Exit(3).
#[unsafe(no_mangle)]
pub extern "C" fn _Exit(status: c_int) -> ! {
    engine::end_process(status)
}

unsafe extern "C" {
    /// What `at_quick_exit` of glibc calls, which is no function of the library itself.
    #[cfg(not(target_env = "musl"))]
    fn __cxa_at_quick_exit(function: extern "C" fn(*mut c_void), library: *mut c_void) -> c_int;
    #[cfg(target_env = "musl")]
    fn at_quick_exit(function: extern "C" fn()) -> c_int;
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

#[cfg(not(target_env = "musl"))]
extern "C" fn at_load() {
    extern "C" fn tell(_: *mut c_void) {
        engine::tell_at_end();
    }
    // SAFETY: a function of this library, which is never unloaded. A failure leaves `quick_exit` as it is.
    unsafe { __cxa_at_quick_exit(tell, core::ptr::null_mut()) };
}

#[cfg(target_env = "musl")]
extern "C" fn at_load() {
    extern "C" fn tell() {
        engine::tell_at_end();
    }
    // SAFETY: as above; musl never unloads a library.
    unsafe { at_quick_exit(tell) };
}
