//! What a reader makes of a published block: the reverse of what the process writes.

use super::{Block, HEADER_BYTES, MAGIC, VERSION};
use crate::report::{Mode, ModeReason, PurgeMethod, Report, ShardIndex};
use crate::sums::HeapMap;

/// The version whose block held sums that the process wrote on request, behind as many words of the report as it had.
const VERSION_OF_SUMS: u32 = 2;
/// Where its report is, what it had of it, and its size.
const REPORT_OF_SUMS: (usize, usize, usize) = (32, 10, 176);
/// Longer than any block: what a damaged size is cut to.
const BLOCK_MAX_BYTES: usize = 1 << 16;

pub(super) const REPORT_WORDS: usize = 11;

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
pub(super) fn words_of(report: &Report) -> [u32; REPORT_WORDS] {
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
        u32::from(report.shard_index == ShardIndex::MmCid) | u32::from(report.slow_path) << 1,
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
pub(super) fn report_of(words: [u32; REPORT_WORDS]) -> Option<Report> {
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
        shard_index: if index & 1 == 0 { ShardIndex::CpuId } else { ShardIndex::MmCid },
        slow_path: index & 2 != 0,
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
    use crate::publish::{own_map, publish_report, rsalloc_report};
    use crate::size_class::CLASSES;
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
            slow_path: true,
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
        let broken = |at: usize, bit: u32| {
            let mut bytes = good.clone();
            let half: &mut [u8; 4] = bytes[at..].first_chunk_mut().unwrap();
            *half = (u32::from_ne_bytes(*half) ^ bit).to_ne_bytes();
            refused(&bytes, address)
        };
        assert_eq!(broken(0, 0x40), Refused::NoBlock);
        assert_eq!(broken(8, 0x40), Refused::OtherVersion(VERSION ^ 0x40));
        assert_eq!(broken(12, 1 << 22), Refused::Damaged, "longer than it is");
        let mode = core::mem::offset_of!(Block, report);
        assert_eq!(broken(mode, 0x40), Refused::Damaged, "no such mode");
    }
}
