//! Samples of a heap profile: allocations with a record of their stack, while one runs.
//!
//! Promises: a sample has all that another object of its request has, in memory that a free recognises by its address alone: no class
//! in the page map. Where every free is looked at anyway (hardened), it lies where all objects do.

use super::api::{self, allocate_aligned};
use super::request::Request;
use super::slow::{self, OnFailure};
use crate::arch::{Registers, counted};
use crate::canary;
use crate::object::Fresh;
use crate::page_map;
use crate::profile::{self, Tracked, countdown};
use crate::sanitizer;
use crate::size_class::{CLASS, MEDIUM_MAX_BYTES, natural_align};

/// What `malloc_counted` leaves to be done: a countdown is over, or the size was not counted.
pub extern "C" fn malloc(size: usize, _: usize, caller: &Registers) -> *mut u8 {
    let is_due = match size <= MEDIUM_MAX_BYTES {
        true => countdown::is_due(size),
        false => countdown::count(size),
    };
    match is_due {
        true => slow::finish(allocate(Request::new(size, 1), caller), OnFailure::SetErrno),
        false => slow::malloc_uncounted(size),
    }
}

/// As [`malloc`], for `calloc_counted`, which has counted all sizes that it is called with.
pub extern "C" fn calloc(size: usize, _: usize, caller: &Registers) -> *mut u8 {
    match countdown::is_due(size) {
        true => {
            let object = allocate(Request::new(size, 1), caller);
            api::clear_all(slow::finish(object, OnFailure::SetErrno), size)
        }
        false => slow::calloc_uncounted(size),
    }
}

/// As [`malloc`], for `alloc_counted`.
pub extern "C" fn alloc(size: usize, align: usize, caller: &Registers) -> *mut u8 {
    let is_due = match size <= MEDIUM_MAX_BYTES && align <= 8 {
        true => countdown::is_due(size),
        false => countdown::count(size),
    };
    match is_due {
        true => slow::finish(allocate(Request::new(size, align), caller), OnFailure::ReturnOnly),
        false => slow::alloc_uncounted(size, align),
    }
}

/// `malloc_counted` of an architecture without assembly.
pub fn count_and_malloc(size: usize) -> *mut u8 {
    let request = Request::new(size, 1);
    match countdown::count(size) {
        true => slow::finish(allocate_here(request), OnFailure::SetErrno),
        false => slow::malloc_uncounted(size),
    }
}

/// Likewise `alloc_counted`.
pub fn count_and_alloc(size: usize, align: usize) -> *mut u8 {
    let request = Request::new(size, align);
    match countdown::count(size) {
        true => slow::finish(allocate_here(request), OnFailure::ReturnOnly),
        false => slow::alloc_uncounted(size, align),
    }
}

/// What an object at `address` moves to that could stay there for `request`; none if it stays. In a profile a resize is an
/// allocation of the new size and a free of the old one, so a sample does not stay, and one may have to be taken.
#[inline]
pub fn allocate_elsewhere(address: usize, request: Request) -> Option<*mut u8> {
    match watches_resizes() {
        false => None,
        true => allocate_elsewhere_slow(address, request),
    }
}

/// Whether an object that could stay where it is may have to move.
#[inline]
pub fn watches_resizes() -> bool {
    profile::is_on() || profile::live() != 0
}

#[cold]
#[inline(never)]
fn allocate_elsewhere_slow(address: usize, request: Request) -> Option<*mut u8> {
    if profile::is_on() && countdown::count(request.size) {
        return Some(allocate_sample(request));
    }
    let is_sample = page_map::class_at(address) == 0;
    is_sample.then(|| slow::alloc_by_section(request.size, request.align))
}

/// What an object moves to that is resized as `asked`: a sample of that, or an object of `larger` that is counted as `asked`.
/// Null when out of memory.
#[inline]
pub fn allocate_to_move(asked: Request, larger: Request) -> *mut u8 {
    match profile::is_on() {
        false => allocate_aligned(larger.size, larger.align),
        true => allocate_to_move_counted(asked, larger),
    }
}

#[cold]
#[inline(never)]
fn allocate_to_move_counted(asked: Request, larger: Request) -> *mut u8 {
    match countdown::count(asked.size) {
        true => allocate_sample(asked),
        false => slow::alloc_by_section(larger.size, larger.align),
    }
}

/// A sample whose stack is the caller's. Null when out of memory.
fn allocate_sample(request: Request) -> *mut u8 {
    slow::finish(allocate_here(request), OnFailure::ReturnOnly)
}

/// As [`super::allocate`], of what is counted here if a profile runs.
pub fn count_and_allocate(request: Request) -> Option<Fresh> {
    match profile::is_on() && countdown::count(request.size) {
        true => allocate_here(request),
        false => super::allocate(request),
    }
}

/// A sample whose stack is the caller's.
#[cold]
fn allocate_here(request: Request) -> Option<Fresh> {
    let mut call = Call { request, fresh: None };
    counted::with_registers(&raw mut call as usize, 0, allocate_call);
    call.fresh
}

struct Call {
    request: Request,
    fresh: Option<Fresh>,
}

extern "C" fn allocate_call(call: usize, _: usize, caller: &Registers) -> usize {
    // SAFETY: `allocate_here` passes its own, and waits.
    let call = unsafe { &mut *(call as *mut Call) };
    call.fresh = allocate(call.request, caller);
    0
}

/// A sample, with its record.
#[cold]
fn allocate(request: Request, caller: &Registers) -> Option<Fresh> {
    let stack = profile::stack_of(caller);
    let (fresh, tracked) = match place_for(request) {
        Some(fresh) => (fresh, Tracked::Yes),
        None => {
            let fresh = super::allocate(request)?;
            (fresh, if request.class == 0 || canary::is_on() { Tracked::Yes } else { Tracked::No })
        }
    };
    profile::record(fresh.object.address(), request.size, stack, tracked);
    Some(fresh)
}

/// Memory without a class in the page map for a request that has one: of the pool, or a span of its own.
fn place_for(request: Request) -> Option<Fresh> {
    if request.class == 0 || canary::is_on() || !super::init::ensure() {
        return None;
    }
    if profile::pool::serves(request.class) {
        let object = profile::allocate(request.class)?;
        sanitizer::object_taken(object.address());
        return Some(Fresh::used(object));
    }
    let align = request.align.max(natural_align(request.class));
    let size = CLASS[request.class].size;
    super::allocate(Request { class: 0, size, align })
}

/// A large object that is resized where it is or by its page tables: `resize` does it, from `old` on. In a profile that is an
/// allocation of the new size, and a free of the old one.
pub fn resized(
    old: usize,
    request: Request,
    resize: impl FnOnce() -> Option<usize>,
) -> Option<usize> {
    // Before the memory moves: another object may have the address then (profile I2).
    let entry = profile::take(old);
    let moved = resize();
    match (moved, &entry) {
        (None, Some(entry)) => profile::put_back(old, entry),
        (Some(_), Some(entry)) => profile::count_freed(entry),
        _ => {}
    }
    if let Some(address) = moved
        && profile::is_on()
        && countdown::count(request.size)
    {
        counted::with_registers(address, request.size, record_call);
    }
    moved
}

extern "C" fn record_call(address: usize, size: usize, caller: &Registers) -> usize {
    profile::record(address, size, profile::stack_of(caller), Tracked::Yes);
    0
}
