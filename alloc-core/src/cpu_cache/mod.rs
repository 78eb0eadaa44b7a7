//! The per-CPU caches: allocate and free by size class, where the entries' fast paths cannot.
//!
//! Promises: an object popped from or pushed to any cache is in exactly one place afterwards; a call that
//! finds no shard is served by the atomic path, or straight from the depot and the slabs.
//!
//! ```text
//! allocate ─ pop ──── empty: transfer::refill ─┐             ┌─ depot ─┐
//! free ───── push ─── full: transfer::flush ───┴─ supply ────┴─ slab ──┴─ page_heap
//!   shard::{percpu, biased, locked}             policy::capacity: how much a shard may hold
//! exclusive: shards stopped    drain: all of it given back    policy::decay: when
//! ```
//!
//! Invariants:
//! I1. A thread with rseq works on per-CPU shards by sections only; a thread without, on locked shards and, where no
//!     thread has rseq, on its biased shard.
//! I2. Retries are bounded by `RETRIES`; then the caller takes another way.
//! I3. Between tiers, objects lie in a buffer on the stack: at most one magazine for each thread.

mod census;
pub mod drain;
pub mod exclusive;
mod policy;
pub mod shard;
mod supply;
mod transfer;

pub use census::{cached_bytes, regions};
pub use shard::Shard;

use crate::object::{Fresh, Object};
use crate::region::Counter;
use crate::rseq::registration;
use crate::rseq::{ABORTED, FULL, NO_SHARD};
use crate::size_class::Class;
use crate::slab::SLABS;
use policy::decay;
use shard::locked::{self, Locked};
use shard::{RETRIES, count, leases, percpu};
use supply::{batch_of, give_back, take_one};
use transfer::{flush, refill};

/// Allocates an object of `class`; none when the OS has no more memory.
pub fn allocate(class: Class) -> Option<Fresh> {
    if let Some(sections) = registration::sections() {
        for _ in 0..RETRIES {
            match sections.pop(class) {
                0 if percpu::open_or_create(sections) => return refill(&sections, class),
                0 => return take_one(class),
                ABORTED => count(&sections, Counter::Aborts),
                NO_SHARD if registration::ensure_registered(sections) => {}
                NO_SHARD => break,
                address => return popped(address),
            }
        }
    }
    if let Some(shard) = leases::own_shard() {
        match shard.pop(class) {
            0 => return refill(shard, class),
            NO_SHARD => {}
            address => return popped(address),
        }
    }
    match Locked::take_any() {
        Some(locked) => allocate_on(&locked, class),
        None => take_one(class),
    }
}

/// As [`allocate`], on a shard that the caller has for itself.
pub fn allocate_on<S: Shard>(shard: &S, class: Class) -> Option<Fresh> {
    match shard.pop(class) {
        0 => refill(shard, class),
        address => popped(address),
    }
}

/// The object that a shard popped.
#[inline(always)]
fn popped(address: isize) -> Option<Fresh> {
    // SAFETY: the pop took the object out of the shard, whose it was.
    unsafe { Object::from_address(address as usize) }.map(Fresh::used)
}

/// The short way of the atomic path without a lease: an object of `class`, if the first locked shard tried has one.
#[inline]
pub fn try_pop(class: Class) -> Option<usize> {
    if !locked::serves_process() || leases::ensure_lease() {
        return None;
    }
    let object = Locked::take_any()?.pop(class);
    (object != 0).then_some(object as usize)
}

/// Frees an object of `class`.
pub fn free(class: Class, object: usize) {
    free_to_shard(class, object);
    // Not before this thread has given up its shard: this may take a while.
    if SLABS[class].has_fallen() {
        decay::decay_if_shrunk(class);
    }
}

fn free_to_shard(class: Class, object: usize) {
    if let Some(sections) = registration::sections() {
        for _ in 0..RETRIES {
            match sections.push(class, object) {
                0 => return,
                FULL if percpu::open_or_create(sections) => return flush(&sections, class, object),
                FULL => return give_back(class, &mut batch_of(object)),
                ABORTED => count(&sections, Counter::Aborts),
                NO_SHARD if registration::ensure_registered(sections) => {}
                _ => break,
            }
        }
    }
    if let Some(shard) = leases::own_shard() {
        match shard.push(class, object) {
            0 => return,
            FULL => return flush(shard, class, object),
            _ => {}
        }
    }
    match Locked::take_any() {
        Some(locked) => free_on(&locked, class, object),
        None => give_back(class, &mut batch_of(object)),
    }
}

/// As [`free`], on a shard that the caller has for itself.
pub fn free_on<S: Shard>(shard: &S, class: Class, object: usize) {
    if shard.push(class, object) != 0 {
        flush(shard, class, object);
    }
}

/// The short way of the atomic path without a lease: whether the first locked shard tried took `object`.
#[inline]
pub fn try_push(class: Class, object: usize) -> bool {
    locked::serves_process()
        && !leases::ensure_lease()
        && Locked::take_any().is_some_and(|locked| locked.push(class, object) == 0)
}
