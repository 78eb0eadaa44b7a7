//! What CRIU counted in a dump: the image `stats-dump`.
//!
//! Two magic numbers, a length, and a message of protocol buffers (`stats.proto`): entry 1 of `StatsEntry` is a
//! message of numbers only.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::Message;

/// The magic numbers of images and of this kind of image (criu/include/magic.h).
const MAGIC: [u32; 2] = [0x5510_5940, 0x5709_3306];

/// `StatsEntry` of stats.proto, as far as it is read.
#[derive(Message)]
struct StatsEntry {
    #[prost(message, optional, tag = "1")]
    dump: Option<DumpStatsEntry>,
}

/// `DumpStatsEntry`, as far as it is read.
#[derive(Message)]
struct DumpStatsEntry {
    #[prost(uint32, optional, tag = "1")]
    freezing_micros: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pages_skipped_parent: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pages_written: Option<u32>,
}

/// The numbers that matter here.
#[derive(Clone, Copy)]
pub struct Stats {
    /// How long the threads took to be stopped.
    pub stopping: Duration,
    /// Pages in the image itself.
    pub written: u64,
    /// Pages of the process that the images before it hold.
    pub in_parents: u64,
}

impl Stats {
    /// The statistics in `file`.
    pub fn read(file: &Path) -> Result<Stats> {
        let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        parse(&bytes).with_context(|| format!("{} is not what CRIU 4 writes", file.display()))
    }

    /// Share of the process's pages that earlier images hold, in percent.
    pub fn percent_in_parents(&self) -> u64 {
        100 * self.in_parents / (self.written + self.in_parents).max(1)
    }
}

fn parse(image: &[u8]) -> Result<Stats> {
    let (magic, rest) = image.split_at_checked(8).context("it is too short")?;
    let words = MAGIC.map(u32::to_le_bytes).concat();
    ensure!(magic == words, "its magic numbers are {magic:02x?}");
    let (len, message) = rest.split_first_chunk().context("it is too short")?;
    let message = message.get(..u32::from_le_bytes(*len) as usize).context("it is cut off")?;
    let dump = StatsEntry::decode(message)?.dump.context("it is about no dump")?;
    Ok(Stats {
        stopping: Duration::from_micros(dump.freezing_micros.context("no freezing time")?.into()),
        written: dump.pages_written.context("no count of pages written")?.into(),
        in_parents: dump.pages_skipped_parent.context("no count of pages skipped")?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_dump_are_read() {
        let mut image: Vec<u8> = MAGIC.iter().flat_map(|word| word.to_le_bytes()).collect();
        image.extend([9, 0, 0, 0, 0x0a, 7, 0x08, 0xb9, 0x60, 0x30, 2, 0x38, 1]);
        let stats = parse(&image).unwrap();
        assert_eq!(stats.stopping, Duration::from_micros(12_345));
        assert_eq!((stats.written, stats.in_parents), (1, 2));
        assert!(parse(&image[..11]).is_err() && parse(&image[..20]).is_err());
        image[0] ^= 1;
        assert!(parse(&image).is_err());
    }

    #[test]
    fn a_plain_dump_takes_nothing_from_parents() {
        let stats = |written, in_parents| Stats { stopping: Duration::ZERO, written, in_parents };
        assert_eq!(stats(4000, 0).percent_in_parents(), 0);
        assert_eq!(stats(1000, 3000).percent_in_parents(), 75);
    }
}
