//! The table of live samples, found by their addresses.
//!
//! Promises: an operation waits for nothing and may be interrupted by any other, in handlers too. A sample that has no place is not
//! entered, and the caller counts it.
//!
//! ```text
//! words:   |address, record|0|..    two groups of GROUP words for an address; a sample is in one of them
//! records: |Sample|Sample|..        a list of the free ones
//! ```
//!
//! Invariants:
//! I1. An address has at most one word, since its object is live once and its word is gone before its memory is free.
//! I2. A record belongs to the word that names it, to the operation that took it off the list, or to the list.

use super::PROFILE;
use super::layout::Sample;
use crate::arch::ADDRESS_SPACE_BYTES;
use crate::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use crate::parts;

/// Samples that can be live at once: 64 GiB at the default interval.
pub const RECORDS: usize = 1 << 17;
/// Words of the table: two for each record.
pub const WORDS: usize = 2 * RECORDS;
/// Words that are searched at each of an address's two places: one cache line.
const GROUP: usize = 8;

const RECORD_BITS: u32 = 18;
const _: () = assert!(RECORDS < 1 << RECORD_BITS);
const _: () =
    assert!(ADDRESS_SPACE_BYTES >> 3 <= 1 << (64 - RECORD_BITS) || !crate::arch::HAS_SECTIONS);

/// What a sample's record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Bytes that were asked for.
    pub size: usize,
    /// See `layout`.
    pub weight: u64,
    /// The number of the stack.
    pub stack: usize,
    /// When it was allocated, in nanoseconds since the epoch.
    pub allocated_ns: usize,
    /// That of the profile.
    pub generation: usize,
}

/// The table, in memory that the profile has mapped for it. Zeroes are a valid one.
#[derive(Clone, Copy)]
pub struct Samples {
    words: &'static [AtomicU64; WORDS],
    records: &'static [Sample<AtomicUsize>; RECORDS],
}

/// The first free record, from 1, in the low half; a tag that changes with each operation above it.
static FREE: AtomicU64 = AtomicU64::new(0);
/// Samples in the table.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Samples in the table, as one look can tell.
#[inline]
pub fn live() -> usize {
    // Ordering: Relaxed: a thread that frees a sample has its address from the thread that entered it, which orders this too.
    if parts::PROFILE { LIVE.load(Ordering::Relaxed) } else { 0 }
}

impl Samples {
    /// The table in this memory.
    pub const fn new(
        words: &'static [AtomicU64; WORDS],
        records: &'static [Sample<AtomicUsize>; RECORDS],
    ) -> Self {
        Samples { words, records }
    }

    /// Enters the live object at `address`, a multiple of 8; false if there is no place.
    pub fn insert(&self, address: usize, entry: &Entry) -> bool {
        let Some(record) = self.take_record() else { return false };
        write(&self.records[record], address, entry);
        let word = (address as u64 >> 3) << RECORD_BITS | record as u64;
        let is_placed = self.places(address).any(|place| {
            // Ordering: Release publishes the record; Relaxed on failure reads nothing.
            place.compare_exchange(0, word, Ordering::Release, Ordering::Relaxed).is_ok()
        });
        match is_placed {
            true => {
                // Ordering: Relaxed, see `live`.
                LIVE.fetch_add(1, Ordering::Relaxed);
            }
            false => self.give_back(record),
        }
        is_placed
    }

    /// Takes the sample at `address` out, if there is one.
    pub fn remove(&self, address: usize) -> Option<Entry> {
        let wanted = address as u64 >> 3;
        let (place, word) = self.places(address).find_map(|place| {
            // Ordering: Relaxed, the exchange acquires.
            let word = place.load(Ordering::Relaxed);
            (word != 0 && word >> RECORD_BITS == wanted).then_some((place, word))
        })?;
        // Ordering: Acquire pairs with the Release in `insert`; Relaxed on failure: a double free, which another check finds.
        place.compare_exchange(word, 0, Ordering::Acquire, Ordering::Relaxed).ok()?;
        LIVE.fetch_sub(1, Ordering::Relaxed); // Ordering: Relaxed, see `live`.
        let record = (word & ((1 << RECORD_BITS) - 1)) as usize;
        let entry = read(&self.records[record]);
        self.give_back(record);
        Some(entry)
    }

    fn places(&self, address: usize) -> impl Iterator<Item = &'static AtomicU64> + use<> {
        let words = self.words;
        let hash = (address as u64 >> 3).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let groups = [hash >> 40, hash >> 16];
        groups.into_iter().flat_map(move |group| {
            let first = group as usize % (WORDS / GROUP) * GROUP;
            words[first..first + GROUP].iter()
        })
    }

    /// A record of the caller's own.
    fn take_record(&self) -> Option<usize> {
        // Ordering: Acquire pairs with the Release in `give_back`.
        let mut head = FREE.load(Ordering::Acquire);
        while let Some(record) = (head as u32 as usize).checked_sub(1) {
            // Ordering: Relaxed: another number by now is refused by the tag.
            let next = self.records[record].next_free.load(Ordering::Relaxed) as u64;
            let changed = head_of(head, next);
            // Ordering: Acquire, as above.
            match FREE.compare_exchange(head, changed, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(record),
                Err(now) => head = now,
            }
        }
        // Ordering: Relaxed, a number that stands alone.
        let fresh = PROFILE.samples_used.fetch_add(1, Ordering::Relaxed);
        if fresh < RECORDS {
            return Some(fresh);
        }
        PROFILE.samples_used.fetch_sub(1, Ordering::Relaxed); // Ordering: Relaxed, as above.
        None
    }

    fn give_back(&self, record: usize) {
        let sample = &self.records[record];
        write(sample, 0, &Entry { size: 0, weight: 0, stack: 0, allocated_ns: 0, generation: 0 });
        // Ordering: Relaxed, the exchange publishes what is stored in between.
        let mut head = FREE.load(Ordering::Relaxed);
        loop {
            sample.next_free.store(head as u32 as usize, Ordering::Relaxed); // Ordering: Relaxed, as above.
            let changed = head_of(head, record as u64 + 1);
            // Ordering: Release pairs with the Acquire in `take_record`; Relaxed on failure reads nothing.
            match FREE.compare_exchange(head, changed, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

fn head_of(before: u64, first: u64) -> u64 {
    ((before >> 32) + 1) << 32 | first
}

/// Writes a record that is the caller's, for readers outside: odd while it changes.
fn write(sample: &Sample<AtomicUsize>, address: usize, entry: &Entry) {
    // Ordering: Relaxed, the caller alone writes.
    let sequence = sample.sequence.load(Ordering::Relaxed) | 1;
    sample.sequence.store(sequence, Ordering::Relaxed); // Ordering: Relaxed, the fence orders it.
    // Ordering: Release: a reader that sees a field sees the odd number.
    fence(Ordering::Release);
    let fields = [
        (&sample.address, address),
        (&sample.size, entry.size),
        (&sample.weight, entry.weight as usize),
        (&sample.stack, entry.stack),
        (&sample.allocated_ns, entry.allocated_ns),
        (&sample.generation, entry.generation),
    ];
    for (field, value) in fields {
        field.store(value, Ordering::Relaxed); // Ordering: Relaxed, between the fence and the last store.
    }
    // Ordering: Release, after the fields.
    sample.sequence.store(sequence + 1, Ordering::Release);
}

fn read(sample: &Sample<AtomicUsize>) -> Entry {
    // Ordering: Relaxed, the record is the caller's.
    let word = |field: &AtomicUsize| field.load(Ordering::Relaxed);
    Entry {
        size: word(&sample.size),
        weight: word(&sample.weight) as u64,
        stack: word(&sample.stack),
        allocated_ns: word(&sample.allocated_ns),
        generation: word(&sample.generation),
    }
}
