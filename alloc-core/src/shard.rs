//! The memory that sections and entries touch: one [`Region`] for each shard, and [`Hot`], the one
//! static that leads to everything on the hot path.
//!
//! Promises: an all-zero `Hot` is valid: its tables name no region and no class, so every entry finds
//! its class empty or full and the slow twin initialises. Called by asm (offsets), rseq, cpu_cache,
//! page_map; calls nobody.
//!
//! ```text
//! Hot: closed heads | window base | size tables | shard table --> Region: heads | counters | marks | slots
//!      ^                                          |                       top,end                    |0|p|p|p|.|.|
//!      +---- 0: stopped, unborn, no shard --------+                                                  ^bottom ^top ^end
//! ```
//!
//! Everything is relative, so that 0 is a safe value wherever the hot path looks: a table entry is the
//! distance of a region from `Hot`, `top` and `end` are distances from the region's start.
//!
//! Invariants:
//! I1. For each class `bottom <= top`, slots `bottom+1..=top` hold objects, slot `bottom` is 0 for ever.
//! I2. `top <= bottom + slots_max`. Whoever pushes checks `top < end`; `end` is never above that.
//! I3. A table entry is 0 or leads to a region that is never unmapped. At distance 0, where stopped and
//!     unborn shards lead, lie the closed heads: every class is empty (top at a 0 word) and full (end 0).
//! I4. While its table entry names it and it is not fenced off, a region is written by sections only.
//! I5. A 16-bit index with its sign cannot leave the table that the entries use: what it can't be bounded
//!     by, it needs not be. Only entries of real CPUs below `SHARDS_MAX` are ever other than 0.

use crate::size_class::{
    CLASS, CLASSES, Class, MEDIUM_MAX_BYTES, MEDIUM_SHIFT, TINY_MAX_BYTES, class_of,
};
use crate::units::{SHARDS_MAX, WINDOW_PAGES};

use crate::atomic::{AtomicIsize, AtomicU8, AtomicU32, AtomicUsize, Ordering};
/// See `units`.
pub use crate::units::SHARDS_MAX as SHARD_BOUND;

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
    /// By class: marks of the capacity policy; approximate, never in a section.
    pub marks: [AtomicU8; CLASSES],
    /// The class that the policy looks at next for capacity to take away.
    pub hand: AtomicU8,
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

    /// Makes every class empty, with no capacity. Nobody else may use the region meanwhile (I4). Class 0
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

    /// Leaves the `count` objects on top of `class`, with no capacity for more. Nobody else may use the region
    /// meanwhile (I4).
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

/// Words at the start of a region that sections may touch whatever `top` is: heads and counters.
const CLOSED_WORDS: usize = core::mem::offset_of!(Region, marks) / size_of::<usize>();

/// Classes of sizes up to `TINY_MAX_BYTES`, class 0 included.
pub const TINY_CLASSES: usize = class_of(TINY_MAX_BYTES) + 1;

/// Half of the indices that fit into 16 bits.
const INDICES: usize = 1 << 15;

/// Everything that the entries read, reachable by one address.
#[repr(C, align(64))]
pub struct Hot {
    /// Where table entries of 0 lead (I3): the start of a region without a slot. The sections that count
    /// events write to its counters, which nobody reads.
    pub closed: [AtomicUsize; CLOSED_WORDS],
    /// Aborts of the entries' sections, counted on the way to the slow twins.
    pub aborts: AtomicUsize,
    /// Start of the window; 0 until it is chosen.
    pub window: AtomicUsize,
    /// The class of sizes up to `TINY_MAX_BYTES`.
    pub tiny: [AtomicU8; TINY_MAX_BYTES + 8],
    /// The class of sizes up to `MEDIUM_MAX_BYTES`, by `(size + 127) >> 7`.
    pub medium: [AtomicU8; (MEDIUM_MAX_BYTES >> MEDIUM_SHIFT) + 8],
    /// The size of objects by class, for classes of sizes up to `TINY_MAX_BYTES`; 0 of others.
    pub object_bytes: [AtomicU32; TINY_CLASSES.next_multiple_of(2)],
    /// By `mm_cid`: the region of each shard, in the mode of that name; as `table`.
    pub table_cid: [AtomicIsize; SHARDS_MAX],
    /// What negative indices (no registration) find; always 0 (I5).
    pub unregistered: [AtomicIsize; INDICES],
    /// By `cpu_id`: the region of each shard, in bytes from the start of this struct; 0 if it is closed.
    pub table: [AtomicIsize; INDICES],
    /// The class of the slab at each page of the window, 0 if it is no slab; see page_map.
    pub pages: [AtomicU8; WINDOW_PAGES],
}

/// The one `Hot` of the process.
pub static HOT: Hot = const {
    // SAFETY: zero is a valid value of each field: integers.
    unsafe { core::mem::MaybeUninit::<Hot>::zeroed().assume_init() }
};

/// What a table entry says that leads to `region`, or to none.
pub fn entry_of(region: Option<&Region>) -> isize {
    region.map_or(0, |region| region.at(0).wrapping_sub(&raw const HOT as usize) as isize)
}

/// The region that a table entry leads to, if it is open.
pub fn region_of(entry: isize) -> Option<&'static Region> {
    let region = (&raw const HOT).wrapping_byte_offset(entry).cast::<Region>();
    // SAFETY: I3: regions are never unmapped.
    (entry != 0).then(|| unsafe { &*region })
}

const _: () = assert!(SHARDS_MAX <= INDICES && size_of::<Region>() <= u32::MAX as usize);
