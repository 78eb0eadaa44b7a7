//! The memory of a profile: one mapping for all its tables, made at the first start and kept for ever.
//!
//! Promises that a table is there whole or not at all. Nothing is touched before it is used, so what is resident follows what is
//! recorded.

use super::PROFILE;
use super::layout::{Sample, Stack};
use super::pool::{self, Tables as Pool};
use super::samples::{RECORDS, Samples, WORDS};
use super::stacks::{BUCKETS, FRAMES, STACKS, Stacks};
use super::unwind::cache;
use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::os::{self, Place};
use crate::sums::Memory;

#[repr(C, align(64))]
struct Tables {
    words: [AtomicU64; WORDS],
    records: [Sample<AtomicUsize>; RECORDS],
    buckets: [AtomicU32; BUCKETS],
    stacks: [Stack<AtomicUsize>; STACKS],
    frames: [AtomicUsize; FRAMES],
    units: [AtomicU64; pool::UNITS],
    states: [AtomicU32; pool::SLOTS],
    rules: [cache::Entry; cache::ENTRIES],
}

/// Address of the mapping; 0 before the first start.
static TABLES: AtomicUsize = AtomicUsize::new(0);

fn get() -> Option<&'static Tables> {
    // Ordering: Acquire pairs with the Release in `open`.
    let tables = TABLES.load(Ordering::Acquire) as *const Tables;
    // SAFETY: null, or mapped for ever; zeroes are valid, and all is atomic.
    unsafe { tables.as_ref() }
}

/// The samples, if a profile was ever started.
pub fn samples() -> Option<Samples> {
    get().map(|tables| Samples::new(&tables.words, &tables.records))
}

/// The stacks, likewise.
pub fn stacks() -> Option<Stacks> {
    get().map(|tables| Stacks::new(&tables.buckets, &tables.stacks, &tables.frames))
}

/// The memory for small objects, likewise.
pub fn pool() -> Option<Pool> {
    get().map(|tables| Pool { units: &tables.units, states: &tables.states })
}

/// The rules that were found before, likewise.
pub fn rules() -> Option<&'static [cache::Entry; cache::ENTRIES]> {
    get().map(|tables| &tables.rules)
}

/// The memory of this process, as far as it is a profile's.
pub struct OwnMemory;

impl Memory for OwnMemory {
    fn word(&self, address: u64) -> Option<u64> {
        let address = address as usize;
        let start = core::ptr::from_ref(get()?) as usize;
        let is_inside = (start..start + size_of::<Tables>() - 7).contains(&address);
        // SAFETY: a word of the tables, of which all are atomic; they stay mapped.
        (is_inside && address.is_multiple_of(8))
            .then(|| unsafe { &*(address as *const AtomicU64) }.load(Ordering::Relaxed)) // Ordering: Relaxed, as outside.
    }

    fn half(&self, _: u64) -> Option<u32> {
        None
    }
}

/// Maps the tables, if that has not been done; false if the OS refuses. Of threads that do so at once, one has its mapping used.
pub fn open() -> bool {
    if get().is_some() {
        return true;
    }
    let len = size_of::<Tables>().next_multiple_of(os::page_bytes());
    let Ok(address) = os::map(Place::Anywhere, len) else { return false };
    // What lies there is spread: with huge pages all of it would become resident.
    os::no_huge_pages(address, len);
    // Ordering: Release publishes the tables, which are zero; Relaxed on failure reads nothing.
    if TABLES.compare_exchange(0, address, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: mapped above, known to no other code.
        unsafe { os::unmap(address, len) };
        return true;
    }
    let fields = [
        (&PROFILE.stacks, address + core::mem::offset_of!(Tables, stacks)),
        (&PROFILE.stack_stride, size_of::<Stack<AtomicUsize>>()),
        (&PROFILE.frames, address + core::mem::offset_of!(Tables, frames)),
        (&PROFILE.samples, address + core::mem::offset_of!(Tables, records)),
        (&PROFILE.sample_stride, size_of::<Sample<AtomicUsize>>()),
    ];
    for (field, value) in fields {
        field.store(value, Ordering::Relaxed); // Ordering: Relaxed, for readers, which find 0 or this.
    }
    true
}
