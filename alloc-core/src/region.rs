//! The memory of one shard: for each class a stack of pointers, with its head; counters; the capacity policy's words.
//!
//! ```text
//! region: heads | counters | references, transfers | short stacks | ... | long stacks, one for each class, mapped as they grow
//!         top,end                         |0|p|p|p|.|.|0|p|       | 0 p p p p p p p .  .  .  | (not mapped)
//!                                         ^bottom ^top ^end
//! ```
//!
//! A class begins with a *short stack*, which holds one magazine; the short stacks of all classes together take a few pages. A
//! class that needs more moves to its *long stack*, which has [`LONG_BYTES`] of addresses and is mapped as far as it is used.
//!
//! Positions are distances from the region's start, so that 0 is a safe value wherever the fast paths look. A position shows
//! which of the two stacks it lies in, so a section can tell with the top alone ([`Region::bottom_below`]).
//!
//! Invariants:
//! I1. For each class `bottom <= top`, slots `bottom+1..=top` hold objects, or the null of a sized free, slot `bottom` is
//!     0 for ever.
//! I2. `top <= bottom + slots` of the stack. A push checks `top < end`; `end` is 0, or in the same stack and never above that.
//! I3. While a table entry names a region and no fence has stopped it, only sections write to it.
//! I4. The slots below `end`, and from the bottom to the top, are mapped; what is mapped is never unmapped.

use crate::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::size_class::{CLASS, CLASSES, Class};
use crate::units::PAGE_BYTES;

/// The stack of one class in one shard, in bytes from the start of its region: one word of the hot path.
#[repr(C, align(8))]
#[derive(Default)]
pub struct Head {
    /// The slot with the object on top.
    pub top: AtomicU32,
    /// Push refuses when `top` has reached it.
    pub end: AtomicU32,
}

/// Both halves of a [`Head`], which one store changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// As in [`Head`].
    pub top: u32,
    /// As in [`Head`].
    pub end: u32,
}

impl Bounds {
    /// These bounds, of a stack of `class`, with another capacity: `capacity` objects, or as many as the stack has slots. A caller may
    /// ask for more than that where it has decided by the long stack, and another thread has emptied the shard since.
    pub const fn with_capacity(self, class: Class, capacity: usize) -> Bounds {
        let (bottom, slots) = match Region::long_bottom_if(class, self.top as usize) {
            Some(bottom) => (bottom, CLASS[class].slots_max),
            None => (Region::bottom_offset(class), CLASS[class].slots_short),
        };
        let capacity = if capacity < slots { capacity } else { slots };
        let end = if capacity == 0 { 0 } else { bottom + capacity * WORD };
        Bounds { end: end as u32, ..self }
    }

    /// Those of the empty long stack of `class`, with a capacity.
    pub const fn long(class: Class, capacity: usize) -> Bounds {
        Bounds { top: Region::long_bottom_offset(class) as u32, end: 0 }
            .with_capacity(class, capacity)
    }

    /// The head as a word of a little-endian machine, for the sections.
    pub const fn word(self) -> usize {
        self.top as usize | (self.end as usize) << u32::BITS
    }
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

/// A way between a cache and the tiers below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// Up: into the cache, or past it to the program.
    Refilled,
    /// Down: out of the cache, or past it from the program.
    Flushed,
}

/// Objects of one class that moved between a cache and the tiers below, since the start.
#[repr(C)]
pub struct Transfers {
    refilled: AtomicUsize,
    flushed: AtomicUsize,
}

impl Transfers {
    /// None so far.
    pub const fn none() -> Self {
        Transfers { refilled: AtomicUsize::new(0), flushed: AtomicUsize::new(0) }
    }

    /// How many have moved in this way.
    pub const fn word(&self, moved: Moved) -> &AtomicUsize {
        match moved {
            Moved::Refilled => &self.refilled,
            Moved::Flushed => &self.flushed,
        }
    }

    /// Counts objects, whatever thread works on the cache.
    pub fn add(&self, moved: Moved, objects: usize) {
        // Ordering: Relaxed, a statistic.
        self.word(moved).fetch_add(objects, Ordering::Relaxed);
    }
}

const WORD: usize = size_of::<usize>();

/// In `Region::seen`: the last looks in a row that found what the one before had seen, up to this number.
const RESTED: u32 = 7;

const fn slot_starts() -> ([usize; CLASSES], usize) {
    let mut starts = [0; CLASSES];
    let mut next = 0;
    let mut class = 0;
    while class < CLASSES {
        starts[class] = next;
        next += CLASS[class].slots_short + 1;
        class += 1;
    }
    (starts, next)
}
const SLOT_START: [usize; CLASSES] = slot_starts().0;
/// Slots of the short stacks, sentinels included.
pub const SLOTS: usize = slot_starts().1;

/// Addresses of a long stack: whole pages of every OS.
pub const LONG_BYTES: usize = 2 * PAGE_BYTES;
/// Where the first long stack begins.
const LONG_START: usize = size_of::<Region>().next_multiple_of(PAGE_BYTES);
/// Stacks of different classes begin at different cache lines of a page of 4 KiB: else all would use the same cache sets.
const COLOURS: usize = 64;
const COLOUR_BYTES: usize = 64;
/// Addresses from the start of a region to the end of its last long stack.
pub const SPAN_BYTES: usize = (LONG_START + CLASSES * LONG_BYTES).next_power_of_two();

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
    /// How the addresses of the long stacks are to be had, a [`LongStacks`].
    long_stacks: AtomicU8,
    /// By class: bytes of the long stack that are mapped.
    long_mapped: [AtomicU32; CLASSES],
    /// By class: what moved between the shard and the tiers below; never in a section.
    pub transfers: [Transfers; CLASSES],
    /// What the last look for idle shards saw, see [`Region::look`].
    seen: AtomicU32,
    /// The short stacks, class after class, each above its sentinel.
    pub slots: [AtomicUsize; SLOTS],
}

/// How the addresses of a region's long stacks are to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LongStacks {
    /// There are none.
    None = 0,
    /// They are mapped where nothing is mapped yet.
    Unmapped = 1,
    /// They are reserved without access.
    Sealed = 2,
}

impl Region {
    /// Bytes from the start of a region to the sentinel of `class` in its short stack.
    pub const fn bottom_offset(class: Class) -> usize {
        core::mem::offset_of!(Region, slots) + SLOT_START[class] * WORD
    }

    /// As [`Region::bottom_offset`], in its long stack.
    pub const fn long_bottom_offset(class: Class) -> usize {
        Self::long_start(class) + class % COLOURS * COLOUR_BYTES
    }

    const fn long_start(class: Class) -> usize {
        LONG_START + class * LONG_BYTES
    }

    /// The sentinel below `position`, a position in one of the stacks of `class`, in bytes from the start of a region.
    pub const fn bottom_below(class: Class, position: usize) -> usize {
        match Self::long_bottom_if(class, position) {
            Some(bottom) => bottom,
            None => Self::bottom_offset(class),
        }
    }

    /// As [`Region::bottom_below`], if `position` lies in the long stack.
    pub const fn long_bottom_if(class: Class, position: usize) -> Option<usize> {
        match position >= LONG_START {
            true => Some(Self::long_bottom_offset(class)),
            false => None,
        }
    }

    /// The address `offset` bytes from the start.
    pub fn at(&self, offset: usize) -> usize {
        core::ptr::from_ref(self).expose_provenance() + offset
    }

    /// The slot `offset` bytes from the start.
    ///
    /// # Safety
    /// 1. A slot of one of the stacks lies there, and is mapped (I4).
    pub unsafe fn slot(&self, offset: usize) -> &AtomicUsize {
        // SAFETY: duty 1; slots are atomics.
        unsafe { &*core::ptr::with_exposed_provenance(self.at(offset)) }
    }

    /// The stack of `class` at this moment.
    pub fn bounds(&self, class: Class) -> Bounds {
        let head = &self.heads[class];
        // Ordering: Relaxed, for both: a snapshot for policy and statistics.
        let (top, end) = (head.top.load(Ordering::Relaxed), head.end.load(Ordering::Relaxed));
        Bounds { top, end }
    }

    /// Bytes from the start to the sentinel of the stack that `class` has at this moment.
    pub fn bottom(&self, class: Class) -> usize {
        Self::bottom_below(class, self.bounds(class).top as usize)
    }

    /// The sentinel of `class` and the first `count` slots above it, of which there are no more than objects.
    pub fn stack(&self, class: Class, count: usize) -> impl Iterator<Item = &AtomicUsize> {
        let (bottom, count) = (self.bottom(class), count.min(self.len(class)));
        // SAFETY: I4: from the bottom to the top.
        (0..=count).map(move |at| unsafe { self.slot(bottom + at * WORD) })
    }

    /// Number of objects of `class` in the region, as far as one look can tell.
    pub fn len(&self, class: Class) -> usize {
        let top = self.bounds(class).top as usize;
        top.saturating_sub(Self::bottom_below(class, top)) / WORD
    }

    /// The capacity of `class` now, in objects.
    pub fn capacity(&self, class: Class) -> usize {
        let end = self.bounds(class).end as usize;
        end.saturating_sub(Self::bottom_below(class, end)) / WORD
    }

    /// Makes every class empty, with no capacity. No other thread may use the region meanwhile (I3). Class 0
    /// keeps its zeroes, as in the closed heads.
    pub fn reset(&self) {
        (1..CLASSES).for_each(|class| self.reset_class(class));
    }

    /// As [`Region::reset`], of one class.
    pub fn reset_class(&self, class: Class) {
        self.set_bounds(class, Bounds { top: Self::bottom_offset(class) as u32, end: 0 });
    }

    /// Changes the stack of `class`. No other thread may use the region meanwhile (I3).
    fn set_bounds(&self, class: Class, bounds: Bounds) {
        let head = &self.heads[class];
        // Ordering: Relaxed, for both: published by the store of the table entry.
        head.top.store(bounds.top, Ordering::Relaxed);
        head.end.store(bounds.end, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }

    /// Leaves the `count` objects on top of `class`, with no capacity for more. No other thread may use the
    /// region meanwhile (I3).
    pub fn keep_last(&self, class: Class, count: usize) {
        let (bottom, len) = (self.bottom(class), self.len(class));
        let gone = len - count;
        for at in 1..=count {
            // SAFETY: I4, for both: from the bottom to the top.
            let [to, from] = [at, at + gone].map(|at| unsafe { self.slot(bottom + at * WORD) });
            // Ordering: Relaxed, for both: published by the store of the table entry.
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.set_bounds(class, Bounds { top: (bottom + count * WORD) as u32, end: 0 });
    }

    /// Says how the long stacks are to be had. For the creator of the region.
    pub fn set_long_stacks(&self, how: LongStacks) {
        // Ordering: Relaxed, published with the region.
        self.long_stacks.store(how as u8, Ordering::Relaxed);
    }

    /// How the long stacks are to be had.
    pub fn long_stacks(&self) -> LongStacks {
        // Ordering: Relaxed, written before the region was published.
        match self.long_stacks.load(Ordering::Relaxed) {
            0 => LongStacks::None,
            1 => LongStacks::Unmapped,
            _ => LongStacks::Sealed,
        }
    }

    /// Address of the long stack of `class`, and how many bytes from there on are mapped.
    pub fn long_mapped(&self, class: Class) -> (usize, usize) {
        // Ordering: Acquire pairs with the Release in `set_long_mapped`: after the mapping.
        let bytes = self.long_mapped[class].load(Ordering::Acquire);
        (self.at(Self::long_start(class)), bytes as usize)
    }

    /// Bytes that are mapped of the long stack of `class` when it can hold `capacity` objects.
    pub const fn long_needed(class: Class, capacity: usize) -> usize {
        Self::long_bottom_offset(class) - Self::long_start(class) + (capacity + 1) * WORD
    }

    /// Records that so many bytes of the long stack of `class` are mapped, by the thread that has mapped the last of them.
    pub fn set_long_mapped(&self, class: Class, bytes: usize) {
        // Ordering: Release pairs with the Acquire in `long_mapped`.
        self.long_mapped[class].fetch_max(bytes as u32, Ordering::Release);
    }

    /// The short stacks, from the next page of the OS on: if all classes are empty, they may read as zero (I1).
    pub fn slot_pages(&self, os_page_bytes: usize) -> (usize, usize) {
        let start = core::mem::offset_of!(Region, slots).next_multiple_of(os_page_bytes);
        (self.at(start), size_of::<Region>().saturating_sub(start))
    }

    /// Bytes from the start of a region to the [`Transfers`] of class 0.
    pub const TRANSFERS_OFFSET: usize = core::mem::offset_of!(Region, transfers);

    /// How many looks in a row have found the shard as the one before, up to 7, this one included; 0 if a thread has worked on it since the
    /// last look, as far as heads and counters tell: objects that came and went again between two looks do not. Looks are made by one thread
    /// at a time, or two, and then one may be lost.
    pub fn look(&self) -> u32 {
        let mark = self.mark() & !RESTED;
        // Ordering: Relaxed throughout, hints of a policy.
        let seen = self.seen.load(Ordering::Relaxed);
        let rested = if seen & !RESTED == mark { (seen & RESTED).min(RESTED - 1) + 1 } else { 0 };
        self.seen.store(mark | rested, Ordering::Relaxed); // Ordering: Relaxed, as above.
        rested
    }

    /// What the last look said.
    pub fn rested(&self) -> u32 {
        // Ordering: Relaxed, as above.
        self.seen.load(Ordering::Relaxed) & RESTED
    }

    /// A sum that changes with each head and counter, but for 1 of 2^29 times.
    fn mark(&self) -> u32 {
        const ODD: u32 = 0x9e37_79b1; // Knuth, The Art of Computer Programming, 6.4: multiplicative hashing.
        // Ordering: Relaxed throughout, a snapshot for a policy.
        let heads = self.heads.iter().map(|head| head.top.load(Ordering::Relaxed));
        let counters = self.counters.iter().map(|count| count.load(Ordering::Relaxed) as u32);
        heads.chain(counters).fold(0, |sum, word| (sum.rotate_left(5) ^ word).wrapping_mul(ODD))
    }

    /// A counter's value, as one look can tell.
    pub fn counter(&self, counter: Counter) -> usize {
        // Ordering: Relaxed, a statistic.
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}

const _: () = {
    assert!(SPAN_BYTES <= u32::MAX as usize);
    let mut class = 1;
    while class < CLASSES {
        assert!(Region::long_needed(class, CLASS[class].slots_max) <= LONG_BYTES);
        class += 1;
    }
};
