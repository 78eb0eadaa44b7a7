//! [`RsAlloc`] on the engine, and what the engine tells of itself.

use crate::RsAlloc;
use core::alloc::{GlobalAlloc, Layout};

pub use rsalloc_core::{
    Config, Defect, DefectKind, Mode, ModeReason, Origin, PurgeMethod, Report, RequestedMode,
    Setting, ShardIndex, Stats, StatsAtExit, Value, check, limit_dirty, release, report, settings,
    stats,
};

/// Declares the program's configuration, a constant [`Config`], which holds from the first allocation on. The
/// environment variable `RSALLOC_CONF` overrides what is declared.
///
/// A program has at most one declaration: a second one is an error of the compiler or the linker. Libraries leave it to
/// the program. A declaration costs nothing at run time.
///
/// ```
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
