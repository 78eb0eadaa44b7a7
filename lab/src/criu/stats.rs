//! What CRIU counted in a dump: the image `stats-dump`.
//!
//! Two magic numbers, a length, and a message of protocol buffers (`stats.proto`): entry 1 of `StatsEntry` is a
//! message of numbers only. Called by `images`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Of an image and of this one (criu/include/magic.h).
const MAGIC: [u32; 2] = [0x5510_5940, 0x5709_3306];

// Entries of `DumpStatsEntry`.
const FREEZING_MICROS: u64 = 1;
const PAGES_SKIPPED_PARENT: u64 = 6;
const PAGES_WRITTEN: u64 = 7;

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
        let numbers = numbers(&bytes).with_context(|| format!("{} is odd", file.display()))?;
        let number = |entry: u64| {
            let found = numbers.get(&entry).copied();
            found.with_context(|| format!("{} has no entry {entry}", file.display()))
        };
        Ok(Stats {
            stopping: Duration::from_micros(number(FREEZING_MICROS)?),
            written: number(PAGES_WRITTEN)?,
            in_parents: number(PAGES_SKIPPED_PARENT)?,
        })
    }

    /// Of a hundred pages of the process, how many the images before hold.
    pub fn percent_in_parents(&self) -> u64 {
        100 * self.in_parents / (self.written + self.in_parents).max(1)
    }
}

fn numbers(bytes: &[u8]) -> Option<BTreeMap<u64, u64>> {
    let (head, message) = bytes.split_at_checked(12)?;
    let words = [0, 4].map(|at| u32::from_le_bytes(head[at..at + 4].try_into().expect("four")));
    if words != MAGIC {
        return None;
    }
    let (tag, rest) = varint(message)?;
    let (len, rest) = varint(rest)?;
    // Field 1, a message.
    if tag != 1 << 3 | 2 {
        return None;
    }
    let mut rest = rest.get(..len as usize)?;
    let mut numbers = BTreeMap::new();
    while !rest.is_empty() {
        let (tag, after) = varint(rest)?;
        let (value, after) = varint(after)?;
        // Nothing but numbers.
        if tag & 7 != 0 {
            return None;
        }
        numbers.insert(tag >> 3, value);
        rest = after;
    }
    Some(numbers)
}

/// A number in groups of seven bits, the lowest first, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let groups = bytes[..len].iter().rev();
    let value = groups.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, &bytes[len..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_first_entry() {
        let mut image: Vec<u8> = MAGIC.iter().flat_map(|word| word.to_le_bytes()).collect();
        image.extend([7, 0, 0, 0, 0x0a, 5, 0x08, 0xb9, 0x60, 0x38, 1]);
        assert_eq!(numbers(&image), Some(BTreeMap::from([(1, 12_345), (7, 1)])));
        image[0] ^= 1;
        assert_eq!(numbers(&image), None);
        assert_eq!(numbers(&image[..11]), None);
    }

    #[test]
    fn a_plain_dump_takes_nothing_from_parents() {
        let stats = |written, in_parents| Stats { stopping: Duration::ZERO, written, in_parents };
        assert_eq!(stats(4000, 0).percent_in_parents(), 0);
        assert_eq!(stats(1000, 3000).percent_in_parents(), 75);
    }
}
