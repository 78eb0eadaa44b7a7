//! The memory of one shard: for each class a stack of pointers, with its head; counters; the capacity policy's words.
//!
//! ```text
//! Region: heads | counters | references | slots
//!         top,end                    |0|p|p|p|.|.|
//!                                     ^bottom ^top ^end
//! ```
//!
//! Positions are distances from the region's start, so that 0 is a safe value wherever the fast paths look.
//!
//! Invariants:
//! I1. For each class `bottom <= top`, slots `bottom+1..=top` hold objects, or the null of a sized free, slot `bottom` is
//!     0 for ever.
//! I2. `top <= bottom + slots_max`. A push checks `top < end`; `end` is never above that.
//! I3. While a table entry names a region and no fence has stopped it, only sections write to it.

use crate::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::size_class::{CLASS, CLASSES, Class};

/// The stack of one class in one shard, in bytes from the start of its region: one word of the hot path.
#[repr(C, align(8))]
#[derive(Default)]
pub struct Head {
    /// The slot with the object on top.
    pub top: AtomicU32,
    /// Push refuses when `top` has reached it.
    pub end: AtomicU32,
}

/// Words of a region that count events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counter {
    /// A pop found its class empty.
    Refills = 0,
    /// A push found its class full.
    Flushes = 1,
    /// The kernel aborted a section.
    Aborts = 2,
}
/// Number of [`Counter`]s.
pub const COUNTERS: usize = 3;

const fn slot_starts() -> ([usize; CLASSES], usize) {
    let mut starts = [0; CLASSES];
    let mut next = 0;
    let mut class = 0;
    while class < CLASSES {
        starts[class] = next;
        next += CLASS[class].slots_max + 1;
        class += 1;
    }
    (starts, next)
}
const SLOT_START: [usize; CLASSES] = slot_starts().0;
/// Slots of a region, sentinels included.
pub const SLOTS: usize = slot_starts().1;

/// The per-CPU part of the caches.
#[repr(C, align(64))]
pub struct Region {
    /// By class.
    pub heads: [Head; CLASSES],
    /// By [`Counter`].
    pub counters: [AtomicUsize; COUNTERS],
    /// By class: the capacity policy's reference count and flag; approximate, never in a section.
    pub references: [AtomicU8; CLASSES],
    /// The class that the capacity policy passed last: the hand of its clock.
    pub clock_hand: AtomicU8,
    /// The stacks, class after class, each above its sentinel.
    pub slots: [AtomicUsize; SLOTS],
}

impl Region {
    /// Bytes from the start of a region to the sentinel of `class`.
    pub const fn bottom_offset(class: Class) -> usize {
        core::mem::offset_of!(Region, slots) + SLOT_START[class] * size_of::<usize>()
    }

    /// The address `offset` bytes from the start.
    pub fn at(&self, offset: usize) -> usize {
        core::ptr::from_ref(self) as usize + offset
    }

    /// Address of the sentinel of `class`.
    pub fn bottom(&self, class: Class) -> usize {
        self.at(Self::bottom_offset(class))
    }

    /// The sentinel of `class` and the first `count` slots above it.
    pub fn stack(&self, class: Class, count: usize) -> &[AtomicUsize] {
        &self.slots[SLOT_START[class]..=SLOT_START[class] + count]
    }

    /// Number of objects of `class` in the region, as far as one look can tell.
    pub fn len(&self, class: Class) -> usize {
        // Ordering: Relaxed, a snapshot for policy and statistics.
        let top = self.heads[class].top.load(Ordering::Relaxed) as usize;
        top.saturating_sub(Self::bottom_offset(class)) / size_of::<usize>()
    }

    /// The capacity of `class` now, in objects.
    pub fn capacity(&self, class: Class) -> usize {
        // Ordering: Relaxed, a snapshot for policy and statistics.
        let end = self.heads[class].end.load(Ordering::Relaxed) as usize;
        end.saturating_sub(Self::bottom_offset(class)) / size_of::<usize>()
    }

    /// Makes every class empty, with no capacity. No other thread may use the region meanwhile (I3). Class 0
    /// keeps its zeroes, as in the closed heads.
    pub fn reset(&self) {
        (1..CLASSES).for_each(|class| self.reset_class(class));
    }

    /// As [`Region::reset`], of one class.
    pub fn reset_class(&self, class: Class) {
        let head = &self.heads[class];
        // Ordering: Relaxed, published by the store of the table entry.
        head.top.store(Self::bottom_offset(class) as u32, Ordering::Relaxed);
        head.end.store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }

    /// Leaves the `count` objects on top of `class`, with no capacity for more. No other thread may use the
    /// region meanwhile (I3).
    pub fn keep_last(&self, class: Class, count: usize) {
        let bottom = SLOT_START[class];
        let first = bottom + 1 + self.len(class) - count;
        for at in 0..count {
            // Ordering: Relaxed throughout, published by the store of the table entry.
            let object = self.slots[first + at].load(Ordering::Relaxed);
            self.slots[bottom + 1 + at].store(object, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
        let top = Self::bottom_offset(class) + count * size_of::<usize>();
        let head = &self.heads[class];
        head.top.store(top as u32, Ordering::Relaxed); // Ordering: Relaxed, as above.
        head.end.store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }

    /// The slots, from the next page of the OS on: if all classes are empty, they may read as zero (I1).
    pub fn slot_pages(&self, os_page_bytes: usize) -> (usize, usize) {
        let start = core::mem::offset_of!(Region, slots).next_multiple_of(os_page_bytes);
        (self.at(start), size_of::<Region>() - start)
    }

    /// A counter's value, as one look can tell.
    pub fn counter(&self, counter: Counter) -> usize {
        // Ordering: Relaxed, a statistic.
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}

const _: () = assert!(size_of::<Region>() <= u32::MAX as usize);
