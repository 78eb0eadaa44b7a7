//! rsalloc as a Rust global allocator.
#![no_std]

use core::alloc::{GlobalAlloc, Layout};

/// The allocator: `#[global_allocator] static GLOBAL: RsAlloc = RsAlloc;`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RsAlloc;

// SAFETY: alloc-core gives out each object once, at least as large and as aligned as asked for.
unsafe impl GlobalAlloc for RsAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        alloc_core::allocate_aligned(layout.size(), layout.align())
    }
    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty is ours.
        unsafe { alloc_core::free_sized(ptr, layout.size(), layout.align()) }
    }
    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        alloc_core::allocate_zeroed(layout.size(), layout.align())
    }
    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's duty is ours.
        unsafe { alloc_core::reallocate_sized(ptr, layout.size(), layout.align(), size) }
    }
}
