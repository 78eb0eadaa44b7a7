//! The published block: the mode of this process, and where its counters lie, readable from outside.
//!
//! Promises that a program which may read this process's memory, or a core file of it, finds the block without help: it
//! lies alone in the ELF section `.rsalloc_report` (which survives `strip`, deleted files and static linking), starts with a
//! magic, a version and a size, and says its own address. The reader sums the counters itself (`sums::collect`), so an
//! idle or stopped process has nothing to do for it.
//!
//! ```text
//! magic | version, size | report: 16 half words | map: a word for each counter      | rows of the classes
//!                                                    +--> regions, slabs, depot ...      ^-- named by the map
//! ```
//!
//! Invariants:
//! I1. The block never moves and is never unmapped.
//! I2. Each word is valid at every instant. The words together are no snapshot, as `stats()` is none either.
//! I3. The block only grows at its end, and `size` says how long it is: a reader takes what it knows.
//! I4. What the map names is never unmapped, and is memory that core files have: no file's, unless written to.

pub mod file;
mod snapshot;
pub mod words;

pub use snapshot::{Refused, Snapshot, block_bytes, purge_method_of};

use crate::arch;
use crate::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::config::{self, KEYS};
use crate::cpu_cache::shard::{self, leases, locked, percpu};
use crate::depot::{self, DEPOT};
use crate::domain;
use crate::engine::{api, command, large};
use crate::guard;
use crate::hot::HOT;
use crate::object::Link;
use crate::os;
use crate::page_heap::entry::{self, Kind, PageEntry};
use crate::page_heap::huge::HUGE;
use crate::page_heap::segment::{self, HEADER_PAGES, Segment};
use crate::page_heap::{PAGE_HEAP, SEGMENTS_MAX};
use crate::profile;
use crate::region::{Head, Region};
use crate::report::Report;
use crate::size_class::{CLASS, CLASSES};
use crate::slab::{SLABS, SlabClass};
use crate::sums::{self, ClassCounts, HeapMap, Memory, ROW, ShardCounts, Stats};
use crate::units::{PAGE_BYTES, SEGMENT_BYTES};
use core::ptr;

/// Name of the ELF section that holds the block, and of the symbol without the dot.
pub const SECTION: &str = ".rsalloc_report";
/// Bytes that a block begins with: magic, version and size.
pub const HEADER_BYTES: usize = core::mem::offset_of!(Block, report);
/// What a block begins with.
pub const MAGIC: [u8; 8] = *b"rsalloc\0";

/// Raised when what stands in a block changes its meaning; not when a block grows.
const VERSION: u32 = 3;
/// Words that a block has for the report; those that mean nothing yet are 0.
const REPORT_PLACES: usize = 16;

#[repr(C)]
struct Block {
    magic: [u8; 8],
    version: u32,
    size: u32,
    report: [AtomicU32; REPORT_PLACES],
    map: HeapMap<Address>,
}

/// The block, and what its map names for want of a better place. Aligned, so that the magic and the report are in one page: a search
/// for the magic reads only pages that were written.
#[repr(C, align(128))]
struct Published {
    block: Block,
    /// By class, see [`ROW`].
    rows: [[u32; ROW]; CLASSES],
    /// By key, see [`config::raw`]: the value's low half, its high half, the origin.
    settings: [[AtomicU32; SETTING]; KEYS],
}

/// Half words of a setting.
const SETTING: usize = 3;

/// A word that the linker fills in: an address in this process, or a number.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Address(*const ());

// SAFETY: the pointer is only turned into a number.
unsafe impl Sync for Address {}

impl Address {
    const fn of<T>(place: &'static T) -> Self {
        Address(core::ptr::from_ref(place).cast())
    }

    const fn number(number: usize) -> Self {
        Address(core::ptr::without_provenance(number))
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".rsalloc_report")]
#[allow(non_upper_case_globals)]
static rsalloc_report: Published = Published {
    block: Block {
        magic: MAGIC,
        version: VERSION,
        size: size_of::<Block>() as u32,
        report: [const { AtomicU32::new(0) }; REPORT_PLACES],
        map: own(),
    },
    rows: rows(),
    settings: [const { [const { AtomicU32::new(0) }; SETTING] }; KEYS],
};

const fn rows() -> [[u32; ROW]; CLASSES] {
    let mut rows = [[0; ROW]; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let info = &CLASS[class];
        let (short, long) = (Region::bottom_offset(class), Region::long_bottom_offset(class));
        let row = [info.size, info.objects, info.pages, info.batch, short, long];
        let mut at = 0;
        while at < ROW {
            rows[class][at] = row[at] as u32;
            at += 1;
        }
        class += 1;
    }
    rows
}

const fn own() -> HeapMap<Address> {
    let number = Address::number;
    let [slabs, handed_out] = SLABS[0].counters();
    let (depot, made) = DEPOT.counters();
    let pages = PAGE_HEAP.counters();
    let (huge_count, huge_bytes, deferred) = HUGE.counters();
    let (deferred_used, deferred_address, deferred_len) = deferred;
    let (guarded_state, guarded_size) = guard::counters();
    let (percpu, percpu_used) = percpu::table();
    let (biased, locked) = (leases::table(), locked::table());
    let [large_bytes, large_count] = large::counters();
    let [sampled_bytes, sampled_count, sampled_runs] = profile::pool::counters();
    let [limit, limit_hard, container_limit, untouched] = PAGE_HEAP.limit_counters();
    let (segment, entry) = (segment::Layout::OWN, entry::Layout::OWN);
    let (huge_table, [slot_bytes, slot_address, slot_len], huge_marks) = HUGE.table_layout();
    HeapMap {
        block: Address::of(&rsalloc_report),
        rows: Address::of(&rsalloc_report.rows),
        row_bytes: number(size_of::<[u32; ROW]>()),
        classes: number(CLASSES),
        slabs: Address::of(slabs),
        slabs_stride: number(size_of::<SlabClass>()),
        handed_out: Address::of(handed_out),
        depot: Address::of(depot.first),
        depot_stride: number(depot.stride),
        depot_shift: number(depot::COUNT_SHIFT as usize),
        depot_mask: number(depot::COUNT_MAX),
        magazines_made: Address::of(made),
        chunk_magazines: number(depot::CHUNK_MAGAZINES),
        chunk_bytes: number(depot::CHUNK_BYTES),
        region_bytes: number(size_of::<Region>()),
        region_tops: number(
            core::mem::offset_of!(Region, heads) + core::mem::offset_of!(Head, top),
        ),
        region_tops_stride: number(size_of::<Head>()),
        slot_bytes: number(size_of::<usize>()),
        region_counters: number(core::mem::offset_of!(Region, counters)),
        percpu: Address::of(percpu.first),
        percpu_stride: number(percpu.stride),
        percpu_count: number(percpu.count),
        percpu_used: Address::of(percpu_used),
        biased: Address::of(biased.first),
        biased_stride: number(biased.stride),
        biased_count: number(biased.count),
        locked: Address::of(locked.first),
        locked_stride: number(locked.stride),
        locked_count: number(locked.count),
        page_bytes: number(PAGE_BYTES),
        held_pages: Address::of(pages.held),
        dirty_pages: Address::of(pages.dirty),
        mapped_bytes: Address::of(pages.mapped),
        metadata_bytes: Address::of(pages.metadata),
        purged_bytes: Address::of(pages.purged),
        large_count: Address::of(large_count),
        large_bytes: Address::of(large_bytes),
        huge_count: Address::of(huge_count),
        huge_bytes: Address::of(huge_bytes),
        deferred_used: Address::of(deferred_used),
        deferred_address: Address::of(deferred_address.first),
        deferred_len: Address::of(deferred_len),
        deferred_stride: number(deferred_address.stride),
        deferred_places: number(deferred_address.count),
        entry_aborts: Address::of(&HOT.aborts),
        atomic_operations: Address::of(shard::atomic_operations_counter()),
        guarded_state: Address::of(guarded_state.first),
        guarded_size: Address::of(guarded_size),
        guarded_stride: number(guarded_state.stride),
        guarded_slots: number(guarded_state.count),
        guarded_live: number(guard::LIVE),
        purge_method: Address::of(os::zeroing_word()),
        settings: Address::of(&rsalloc_report.settings),
        settings_count: number(KEYS),
        profile: Address::of(&profile::PROFILE),
        profile_words: number(profile::layout::Header::<u64>::WORDS),
        profile_start: Address(
            api::start_profile_for_c as extern "C" fn(usize) -> i32 as *const (),
        ),
        profile_stop: Address(api::stop_profile_for_c as extern "C" fn() -> i32 as *const ()),
        command_entry: Address(arch::COMMAND_ENTRY),
        command_entry_bytes: number(arch::COMMAND_ENTRY_BYTES),
        command_area: Address::of(&command::AREA),
        command_frame: Address::of(&command::AREA.frame),
        command_frame_bytes: number(command::FRAME_BYTES),
        library_version: number(LIBRARY_VERSION),
        segments_used: Address::of(pages.segments_used),
        segments: Address::of(pages.segments),
        segments_stride: number(size_of::<Link<Segment>>()),
        segments_places: number(SEGMENTS_MAX),
        segment_bytes: number(SEGMENT_BYTES),
        first_page: number(HEADER_PAGES),
        segment_mapped: number(segment.mapped_pages),
        segment_free: number(segment.free),
        segment_dirty: number(segment.dirty),
        segment_purging: number(segment.purging),
        entry_bytes: number(size_of::<PageEntry>()),
        entry_kind: number(entry.kind),
        entry_class: number(entry.class),
        entry_pages: number(entry.pages),
        entry_free: number(entry.free),
        kind_slab: number(Kind::Slab as usize),
        kind_large: number(Kind::Large as usize),
        kind_deferred: number(Kind::Deferred as usize),
        huge_table: Address::of(huge_table),
        huge_slot_bytes: number(slot_bytes),
        huge_slot_address: number(slot_address),
        huge_slot_len: number(slot_len),
        huge_marks: number(huge_marks),
        held_peak: Address::of(pages.peaks[0]),
        touched_peak: Address::of(pages.peaks[1]),
        huge_peak: Address::of(HUGE.peak()),
        sampled_bytes: Address::of(sampled_bytes),
        sampled_count: Address::of(sampled_count),
        sampled_runs: Address::of(sampled_runs),
        limit: Address::of(limit),
        limit_hard: Address::of(limit_hard),
        container_limit: Address::of(container_limit),
        untouched_bytes: Address::of(untouched),
        region_transfers: number(Region::TRANSFERS_OFFSET),
        transfers_past_shards: Address::of(shard::transfers_past_shards()),
        domains: Address::of(domain::counter()),
    }
}

/// This version, as the map has it.
const LIBRARY_VERSION: usize = {
    let [major, minor, patch] = [
        decimal(env!("CARGO_PKG_VERSION_MAJOR")),
        decimal(env!("CARGO_PKG_VERSION_MINOR")),
        decimal(env!("CARGO_PKG_VERSION_PATCH")),
    ];
    major << 32 | minor << 16 | patch
};

const fn decimal(text: &str) -> usize {
    let (mut number, mut at) = (0, 0);
    while at < text.len() {
        number = 10 * number + (text.as_bytes()[at] - b'0') as usize;
        at += 1;
    }
    number
}

/// The parts of a version as the map has it; none in the map of a version that did not say.
pub fn version_of(word: u64) -> Option<[u16; 3]> {
    (word != 0).then_some([(word >> 32) as u16, (word >> 16) as u16, word as u16])
}

/// Where the counters of this process lie.
pub fn own_map() -> HeapMap<u64> {
    rsalloc_report.block.map.map(|address| address.0.expose_provenance() as u64)
}

/// Sums the counters of this process, see [`sums::collect`].
pub fn collect_own(classes: &mut [ClassCounts]) -> Option<Stats> {
    collect_own_shards(classes, &mut |_| ())
}

/// As [`collect_own`], and shows each shard to `each_shard`.
pub fn collect_own_shards(
    classes: &mut [ClassCounts],
    each_shard: &mut dyn FnMut(&ShardCounts),
) -> Option<Stats> {
    sums::collect(&own_map(), &OwnMemory, classes, each_shard)
}

/// The memory of this process, where its own map leads.
struct OwnMemory;

impl Memory for OwnMemory {
    fn word(&self, address: u64) -> Option<u64> {
        // SAFETY: `collect_own_shards` alone reads here, by the map, which leads to counters (I4). They are only written to as atomic
        // words.
        let word = unsafe { &*ptr::with_exposed_provenance::<AtomicUsize>(address as usize) };
        // Ordering: Relaxed, a statistic.
        Some(word.load(Ordering::Relaxed) as u64)
    }

    fn half(&self, address: u64) -> Option<u32> {
        // SAFETY: as above; the rows of the classes are never written to.
        let half = unsafe { &*ptr::with_exposed_provenance::<AtomicU32>(address as usize) };
        // Ordering: Relaxed, a statistic.
        Some(half.load(Ordering::Relaxed))
    }
}

/// Publishes how allocations are served, and the settings: once at the start, and whenever they change.
pub fn publish_report(report: &Report) {
    for (word, value) in rsalloc_report.block.report.iter().zip(snapshot::words_of(report)) {
        // Ordering: Relaxed; a reader is another process that reads whole words by a system call (I2).
        word.store(value, Ordering::Relaxed);
    }
    for (words, (value, origin)) in rsalloc_report.settings.iter().zip(config::raw()) {
        let values = [value as u32, (value >> 32) as u32, u32::from(origin)];
        // Ordering: Relaxed, as above.
        words.iter().zip(values).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
    }
}

/// Values and origins of the settings, see [`config::settings_of`]: all that the map leads to and this version knows. None if
/// they cannot be read.
pub fn settings(
    map: &HeapMap<u64>,
    memory: &impl Memory,
) -> Option<impl Iterator<Item = (usize, u8)>> {
    let mut settings = [(0, 0); KEYS];
    let count = KEYS.min(map.settings_count as usize);
    for (key, (value, origin)) in settings.iter_mut().enumerate().take(count) {
        let half =
            |at: usize| memory.half(map.settings.wrapping_add(4 * (SETTING * key + at) as u64));
        *value = half(0)? as usize | (half(1)? as usize) << 32;
        *origin = half(2)? as u8;
    }
    (count > 0).then(|| settings.into_iter().take(count))
}
