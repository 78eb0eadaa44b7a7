//! The words of a published file: their places, and what a reader makes of them.
//!
//! Promises: places never move, and counts say how many words of each part are there, so that a reader of one version reads the
//! file of another until [`VERSION`] rises. A word that an older version leaves at 0 says nothing.

use super::snapshot::{REPORT_WORDS, report_of};
use crate::config::KEYS;
use crate::report::Report;
use crate::size_class::CLASSES;
use crate::sums::{ClassCounts, ShardCounts, ShardKind, Stats, Transferred};

/// What a file begins with. Nothing can be read of it before the generation is raised.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"rsallocP");
/// Raised when a word changes its meaning.
pub const VERSION: u64 = 1;

/// The numbers of the head's words.
pub(super) mod head {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 1;
    pub const PID: usize = 2;
    /// The namespace that the id belongs to; 0 if it is not known.
    pub const NAMESPACE: usize = 3;
    pub const LIBRARY_VERSION: usize = 4;
    /// The name of the program, in two words.
    pub const PROGRAM: usize = 5;
    pub const GENERATION: usize = 7;
    pub const WORDS: usize = 16;
}

/// The numbers of a slot's words. Each part has room for more than any version needs, so that no place ever moves.
pub(super) mod slot {
    /// Milliseconds since 1970.
    pub const RENEWED_MS: usize = 0;
    /// Milliseconds from a renewal to the next, if slow calls come.
    pub const EVERY_MS: usize = 1;
    pub const STATS: usize = 2;
    pub const SETTINGS: usize = 3;
    pub const CLASSES: usize = 4;
    /// Shards that are written here, and those for which there is no room.
    pub const SHARDS: usize = 5;
    pub const SHARDS_LEFT_OUT: usize = 6;
    pub const REPORT: usize = 16;
    pub const FIRST_STAT: usize = 48;
    pub const FIRST_SETTING: usize = 176;
    pub const FIRST_CLASS: usize = 240;
    pub const FIRST_SHARD: usize = FIRST_CLASS + super::CLASSES_MAX * super::CLASS_WORDS;
    pub const WORDS: usize = FIRST_SHARD + super::SHARDS_MAX * super::SHARD_WORDS;
}

pub(super) const CLASSES_MAX: usize = 128;
pub(super) const CLASS_WORDS: usize = 12;
pub(super) const SHARDS_MAX: usize = 256;
pub(super) const SHARD_WORDS: usize = 12;
/// Words of a class's or a shard's row that this version has.
pub(super) const ROW_WORDS: usize = 9;
/// A value, and its origin.
pub(super) const SETTING_WORDS: usize = 2;

/// Words of a file.
pub const WORDS: usize = head::WORDS + 2 * slot::WORDS;

const _: () = {
    assert!(REPORT_WORDS <= slot::FIRST_STAT - slot::REPORT);
    assert!(Stats::KINDS.len() <= slot::FIRST_SETTING - slot::FIRST_STAT);
    assert!(KEYS * SETTING_WORDS <= slot::FIRST_CLASS - slot::FIRST_SETTING);
    assert!(CLASSES <= CLASSES_MAX);
    assert!(ROW_WORDS <= CLASS_WORDS && ROW_WORDS <= SHARD_WORDS);
};

/// What a reader makes of a file.
pub struct Published<'a> {
    words: &'a [u64],
    slot: &'a [u64],
}

impl<'a> Published<'a> {
    /// The generation in the words of a file: if it is another one after all words were read, they are to be read again. None
    /// if they are no published file of this version, or of one that is not whole yet.
    pub fn generation(words: &[u64]) -> Option<u64> {
        let is_one = words.len() >= WORDS
            && words[head::MAGIC] == MAGIC
            && words[head::VERSION] == VERSION
            && words[head::GENERATION] > 0;
        is_one.then(|| words[head::GENERATION])
    }

    /// What the words of a file say.
    pub fn parse(words: &'a [u64]) -> Option<Self> {
        let generation = Self::generation(words)?;
        let first = head::WORDS + (generation as usize & 1) * slot::WORDS;
        Some(Published { words, slot: &words[first..first + slot::WORDS] })
    }

    /// The process, by its id in its own namespace, whose number is the other word (0: not known).
    pub fn process(&self) -> (u32, u64) {
        (self.words[head::PID] as u32, self.words[head::NAMESPACE])
    }

    /// The name of its program, up to the first zero.
    pub fn program(&self) -> [u8; 16] {
        core::array::from_fn(|at| self.words[head::PROGRAM + at / 8].to_ne_bytes()[at % 8])
    }

    /// The version of rsalloc, see [`version_of`](super::version_of).
    pub fn library_version(&self) -> u64 {
        self.words[head::LIBRARY_VERSION]
    }

    /// When the rest was true, in milliseconds since 1970, and how long after that it is renewed if slow calls come.
    pub fn renewed_ms(&self) -> (u64, u64) {
        (self.slot[slot::RENEWED_MS], self.slot[slot::EVERY_MS])
    }

    /// How allocations are served; none if that is not known here.
    pub fn report(&self) -> Option<Report> {
        report_of(core::array::from_fn(|at| self.slot[slot::REPORT + at] as u32))
    }

    /// Values and origins of the settings, see `config::settings_of`.
    pub fn settings(&self) -> impl Iterator<Item = (usize, u8)> + 'a {
        let slot = self.slot;
        let most = (slot::FIRST_CLASS - slot::FIRST_SETTING) / SETTING_WORDS;
        (0..self.count(slot::SETTINGS, most)).map(move |key| {
            let at = slot::FIRST_SETTING + SETTING_WORDS * key;
            (slot[at] as usize, slot[at + 1] as u8)
        })
    }

    /// The sums. Those that the process's version does not have are 0.
    pub fn stats(&self) -> Stats {
        let count = self.count(slot::STATS, slot::FIRST_SETTING - slot::FIRST_STAT);
        let values = &self.slot[slot::FIRST_STAT..][..count];
        Stats::of_values(values.iter().map(|value| *value as usize))
    }

    /// The classes, class 0 included.
    pub fn classes(&self) -> impl Iterator<Item = ClassCounts> + 'a {
        let slot = self.slot;
        (0..self.count(slot::CLASSES, CLASSES_MAX)).map(move |class| {
            let word = |at| slot[slot::FIRST_CLASS + CLASS_WORDS * class + at] as usize;
            ClassCounts {
                size: word(0),
                slabs: word(1),
                objects: word(2),
                slab_bytes: word(3),
                handed_out: word(4),
                in_shards: word(5),
                in_depot: word(6),
                transferred: transferred_of([word(7), word(8)]),
            }
        })
    }

    /// The shards, as far as there was room for them.
    pub fn shards(&self) -> impl Iterator<Item = ShardCounts> + 'a {
        let slot = self.slot;
        (0..self.count(slot::SHARDS, SHARDS_MAX)).filter_map(move |shard| {
            let word = |at| slot[slot::FIRST_SHARD + SHARD_WORDS * shard + at] as usize;
            Some(ShardCounts {
                kind: ShardKind::of_number(word(0))?,
                index: word(1),
                objects: word(2),
                bytes: word(3),
                refills: word(4),
                flushes: word(5),
                aborts: word(6),
                transferred: transferred_of([word(7), word(8)]),
            })
        })
    }

    /// Shards for which there was no room.
    pub fn shards_left_out(&self) -> usize {
        self.slot[slot::SHARDS_LEFT_OUT] as usize
    }

    fn count(&self, at: usize, most: usize) -> usize {
        (self.slot[at] as usize).min(most)
    }
}

/// The words of a class.
pub(super) fn class_row(class: &ClassCounts) -> [usize; ROW_WORDS] {
    let ClassCounts { size, slabs, objects, slab_bytes, handed_out, in_shards, in_depot, .. } =
        *class;
    let [refilled, flushed] = words_of_transferred(class.transferred);
    [size, slabs, objects, slab_bytes, handed_out, in_shards, in_depot, refilled, flushed]
}

/// The words of a shard.
pub(super) fn shard_row(shard: &ShardCounts) -> [usize; ROW_WORDS] {
    let ShardCounts { kind, index, objects, bytes, refills, flushes, aborts, .. } = *shard;
    let [refilled, flushed] = words_of_transferred(shard.transferred);
    [kind as usize, index, objects, bytes, refills, flushes, aborts, refilled, flushed]
}

/// As complements, so that 0, which an older version leaves there, is none.
fn words_of_transferred(transferred: Option<Transferred>) -> [usize; 2] {
    transferred.map_or([0; 2], |each| [!each.refilled, !each.flushed])
}

fn transferred_of(words: [usize; 2]) -> Option<Transferred> {
    let [refilled, flushed] = words;
    let is_known = refilled != 0 && flushed != 0;
    is_known.then_some(Transferred { refilled: !refilled, flushed: !flushed })
}
