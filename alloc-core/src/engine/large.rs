//! Objects above the largest size class, or aligned beyond a page: spans of their own.
//!
//! Promises: memory fresh from the kernel is known to be zero; growth stays in place where it can and
//! moves page tables instead of bytes where it must.

use super::request::Request;
use crate::atomic::{AtomicUsize, Ordering};
use crate::fail::{Misuse, deny, fail};
use crate::guard;
use crate::node::Node;
use crate::object::{Fresh, Object};
use crate::page_heap::entry::{Kind, PageEntry};
use crate::page_heap::huge::HUGE;
use crate::page_heap::{PAGE_HEAP, SpanRequest};
use crate::profile;
use crate::size_class::{natural_align, object_size};
use crate::units::{PAGE_BYTES, SPAN_MAX_PAGES, pages_of};

/// Bytes and number of live large spans in segments.
static BYTES: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The part of a span that may lie unused behind an object that was shrunk.
const SLACK_PARTS: usize = 16;

/// From this size on a move by page tables is cheaper than a copy and the page faults of what it leaves (docs/adr/0056).
const MOVE_MIN_BYTES: usize = 2 << 20;

/// Whether a large object of this layout gets a mapping of its own.
pub fn has_own_mapping(request: Request) -> bool {
    pages_of(request.size) > SPAN_MAX_PAGES || pages_of(request.align) > SPAN_MAX_PAGES / 2
}

/// Serves a request without a class; none when out of memory.
pub fn allocate(request: Request) -> Option<Fresh> {
    let bytes = request.size.max(1);
    if has_own_mapping(request) {
        return acquire_huge(bytes, request.align);
    }
    let pages = pages_of(bytes);
    let align_pages = pages_of(request.align);
    let node = Node::here();
    let span = PAGE_HEAP.acquire(SpanRequest { align_pages, node, ..SpanRequest::large(pages) })?;
    account(0, pages);
    // SAFETY: the span was handed out to this call.
    let object = unsafe { Object::from_address(span.address()) }?;
    Some(Fresh { object, contents: span.contents })
}

fn acquire_huge(bytes: usize, align: usize) -> Option<Fresh> {
    HUGE.acquire(bytes, align).map(Fresh::zero)
}

/// Serves a request of any class by a standalone mapping: a last resort that needs no other tier. The object
/// may be freed by its class, so it has the size and the alignment of its kind.
pub fn allocate_standalone(request: Request) -> Option<Fresh> {
    let Request { class, size, align } = request;
    let natural = if class == 0 { 1 } else { natural_align(class) };
    let bytes = size.max(object_size(class)).max(1);
    acquire_huge(bytes, align.max(natural))
}

/// Frees a large, guarded or sampled object, or ends the process if it is none.
pub fn free(object: Object) {
    let address = object.address();
    if guard::owns(address) {
        profile::forget(address);
        // SAFETY: the program gives the object up.
        return unsafe { guard::free(address) };
    }
    if profile::owns(address) {
        // SAFETY: the program gives the object up.
        return unsafe { profile::free(address) };
    }
    profile::forget(address);
    if let Some(entry) = entry_of(address) {
        account(entry.pages.get() as usize, 0);
        // SAFETY: the span was live, and `object` was its owner.
        unsafe { PAGE_HEAP.release(entry) };
        PAGE_HEAP.trim();
        return;
    }
    // SAFETY: `object` was the owner of a span there, if there is one.
    if !unsafe { HUGE.release(address) } {
        misuse(address, Misuse::DoubleFree);
    }
}

/// Usable bytes of the large, guarded or sampled object at `address`. Ends the process if there is no such object, in the
/// words of `of_freed` if there was one.
pub fn bytes_at(address: usize, of_freed: Misuse) -> usize {
    if guard::owns(address) {
        return guard::size_of(address, of_freed);
    }
    if profile::owns(address) {
        return profile::size_of(address, of_freed);
    }
    match entry_of(address) {
        Some(entry) => entry.pages.get() as usize * PAGE_BYTES,
        None => HUGE.len_of(address).unwrap_or_else(|| misuse(address, of_freed)),
    }
}

/// Resizes without copying, if that can be done: in place, or by moving page tables. The new address.
///
/// # Safety
/// 1. A live large object is at `address`; if it moves, the caller gives the old address up.
pub unsafe fn resize(address: usize, size: usize) -> Option<usize> {
    let Some(entry) = entry_of(address) else {
        // SAFETY: duty 1.
        return (size >= MOVE_MIN_BYTES).then(|| unsafe { HUGE.resize(address, size) }).flatten();
    };
    let (old, new) = (entry.pages.get() as usize, pages_of(size));
    if new <= old {
        shrink(entry, old, new);
        return Some(address);
    }
    // SAFETY: the caller holds the span.
    if new <= SPAN_MAX_PAGES && unsafe { PAGE_HEAP.extend(entry, new - old) } {
        account(old, new);
        return Some(address);
    }
    move_pages(address, old, size)
}

fn shrink(entry: &'static PageEntry, old: usize, new: usize) {
    // A little slack saves the next growth. More than that is a waste, and giving it back is no system call.
    // SAFETY: the tail of a span that the caller holds and gives up.
    if old - new > old / SLACK_PARTS && unsafe { PAGE_HEAP.release_tail(entry, new) } {
        account(old, new);
        PAGE_HEAP.trim();
    }
}

/// Moves a span's memory by page tables into a mapping of its own: inside a segment it would be a kernel
/// area of its own for ever, of which a process may have 65,530 (vm.max_map_count).
fn move_pages(address: usize, old: usize, size: usize) -> Option<usize> {
    let len = old * PAGE_BYTES;
    if len < MOVE_MIN_BYTES {
        return None;
    }
    // SAFETY: the caller holds the span, of which only the addresses are left then.
    let (moved, left) =
        unsafe { (HUGE.take_over(address, len, size)?, Object::from_address(address)?) };
    free(left);
    Some(moved)
}

#[inline(never)]
fn entry_of(address: usize) -> Option<&'static PageEntry> {
    let entry = PAGE_HEAP.entry_at(address)?;
    (entry.kind() == Kind::Large && entry.page() == address).then_some(entry)
}

fn account(old: usize, new: usize) {
    // Ordering: Relaxed, statistics.
    BYTES.fetch_add(new.wrapping_sub(old).wrapping_mul(PAGE_BYTES), Ordering::Relaxed);
    let count = usize::from(new > 0).wrapping_sub(usize::from(old > 0));
    // Ordering: Relaxed, statistics.
    COUNT.fetch_add(count, Ordering::Relaxed);
}

/// Bytes and number of live large spans in segments, for `publish`.
pub const fn counters() -> [&'static AtomicUsize; 2] {
    [&BYTES, &COUNT]
}

#[cold]
fn misuse(address: usize, of_freed: Misuse) -> ! {
    let is_ours = PAGE_HEAP.entry_at(address).is_some();
    deny(is_ours && !PAGE_HEAP.is_held(address), of_freed, address);
    deny(is_ours || HUGE.covers(address), Misuse::InnerPointer, address);
    fail(Misuse::ForeignPointer, address)
}
