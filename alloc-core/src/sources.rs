//! The assignment of the writes that `counters` counted to parts of the allocator. With the feature `counters` only.

use crate::counters;
use crate::depot::DEPOT;
use crate::hot::HOT;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::segment::HEADER_PAGES;
use crate::slab::SLABS;
use crate::units::SEGMENT_PAGES;

/// The parts; `part_of` returns an index of this list.
pub const PARTS: [&str; 9] = [
    "depot",
    "magazines",
    "slab_classes",
    "page_heap",
    "segment_headers",
    "page_entries",
    "slab_bitmaps",
    "hot_and_page_map",
    "other",
];

/// Writes to shared lines and moves of them, by part.
pub fn by_part() -> [(u64, u64); PARTS.len()] {
    let mut sums = [(0, 0); PARTS.len()];
    for (address, writes, moves) in counters::shared() {
        let sum = &mut sums[part_of(address)];
        *sum = (sum.0 + writes, sum.1 + moves);
    }
    sums
}

fn part_of(line: usize) -> usize {
    let name = if let Some(name) = DEPOT.part_of(line) {
        name
    } else if is_in(&SLABS, line) {
        "slab_classes"
    } else if is_in(&PAGE_HEAP, line) {
        "page_heap"
    } else if is_in(&HOT, line) {
        "hot_and_page_map"
    } else if let Some(segment) = PAGE_HEAP.segment_at(line) {
        match (line - segment.base()) / 64 {
            ..HEADER_PAGES => "segment_headers",
            HEADER_PAGES..SEGMENT_PAGES => "page_entries",
            _ => "slab_bitmaps",
        }
    } else {
        "other"
    };
    PARTS.iter().position(|part| *part == name).unwrap_or(PARTS.len() - 1)
}

fn is_in<T>(whole: &'static T, line: usize) -> bool {
    // Its first cache line may begin before it.
    let at = core::ptr::from_ref(whole) as usize & !63;
    (at..at + 64 + size_of::<T>()).contains(&line)
}
