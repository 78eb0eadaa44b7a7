//! [`RsAlloc`] where the engine does not run: the standard library's `System`.

extern crate std;

use crate::RsAlloc;
use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;

#[cfg(not(feature = "system-elsewhere"))]
compile_error!(
    "rsalloc needs 64-bit Linux; its feature `system-elsewhere` uses std's System on other platforms"
);

/// Declares the program's configuration, which means nothing here.
#[macro_export]
macro_rules! config {
    ($config:expr $(,)?) => {};
}

// SAFETY: each method is System's of the same name, with the same arguments.
unsafe impl GlobalAlloc for RsAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duty is ours.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty is ours.
        unsafe { System.dealloc(ptr, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duty is ours.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's duty is ours.
        unsafe { System.realloc(ptr, layout, size) }
    }
}
