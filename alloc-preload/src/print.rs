//! What librsalloc.so prints when it is asked: malloc_stats(3), malloc_info(3).
//!
//! Promises to allocate nothing itself (I3 of the crate).

use crate::errno;
use core::ffi::{c_int, c_void};
use rsalloc_core::internals::describe;
use rsalloc_core::internals::print::{Buffered, all_text, to_fd};
use rsalloc_core::internals::stats::heap;

/// See malloc_stats(3). As glibc's, it is no cancellation point: it writes by system calls of its own.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    errno::keeping(|| all_text(&mut to_fd(libc::STDERR_FILENO)));
}

/// See malloc_info(3). A bad option gives EINVAL, as glibc does, and sets errno, as its manual says.
///
/// # Safety
/// 1. `stream` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        errno::set(libc::EINVAL);
        return libc::EINVAL;
    }
    let mut out = Buffered::new(|bytes: &[u8]| {
        // SAFETY: duty 1; the bytes are live. A stream in error keeps its own error flag.
        unsafe { libc::fwrite(bytes.as_ptr().cast::<c_void>(), 1, bytes.len(), stream) };
    });
    let (stats, classes) = heap();
    let _ = describe::stats_xml(&mut out, &rsalloc_core::report(), &stats, &classes);
    0
}
