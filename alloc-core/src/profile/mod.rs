//! The sampled heap profile: which allocations are live, and which call stacks made them.
//!
//! Promises: while no profile runs, an allocation executes no instruction for it. While one runs, each allocation is a sample with
//! the probability that its size gives (`countdown`), and the sums of the samples' weights are unbiased. A profile is
//! started and stopped at any instant, by any thread, in a handler too; nothing waits for that, and nothing here takes a lock.
//!
//! ```text
//! start:  tables mapped, floor raised, RUNNING, then the classes of sizes are hidden: every allocation takes the slow path
//! sample: countdown -> stack (unwind, stacks) -> object of its own (pool, or a span) -> record (samples)
//! free:   an address without a class in the page map -> record taken out, totals (samples, stacks)
//! stop:   the classes are shown again
//! ```
//!
//! Invariants:
//! I1. The size tables of `HOT` and their kept copies are equal, or the former are 0: then a slow function asks `is_on`. An entry that
//!     read a class before it was hidden allocates unsampled; one that frees by a class pushes the object of a sample at
//!     worst, which comes back when the class's cache is emptied (`pool`).
//! I2. A sample's word is taken out before its memory is free (samples I1).

#[forbid(unsafe_code)]
pub mod countdown;
pub mod layout;
pub mod pool;
#[forbid(unsafe_code)]
pub mod read;
#[forbid(unsafe_code)]
mod samples;
#[forbid(unsafe_code)]
mod stacks;
#[forbid(unsafe_code)]
mod switch;
mod tables;
pub mod unwind;

pub use samples::{Entry, live};
pub use switch::{ProfileError, follow_tracer, reset_in_child, start, stop};
pub use tables::OwnMemory;

use crate::arch::{Registers, counted, probe};
use crate::atomic::{AtomicUsize, Ordering};
use crate::fail::Misuse;
use crate::object::Object;
use crate::os;
use crate::parts;
use crate::size_class::Class;
use layout::{Header, NEVER_STARTED, RUNNING, weighted_bytes};

/// The header of the one profile of this process.
pub static PROFILE: Header<AtomicUsize> = Header {
    state: AtomicUsize::new(NEVER_STARTED as usize),
    generation: AtomicUsize::new(0),
    interval_bytes: AtomicUsize::new(0),
    started_ns: AtomicUsize::new(0),
    stopped_ns: AtomicUsize::new(0),
    stacks: AtomicUsize::new(0),
    stack_stride: AtomicUsize::new(0),
    // Number 0 is that of no stack.
    stacks_used: AtomicUsize::new(1),
    frames: AtomicUsize::new(0),
    frames_used: AtomicUsize::new(0),
    samples: AtomicUsize::new(0),
    sample_stride: AtomicUsize::new(0),
    samples_used: AtomicUsize::new(0),
    dropped_stacks: AtomicUsize::new(0),
    dropped_samples: AtomicUsize::new(0),
    truncated_stacks: AtomicUsize::new(0),
};

/// Whether a profile runs.
#[inline]
pub fn is_on() -> bool {
    // Ordering: Acquire pairs with the Release in `switch::start`: the tables are there.
    parts::PROFILE && PROFILE.state.load(Ordering::Acquire) == RUNNING as usize
}

/// Makes sure that stacks can be recorded; false if the OS gives no memory. Threads may do so at once.
pub fn prepare() -> bool {
    parts::PROFILE && tables::open() && {
        unwind::try_probe();
        unwind::find_modules();
        true
    }
}

/// The number of the stack that begins with `caller`; 0 if none can be kept. Only while tables exist.
pub fn stack_of(caller: &Registers) -> usize {
    let (Some(stacks), Some(found)) = (tables::stacks(), tables::found()) else { return 0 };
    let number = tables::with_work(|work| {
        let (count, end) = unwind::walk(caller, found, work);
        if end == unwind::End::Truncated {
            // Ordering: Relaxed, a statistic.
            PROFILE.truncated_stacks.fetch_add(1, Ordering::Relaxed);
        }
        stacks.number_of(&work.frames[..count])
    });
    number.unwrap_or_else(|| {
        // Ordering: Relaxed, a statistic.
        PROFILE.dropped_stacks.fetch_add(1, Ordering::Relaxed);
        0
    })
}

/// The number of the stack that leads here; 0 without [`prepare`]. The frames of this allocator are its first ones, unless
/// they are those of a library that is nothing else.
pub fn stack_here() -> usize {
    extern "C" fn number(_: usize, _: usize, caller: &Registers) -> usize {
        stack_of(caller)
    }
    if parts::PROFILE { counted::with_registers(0, 0, number) } else { 0 }
}

/// Memory for a sampled object of `class`; none if there is no memory of its own for it.
pub fn allocate(class: Class) -> Option<Object> {
    if !pool::serves(class) {
        return None;
    }
    tables::pool()?.allocate(class)
}

/// Whether the live object at an address is found by its address alone when it is freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracked {
    /// It is.
    Yes,
    /// It is not: it counts as allocated only.
    No,
}

/// Records a sample: `size` requested bytes at `address`.
pub fn record(address: usize, size: usize, stack: usize, tracked: Tracked) {
    let (Some(stacks), Some(samples)) = (tables::stacks(), tables::samples()) else { return };
    let size = size.max(1);
    let weight = countdown::weight(size);
    let bytes = weighted_bytes(size as u64, weight);
    stacks.count_allocated(stack, weight, bytes);
    let entry = Entry {
        size,
        weight,
        stack,
        allocated_ns: os::nanoseconds_since_epoch(),
        generation: generation(),
    };
    if tracked == Tracked::No || !samples.insert(address, &entry) {
        // Ordering: Relaxed, a statistic.
        PROFILE.dropped_samples.fetch_add(1, Ordering::Relaxed);
        stacks.count_freed(stack, weight, bytes);
    }
    if probe::is_wanted() {
        probe::alloc(address, size, bytes);
    }
    follow_tracer();
}

/// Takes the sample at `address` out of the live ones, if it is one: it is freed.
#[inline]
pub fn forget(address: usize) {
    if samples::live() != 0 {
        forget_slow(address);
    }
}

#[cold]
fn forget_slow(address: usize) {
    if let Some(entry) = take(address) {
        count_freed(&entry);
        if probe::is_wanted() {
            probe::free(address);
        }
    }
}

/// Takes the sample at `address` out, if it is one, without saying that it is freed: for an object that may move.
pub fn take(address: usize) -> Option<Entry> {
    if samples::live() == 0 { None } else { tables::samples()?.remove(address) }
}

/// Puts back what [`take`] has taken.
pub fn put_back(address: usize, entry: &Entry) {
    if tables::samples().is_some_and(|samples| samples.insert(address, entry)) {
        return;
    }
    count_freed(entry);
}

/// Adds to the totals of what was freed.
pub fn count_freed(entry: &Entry) {
    if entry.generation == generation()
        && let Some(stacks) = tables::stacks()
    {
        let bytes = weighted_bytes(entry.size as u64, entry.weight);
        stacks.count_freed(entry.stack, entry.weight, bytes);
    }
}

fn generation() -> usize {
    // Ordering: Relaxed, a number that stands alone.
    PROFILE.generation.load(Ordering::Relaxed)
}

/// Whether the address lies in memory that only samples have.
#[inline]
pub fn owns(address: usize) -> bool {
    pool::owns(address)
}

/// Bytes of the live small sample at `address`, which [`owns`] knows. Ends the process if there is none, with `of_freed` if there was
/// one.
pub fn size_of(address: usize, of_freed: Misuse) -> usize {
    tables::pool().map_or(0, |pool| pool.size_of(address, of_freed))
}

/// Whether a live small sample of at least `size` bytes is at `address`.
pub fn has_live(address: usize, size: usize) -> bool {
    tables::pool().is_some_and(|pool| pool.has_live(address, size))
}

/// Frees the small sample at `address`, which [`owns`] knows; ends the process if there is none.
///
/// # Safety
/// 1. The caller gives up the object there, if there is one.
pub unsafe fn free(address: usize) {
    if let Some(pool) = tables::pool() {
        forget(address);
        // SAFETY: duty 1.
        unsafe { pool.free(address) };
    }
}

/// The header of this process's profile, for `read` with [`OwnMemory`].
pub fn own_header() -> Header<u64> {
    // Ordering: Relaxed, each word is valid by itself.
    PROFILE.map(|word| word.load(Ordering::Relaxed) as u64)
}

/// The stacks whose samples stand for the most live bytes: the bytes and the number of each. Of the profile that runs, or that ran
/// last; 0 bytes where there are no more.
pub fn largest<const MOST: usize>() -> [(usize, usize); MOST] {
    let stacks = if parts::PROFILE { tables::stacks() } else { None };
    stacks.map_or([(0, 0); MOST], |stacks| stacks.largest())
}

/// Copies the frames of the stack of this number to `out`; how many.
pub fn frames_of(stack: usize, out: &mut [usize]) -> usize {
    if !parts::PROFILE {
        return 0;
    }
    tables::stacks().map_or(0, |stacks| stacks.frames_of(stack, out))
}
