//! Allocate and resize, unchecked: what [`hardened`](super::hardened) wraps.
//!
//! Promises: what an object holds stays, up to the smaller size; a refused resize changes nothing.

use super::api::free_sized;
use super::request::Request;
use super::{fit, large, sampled, scarce};
use crate::canary;
use crate::cpu_cache;
use crate::fail::Misuse;
use crate::object::{Fresh, Object};
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::page_map;
use crate::size_class::CLASS;
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
/// # Safety
/// 1. `ptr` is a live object. 2. It was allocated as `named`, if there is such a request.
pub(super) unsafe fn resize(ptr: NonNull<u8>, named: Option<Request>, request: Request) -> *mut u8 {
    let class = named.map_or_else(|| page_map::class_at(address(ptr)), |named| named.class);
    if class == 0 {
        // SAFETY: duty 1.
        return unsafe { resize_large(ptr, request) };
    }
    if let Some(named) = named {
        if request.class == class {
            // SAFETY: duty 1.
            return unsafe { stay(ptr, request) };
        }
        // SAFETY: duties 1 and 2; a sized free of the request finds the class again.
        return unsafe { relocate(ptr, named.size, request, request) };
    }
    let old = CLASS[class].size;
    let larger = fit::enlarged(old, request);
    // SAFETY: duty 1; the object has `old` bytes.
    let moved = unsafe { relocate(ptr, old, request, larger) };
    if !moved.is_null() || larger == request {
        return moved;
    }
    // SAFETY: as above; a failed move left it alone.
    unsafe { relocate(ptr, old, request, request) }
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
    unsafe { resize_span(ptr, request).unwrap_or_else(|| relocate(ptr, old, request, request)) }
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

/// Moves an object by a copy, to one of the size of `larger`; a profile counts it as `request`. Null when out of memory.
///
/// # Safety
/// 1. `ptr` is a live object of at least `old` bytes.
pub(super) unsafe fn relocate(
    ptr: NonNull<u8>,
    old: usize,
    request: Request,
    larger: Request,
) -> *mut u8 {
    let fresh = sampled::allocate_to_move(request, larger);
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
            give_up(ptr);
        }
    }
    fresh
}

/// Frees an object that was moved, by the hot path if its class has one. Not in a hardened process, where the entry compares the size
/// with what the program asked for.
///
/// # Safety
/// 1. `ptr` is a live object, which the caller gives up.
unsafe fn give_up(ptr: NonNull<u8>) {
    let class = page_map::class_at(address(ptr));
    // SAFETY: duty 1; a size of the class finds the class again.
    unsafe {
        match class == 0 || canary::is_on() {
            true => super::free(Object::from_raw(ptr), class, None),
            false => free_sized(ptr.as_ptr(), CLASS[class].size, 1),
        }
    }
}

fn address(ptr: NonNull<u8>) -> usize {
    ptr.as_ptr().expose_provenance()
}
