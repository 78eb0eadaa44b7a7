//! The memory that sections and entries touch: one [`Region`] for each shard, and [`Hot`], the one
//! static that leads to everything on the hot path.
//!
//! Promises: an all-zero `Hot` is valid: its bounds are 0, so every section refuses and the slow twin
//! initialises. Called by asm (offsets), rseq, cpu_cache, page_map; calls nobody.
//!
//! ```text
//! Hot: bounds | window base | size tables | shard table --> Region: heads | marks | slots
//!                                              |                       top,end    |0|p|p|p|.|.|
//!                                              +--> the closed region             ^bottom ^top ^end
//! ```
//!
//! Invariants:
//! I1. For each class `bottom <= top`, slots `bottom+1..=top` hold objects, slot `bottom` is 0 for ever.
//! I2. `top <= bottom + slots_max`. Whoever pushes checks `top < end`; `end` is never above that.
//! I3. Table entries below the bound point to a region that is never unmapped; a stopped or unborn
//!     shard points to the closed region, where every class is empty (top at a 0 slot) and full (end 0).
//! I4. While its table entry names it and it is not fenced off, a region is written by sections only.

use crate::size_class::{CLASS, CLASSES, Class, MEDIUM_MAX_BYTES, MEDIUM_SHIFT, TINY_MAX_BYTES};
use crate::units::{SHARDS_MAX, WINDOW_PAGES};

use crate::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};
/// See `units`.
pub use crate::units::SHARDS_MAX as SHARD_BOUND;

/// The stack of one class in one shard. Addresses, not indices: the hot path adds nothing to them.
#[repr(C)]
#[derive(Default)]
pub struct Head {
    /// Address of the slot with the object on top.
    pub top: AtomicUsize,
    /// Push refuses when `top` has reached it.
    pub end: AtomicUsize,
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

    /// Address of the sentinel of `class`.
    pub fn bottom(&self, class: Class) -> usize {
        core::ptr::from_ref(self) as usize + Self::bottom_offset(class)
    }

    /// Number of objects of `class` in the region, as far as one look can tell.
    pub fn len(&self, class: Class) -> usize {
        // Ordering: Relaxed, a snapshot for policy and statistics.
        (self.heads[class].top.load(Ordering::Relaxed) - self.bottom(class)) / size_of::<usize>()
    }

    /// The capacity of `class` now, in objects.
    pub fn capacity(&self, class: Class) -> usize {
        // Ordering: Relaxed, a snapshot for policy and statistics.
        let end = self.heads[class].end.load(Ordering::Relaxed);
        end.saturating_sub(self.bottom(class)) / size_of::<usize>()
    }

    /// Makes every class empty, with no capacity. Nobody else may use the region meanwhile (I4).
    pub fn reset(&self) {
        for (class, head) in self.heads.iter().enumerate() {
            // Ordering: Relaxed, published by the store of the table entry.
            head.top.store(self.bottom(class), Ordering::Relaxed);
            head.end.store(0, Ordering::Relaxed);
        }
    }

    /// A counter's value, as one look can tell.
    pub fn counter(&self, counter: Counter) -> usize {
        // Ordering: Relaxed, a statistic.
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}

/// Everything that the entries read, reachable by one address.
#[repr(C, align(64))]
pub struct Hot {
    /// Bound on `cpu_id` in sections; 0 closes them.
    pub shards: AtomicU32,
    /// Bound on `mm_cid` in the sections of that mode; 0 closes them.
    pub shards_cid: AtomicU32,
    /// Aborts of the entries' sections, counted on the way to the slow twins.
    pub aborts: AtomicUsize,
    /// Start of the window; 0 until it is chosen.
    pub window: AtomicUsize,
    /// Twice the class of sizes up to `TINY_MAX_BYTES`: heads are two words wide.
    pub tiny: [AtomicU8; TINY_MAX_BYTES + 8],
    /// Twice the class of sizes up to `MEDIUM_MAX_BYTES`, by `(size + 127) >> 7`.
    pub medium: [AtomicU8; (MEDIUM_MAX_BYTES >> MEDIUM_SHIFT) + 8],
    /// Region of each shard.
    pub table: [AtomicPtr<Region>; SHARDS_MAX],
    /// Twice the class of the slab at each page of the window, 0 if it is no slab; see page_map.
    pub pages: [AtomicU8; WINDOW_PAGES],
}

/// The one `Hot` of the process.
pub static HOT: Hot = const {
    // SAFETY: zero is a valid value of each field: integers and null pointers.
    unsafe { core::mem::MaybeUninit::<Hot>::zeroed().assume_init() }
};

/// The region of stopped and unborn shards (I3).
pub static CLOSED: Region = const {
    // SAFETY: zero is a valid value of each field: integers.
    unsafe { core::mem::MaybeUninit::<Region>::zeroed().assume_init() }
};

/// The closed region as a table entry.
pub fn closed() -> *mut Region {
    core::ptr::from_ref(&CLOSED).cast_mut()
}

/// The region that the table names for shard `index`.
pub fn region_of(index: usize) -> *mut Region {
    // Ordering: Acquire pairs with the Release of whoever published the region.
    HOT.table[index].load(Ordering::Acquire)
}
