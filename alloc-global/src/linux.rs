//! [`RsAlloc`] on the engine, and what the engine tells of itself.

use crate::RsAlloc;
use core::alloc::{GlobalAlloc, Layout};

pub use rsalloc_core::{
    Defect, DefectKind, Mode, ModeReason, Origin, Report, Setting, Stats, Value, check, release,
    report, settings, stats,
};

/// To be called before a child on the process' memory is made (vfork, clone with CLONE_VM) that may allocate: from
/// then on no thread runs sections, which the kernel does not protect in the child. With librsalloc.so preloaded
/// both are called by its `vfork` and `clone`.
pub fn child_begins() {
    rsalloc_core::internals::engine::init::ensure();
    rsalloc_core::internals::rseq::abi::membarrier::expect_uncounted_tasks();
    rsalloc_core::internals::rseq::vfork::begin();
}

/// To be called when the child of [`child_begins`] has ended or runs another program, or was not made.
pub fn child_ended() {
    rsalloc_core::internals::rseq::vfork::end();
}

impl RsAlloc {
    /// Bytes that may be used at `ptr`, at least those of its layout.
    ///
    /// # Safety
    /// 1. `ptr` is a live object of this allocator.
    pub unsafe fn usable_size(&self, ptr: *const u8) -> usize {
        // SAFETY: duty 1.
        unsafe { rsalloc_core::usable_size(ptr) }
    }
}

// SAFETY: rsalloc-core gives out each object once, at least as large and as aligned as asked for, until
// it is freed; it never unwinds.
unsafe impl GlobalAlloc for RsAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        rsalloc_core::allocate_aligned(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty is ours.
        unsafe { rsalloc_core::free_sized(ptr, layout.size(), layout.align()) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        rsalloc_core::allocate_zeroed(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's duty is ours.
        unsafe { rsalloc_core::reallocate_sized(ptr, layout.size(), layout.align(), size) }
    }
}
