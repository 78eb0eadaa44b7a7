//! The published block: mode and statistics of this process, readable from outside.
//!
//! Promises that another process which may read this one's memory finds the block without help:
//! it is alone in the ELF section `.rsalloc_report` (which survives `strip`, deleted files and
//! static linking) under the name `rsalloc_report`, and starts with a magic, a version and a size.
//! Written by the engine ([`publish_report`] when the mode is settled, [`publish_stats`] from slow
//! paths when [`stats_wanted`]); read by the `rsalloc` command, with [`Snapshot::parse`].
//!
//! I1. The block never moves and is never unmapped.
//! I2. Each word is valid at every instant. The words together are no snapshot, as `stats()` is
//!     none either; so there is no lock that a fork could leave taken.
//! I3. The first [`BLOCK_BYTES`] stay as they are in this version. What is new is appended behind them, and
//!     their last spare word says how much that is: a reader that does not know it reads on as before.

use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::config::{self, KEYS};
use crate::report::{Mode, ModeReason, PurgeMethod, Report, ShardIndex};
use crate::stats::Stats;

/// Name of the ELF section that holds the block, and of the symbol without the dot.
pub const SECTION: &str = ".rsalloc_report";

const MAGIC: u64 = u64::from_ne_bytes(*b"rsalloc\0");
const VERSION: u32 = 2;
const REPORT_WORDS: usize = 11;
/// Words of the report that version 2 began with; the others are appended to the block (I3).
const FIRST_WORDS: usize = 10;
/// Words of one setting: its value, the low half first, and its origin.
const SETTING_WORDS: usize = 3;
/// The words that are appended to the block: the rest of the report, and the settings in the order of their keys.
const MORE_WORDS: usize = REPORT_WORDS - FIRST_WORDS + SETTING_WORDS * KEYS;
const STATS_WORDS: usize = size_of::<Stats>() / size_of::<usize>();

/// Bytes of the block that all of its version have.
pub const BLOCK_BYTES: usize = core::mem::offset_of!(Block, more);
/// Bytes of the block with what was appended since.
pub const WHOLE_BYTES: usize = size_of::<Block>();
/// Offset of the word that a reader sets to 1 to ask for fresh statistics.
pub const REQUEST_OFFSET: usize = core::mem::offset_of!(Block, request);

#[repr(C)]
struct Block {
    magic: u64,
    version: u32,
    size: u32,
    request: AtomicU32,
    /// Words behind the first [`BLOCK_BYTES`] (I3).
    appended: u32,
    /// Times that the statistics were published.
    generation: AtomicU64,
    report: [AtomicU32; FIRST_WORDS],
    stats: [AtomicU64; STATS_WORDS],
    more: [AtomicU32; MORE_WORDS],
}

#[unsafe(no_mangle)]
#[unsafe(link_section = ".rsalloc_report")]
#[allow(non_upper_case_globals)]
static rsalloc_report: Block = Block {
    magic: MAGIC,
    version: VERSION,
    size: BLOCK_BYTES as u32,
    request: AtomicU32::new(0),
    appended: MORE_WORDS as u32,
    generation: AtomicU64::new(0),
    report: [const { AtomicU32::new(0) }; FIRST_WORDS],
    stats: [const { AtomicU64::new(0) }; STATS_WORDS],
    more: [const { AtomicU32::new(0) }; MORE_WORDS],
};

/// Whether another process waits for statistics. One load: for the start of a slow path, before any lock is taken, as in `if stats_wanted() { publish_stats(&stats()) }`.
#[inline]
pub fn stats_wanted() -> bool {
    // Ordering: Relaxed; a request seen late is answered late.
    rsalloc_report.request.load(Ordering::Relaxed) != 0
}

/// Publishes statistics and takes the request back. Lock-free; two at once may mix their words.
pub fn publish_stats(stats: &Stats) {
    let block = &rsalloc_report;
    // Ordering: Relaxed but for the generation; the reader is another process that reads whole words by
    // a system call and takes the generation as a sign, not as a lock (I2).
    block.request.store(0, Ordering::Relaxed);
    for (word, (_, value)) in block.stats.iter().zip(stats.entries()) {
        word.store(value as u64, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
    // Ordering: Release, so that a reader that sees the new generation finds the words.
    block.generation.fetch_add(1, Ordering::Release);
}

/// Publishes how allocations are served, and the settings: once at the start, and whenever they change.
pub fn publish_report(report: &Report) {
    // Ordering: Relaxed, as in `publish_stats`.
    let words = rsalloc_report.report.iter().chain(&rsalloc_report.more);
    let settings = config::raw().into_iter();
    let settings = settings
        .flat_map(|(value, origin)| [value as u32, (value >> 32) as u32, u32::from(origin)]);
    for (word, value) in words.zip(words_of(report).into_iter().chain(settings)) {
        word.store(value, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
}

/// What a reader saw in a block.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// How allocations are served there.
    pub report: Report,
    /// Values and origins of the settings, see [`config::settings_of`]; none if the process does not publish them.
    pub settings: Option<[(usize, u8); KEYS]>,
    /// The statistics as last published.
    pub stats: Stats,
    /// Times that they were published; 0: never, `stats` is empty.
    pub generation: u64,
}

impl Snapshot {
    /// Reads the bytes of a block: [`WHOLE_BYTES`], or fewer of an older process, down to [`BLOCK_BYTES`]. `Err`
    /// says in words for a user what is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < BLOCK_BYTES {
            return Err("its report is cut short");
        }
        let (u32_at, u64_at) = (|at| word(bytes, at), |at| word(bytes, at));
        if u64::from_ne_bytes(u64_at(core::mem::offset_of!(Block, magic))) != MAGIC {
            return Err("its report does not start with rsalloc's magic");
        }
        let version = u32::from_ne_bytes(u32_at(core::mem::offset_of!(Block, version)));
        let size = u32::from_ne_bytes(u32_at(core::mem::offset_of!(Block, size)));
        if (version, size as usize) != (VERSION, BLOCK_BYTES) {
            return Err("its report is of another rsalloc version");
        }
        let appended = u32::from_ne_bytes(u32_at(core::mem::offset_of!(Block, appended))) as usize;
        let more = |i| {
            let is_there = i < appended && BLOCK_BYTES + 4 * (i + 1) <= bytes.len();
            is_there.then(|| u32::from_ne_bytes(u32_at(BLOCK_BYTES + 4 * i)))
        };
        let report = core::array::from_fn(|i| match i.checked_sub(FIRST_WORDS) {
            None => u32::from_ne_bytes(u32_at(core::mem::offset_of!(Block, report) + 4 * i)),
            Some(i) => more(i).unwrap_or(0),
        });
        let setting = |key| {
            let at = REPORT_WORDS - FIRST_WORDS + SETTING_WORDS * key;
            let [low, high, origin] = core::array::from_fn(|i| more(at + i).unwrap_or(0));
            (low as usize | (high as usize) << 32, origin as u8)
        };
        let has_settings = more(MORE_WORDS - 1).is_some();
        let mut stats = Stats::default();
        for (i, value) in stats.values_mut().enumerate() {
            let at = core::mem::offset_of!(Block, stats) + 8 * i;
            *value = u64::from_ne_bytes(u64_at(at)) as usize;
        }
        Ok(Self {
            report: report_of(report).ok_or("its report names an unknown mode")?,
            settings: has_settings.then(|| core::array::from_fn(setting)),
            stats,
            generation: u64::from_ne_bytes(u64_at(core::mem::offset_of!(Block, generation))),
        })
    }
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    core::array::from_fn(|i| bytes[at + i])
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
        purge_method: match purge {
            0 => None,
            1 => Some(PurgeMethod::Madvise),
            2 => Some(PurgeMethod::Mmap),
            _ => Some(PurgeMethod::Nothing),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    fn block_bytes() -> [u8; WHOLE_BYTES] {
        // SAFETY: the block lives for ever and is plain words.
        unsafe { core::ptr::read_volatile((&raw const rsalloc_report).cast()) }
    }

    #[test]
    fn a_reader_parses_the_published_block() {
        let report = Report {
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
        };
        let mut stats = Stats::default();
        stats.values_mut().enumerate().for_each(|(i, value)| *value = 1 << (3 * i));
        publish_report(&report);
        publish_stats(&stats);
        let seen = Snapshot::parse(&block_bytes()).unwrap();
        assert_eq!((seen.report, seen.stats), (report, stats));
        assert!(seen.settings.unwrap().into_iter().eq(config::raw()));
        assert!(seen.generation >= 1 && !stats_wanted());
    }

    /// The layout as version 2 had it at first, word for word: what a reader of then looks at.
    #[test]
    fn an_older_reader_and_an_older_process_are_served() {
        assert_eq!(BLOCK_BYTES, 32 + 10 * 4 + STATS_WORDS * 8);
        assert_eq!((VERSION, REQUEST_OFFSET), (2, 16));
        let new = block_bytes();
        assert_eq!(u32::from_ne_bytes(word(&new, 12)) as usize, BLOCK_BYTES);
        let mut old = new;
        old[20..24].fill(0);
        for bytes in [&new[..BLOCK_BYTES], &old] {
            let seen = Snapshot::parse(bytes).unwrap();
            assert_eq!((seen.report.purge_method, seen.settings), (None, None), "not known");
        }
    }

    #[test]
    fn damaged_blocks_are_refused() {
        let good = block_bytes();
        assert!(Snapshot::parse(&good).is_ok());
        assert!(Snapshot::parse(&good[1..]).is_err());
        assert!(Snapshot::parse(&good[..BLOCK_BYTES - 1]).is_err());
        for at in [0, 8, 12, core::mem::offset_of!(Block, report)] {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Snapshot::parse(&bad).is_err(), "byte {at}");
        }
    }
}
