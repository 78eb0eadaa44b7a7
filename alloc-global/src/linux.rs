//! [`RsAlloc`] on the engine, and what the engine tells of itself.

use crate::RsAlloc;
use core::alloc::{GlobalAlloc, Layout};
use rsalloc_core::internals::{engine, rseq};

#[doc(inline)]
pub use rsalloc_core::{
    Bound, Config, Defect, DefectKind, Metrics, MetricsFormat, Mode, ModeReason, Origin,
    PurgeMethod, Report, RequestedMode, Setting, ShardIndex, Stats, StatsAtExit, Value, check,
    limit_dirty, metrics, release, report, settings, stats,
};

/// Declares the program's configuration, a constant [`Config`], which holds from the first allocation on. The
/// environment variable `RSALLOC_CONF` overrides what is declared.
///
/// A program has at most one declaration: a second one is an error of the compiler or the linker. Libraries leave it to
/// the program. A declaration costs nothing at run time.
///
/// ```standalone_crate
/// use rsalloc::{Config, Origin, RsAlloc, Value};
///
/// #[global_allocator]
/// static GLOBAL: RsAlloc = RsAlloc;
///
/// rsalloc::config!(Config::new().dirty_bytes(4 << 20).hardened(true));
///
/// fn main() {
///     let dirty = rsalloc::settings().find(|setting| setting.key == "dirty").unwrap();
///     assert_eq!((dirty.value, dirty.origin), (Value::Number(4 << 20), Origin::Program));
/// }
/// ```
#[macro_export]
macro_rules! config {
    ($config:expr $(,)?) => {
        const _: () = {
            #[used]
            #[unsafe(export_name = "rsalloc_declared_config")]
            #[unsafe(link_section = "rsalloc_config")]
            static CONFIG: $crate::Config = $config;
        };
    };
}

/// Lets a child that runs on this process's memory allocate: one of `vfork`, or of `clone` with CLONE_VM.
///
/// The kernel does not protect restartable sequences in such a child, so no thread runs any while this value lives. A
/// program that librsalloc.so is preloaded into needs none: the library's `vfork` and `clone` do the same.
///
/// ```no_run
/// # unsafe fn clone_with_shared_memory() -> i32 { 0 }
/// # fn wait_for(_child: i32) {}
/// let shared = rsalloc::SharedMemory::with_child();
/// // SAFETY: the child runs on a stack of its own.
/// let child = unsafe { clone_with_shared_memory() };
/// wait_for(child);
/// drop(shared);
/// ```
#[derive(Debug)]
#[must_use = "the child may allocate while this value lives"]
pub struct SharedMemory(());

impl SharedMemory {
    /// To be made before the child is, and to be dropped in the parent, when the child has ended or runs another
    /// program, or was not made.
    pub fn with_child() -> Self {
        engine::init::ensure();
        rseq::abi::membarrier::expect_uncounted_tasks();
        rseq::vfork::begin();
        SharedMemory(())
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        rseq::vfork::end();
    }
}

impl RsAlloc {
    /// Bytes that may be used at `ptr`, at least those of its layout.
    ///
    /// ```
    /// use rsalloc::RsAlloc;
    /// use std::alloc::{GlobalAlloc, Layout};
    ///
    /// let layout = Layout::new::<[u8; 100]>();
    /// // SAFETY: the size is not 0; the object is live until it is freed with its layout.
    /// unsafe {
    ///     let object = RsAlloc.alloc(layout);
    ///     assert!(RsAlloc.usable_size(object) >= 100);
    ///     RsAlloc.dealloc(object, layout);
    /// }
    /// ```
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
