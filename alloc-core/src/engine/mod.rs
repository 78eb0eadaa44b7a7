//! The engine: allocate and free as a short list of tier calls.
//!
//! Promises: the contract of each public function. Called by the fronts; calls cpu_cache (classes) and
//! large (everything above). The hot paths are in `asm::entry`; what they can't do comes to the
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
pub mod slow;

use crate::atomic::{AtomicU64, Ordering};
use crate::canary;
use crate::cpu_cache::{self, Object};
use crate::fail::{Misuse, deny};
use crate::page_map;
use crate::publish::{publish_stats, stats_wanted};
use crate::size_class::{CLASS, CLASSES, Class, class_of, class_of_aligned, natural_align};
use crate::slab;
use crate::stats::stats;
use crate::sync::Rank;
use crate::units::{OBJECT_MAX_BYTES, PAGE_BYTES};

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

/// As [`allocate_aligned`], cleared.
pub fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    if size <= PAGE_BYTES / 2 {
        let object = allocate_aligned(size, align);
        if !object.is_null() {
            // SAFETY: a fresh object of at least that size.
            unsafe { object.write_bytes(0, size) };
        }
        return object;
    }
    let Some(object) = allocate_object(size, align) else { return core::ptr::null_mut() };
    let pointer = object.address as *mut u8;
    if !object.zeroed {
        // SAFETY: a fresh object of at least that size.
        unsafe { pointer.write_bytes(0, size) };
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

/// By class, the sizes that its objects may be resized to where they are: the least in the low half, how
/// many in the high half. None at first, and none if hardened: each object is looked at then.
static IN_PLACE: [AtomicU64; 128] = [const { AtomicU64::new(0) }; 128];

/// Up to the class's size, and down to half of it as long as it may be freed as what it is then.
fn open_in_place() {
    for class in 1..CLASSES {
        let most = CLASS[class].size;
        let below = (1..class).rev();
        let above = below.take_while(|&smaller| {
            CLASS[smaller].size > most / 2 && may_be_freed_as(class, CLASS[smaller].size)
        });
        let least = CLASS[above.last().unwrap_or(class) - 1].size.max(most / 2) + 1;
        let sizes = (most - least + 1) << 32 | least;
        // Ordering: Relaxed, published by READY.
        IN_PLACE[class].store(sizes as u64, Ordering::Relaxed);
    }
}

#[inline]
fn may_stay(ptr: *const u8, size: usize) -> bool {
    // Ordering: Relaxed, filled by init before any object exists.
    let sizes = IN_PLACE[page_map::class_at(ptr as usize)].load(Ordering::Relaxed) as usize;
    size.wrapping_sub(sizes & u32::MAX as usize) < sizes >> 32
}

/// Resizes `ptr` (null: allocates). Null when out of memory; `ptr` is untouched then. The alignment of
/// the result is that of [`allocate`].
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
#[inline]
pub unsafe fn reallocate(ptr: *mut u8, size: usize) -> *mut u8 {
    if may_stay(ptr, size) {
        return ptr;
    }
    // SAFETY: duty 1.
    unsafe { reallocate_slow(ptr, size) }
}

/// Whether an object of `class` may come back as one of `size` bytes: C's `free_sized` puts it into the
/// cache of that size, which promises the alignment of its own objects.
fn may_be_freed_as(class: Class, size: usize) -> bool {
    // A free of a size without a class looks for the object's own.
    class == 0 || natural_align(class) >= natural_align(class_of(size))
}

/// Who grows by a little will do so again: a quarter more saves the next copies. The size of the least such
/// class whose objects may be freed as one of `size`.
fn roomy(old: usize, size: usize) -> usize {
    let generous = old + old / 4;
    let first = class_of(generous);
    if size <= old || size >= generous {
        return size;
    }
    if first == 0 {
        return generous;
    }
    let near = (first..CLASSES).take(4);
    let fitting = { near }.find(|&class| may_be_freed_as(class, size));
    fitting.map_or(size, |class| CLASS[class].size)
}

/// # Safety
/// 1. `ptr` is null or a live object.
unsafe fn reallocate_slow(ptr: *mut u8, size: usize) -> *mut u8 {
    if ptr.is_null() {
        return allocate(size);
    }
    if canary::is_on() {
        return hardened::reallocate(ptr as usize, None, 1, size);
    }
    let class = page_map::class_at(ptr as usize);
    if class == 0 {
        // SAFETY: duty 1.
        return unsafe { reallocate_large(ptr, size, 1) };
    }
    let old = CLASS[class].size;
    let wanted = roomy(old, size);
    // SAFETY: duty 1; the object has `old` bytes.
    let moved = unsafe { move_object(ptr, old, wanted, 1) };
    if !moved.is_null() || wanted == size {
        return moved;
    }
    // SAFETY: as above; a failed move left it alone.
    unsafe { move_object(ptr, old, size, 1) }
}

/// Resizes an object whose layout is known.
///
/// # Safety
/// 1. `ptr` is a live object that was allocated with `old_size` and `align`.
pub unsafe fn reallocate_sized(
    ptr: *mut u8,
    old_size: usize,
    align: usize,
    size: usize,
) -> *mut u8 {
    if canary::is_on() {
        return hardened::reallocate(ptr as usize, Some(old_size), align, size);
    }
    let old_class = class_of_aligned(old_size, align);
    if old_class == 0 {
        // SAFETY: duty 1.
        return unsafe { reallocate_large(ptr, size, align) };
    }
    if class_of_aligned(size, align) == old_class {
        return ptr;
    }
    // SAFETY: duty 1; a sized free of this layout finds the class again.
    unsafe { move_object(ptr, old_size, size, align) }
}

/// # Safety
/// 1. `ptr` is a live large object, or the process ends.
unsafe fn reallocate_large(ptr: *mut u8, size: usize, align: usize) -> *mut u8 {
    let old = large::bytes_at(ptr as usize, Misuse::ResizeOfFreed);
    // In place the alignment stays; a move keeps that of a page only.
    if size > OBJECT_MAX_BYTES
        && align <= crate::os::page_bytes()
        && let Some(address) = large::resize(ptr as usize, size)
    {
        return address as *mut u8;
    }
    // SAFETY: duty 1; the object has `old` bytes.
    unsafe { move_object(ptr, old, size, align) }
}

/// # Safety
/// 1. `ptr` is a live object of at least `old` bytes.
unsafe fn move_object(ptr: *mut u8, old: usize, size: usize, align: usize) -> *mut u8 {
    let fresh = allocate_aligned(size, align);
    if !fresh.is_null() {
        // SAFETY: duty 1; two live objects don't overlap.
        unsafe { fresh.copy_from_nonoverlapping(ptr, old.min(size)) };
        free_slow(ptr as usize);
    }
    fresh
}

/// Bytes that the program may use at `ptr`, at least what it asked for; 0 for null.
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
pub unsafe fn usable_size(ptr: *const u8) -> usize {
    match page_map::class_at(ptr as usize) {
        class if class != 0 && !canary::is_on() => CLASS[class].size,
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
        Some(object) => object.address as *mut u8,
        None => core::ptr::null_mut(),
    }
}

fn allocate_object(size: usize, align: usize) -> Option<Object> {
    if size > isize::MAX as usize {
        return None;
    }
    if !init::ensure() {
        // A handler on top of init: the one tier that needs nothing of it.
        return large::allocate_apart(class_of_aligned(size, align), size, align);
    }
    if stats_wanted() {
        publish_stats(&stats());
    }
    if hardened::is_watching() {
        return hardened::allocate(size, align);
    }
    allocate_plain(size, align)
}

fn allocate_plain(size: usize, align: usize) -> Option<Object> {
    let class = class_of_aligned(size, align);
    let allocate_once = || match class {
        0 => large::allocate(size, align),
        class => cpu_cache::allocate(class),
    };
    allocate_once()
        .or_else(|| {
            // Memory may be idle in other shards and free spans: give it back and try again. Not on top
            // of a holder, where the locks are the reason.
            (!Rank::is_any_held()).then(release)?;
            allocate_once()
        })
        .or_else(|| large::allocate_apart(class, size, align))
}

/// What the entries could not do for `free(ptr)`.
#[cold]
pub(crate) fn free_slow(address: usize) {
    if address == 0 {
        return;
    }
    if canary::is_on() {
        return hardened::free(address, None);
    }
    match page_map::class_at(address) {
        0 => large::free(address),
        class => cpu_cache::free(class, address),
    }
}

/// What the entries could not do for `dealloc(ptr, size, align)`.
#[cold]
pub(crate) fn free_sized_slow(address: usize, size: usize, align: usize) {
    if address != 0 && canary::is_on() {
        return hardened::free(address, Some((size, align)));
    }
    let named = class_of_aligned(size, align);
    deny(slab::is_smaller(address, named), Misuse::WrongSize, address);
    free_slow(address);
}

/// Returns all cached and free memory of every shard and tier to the OS; bytes returned.
pub fn release() -> usize {
    cpu_cache::drain::drain_all()
}
