//! The page map: from an address to the size class of its slab in one load.
//!
//! Promises: lock-free look-up for any address, foreign ones included; pages outside the page-map range are
//! found by their segment's entry instead. Written by slab, read by the entries and by the slow free.
//!
//! Invariants:
//! I1. The byte of a page is the class if a slab starts there, else 0. It is set before an object
//!     of the slab is handed out and cleared before the span is released.

use crate::atomic::Ordering;
use crate::hot::HOT;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::entry::Kind;
use crate::size_class::Class;
use crate::units::{PAGE_MAP_PAGES, PAGE_SHIFT};

#[inline]
fn page_map_page(address: usize) -> Option<usize> {
    // Ordering: Relaxed, written once before any object exists.
    let page = address.wrapping_sub(HOT.page_map_base.load(Ordering::Relaxed)) >> PAGE_SHIFT;
    (page < PAGE_MAP_PAGES).then_some(page)
}

#[inline]
fn class_of_page(page: usize) -> Class {
    // Ordering: Relaxed, whoever hands out the object orders the byte before it (I1).
    HOT.pages[page].load(Ordering::Relaxed) as Class
}

/// The class of the slab that starts at the page of `address`; 0 if none does.
#[inline]
pub fn class_at(address: usize) -> Class {
    match page_map_page(address) {
        Some(page) => class_of_page(page),
        None => outside_class_at(address),
    }
}

/// As [`class_at`], but 0 for all addresses outside the page-map range, and without a call.
#[inline]
pub fn class_in_page_map(address: usize) -> Class {
    page_map_page(address).map_or(0, class_of_page)
}

/// The class at `address`, where [`class_in_page_map`] said `class`.
#[inline]
pub fn class_beyond(class: Class, address: usize) -> Class {
    match page_map_page(address) {
        None if class == 0 => outside_class_at(address),
        _ => class,
    }
}

#[cold]
fn outside_class_at(address: usize) -> Class {
    match PAGE_HEAP.entry_at(address) {
        Some(entry) if entry.kind() == Kind::Slab => entry.class.get() as Class,
        _ => 0,
    }
}

/// Says that a slab of `class` starts at `page_address`, or none does (0).
pub fn set_class_at(page_address: usize, class: Class) {
    if let Some(page) = page_map_page(page_address) {
        // Ordering: Relaxed, see `class_at`.
        HOT.pages[page].store(class as u8, Ordering::Relaxed);
    }
}
