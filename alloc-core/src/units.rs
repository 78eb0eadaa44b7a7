//! Sizes and shapes that all modules share.
//!
//! Invariants:
//! I1. `OBJECT_MAX_BYTES` is a size class; larger requests are spans of their own.
//! I2. A segment is `SEGMENT_PAGES` pages at an address aligned to `SEGMENT_BYTES`.

/// log2 of the allocator's page: the unit of slabs, spans and the page map. 64 KiB is a multiple of each OS page size of Linux (4,
/// 16, 64 KiB).
pub const PAGE_SHIFT: u32 = 16;
/// Bytes of a page.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;

/// Bytes of the smallest and the largest mean interval of a heap profile.
pub const PROFILE_INTERVALS: core::ops::RangeInclusive<usize> = 256..=1 << 30;

/// log2 of a segment: the unit in which address space is divided. Its pages are mapped in smaller steps.
pub const SEGMENT_SHIFT: u32 = 26;
/// Bytes of a segment.
pub const SEGMENT_BYTES: usize = 1 << SEGMENT_SHIFT;
/// Pages of a segment, those of its own metadata included.
pub const SEGMENT_PAGES: usize = SEGMENT_BYTES / PAGE_BYTES;

/// log2 of the page-map range: the addresses that the page map covers, with one byte per page.
pub const PAGE_MAP_SHIFT: u32 = 36;
/// Bytes of the page-map range.
pub const PAGE_MAP_BYTES: usize = 1 << PAGE_MAP_SHIFT;
/// Pages of the page-map range.
pub const PAGE_MAP_PAGES: usize = 1 << (PAGE_MAP_SHIFT - PAGE_SHIFT);
/// Segments of the page-map range.
pub const PAGE_MAP_SEGMENTS: usize = 1 << (PAGE_MAP_SHIFT - SEGMENT_SHIFT);

/// The largest size class in bytes.
pub const OBJECT_MAX_BYTES: usize = 256 << 10;
/// Slabs of classes up to this size are one page with several objects; above, a span with one object.
pub const SLAB_OBJECT_MAX_BYTES: usize = 32 << 10;
/// The most objects in one slab: the width of its bitmap.
pub const SLAB_OBJECTS_MAX: usize = 4096;

/// Spans of more pages have a mapping of their own.
pub const SPAN_MAX_PAGES: usize = 512;

/// The most pointers in one magazine.
pub const MAGAZINE_MAX: usize = 64;

/// The most shards: a bound of the shard tables, which have a word for each. x86-64 kernels can be built for 8192 CPUs (NR_CPUS), and
/// distributions do; threads on CPUs with higher ids than this use locked shards.
pub const SHARDS_MAX: usize = 4096;

/// Places for regions of shards, below the page-map range; further regions lie elsewhere.
pub const REGION_PLACES: usize = SHARDS_MAX;

/// The number of pages that hold `bytes`.
pub const fn pages_of(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES)
}
