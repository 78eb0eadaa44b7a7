//! [`Stats`]: the sums, under their public names.

/// How a number moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Up and down.
    Gauge,
    /// Up only, from 0 at the start of the process.
    Counter,
}

/// Fields, each with its kind and a comment, which is also what metrics say of it.
macro_rules! counts {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident,)*) => {
        /// What the allocator holds at this moment, in bytes and counts, from [`stats`](crate::stats()). Shown as lines of text, or as
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
            $($(#[doc = $doc])+ pub $name: usize,)*
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

            /// Those whose values, in the order of [`entries`](Stats::entries), these are; what is missing is 0.
            #[doc(hidden)]
            pub fn of_values(mut values: impl Iterator<Item = usize>) -> Stats {
                Stats { $($name: values.next().unwrap_or(0)),* }
            }

            /// For each field, in the order of [`entries`](Stats::entries), what it is: for formats that say so.
            #[doc(hidden)]
            pub const KINDS: [(Kind, &'static str); [$(stringify!($name)),*].len()] =
                [$((Kind::$kind, concat!($($doc),+))),*];
        }
    };
}

// A new one comes last: published files have them in this order.
counts! {
    /// Bytes mapped from the OS for objects.
    mapped_bytes: Gauge,
    /// Bytes of allocator metadata that are mapped.
    metadata_bytes: Gauge,
    /// Bytes in objects that the program holds (object sizes, not requested sizes).
    live_bytes: Gauge,
    /// Of these, bytes in large spans (above the largest size class).
    large_bytes: Gauge,
    /// Number of large spans that the program holds.
    large_count: Gauge,
    /// Bytes in objects cached in shards and depot.
    cached_bytes: Gauge,
    /// Bytes in free objects inside slabs.
    slab_free_bytes: Gauge,
    /// Bytes in free spans that may still be resident.
    dirty_bytes: Gauge,
    /// Bytes returned to the OS since start.
    purged_bytes_total: Counter,
    /// Slow-path entries: refills of a shard's cache.
    refills: Counter,
    /// Slow-path entries: flushes of a shard's cache.
    flushes: Counter,
    /// Sections that the kernel aborted, as far as the retry paths saw.
    aborts: Counter,
    /// Slow-path operations of the atomic path.
    atomic_ops: Counter,
    /// Bytes of huge objects (above 32 MiB), each in a mapping of its own; part of the large ones.
    huge_bytes: Gauge,
    /// Number of huge objects that the program holds.
    huge_count: Gauge,
    /// Of the cached bytes, those in shards.
    shard_cached_bytes: Gauge,
    /// Of the cached bytes, those in the depot.
    depot_cached_bytes: Gauge,
    /// Bytes of slabs, whatever is in them.
    slab_bytes: Gauge,
    /// Of the slabs, bytes at their ends in which no object fits.
    slab_tail_bytes: Gauge,
    /// Bytes in free spans that were never touched, or were returned to the OS: mapped, and not resident.
    clean_bytes: Gauge,
    /// Bytes in sampled objects between guard pages (`guard`), which lie outside what is mapped for others.
    guarded_bytes: Gauge,
    /// Number of those.
    guarded_count: Gauge,
    /// The most bytes that slabs and large objects took at once: live, cached and free in slabs were never more together. Huge
    /// objects and sampled small ones are left out.
    held_peak_bytes: Gauge,
    /// The most bytes of slabs, large objects and free spans that may have been resident at once.
    touched_peak_bytes: Gauge,
    /// The most bytes of huge objects at once.
    huge_peak_bytes: Gauge,
    /// Of the live bytes, those in small objects that a heap profile sampled, which lie outside slabs.
    sampled_bytes: Gauge,
    /// Number of those.
    sampled_count: Gauge,
    /// Of the mapped bytes, those that are kept for such objects and in which none is.
    sampled_free_bytes: Gauge,
    /// Bytes that the setting `limit` leaves the heap, what else of the process is resident taken off; 0 without it.
    limit_bytes: Gauge,
    /// The same of `limit_hard`.
    limit_hard_bytes: Gauge,
    /// What is compared with the limits: bytes that the heap may have resident, dirty pages left out.
    limited_bytes: Gauge,
    /// Bytes that the container allows, as they were last read; 0 if there is no such limit, or no setting is a share of it.
    container_limit_bytes: Gauge,
    /// Small objects that came into the caches of CPUs from the tiers below, or past them to the program. What a cache itself hands
    /// out again is not counted.
    refilled_objects: Counter,
    /// Small objects that left the caches of CPUs to the tiers below, or came past them from the program. What a cache keeps is not
    /// counted.
    flushed_objects: Counter,
}
