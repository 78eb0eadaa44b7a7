//! [`HeapMap`]: where the counters of a heap lie, so that code outside the process, or of another version, can sum them.

macro_rules! heap_map {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Addresses and sizes, one word each. A process publishes its own (`P` is a word that the linker fills in); a
        /// reader has them as numbers. Fields are only ever added at the end: a map of an older version has fewer words.
        #[repr(C)]
        #[expect(missing_docs, reason = "one comment describes several fields")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct HeapMap<P> {
            $($(#[$doc])* pub $name: P,)*
        }

        impl<P> HeapMap<P> {
            /// The same map with other words.
            pub fn map<Q>(&self, mut f: impl FnMut(&P) -> Q) -> HeapMap<Q> {
                HeapMap { $($name: f(&self.$name),)* }
            }
        }

        impl HeapMap<u64> {
            /// The map whose first words these are; words that are missing read as 0, which names no counter.
            pub fn from_words(mut words: impl Iterator<Item = u64>) -> Self {
                HeapMap { $($name: words.next().unwrap_or(0),)* }
            }
        }
    };
}

heap_map! {
    /// Address of the block that this map is part of.
    block,
    /// Rows of [`ROW`] half words, one for each class, class 0 included.
    rows, row_bytes, classes,
    /// Slabs of class 0, and the distance to those of the next class.
    slabs, slabs_stride,
    /// Objects of class 0 handed out of slabs, caches included; at the same distance.
    handed_out,
    /// A word of class 0 that holds the number of full magazines, and the distance to that of the next class.
    depot, depot_stride, depot_shift, depot_mask,
    /// Magazines ever made, which are mapped in chunks.
    magazines_made, chunk_magazines, chunk_bytes,
    /// A shard's region: its size, the top of class 0 (a half word, in bytes from the region's start), the distance to the
    /// next top, bytes of a slot, and the counters [`REFILLS`], [`FLUSHES`] and [`ABORTS`].
    region_bytes, region_tops, region_tops_stride, slot_bytes, region_counters,
    /// Addresses of regions, 0 for none: of the per-CPU shards, of which the first `percpu_used` (an address) were created.
    percpu, percpu_stride, percpu_count, percpu_used,
    /// Of the biased shards.
    biased, biased_stride, biased_count,
    /// Of the locked shards.
    locked, locked_stride, locked_count,
    /// Bytes of a page of the page heap, and its counters: pages in spans that are held, pages that are free and dirty,
    /// bytes of pages that are mapped, bytes of metadata, bytes given back since start.
    page_bytes, held_pages, dirty_pages, mapped_bytes, metadata_bytes, purged_bytes,
    /// Large spans in segments.
    large_count, large_bytes,
    /// Huge spans in the table.
    huge_count, huge_bytes,
    /// Huge spans on the deferred list: a word that is 0 if there is none, addresses, lengths.
    deferred_used, deferred_address, deferred_len, deferred_stride, deferred_places,
    /// Aborts that entries counted, slow operations of the atomic path.
    entry_aborts, atomic_operations,
    /// Guarded objects: state and size of the first slot, and what the state of a live one is.
    guarded_state, guarded_size, guarded_stride, guarded_slots, guarded_live,
    /// How memory is given back: a half word, numbered as in the report.
    purge_method,
    /// The settings by key, each in three half words: its value, the low half first, and its origin.
    settings, settings_count,
    /// The header of the heap profile and its words, see `profile::layout`; the functions that start and stop a profile
    /// (`extern "C"`: the interval in bytes, 0 for the default; nothing), which return 0 or an errno and may be called at
    /// any instant.
    profile, profile_words, profile_start, profile_stop,
    /// See `engine::command`: where a thread begins a command (0: not on this architecture) and the length of that code; the
    /// area, the frame in it and its length.
    command_entry, command_entry_bytes, command_area, command_frame, command_frame_bytes,
    /// The version of rsalloc: 16 bits each, the last one lowest.
    library_version,
    /// Segments of the page heap: how many there are (an address), and their addresses in order of creation.
    segments_used, segments, segments_stride, segments_places,
    /// A segment: its bytes, and the first page that is not metadata. From its start: a half word with the number of mapped
    /// pages, and sets of pages, a bit each: free ones, those that may be resident if they are free, those that are being
    /// purged.
    segment_bytes, first_page, segment_mapped, segment_free, segment_dirty, segment_purging,
    /// Entries of pages lie at a segment's start; of each its bytes, and where its half words are: kind, class, pages of the
    /// span, free objects of the slab. The first entry of a span speaks for all.
    entry_bytes, entry_kind, entry_class, entry_pages, entry_free,
    /// What the kind of a slab is, that of a large span, that of a deferred one.
    kind_slab, kind_large, kind_deferred,
    /// The table of huge spans: a word with its address; its slots, the first of which has the number of those behind it
    /// in the place of a length. A slot has a span if its address is above the marks.
    huge_table, huge_slot_bytes, huge_slot_address, huge_slot_len, huge_marks,
    /// The most pages held at once, the most pages held or dirty, the most bytes of huge spans: as of the last release, the
    /// last purge, and the last huge span.
    held_peak, touched_peak, huge_peak,
    /// Small objects that a heap profile sampled, which no class counts: their bytes, their number, and bytes of the runs of
    /// slots in which they lie.
    sampled_bytes, sampled_count, sampled_runs,
    /// Bytes that the limits leave the heap, the soft one and the hard one, and the container's limit, each as its complement, 0 for none;
    /// bytes of held spans that their holders leave untouched.
    limit, limit_hard, container_limit, untouched_bytes,
    /// Objects refilled and objects flushed, two words for each class: where those of class 0 are from a region's start, and the
    /// address of those of class 0 that moved past all shards.
    region_transfers, transfers_past_shards,
    /// Domains: how many the process has (an address). The depot's words for the next one follow those of all classes.
    domains,
}

/// Half words of a class's row.
pub const ROW: usize = 6;
/// Numbers of a row: object size, objects of a slab, pages of a slab, objects of a magazine, and the top of an empty class in
/// a region, of its short stack and of its long one.
pub const ROW_SIZE: usize = 0;
/// See [`ROW_SIZE`].
pub const ROW_OBJECTS: usize = 1;
/// See [`ROW_SIZE`].
pub const ROW_PAGES: usize = 2;
/// See [`ROW_SIZE`].
pub const ROW_BATCH: usize = 3;
/// See [`ROW_SIZE`].
pub const ROW_EMPTY_TOP: usize = 4;
/// See [`ROW_SIZE`].
pub const ROW_LONG_EMPTY_TOP: usize = 5;

/// Words of a region's counters, by number: refills, flushes, aborts.
pub const REFILLS: u64 = 0;
/// See [`REFILLS`].
pub const FLUSHES: u64 = 1;
/// See [`REFILLS`].
pub const ABORTS: u64 = 2;

/// Values of the same kind, a fixed distance apart.
#[derive(Clone, Copy)]
pub struct Column<T: 'static> {
    /// The first of them.
    pub first: &'static T,
    /// Bytes from each to the next.
    pub stride: usize,
    /// Their number.
    pub count: usize,
}
