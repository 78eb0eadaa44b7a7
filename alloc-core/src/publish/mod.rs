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

use crate::arch;
use crate::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::config::{self, KEYS};
use crate::cpu_cache::shard::{self, leases, locked, percpu};
use crate::depot::{self, DEPOT};
use crate::engine::{command, large};
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
use crate::report::{Mode, ModeReason, PurgeMethod, Report, ShardIndex};
use crate::size_class::{CLASS, CLASSES};
use crate::slab::{SLABS, SlabClass};
use crate::sums::{self, ClassCounts, HeapMap, Memory, ROW, Stats};
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
/// The version whose block held sums that the process wrote on request, behind as many words of the report as it had.
const VERSION_OF_SUMS: u32 = 2;
/// Where its report is, what it had of it, and its size.
const REPORT_OF_SUMS: (usize, usize, usize) = (32, 10, 176);
/// Longer than any block: what a damaged size is cut to.
const BLOCK_MAX_BYTES: usize = 1 << 16;

const REPORT_WORDS: usize = 11;
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

/// The block, and what its map names for want of a better place.
#[repr(C)]
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
        profile_start: Address(profile::start_for_c as extern "C" fn(usize) -> i32 as *const ()),
        profile_stop: Address(profile::stop_for_c as extern "C" fn() -> i32 as *const ()),
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
    sums::collect(&own_map(), &OwnMemory, classes, |_| ())
}

/// The memory of this process, where its own map leads.
struct OwnMemory;

impl Memory for OwnMemory {
    fn word(&self, address: u64) -> Option<u64> {
        // SAFETY: `collect_own` alone reads here, by the map, which leads to counters (I4). They are only written to as atomic
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
    for (word, value) in rsalloc_report.block.report.iter().zip(words_of(report)) {
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

/// What a reader saw in a block.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// How allocations are served there, as the process said at its start.
    pub report: Report,
    /// Where the counters lie; none in the block of an older version, which had no map.
    pub map: Option<HeapMap<u64>>,
}

/// Bytes of the block that begins with `header`. `Err` says in words for a user what is wrong with it.
pub fn block_bytes(header: &[u8; HEADER_BYTES]) -> Result<usize, Refused> {
    if header[..8] != MAGIC {
        return Err(Refused::NoBlock);
    }
    let (version, size) = (half_at(header, 8).unwrap_or(0), half_at(header, 12).unwrap_or(0));
    let (_, _, size_of_sums) = REPORT_OF_SUMS;
    match (version, size as usize) {
        (VERSION_OF_SUMS, size) if size == size_of_sums => Ok(size_of_sums + 4),
        (VERSION, size) if size >= core::mem::offset_of!(Block, map) => {
            Ok(size.min(BLOCK_MAX_BYTES))
        }
        (VERSION | VERSION_OF_SUMS, _) => Err(Refused::Damaged),
        _ => Err(Refused::OtherVersion(version)),
    }
}

/// Why a block is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is none.
    NoBlock,
    /// It is cut short, or holds what no version writes.
    Damaged,
    /// It is of this version, which this reader does not know.
    OtherVersion(u32),
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Refused::NoBlock => f.write_str("there is no report of rsalloc"),
            Refused::Damaged => f.write_str("the report of rsalloc is damaged"),
            Refused::OtherVersion(version) => write!(
                f,
                "the report of rsalloc is of version {version}, and this command reads up to {VERSION}"
            ),
        }
    }
}

impl Snapshot {
    /// Reads the bytes of a block at `address`, as many as [`block_bytes`] says.
    pub fn parse(bytes: &[u8], address: u64) -> Result<Self, Refused> {
        let header = bytes.first_chunk().ok_or(Refused::Damaged)?;
        let bytes = bytes.get(..block_bytes(header)?).ok_or(Refused::Damaged)?;
        if half_at(bytes, 8) == Some(VERSION_OF_SUMS) {
            let (from, first, end) = REPORT_OF_SUMS;
            let is_appended = half_at(bytes, 20) != Some(0);
            let halves = core::array::from_fn(|i| match i < first {
                true => half_at(bytes, from + 4 * i).unwrap_or(0),
                false if is_appended => half_at(bytes, end).unwrap_or(0),
                false => 0,
            });
            return Ok(Snapshot { report: report_of(halves).ok_or(Refused::Damaged)?, map: None });
        }
        let halves = core::array::from_fn(|i| half_at(bytes, HEADER_BYTES + 4 * i).unwrap_or(0));
        let words = bytes[core::mem::offset_of!(Block, map)..].chunks_exact(8);
        let map = HeapMap::from_words(
            words.map(|word| u64::from_ne_bytes(core::array::from_fn(|i| word[i]))),
        );
        // The bytes of a block that lie elsewhere too, such as in a file that is mapped, are no block.
        if map.block != address {
            return Err(Refused::NoBlock);
        }
        Ok(Snapshot { report: report_of(halves).ok_or(Refused::Damaged)?, map: Some(map) })
    }
}

fn half_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The report as it is published. The numbers of the words are part of the layout.
fn words_of(report: &Report) -> [u32; REPORT_WORDS] {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    [
        match report.mode {
            Mode::Unset => 0,
            Mode::RseqLibc => 1,
            Mode::RseqOwn => 2,
            Mode::Atomic => 3,
        },
        match report.reason {
            ModeReason::None => 0,
            ModeReason::LibcDidNotRegister => 1,
            ModeReason::KernelHasNone => 2,
            ModeReason::ForeignRegistration => 3,
            ModeReason::Configured => 4,
            ModeReason::NoSections => 5,
            ModeReason::KernelDoesNotAbort => 6,
        },
        match report.shard_index {
            ShardIndex::CpuId => 0,
            ShardIndex::MmCid => 1,
        },
        number(report.shards),
        number(report.libc_rseq_size.unwrap_or(0)),
        number(report.kernel_feature_size.unwrap_or(0)),
        u32::from(report.membarrier),
        number(report.os_page_bytes),
        u32::from(report.hardened),
        number(report.guard_one_in.unwrap_or(0)),
        match report.purge_method {
            None => 0,
            Some(PurgeMethod::Madvise) => 1,
            Some(PurgeMethod::Mmap) => 2,
            Some(PurgeMethod::Nothing) => 3,
        },
    ]
}

/// The reverse of [`words_of`]; none if the mode or its reason is unknown here.
fn report_of(words: [u32; REPORT_WORDS]) -> Option<Report> {
    let [mode, reason, index, shards, libc, kernel, membarrier, page, hardened, guard, purge] =
        words;
    let unless_0 = |value: u32| (value != 0).then_some(value as usize);
    Some(Report {
        mode: match mode {
            0 => Mode::Unset,
            1 => Mode::RseqLibc,
            2 => Mode::RseqOwn,
            3 => Mode::Atomic,
            _ => return None,
        },
        reason: match reason {
            0 => ModeReason::None,
            1 => ModeReason::LibcDidNotRegister,
            2 => ModeReason::KernelHasNone,
            3 => ModeReason::ForeignRegistration,
            4 => ModeReason::Configured,
            5 => ModeReason::NoSections,
            6 => ModeReason::KernelDoesNotAbort,
            _ => return None,
        },
        shard_index: if index == 0 { ShardIndex::CpuId } else { ShardIndex::MmCid },
        shards: shards as usize,
        libc_rseq_size: unless_0(libc),
        kernel_feature_size: unless_0(kernel),
        membarrier: membarrier != 0,
        os_page_bytes: page as usize,
        hardened: hardened != 0,
        guard_one_in: unless_0(guard),
        purge_method: purge_method_of(purge),
    })
}

/// The way of giving memory back that a word of the report, or the half word that the map names, stands for.
pub fn purge_method_of(number: u32) -> Option<PurgeMethod> {
    match number {
        0 => None,
        1 => Some(PurgeMethod::Madvise),
        2 => Some(PurgeMethod::Mmap),
        _ => Some(PurgeMethod::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    fn block() -> (Vec<u8>, u64) {
        let at = (&raw const rsalloc_report.block).cast::<u8>();
        // SAFETY: the block lives for ever and is plain words.
        let bytes = unsafe { core::slice::from_raw_parts(at, size_of::<Block>()) };
        (bytes.to_vec(), at as u64)
    }

    fn report() -> Report {
        Report {
            mode: Mode::RseqOwn,
            reason: ModeReason::LibcDidNotRegister,
            shard_index: ShardIndex::MmCid,
            shards: 2,
            libc_rseq_size: Some(3),
            kernel_feature_size: Some(4),
            membarrier: true,
            os_page_bytes: 6,
            hardened: true,
            guard_one_in: Some(8),
            purge_method: Some(PurgeMethod::Mmap),
        }
    }

    #[test]
    fn what_is_published_is_what_a_reader_parses() {
        publish_report(&report());
        let (bytes, address) = block();
        let header = bytes.first_chunk().unwrap();
        assert_eq!(block_bytes(header), Ok(bytes.len()));
        let seen = Snapshot::parse(&bytes, address).unwrap();
        assert_eq!((seen.report, seen.map), (report(), Some(own_map())));
        let names = own_map();
        assert_eq!((names.block, names.classes), (address, CLASSES as u64));
    }

    /// A block of version 2, word for word as a process wrote it.
    #[test]
    fn a_block_of_the_version_before_is_read_without_a_map() {
        let mut old = [0u32; 45];
        let [magic, half] =
            [0, 4].map(|at| u32::from_ne_bytes(*MAGIC[at..].first_chunk().unwrap()));
        old[..6].copy_from_slice(&[magic, half, 2, 176, 0, 1]);
        old[8..18].copy_from_slice(&words_of(&report())[..10]);
        old[44] = 2;
        let bytes: Vec<u8> = old.iter().flat_map(|half| half.to_ne_bytes()).collect();
        assert_eq!(block_bytes(bytes.first_chunk().unwrap()), Ok(180));
        let seen = Snapshot::parse(&bytes, 0).unwrap();
        assert_eq!((seen.report, seen.map), (report(), None));
    }

    #[test]
    fn a_block_with_fewer_words_is_read_as_far_as_it_goes() {
        let (mut bytes, address) = block();
        let len = core::mem::offset_of!(Block, map) + 8 * 20;
        bytes.truncate(len);
        bytes[12..16].copy_from_slice(&(len as u32).to_ne_bytes());
        let map = Snapshot::parse(&bytes, address).unwrap().map.unwrap();
        assert_eq!((map.classes, map.purge_method), (CLASSES as u64, 0));
        assert_eq!(map.percpu_stride, 0, "the twenty-first word and all behind it");
    }

    #[test]
    fn damaged_blocks_are_refused() {
        publish_report(&report());
        let (good, address) = block();
        let refused = |bytes: &[u8], address| Snapshot::parse(bytes, address).unwrap_err();
        assert_eq!(refused(&good, address + 8), Refused::NoBlock, "a copy");
        assert_eq!(refused(&good[1..], address), Refused::NoBlock);
        assert_eq!(refused(&good[..good.len() - 1], address), Refused::Damaged);
        let broken = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            refused(&bytes, address)
        };
        assert_eq!(broken(0), Refused::NoBlock);
        assert_eq!(broken(8), Refused::OtherVersion(VERSION ^ 0x40));
        assert_eq!(broken(14), Refused::Damaged, "longer than it is");
        assert_eq!(broken(core::mem::offset_of!(Block, report)), Refused::Damaged, "no such mode");
    }
}
