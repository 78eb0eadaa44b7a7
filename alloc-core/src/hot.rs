//! [`HOT`]: the one static from which the fast paths reach everything but the offset of the thread's rseq area, and the way
//! from it to each shard's [`Region`].
//!
//! An all-zero `Hot` is valid: its tables name no region and no class, so every fast path finds its class empty or
//! full, and the slow path initialises.
//!
//! ```text
//! Hot: closed heads | page map base | size tables | shard table --> Region | page map
//!      ^                                               |
//!      +---- 0: stopped, no shard yet, no CPU ---------+
//! ```
//!
//! Invariants:
//! I1. A table entry is 0 or leads to a region that is never unmapped. At distance 0 lie the closed heads, where
//!     every class is empty (its top is a 0 word) and full (its end is 0).
//! I2. The table has an entry for every 16-bit value with its sign (by `mm_cid` for -1 and every value without a sign), so no bounds check is needed. Only entries of
//!     real CPUs below `SHARDS_MAX` are ever other than 0.
//! I3. `Hot` begins at a multiple of 4 KiB, and so do its large tables: aarch64 reaches such an address, and adds such a
//!     distance, by one instruction.

use crate::atomic::{AtomicIsize, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::parts;
use crate::region::Region;
use crate::size_class::{MEDIUM_MAX_BYTES, MEDIUM_SHIFT, TINY_MAX_BYTES, class_of};
use crate::units::{PAGE_MAP_PAGES, SHARDS_MAX};

/// Words at the start of a region that sections may touch whatever `top` is: heads and counters.
const CLOSED_WORDS: usize = core::mem::offset_of!(Region, references) / size_of::<usize>();

/// Classes of sizes up to `TINY_MAX_BYTES`, class 0 included.
pub const TINY_CLASSES: usize = class_of(TINY_MAX_BYTES) + 1;

/// Half of the indices that fit into 16 bits.
const INDICES: usize = 1 << 15;

/// The entries by `mm_cid` look up all 16 bits of it, without a sign.
const TABLE_ENTRIES: usize = if parts::ENTRIES_BY_MM_CID { 2 * INDICES } else { INDICES };

/// What the entries read, reachable by one address; the offset of the rseq area lies elsewhere on some architectures.
#[repr(C, align(64))]
pub struct Hot {
    /// Where table entries of 0 lead (I1): the start of a region without a slot. The sections that count
    /// events write to its counters, which are never read.
    pub closed: [AtomicUsize; CLOSED_WORDS],
    /// Aborts of the entries' sections, counted on the way to the slow functions.
    pub aborts: AtomicUsize,
    /// Start of the page-map range; 0 until it is chosen.
    pub page_map_base: AtomicUsize,
    /// The offset of the rseq area in use, on architectures where it is 0 before init (`arch::sections::area_offset`).
    pub area_offset: AtomicIsize,
    /// As `area_offset`, of frees.
    pub free_area_offset: AtomicIsize,
    /// The class of sizes up to `TINY_MAX_BYTES`.
    pub tiny: [AtomicU8; TINY_MAX_BYTES + 8],
    /// The class of sizes up to `MEDIUM_MAX_BYTES`, by `(size + 127) >> 7`.
    pub medium: [AtomicU8; (MEDIUM_MAX_BYTES >> MEDIUM_SHIFT) + 8],
    /// As `tiny` and `medium`, which are all 0 while a heap profile runs: every allocation takes the slow path then.
    pub kept_tiny: [AtomicU8; TINY_MAX_BYTES + 8],
    /// See `kept_tiny`.
    pub kept_medium: [AtomicU8; (MEDIUM_MAX_BYTES >> MEDIUM_SHIFT) + 8],
    /// A thread whose countdown is this or less has a sample due, see `profile::countdown`.
    pub sample_floor: AtomicUsize,
    /// The size of objects by class, for classes of sizes up to `TINY_MAX_BYTES`; 0 of others.
    pub object_bytes: [AtomicU32; TINY_CLASSES.next_multiple_of(2)],
    /// The tables from here on begin at a multiple of 4 KiB (I3).
    pub pages_begin: [WholePages; 0],
    /// By the index that the entries do not know: the region of each shard.
    pub other_table: [ShardEntry; SHARDS_MAX],
    /// What negative indices (no registration) find; always 0 (I2).
    pub unregistered: [ShardEntry; INDICES],
    /// By the index of the entries, `cpu_id` or `mm_cid` ([`parts::ENTRIES_BY_MM_CID`]): the region of each shard.
    pub table: [ShardEntry; TABLE_ENTRIES],
    /// The class of the slab at each page of the page-map range, 0 if it is no slab; see page_map.
    pub pages: [AtomicU8; PAGE_MAP_PAGES],
}

/// No bytes, aligned as I3 says.
#[repr(align(4096))]
pub struct WholePages;

/// The one `Hot` of the process.
pub static HOT: Hot = const {
    // SAFETY: zero is a valid value of each field: integers.
    unsafe { core::mem::MaybeUninit::<Hot>::zeroed().assume_init() }
};

impl Hot {
    /// Where sections by `mm_cid`, or by `cpu_id`, look for the region of their shard.
    pub fn table(&self, by_mm_cid: bool) -> &[ShardEntry] {
        if by_mm_cid == parts::ENTRIES_BY_MM_CID { &self.table } else { &self.other_table }
    }

    /// The offset of [`Hot::table`] in bytes.
    pub const fn table_offset(by_mm_cid: bool) -> usize {
        match by_mm_cid == parts::ENTRIES_BY_MM_CID {
            true => core::mem::offset_of!(Hot, table),
            false => core::mem::offset_of!(Hot, other_table),
        }
    }

    /// Has every allocation and every sized free take the slow path: no size has a class. For the start of a profile.
    #[inline(never)]
    pub fn hide_classes(&self) {
        // Ordering: Relaxed throughout: an entry that reads a class a little later serves by it, which is as well.
        self.tiny.iter().chain(&self.medium).for_each(|class| class.store(0, Ordering::Relaxed));
    }

    /// Undoes [`Hot::hide_classes`], and fills the tables first.
    #[inline(never)]
    pub fn show_classes(&self) {
        for (classes, kept) in
            [(&self.tiny[..], &self.kept_tiny[..]), (&self.medium, &self.kept_medium)]
        {
            for (class, kept) in classes.iter().zip(kept) {
                // Ordering: Relaxed throughout, as above; the kept ones do not change after init.
                class.store(kept.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
}

/// An entry of the shard table: the distance of a region from [`HOT`] in bytes; 0, which leads to the closed heads, if
/// the shard is stopped or does not exist (I1).
#[repr(transparent)]
pub struct ShardEntry(AtomicIsize);

impl ShardEntry {
    /// The region that sections work on, if the shard is not stopped.
    #[inline]
    pub fn load(&self, order: Ordering) -> Option<&'static Region> {
        let distance = self.0.load(order);
        let region = (&raw const HOT).wrapping_byte_offset(distance).cast::<Region>();
        // SAFETY: I1: `store` alone writes entries.
        (distance != 0).then(|| unsafe { &*region })
    }

    /// Has sections work on `region`, or on none.
    pub fn store(&self, region: Option<&'static Region>, order: Ordering) {
        let distance = |region: &Region| region.at(0).wrapping_sub(&raw const HOT as usize);
        self.0.store(region.map_or(0, distance) as isize, order);
    }
}

const _: () = assert!(SHARDS_MAX <= INDICES);
