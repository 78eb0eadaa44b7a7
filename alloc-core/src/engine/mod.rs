//! The engine: allocate and free as a short list of tier calls.
//!
//! Promises: the contract of each public function. Called by the fronts; calls cpu_cache (classes) and
//! large (everything above). The hot paths are in `arch::entry`; what they can't do comes to the
//! `_slow` functions here.
//!
//! ```text
//! malloc(size)                            free(ptr)
//!   entry: size -> class, pop               entry: page map -> class, push
//!   allocate_slow                           free_slow
//!     cpu_cache::allocate                     cpu_cache::free
//!       refill <- depot | slab <- page_heap     flush -> depot | slab -> page_heap
//!     large::allocate                         large::free
//! ```

pub mod fork;
mod hardened;
pub mod init;
pub mod large;
mod load;
mod resize;
mod scarce;
pub mod slow;

pub use load::keep_loaded;
pub use resize::{reallocate, reallocate_sized};

use crate::arch::ADDRESS_SPACE_BYTES;
use crate::canary;
use crate::config::{self, Key};
use crate::cpu_cache;
use crate::fail::{Misuse, deny};
use crate::object::{Contents, Fresh};
use crate::page_heap::PAGE_HEAP;
use crate::page_map;
use crate::publish::{publish_report, publish_stats, stats_wanted};
use crate::sanitizer;
use crate::size_class::{CLASS, Class, class_of, class_of_aligned};
use crate::slab;
use crate::stats::stats;
use crate::sync::WaitBudget;
use crate::units::PAGE_BYTES;

crate::rust_alloc! {
    /// Allocates `size` bytes aligned to `align`, a power of two. Null when out of memory.
    allocate_aligned
}

crate::rust_dealloc! {
    /// Frees an object whose size and alignment at allocation are known: no look-up.
    free_sized
}

/// Allocates `size` bytes aligned to 16 (to 8 if `size <= 8`). A size of 0 gives a unique object. Null
/// when out of memory.
pub fn allocate(size: usize) -> *mut u8 {
    allocate_aligned(size, 8)
}

/// As [`allocate_aligned`], of which the `size` bytes are cleared.
pub fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    allocate_and_clear(size, align, |_| size)
}

/// As [`allocate`], of which all that may be used is cleared: a program of C may grow an object by
/// `malloc_usable_size`, or by a `realloc` that leaves it in place.
pub fn allocate_cleared(size: usize) -> *mut u8 {
    allocate_and_clear(size, 8, |object| match class_of(size) {
        // Nearly always: the length is known before the object's page is looked up.
        class if class == page_map::class_at(object as usize) && is_plain(class) => {
            CLASS[class].size
        }
        // SAFETY: the object is fresh, so live.
        _ => unsafe { usable_size(object) },
    })
}

/// Whether all of an object of `class` may be used.
fn is_plain(class: Class) -> bool {
    class != 0 && !canary::is_on()
}

#[inline]
fn allocate_and_clear(size: usize, align: usize, bytes: impl Fn(*const u8) -> usize) -> *mut u8 {
    if size <= PAGE_BYTES / 2 {
        let object = allocate_aligned(size, align);
        if !object.is_null() {
            // SAFETY: a fresh object of at least so many bytes.
            unsafe { object.write_bytes(0, bytes(object)) };
        }
        return object;
    }
    let Some(Fresh { object, contents }) = allocate_object(size, align) else {
        return core::ptr::null_mut();
    };
    let pointer = object.into_raw();
    if contents != Contents::Zero {
        // SAFETY: a fresh object of at least so many bytes.
        unsafe { pointer.write_bytes(0, bytes(pointer)) };
    }
    pointer
}

/// Frees an object of any front; null is ignored; a pointer of another allocator ends the process with
/// one line.
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
#[inline]
pub unsafe fn free(ptr: *mut u8) {
    free_slow(ptr as usize);
}

/// Bytes that the program may use at `ptr`, at least what it asked for; 0 for null.
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
pub unsafe fn usable_size(ptr: *const u8) -> usize {
    match page_map::class_at(ptr as usize) {
        class if is_plain(class) => CLASS[class].size,
        _ => usable_size_slow(ptr),
    }
}

#[cold]
fn usable_size_slow(ptr: *const u8) -> usize {
    match ptr as usize {
        0 => 0,
        address if canary::is_on() => hardened::usable_size(address),
        address => large::bytes_at(address, Misuse::SizeOfFreed),
    }
}

/// What the entry could not do for `malloc(size)`.
#[cold]
pub(crate) fn allocate_slow(size: usize) -> *mut u8 {
    allocate_aligned_slow(size, 1)
}

/// What the entry could not do for `alloc(size, align)`.
#[cold]
pub(crate) fn allocate_aligned_slow(size: usize, align: usize) -> *mut u8 {
    match allocate_object(size, align) {
        Some(fresh) => fresh.object.into_raw(),
        None => core::ptr::null_mut(),
    }
}

fn allocate_object(size: usize, align: usize) -> Option<Fresh> {
    if is_impossible(size, align) {
        return None;
    }
    if !init::ensure() {
        // A handler on top of init: the one tier that needs nothing of it.
        return large::allocate_apart(class_of_aligned(size, align), size, align);
    }
    let _budget = WaitBudget::bounded();
    if stats_wanted() {
        publish_report(&init::report());
        publish_stats(&stats());
    }
    let fresh = match hardened::is_watching() {
        true => hardened::allocate(size, align),
        false => allocate_plain(size, align),
    }?;
    sanitizer::object_taken(fresh.object.address());
    Some(fresh)
}

/// Whether no system could serve the request, so that none is asked.
fn is_impossible(size: usize, align: usize) -> bool {
    size.saturating_add(align) > ADDRESS_SPACE_BYTES
}

fn allocate_plain(size: usize, align: usize) -> Option<Fresh> {
    let class = class_of_aligned(size, align);
    let allocate_once = || match class {
        0 => large::allocate(size, align),
        class => cpu_cache::allocate(class),
    };
    allocate_once().or_else(|| {
        if class == 0 && large::has_own_mapping(size, align) {
            // What idles here is in segments, which stay mapped: nothing of it makes such a mapping possible.
            return None;
        }
        scarce::retry(allocate_once)
            .or_else(|| large::allocate_apart(class, size, align))
            .or_else(|| scarce::wait_and_retry(allocate_once))
    })
}

/// What the entries could not do for `free(ptr)`.
#[cold]
pub(crate) fn free_slow(address: usize) {
    if address == 0 {
        return;
    }
    let _budget = WaitBudget::bounded();
    if canary::is_on() {
        return hardened::free(address, None);
    }
    sanitizer::object_given_up(address);
    match page_map::class_at(address) {
        0 => large::free(address),
        class => cpu_cache::free(class, address),
    }
}

/// What the entries could not do for `dealloc(ptr, size, align)`.
#[cold]
pub(crate) fn free_sized_slow(address: usize, size: usize, align: usize) {
    if address != 0 && canary::is_on() {
        let _budget = WaitBudget::bounded();
        return hardened::free(address, Some((size, align)));
    }
    let named = class_of_aligned(size, align);
    deny(slab::is_smaller(address, named), Misuse::WrongSize, address);
    free_slow(address);
}

/// Sets how many bytes of free pages may stay resident at least: the setting `dirty`. Returns whether it was set;
/// what `RSALLOC_CONF` says stays.
///
/// ```
/// if !rsalloc::limit_dirty(32 << 20) {
///     eprintln!("RSALLOC_CONF sets another limit");
/// }
/// ```
pub fn limit_dirty(bytes: usize) -> bool {
    let is_set = init::ensure() && config::set_number_if_unset(Key::Dirty, bytes);
    if is_set {
        PAGE_HEAP.set_dirty_limit(bytes / PAGE_BYTES);
    }
    is_set
}

/// Gives all cached and free memory back to the OS: that of each CPU's cache, of the tiers behind them, and free pages.
/// Returns the number of bytes.
///
/// ```
/// drop(vec![1u8; 100 << 20]);
/// println!("{} bytes given back", rsalloc::release());
/// ```
pub fn release() -> usize {
    cpu_cache::drain::drain_all()
}
