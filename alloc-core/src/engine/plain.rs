//! Allocate and resize, unchecked: what [`hardened`](super::hardened) wraps.
//!
//! Promises: what an object holds stays, up to the smaller size; a refused resize changes nothing.

use super::api::free_sized;
use super::request::Request;
use super::{fit, large, sampled, scarce};
use crate::cpu_cache;
use crate::fail::Misuse;
use crate::object::{Fresh, Object};
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::page_map;
use crate::size_class::{CLASS, Class};
use crate::sync::WaitBudget;
use crate::units::OBJECT_MAX_BYTES;
use core::ptr::{self, NonNull};

/// Serves a request: by the caches or a span, else by what idles elsewhere. None when out of memory.
pub(super) fn allocate(request: Request) -> Option<Fresh> {
    let allocate_once = || match request.class {
        0 => {
            cpu_cache::resume_decay();
            large::allocate(request)
        }
        class => cpu_cache::allocate(class),
    };
    allocate_once().or_else(|| {
        if request.class == 0 && large::has_own_mapping(request) && !PAGE_HEAP.is_limited() {
            // What idles here is in segments, which stay mapped: nothing of it makes such a mapping possible. Below a
            // limit it does: what is given back no longer counts.
            return None;
        }
        scarce::retry(allocate_once)
            .or_else(|| large::allocate_standalone(request))
            .or_else(|| scarce::wait_and_retry(allocate_once))
    })
}

/// Resizes the object at `ptr`, which the program names as `named`, if it does. Null when out of memory.
///
/// An object of a class moves by the hot paths, whose slow ways begin operations of their own.
///
/// # Safety
/// 1. `ptr` is a live object. 2. It was allocated as `named`, if there is such a request.
#[inline]
pub(super) unsafe fn resize(ptr: NonNull<u8>, named: Option<Request>, request: Request) -> *mut u8 {
    let class = named.map_or_else(|| page_map::class_at(address(ptr)), |named| named.class);
    if class == 0 {
        let _budget = WaitBudget::bounded();
        // SAFETY: duty 1.
        return unsafe { resize_large(ptr, request) };
    }
    let (old, larger) = match named {
        // SAFETY: duty 1.
        Some(_) if request.class == class => return unsafe { stay(ptr, request) },
        // A sized free of the request finds the class again.
        Some(named) => (named.size, request),
        None => (CLASS[class].size, fit::enlarged(CLASS[class].size, request)),
    };
    // SAFETY: duties 1 and 2; the object has `old` bytes.
    let moved = unsafe { relocate_small(ptr, class, old, request, larger) };
    if !moved.is_null() || larger == request {
        return moved;
    }
    // SAFETY: as above; a failed move left it alone.
    unsafe { relocate_small(ptr, class, old, request, request) }
}

/// As [`relocate`], of an object that may be freed as one of `class`, which is not 0.
///
/// # Safety
/// 1. `ptr` is a live object of at least `old` bytes. 2. The process does not check objects (canary).
#[inline]
unsafe fn relocate_small(
    ptr: NonNull<u8>,
    class: Class,
    old: usize,
    request: Request,
    larger: Request,
) -> *mut u8 {
    let fresh = sampled::allocate_to_move(request, larger);
    if !fresh.is_null() {
        // SAFETY: duty 1; the fresh object has at least `request.size` bytes. Two live objects don't overlap, and the old one
        // is given up; a size of the class finds the class again.
        unsafe {
            fresh.copy_from_nonoverlapping(ptr.as_ptr(), old.min(request.size));
            free_sized(ptr.as_ptr(), CLASS[class].size, 1);
        }
    }
    fresh
}

/// Resizes an object that may stay where it is: it does, unless a profile wants it elsewhere and there is memory.
///
/// # Safety
/// 1. `ptr` is a live object that serves the request as it is.
#[inline]
pub(super) unsafe fn stay(ptr: NonNull<u8>, request: Request) -> *mut u8 {
    let Some(fresh) = sampled::allocate_elsewhere(address(ptr), request) else {
        return ptr.as_ptr();
    };
    // SAFETY: duty 1: both objects have as many bytes.
    match unsafe { move_to(fresh, ptr, request.size) } {
        fresh if fresh.is_null() => ptr.as_ptr(),
        fresh => fresh,
    }
}

/// # Safety
/// 1. `ptr` is a live large object, or the process ends.
unsafe fn resize_large(ptr: NonNull<u8>, request: Request) -> *mut u8 {
    let old = large::bytes_at(address(ptr), Misuse::ResizeOfFreed);
    if request.is_impossible() {
        return ptr::null_mut();
    }
    // SAFETY: duty 1; the object has `old` bytes.
    unsafe { resize_span(ptr, request).unwrap_or_else(|| relocate(ptr, old, request)) }
}

/// Resizes a large object without copying, if that can be done.
///
/// # Safety
/// 1. `ptr` is a live large object.
pub(super) unsafe fn resize_span(ptr: NonNull<u8>, request: Request) -> Option<*mut u8> {
    // In place the alignment stays; a move by page tables keeps that of a page only.
    if request.size <= OBJECT_MAX_BYTES || request.align > os::page_bytes() {
        return None;
    }
    // SAFETY: duty 1.
    let resize = || unsafe { large::resize(address(ptr), request.size) };
    sampled::resized(address(ptr), request, resize).map(|moved| moved as *mut u8)
}

/// Moves a large object, or one of a hardened process, by a copy. Null when out of memory.
///
/// # Safety
/// 1. `ptr` is a live object of at least `old` bytes.
pub(super) unsafe fn relocate(ptr: NonNull<u8>, old: usize, request: Request) -> *mut u8 {
    let fresh = sampled::allocate_to_move(request, request);
    // SAFETY: duty 1; the fresh object has at least `request.size` bytes.
    unsafe { move_to(fresh, ptr, old.min(request.size)) }
}

/// Copies `len` bytes to `fresh` and frees the object at `ptr`; nothing if `fresh` is null, which it returns.
///
/// # Safety
/// 1. `ptr` is a live object of at least `len` bytes. 2. `fresh` is null, or another such object.
unsafe fn move_to(fresh: *mut u8, ptr: NonNull<u8>, len: usize) -> *mut u8 {
    if !fresh.is_null() {
        // SAFETY: duties 1 and 2; two live objects don't overlap, and the old one is given up.
        unsafe {
            fresh.copy_from_nonoverlapping(ptr.as_ptr(), len);
            super::free(Object::from_raw(ptr), page_map::class_at(address(ptr)), None);
        }
    }
    fresh
}

fn address(ptr: NonNull<u8>) -> usize {
    ptr.as_ptr().expose_provenance()
}
