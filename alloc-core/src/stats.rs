//! Statistics, collected by a walk over the tiers: an observer, never called by them.
//!
//! Snapshots while others work: each number is right for some instant, their sums nearly.

use crate::atomic::Ordering;
use crate::cpu_cache::{self, shard};
use crate::depot::DEPOT;
use crate::engine::large;
use crate::hot::HOT;
use crate::page_heap::PAGE_HEAP;
use crate::region::{Counter, Region};
use crate::size_class::{CLASS, CLASSES};
use crate::slab::SLABS;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the allocator holds at this moment, in bytes and counts, from [`stats`]. Shown as lines of text, or as
        /// [JSON](Stats::json).
        ///
        /// ```
        /// let stats = rsalloc::stats();
        /// println!("{} bytes in use of {} mapped", stats.live_bytes, stats.mapped_bytes);
        /// println!("{stats}");
        /// println!("{}", stats.json());
        /// ```
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: usize,)*
        }

        impl Stats {
            /// The names of the fields and their values.
            ///
            /// ```
            /// for (name, value) in rsalloc::stats().entries() {
            ///     println!("rsalloc_{name} {value}");
            /// }
            /// ```
            pub fn entries(&self) -> impl ExactSizeIterator<Item = (&'static str, usize)> + Clone {
                [$((stringify!($name), self.$name)),*].into_iter()
            }

            /// The fields, to be set in the order of [`entries`](Self::entries).
            pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut usize> {
                [$(&mut self.$name),*].into_iter()
            }
        }
    };
}

counts! {
    /// Bytes mapped from the OS for objects.
    mapped_bytes,
    /// Bytes of allocator metadata that are mapped.
    metadata_bytes,
    /// Bytes in objects that the program holds (object sizes, not requested sizes).
    live_bytes,
    /// Of these, bytes in large spans (above the largest size class).
    large_bytes,
    /// Number of large spans that the program holds.
    large_count,
    /// Bytes in objects cached in shards and depot.
    cached_bytes,
    /// Bytes in free objects inside slabs.
    slab_free_bytes,
    /// Bytes in free spans that may still be resident.
    dirty_bytes,
    /// Bytes returned to the OS since start.
    purged_bytes_total,
    /// Slow-path entries: refills of a shard's cache.
    refills,
    /// Slow-path entries: flushes of a shard's cache.
    flushes,
    /// Sections that the kernel aborted, as far as the retry paths saw.
    aborts,
    /// Slow-path operations of the atomic path.
    atomic_ops,
}

/// What the allocator holds, collected by a walk over its structures. Cheap enough to be called each second.
///
/// ```standalone_crate
/// # #[global_allocator]
/// # static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
/// # fn main() {
/// let before = rsalloc::stats().live_bytes;
/// let held = vec![1u8; 10 << 20];
/// assert!(rsalloc::stats().live_bytes >= before + held.len());
/// # }
/// ```
pub fn stats() -> Stats {
    let mut stats = Stats::default();
    let mut out_bytes = 0;
    for class in 1..CLASSES {
        let info = &CLASS[class];
        let (slabs, out) = SLABS[class].totals();
        out_bytes += out * info.size;
        stats.slab_free_bytes += (slabs * info.objects).saturating_sub(out) * info.size;
        stats.cached_bytes += DEPOT.magazines(class) * info.batch * info.size;
    }
    let mut regions = 0;
    // Ordering: Relaxed, a statistic.
    stats.aborts = HOT.aborts.load(Ordering::Relaxed);
    let mut add = |region: &Region| {
        regions += 1;
        let cached: usize = (1..CLASSES).map(|class| region.len(class) * CLASS[class].size).sum();
        stats.cached_bytes += cached;
        stats.refills += region.counter(Counter::Refills);
        stats.flushes += region.counter(Counter::Flushes);
        stats.aborts += region.counter(Counter::Aborts);
    };
    cpu_cache::regions().for_each(&mut add);
    let (large_count, large_bytes) = large::totals();
    let pages = PAGE_HEAP.totals();
    stats.mapped_bytes = pages.mapped_bytes + large::standalone_mappings().1;
    stats.metadata_bytes =
        PAGE_HEAP.metadata_bytes() + DEPOT.metadata_bytes() + regions * size_of::<Region>();
    stats.large_bytes = large_bytes;
    stats.large_count = large_count;
    stats.live_bytes = out_bytes.saturating_sub(stats.cached_bytes) + stats.large_bytes;
    stats.dirty_bytes = pages.dirty_bytes;
    stats.purged_bytes_total = pages.purged_bytes;
    stats.atomic_ops = shard::atomic_operations();
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
    Shape {
        classes,
        own_mappings: large::standalone_mappings(),
        shared_bytes: PAGE_HEAP.totals().mapped_bytes,
    }
}
