//! Statistics, collected by a walk over the tiers: an observer, never called by them.
//!
//! Snapshots while others work: each number is right for some instant, their sums nearly.

use crate::atomic::Ordering;
use crate::cpu_cache::{self, locked};
use crate::depot::DEPOT;
use crate::engine::large;
use crate::hot::HOT;
use crate::page_heap::PAGE_HEAP;
use crate::region::{Counter, Region};
use crate::size_class::{CLASS, CLASSES};
use crate::slab::SLABS;

/// What the allocator holds at this moment, in bytes and counts.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Stats {
    /// Bytes mapped from the OS for objects.
    pub mapped_bytes: u64,
    /// Bytes of allocator metadata that are mapped.
    pub metadata_bytes: u64,
    /// Bytes in objects that the program holds (object sizes, not requested sizes).
    pub live_bytes: u64,
    /// Of these, bytes in large spans (above the largest size class).
    pub large_bytes: u64,
    /// Number of large spans that the program holds.
    pub large_count: u64,
    /// Bytes in objects cached in shards and depot.
    pub cached_bytes: u64,
    /// Bytes in free objects inside slabs.
    pub slab_free_bytes: u64,
    /// Bytes in free spans that may still be resident.
    pub dirty_bytes: u64,
    /// Bytes returned to the OS since start.
    pub purged_bytes_total: u64,
    /// Slow-path entries: refills of a shard's cache.
    pub refills: u64,
    /// Slow-path entries: flushes of a shard's cache.
    pub flushes: u64,
    /// Sections that the kernel aborted, as far as the retry paths saw.
    pub aborts: u64,
    /// Slow-path operations of the atomic path.
    pub atomic_ops: u64,
}

/// Collects statistics by walking the tiers. Cheap enough to call each second.
pub fn stats() -> Stats {
    let mut stats = Stats::default();
    let mut out_bytes = 0;
    for class in 1..CLASSES {
        let info = &CLASS[class];
        let (slabs, out) = SLABS[class].totals();
        out_bytes += out * info.size;
        stats.slab_free_bytes += ((slabs * info.objects).saturating_sub(out) * info.size) as u64;
        stats.cached_bytes += (DEPOT.magazines(class) * info.batch * info.size) as u64;
    }
    let mut regions = 0;
    // Ordering: Relaxed, a statistic.
    stats.aborts = HOT.aborts.load(Ordering::Relaxed) as u64;
    let mut add = |region: &Region| {
        regions += 1;
        let cached: usize = (1..CLASSES).map(|class| region.len(class) * CLASS[class].size).sum();
        stats.cached_bytes += cached as u64;
        stats.refills += region.counter(Counter::Refills) as u64;
        stats.flushes += region.counter(Counter::Flushes) as u64;
        stats.aborts += region.counter(Counter::Aborts) as u64;
    };
    cpu_cache::regions().for_each(&mut add);
    let (large_count, large_bytes) = large::totals();
    let (mapped, dirty, purged) = PAGE_HEAP.totals();
    stats.mapped_bytes = mapped as u64 + large::huge_bytes() as u64;
    stats.metadata_bytes = (PAGE_HEAP.metadata_bytes()
        + DEPOT.metadata_bytes()
        + regions * size_of::<Region>()) as u64;
    stats.large_bytes = large_bytes as u64;
    stats.large_count = large_count as u64;
    stats.live_bytes = (out_bytes as u64).saturating_sub(stats.cached_bytes) + stats.large_bytes;
    stats.dirty_bytes = dirty as u64;
    stats.purged_bytes_total = purged as u64;
    stats.atomic_ops = locked::operations() as u64;
    stats
}

/// Free objects and mappings by kind, as malloc_info(3) has them.
pub struct Shape {
    /// By class: objects in the caches of shards and depot, and free ones in slabs.
    pub classes: [FreeObjects; CLASSES],
    /// Live mappings of their own: number and bytes.
    pub own_mappings: (usize, usize),
    /// Bytes mapped for all other objects. They are kept for ever, so these are the most that ever were.
    pub shared_bytes: usize,
}

/// Free objects of one class, in numbers of objects.
#[derive(Clone, Copy, Default)]
pub struct FreeObjects {
    /// Bytes of one object.
    pub size: usize,
    /// In caches.
    pub cached: usize,
    /// In slabs.
    pub in_slabs: usize,
}

/// Collects the shape of the heap, as [`stats`] does its sums.
pub fn shape() -> Shape {
    let mut classes = [FreeObjects::default(); CLASSES];
    for (class, free) in classes.iter_mut().enumerate().skip(1) {
        let info = &CLASS[class];
        let (slabs, out) = SLABS[class].totals();
        let depot = DEPOT.magazines(class) * info.batch;
        let shards: usize = cpu_cache::regions().map(|region| region.len(class)).sum();
        *free = FreeObjects {
            size: info.size,
            cached: depot + shards,
            in_slabs: (slabs * info.objects).saturating_sub(out),
        };
    }
    Shape { classes, own_mappings: large::own_mappings(), shared_bytes: PAGE_HEAP.totals().0 }
}
