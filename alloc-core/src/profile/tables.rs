//! The memory of a profile: one mapping for all its tables, made at the first start and kept for ever.
//!
//! Promises that a table is there whole or not at all. Nothing is touched before it is used, so what is resident follows what is
//! recorded.
//!
//! Invariants:
//! I1. A work area is its owner's alone: of the call that put its thread's identity in place of a 0.

use super::PROFILE;
use super::layout::{Sample, Stack};
use super::pool::{self, Tables as Pool};
use super::samples::{RECORDS, Samples, WORDS};
use super::stacks::{BUCKETS, FRAMES, STACKS, Stacks};
use super::unwind::{Found, Work};
use crate::arch;
use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::os::{self, Place};
use crate::sums::Memory;
use core::cell::UnsafeCell;

#[repr(C, align(64))]
struct Tables {
    words: [AtomicU64; WORDS],
    records: [Sample<AtomicUsize>; RECORDS],
    buckets: [AtomicU32; BUCKETS],
    stacks: [Stack<AtomicUsize>; STACKS],
    frames: [AtomicUsize; FRAMES],
    units: [AtomicU64; pool::UNITS],
    states: [AtomicU32; pool::SLOTS],
    found: Found,
    owners: [AtomicUsize; WORK_AREAS],
    work: [UnsafeCell<Work>; WORK_AREAS],
}

/// Walks that can be under way at once.
const WORK_AREAS: usize = 64;

/// Address of the mapping; 0 before the first start.
static TABLES: AtomicUsize = AtomicUsize::new(0);

fn get() -> Option<&'static Tables> {
    // Ordering: Acquire pairs with the Release in `open`.
    let tables = TABLES.load(Ordering::Acquire) as *const Tables;
    // SAFETY: null, or mapped for ever; zeroes are valid, and all is atomic but the cells.
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

/// What earlier walks have found, likewise.
pub fn found() -> Option<&'static Found> {
    get().map(|tables| &tables.found)
}

/// Calls `f` with a work area of its own; none if all are in use, or before the first start. A handler in between gets another one.
pub fn with_work<R>(f: impl FnOnce(&mut Work) -> R) -> Option<R> {
    let (tables, own) = (get()?, arch::thread_id());
    // The blocks of threads lie pages apart.
    let first = own / os::page_bytes();
    let mut areas = (0..WORK_AREAS).map(|at| first.wrapping_add(at) % WORK_AREAS);
    let area = areas.find(|&area| {
        // Ordering: Acquire pairs with the Release below.
        tables.owners[area].compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
    })?;
    // SAFETY: I1; the memory is mapped for ever, and zeroes or what `f` left are a valid value.
    let result = f(unsafe { &mut *tables.work[area].get() });
    tables.owners[area].store(0, Ordering::Release); // Ordering: Release, as above.
    Some(result)
}

/// In the child of a fork, by its only thread: other threads' walks have no end here.
pub fn free_work_of_others() {
    let Some(tables) = get() else { return };
    for owner in &tables.owners {
        // Ordering: Relaxed, there is no other thread.
        if owner.load(Ordering::Relaxed) != arch::thread_id() {
            owner.store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }
}

/// The memory of this process, as far as it is a profile's.
pub struct OwnMemory;

impl Memory for OwnMemory {
    fn word(&self, address: u64) -> Option<u64> {
        let address = address as usize;
        let start = core::ptr::from_ref(get()?) as usize;
        let len = core::mem::offset_of!(Tables, work);
        let is_inside = (start..start + len - 7).contains(&address);
        // SAFETY: a word of the tables before the work areas, of which all are atomic; they stay mapped.
        (is_inside && address.is_multiple_of(8))
            .then(|| unsafe { &*(address as *const AtomicU64) }.load(Ordering::Relaxed)) // Ordering: Relaxed, as outside.
    }

    fn half(&self, _: u64) -> Option<u32> {
        None
    }
}

/// Makes sure that the tables are mapped, and that readers know where; false if the OS refuses. Of threads that do so at once, one
/// has its mapping used.
pub fn open() -> bool {
    if get().is_none() && !map() {
        return false;
    }
    // Each time: a fork that came in between has left its child tables which no reader knows.
    let address = get().map_or(0, |tables| core::ptr::from_ref(tables) as usize);
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

fn map() -> bool {
    let len = os::whole_pages(size_of::<Tables>());
    let Ok(address) = os::map(Place::Anywhere, len) else { return false };
    // What lies there is spread: with huge pages all of it would become resident.
    os::no_huge_pages(address, len);
    // Ordering: Release publishes the tables, which are zero; Relaxed on failure reads nothing.
    if TABLES.compare_exchange(0, address, Ordering::Release, Ordering::Relaxed).is_err() {
        // SAFETY: mapped above, known to no other code.
        unsafe { os::unmap(address, len) };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::in_child;

    /// As a fork finds them that comes when the tables are mapped and nothing says where.
    #[test]
    fn a_child_of_a_fork_within_open_has_a_profile() {
        in_child(|| {
            assert!(map());
            assert_eq!(PROFILE.stacks.load(Ordering::Relaxed), 0, "no test was here before");
            assert_eq!(super::super::start(4096), Ok(()));
            let header = super::super::own_header();
            assert!(header.stacks != 0 && header.samples != 0 && header.frames != 0);
            assert!(header.stack_stride != 0 && header.sample_stride != 0);
        });
    }
}
