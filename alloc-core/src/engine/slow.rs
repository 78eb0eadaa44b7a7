//! The slow functions of the entries, by the names that the assembly jumps to: here a request is resolved.
//!
//! Promises: the same contract as the entry, whatever made the hot path leave; C functions set errno on
//! failure, and frees leave it alone.
//!
//! Each but `calloc` first tries the biased shard of the thread: on the atomic path this is the hot path. The class comes
//! from the tables or the page map and is passed to the `#[cold]` function.

use super::api;
use super::request::Request;
use crate::arch::counted;
use crate::atomic::{AtomicU8, Ordering};
use crate::cpu_cache::shard::leases;
use crate::cpu_cache::{self, Shard};
use crate::hot::HOT;
use crate::node;
use crate::object::{Fresh, Object};
use crate::os;
use crate::page_map;
use crate::profile;
use crate::rseq::outcome::Pop;
use crate::rseq::registration;
use crate::rseq::{Index, Sections};
use crate::size_class::{
    CLASSES, Class, MEDIUM_MAX_BYTES, MEDIUM_SHIFT, TINY_MAX_BYTES, class_of_aligned,
};
use core::ptr;

/// What a function does when memory is out, besides returning null.
#[derive(Clone, Copy)]
pub(super) enum OnFailure {
    SetErrno,
    ReturnOnly,
}

/// `malloc`: empty class, large size or an aborted section.
pub extern "C" fn malloc(size: usize) -> *mut u8 {
    let mut class = 0;
    if let Some(shard) = leases::own_shard() {
        class = shown_class_of(size);
        if let Some(object) = shard.pop(class).object() {
            return object.into_raw();
        }
    }
    // While a profile runs this is the way of every call, so nothing else is asked before.
    if class == 0 && profile::is_on() {
        return counted::malloc_counted(size);
    }
    serve(size, 1, class, OnFailure::SetErrno)
}

/// As [`malloc`], for a size that a profile has counted.
pub extern "C" fn malloc_uncounted(size: usize) -> *mut u8 {
    let class = small_class_of(size);
    match pop(class) {
        Some(object) => object.into_raw(),
        None => serve(size, 1, class, OnFailure::SetErrno),
    }
}

/// `calloc`: as [`malloc`], or a product that overflows. What may be used is cleared, not only what was asked
/// for.
pub extern "C" fn calloc(count: usize, size: usize) -> *mut u8 {
    let len = count.checked_mul(size).filter(|&len| len <= isize::MAX as usize);
    let allocate = |len: usize| match profile::is_on() {
        true if len <= TINY_MAX_BYTES => counted::calloc_counted(len),
        true if len <= MEDIUM_MAX_BYTES => api::clear_all(counted::malloc_counted(len), len),
        _ => api::allocate_cleared(len, 8),
    };
    let object = len.map_or(ptr::null_mut(), allocate);
    if object.is_null() {
        os::set_errno(libc::ENOMEM);
    }
    object
}

/// `calloc` of a product that a profile has counted.
pub extern "C" fn calloc_uncounted(len: usize) -> *mut u8 {
    api::clear_all(malloc_uncounted(len), len)
}

/// `alloc`: as [`malloc`], or a larger alignment.
pub extern "C" fn alloc(size: usize, align: usize) -> *mut u8 {
    if profile::is_on() {
        return counted::alloc_counted(size, align);
    }
    alloc_uncounted(size, align)
}

/// As [`alloc`], for a size that a profile has counted.
#[inline]
pub extern "C" fn alloc_uncounted(size: usize, align: usize) -> *mut u8 {
    let class = class_of_aligned(size, align);
    match pop(class) {
        Some(object) => object.into_raw(),
        None => serve(size, align, class, OnFailure::ReturnOnly),
    }
}

/// As [`alloc_uncounted`], for functions that no entry calls: by a section first, as the entry would.
pub(super) fn alloc_by_section(size: usize, align: usize) -> *mut u8 {
    let class = class_of_aligned(size, align);
    let popped = sections_by_cpu().and_then(|sections| {
        // SAFETY: a pop's status, of which this call alone knows.
        unsafe { Pop::of(sections.pop(class)) }.object()
    });
    popped.map_or_else(|| alloc_uncounted(size, align), Object::into_raw)
}

/// Resolves a request and serves it: by the first locked shard tried, if it has an object, else by the engine. `class` is 0
/// if the caller does not know it.
#[cold]
#[inline(never)]
pub(super) fn serve(size: usize, align: usize, class: Class, on_failure: OnFailure) -> *mut u8 {
    let request = Request::with_class(class, size, align);
    if let Some(object) = cpu_cache::try_pop(request.class) {
        return object.into_raw();
    }
    finish(super::allocate(request), on_failure)
}

/// What a function returns.
#[inline]
pub(super) fn finish(fresh: Option<Fresh>, on_failure: OnFailure) -> *mut u8 {
    match (fresh, on_failure) {
        (Some(fresh), _) => fresh.object.into_raw(),
        (None, OnFailure::SetErrno) => {
            os::set_errno(libc::ENOMEM);
            ptr::null_mut()
        }
        (None, OnFailure::ReturnOnly) => ptr::null_mut(),
    }
}

/// `free`: null, full class, large or foreign pointer, or an aborted section.
///
/// # Safety
/// 1. `ptr` is null or a live object; one that the engine does not know ends the process.
pub unsafe extern "C" fn free(ptr: *mut u8) {
    let class = page_map::class_in_page_map(ptr as usize);
    // SAFETY: duty 1.
    unsafe {
        if !push(class, ptr) && !push_where_nodes(class, ptr) {
            free_slow(ptr, class);
        }
    }
}

/// # Safety
/// 1. `ptr` is null or a live object. 2. `class` is what the page map says of it.
#[cold]
#[inline(never)]
unsafe fn free_slow(ptr: *mut u8, class: Class) {
    let class = page_map::class_beyond(class, ptr as usize);
    // SAFETY: duty 1: the program gives the object up.
    if let Some(object) = unsafe { Object::from_address(ptr as usize) }
        && let Some(object) = cpu_cache::try_push(class, object)
    {
        super::free(object, class, None);
    }
}

/// `free_sized`: null, full class, large size or an aborted section; or an object of a smaller class than the
/// size's, which ends the process here and on the way home elsewhere (docs/misuse.md).
///
/// # Safety
/// 1. `ptr` is null or a live object of that size.
pub unsafe extern "C" fn free_sized(ptr: *mut u8, size: usize) {
    let class = page_map::class_in_page_map(ptr as usize);
    let is_smaller = class < small_class_of(size);
    // SAFETY: duty 1.
    unsafe {
        if is_smaller || !push(class, ptr) && !push_where_closed(class, ptr) {
            dealloc_slow(ptr, size, 1, class);
        }
    }
}

/// `dealloc`: as [`free_sized`], or a larger alignment.
///
/// # Safety
/// 1. `ptr` is null or a live object of that size and alignment.
pub unsafe extern "C" fn dealloc(ptr: *mut u8, size: usize, align: usize) {
    let class = page_map::class_in_page_map(ptr as usize);
    let is_plain = align <= 8 && size <= MEDIUM_MAX_BYTES;
    let named = if is_plain { small_class_of(size) } else { class_of_aligned(size, align) };
    let is_smaller = class < named;
    // SAFETY: duty 1.
    unsafe {
        if is_smaller || !push(class, ptr) && !push_where_closed(class, ptr) {
            dealloc_slow(ptr, size, align, class);
        }
    }
}

/// # Safety
/// 1. `ptr` is null or a live object of that size and alignment. 2. `class` is what the page map says of it.
#[cold]
#[inline(never)]
unsafe fn dealloc_slow(ptr: *mut u8, size: usize, align: usize, class: Class) {
    let named = Request::new(size, align);
    let class = page_map::class_beyond(class, ptr as usize);
    // SAFETY: duty 1: the program gives the object up.
    let Some(object) = (unsafe { Object::from_address(ptr as usize) }) else { return };
    let left = match class < named.class {
        true => Some(object),
        false => cpu_cache::try_push(class, object),
    };
    if let Some(object) = left {
        super::free(object, class, Some(named));
    }
}

/// As `class_of`, by the tables of the entries; 0 for larger sizes, before they are filled, and while a profile runs.
#[inline(always)]
fn shown_class_of(size: usize) -> Class {
    class_by(&HOT.tiny, &HOT.medium, size)
}

/// As `class_of`, by tables; 0 for larger sizes, and before they are filled.
#[inline(always)]
pub(super) fn small_class_of(size: usize) -> Class {
    class_by(&HOT.kept_tiny, &HOT.kept_medium, size)
}

#[inline(always)]
fn class_by<const TINY: usize, const MEDIUM: usize>(
    tiny: &[AtomicU8; TINY],
    medium: &[AtomicU8; MEDIUM],
    size: usize,
) -> Class {
    let class = if size <= TINY_MAX_BYTES {
        &tiny[size]
    } else if size <= MEDIUM_MAX_BYTES {
        &medium[(size + (1 << MEDIUM_SHIFT) - 1) >> MEDIUM_SHIFT]
    } else {
        return 0;
    };
    // Ordering: Relaxed: a thread with a biased shard has come past READY; without one, 0 is computed again.
    let class = usize::from(class.load(Ordering::Relaxed));
    // SAFETY: the tables hold classes.
    unsafe { core::hint::assert_unchecked(class < CLASSES) };
    class
}

/// Pops from the thread's own shard.
#[inline(always)]
fn pop(class: Class) -> Option<Object> {
    leases::own_shard().and_then(|shard| shard.pop(class).object())
}

/// Pushes to the thread's own shard; whether it has the object now.
///
/// # Safety
/// 1. `ptr` is null or a live object of `class`, which the caller gives up if this is true.
#[inline(always)]
unsafe fn push(class: Class, ptr: *mut u8) -> bool {
    // SAFETY: duty 1.
    let slot = unsafe { Object::from_address(ptr as usize) };
    // A null has class 0, which is full.
    leases::own_shard().is_some_and(|shard| shard.push_slot(class, slot))
}

/// Sized frees come here while a profile runs, or where there are several nodes: pushes by a section, as the entry would; whether the
/// shard has the object now.
///
/// # Safety
/// 1. `ptr` is null or a live object of `class`, which the caller gives up if this is true.
#[inline]
unsafe fn push_where_closed(class: Class, ptr: *mut u8) -> bool {
    // SAFETY: duty 1.
    (profile::is_on() || node::are_many()) && unsafe { push_by_section(class, ptr) }
}

/// As [`push_where_closed`], for frees without a size, which a profile leaves open.
///
/// # Safety
/// 1. As there.
#[inline]
unsafe fn push_where_nodes(class: Class, ptr: *mut u8) -> bool {
    // SAFETY: duty 1.
    node::are_many() && unsafe { push_by_section(class, ptr) }
}

/// # Safety
/// 1. As for [`push_where_closed`].
#[inline]
unsafe fn push_by_section(class: Class, ptr: *mut u8) -> bool {
    // A null has class 0, which is full. By `cpu_id` the entries are open: no free is checked.
    sections_by_cpu().is_some_and(|sections| cpu_cache::push_if_here(sections, class, ptr as usize))
}

/// The sections, if the entries use them: those of shards by `cpu_id`.
#[inline]
fn sections_by_cpu() -> Option<Sections> {
    registration::sections().filter(|sections| sections.index == Index::CpuId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class::class_of;

    #[test]
    fn the_tables_have_the_classes_that_are_computed() {
        assert!(crate::engine::init::ensure());
        for size in 0..=MEDIUM_MAX_BYTES {
            assert_eq!(small_class_of(size), class_of(size), "{size} B");
        }
        assert_eq!(small_class_of(MEDIUM_MAX_BYTES + 1), 0);
    }
}
