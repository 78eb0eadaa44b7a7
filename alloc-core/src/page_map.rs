//! The page map: from an address to the size class of its slab in one load.
//!
//! Look-ups take no lock, and any address may be looked up. Outside the page-map range, the class is in the entry of the page.
//!
//! Invariants:
//! I1. The byte of a page is the class of the slab that starts there, or 0. It is set before an object of the slab is handed out,
//!     and cleared before the span is released.

use crate::atomic::Ordering;
use crate::hot::HOT;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::entry::Kind;
use crate::size_class::Class;
use crate::units::{PAGE_MAP_PAGES, PAGE_SHIFT};

/// The number of the page of `address` in the page map.
#[inline]
fn index_of(address: usize) -> Option<usize> {
    // Ordering: Relaxed, written once before any object exists.
    let page = address.wrapping_sub(HOT.page_map_base.load(Ordering::Relaxed)) >> PAGE_SHIFT;
    (page < PAGE_MAP_PAGES).then_some(page)
}

#[inline]
fn class_of_page(page: usize) -> Class {
    // Ordering: Relaxed, the hand-over of the object orders the byte before it (I1).
    HOT.pages[page].load(Ordering::Relaxed) as Class
}

/// The class of the slab that starts at the page of `address`; 0 if none does.
#[inline]
pub fn class_at(address: usize) -> Class {
    match index_of(address) {
        Some(page) => class_of_page(page),
        None => outside_class_at(address),
    }
}

/// As [`class_at`], but 0 for every address outside the page-map range, which needs no call.
#[inline]
pub fn class_in_page_map(address: usize) -> Class {
    index_of(address).map_or(0, class_of_page)
}

/// [`class_at`] of an address for which [`class_in_page_map`] is `class`.
#[inline]
pub fn class_beyond(class: Class, address: usize) -> Class {
    match index_of(address) {
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

/// Says that a slab of `class` starts at `page_address`, or that none does (0).
pub fn set_class_at(page_address: usize, class: Class) {
    if let Some(page) = index_of(page_address) {
        // Ordering: Relaxed, see `class_of_page`.
        HOT.pages[page].store(class as u8, Ordering::Relaxed);
    }
}
