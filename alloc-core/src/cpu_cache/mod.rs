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

use crate::node::{self, Node};
use crate::object::{Fresh, Object};
use crate::page_heap::PAGE_HEAP;
use crate::postponed;
use crate::region::Counter;
use crate::rseq::outcome::{Pop, Push};
use crate::rseq::registration;
use crate::rseq::{Index, Sections};
use crate::size_class::Class;
use crate::slab::SLABS;
use policy::decay;
use shard::locked::{self, Locked};
use shard::{RETRIES, count, leases, percpu};
use supply::{give_back_one, take_one};
use transfer::{flush, refill};

/// Allocates an object of `class`; none when the OS has no more memory.
pub fn allocate(class: Class) -> Option<Fresh> {
    if let Some(sections) = registration::sections() {
        for _ in 0..RETRIES {
            match Shard::pop(&sections, class) {
                Pop::Object(object) => return Some(Fresh::used(object)),
                Pop::Empty if percpu::open_or_create(sections) => {
                    resume_decay();
                    return refill(&sections, class);
                }
                Pop::Empty => return take_one(class),
                Pop::Aborted => count(&sections, Counter::Aborts),
                Pop::NoShard if registration::ensure_registered(sections) => {}
                Pop::NoShard => break,
            }
        }
    }
    if let Some(shard) = leases::own_shard() {
        match shard.pop(class) {
            Pop::Object(object) => return Some(Fresh::used(object)),
            Pop::Empty => {
                resume_decay();
                return refill(shard, class);
            }
            Pop::Aborted | Pop::NoShard => {}
        }
    }
    match Locked::take_any() {
        Some(locked) => allocate_on(&locked, class),
        None => take_one(class),
    }
}

/// Has all per-CPU shards together cache as those of so many CPUs. For init.
pub fn set_usable_cpus(count: usize) {
    policy::capacity::set_usable_cpus(count);
}

/// How many CPUs that is, if it is bounded.
pub fn usable_cpus() -> Option<usize> {
    Some(policy::capacity::usable_cpus()).filter(|&count| count != usize::MAX)
}

/// Completes decays that were put off, and asks whether the kernel is still one that can serve the process. The caller holds no shard and no lock.
#[inline]
pub fn resume_decay() {
    registration::confirm_kernel();
    if postponed::is_any() {
        decay::resume();
    }
}

/// As [`allocate`], on a shard that the caller has for itself.
pub fn allocate_on<S: Shard>(shard: &S, class: Class) -> Option<Fresh> {
    match shard.pop(class).object() {
        Some(object) => Some(Fresh::used(object)),
        None => refill(shard, class),
    }
}

/// The short way of the atomic path without a lease: an object of `class`, if the first locked shard tried has one.
#[inline]
pub fn try_pop(class: Class) -> Option<Object> {
    if !locked::serves_process() || leases::ensure_lease() {
        return None;
    }
    Locked::take_any()?.pop(class).object()
}

/// Frees an object of `class`.
pub fn free(class: Class, object: Object) {
    let left = match registration::sections() {
        Some(sections) if is_here(&object) => free_by_sections(sections, class, object),
        // Of another node: kept apart from what this CPU allocates (docs/adr/0051).
        _ => Some(object),
    };
    if let Some(object) = left {
        free_without_sections(class, object);
    }
    // Not before this thread has given up its shard: this may take a while.
    if SLABS[class].has_fallen() {
        decay::decay_if_shrunk(class);
    }
}

/// Whether the object lies on the node of this CPU.
fn is_here(object: &Object) -> bool {
    !node::are_many() || PAGE_HEAP.node_at(object.address()) == Node::here()
}

/// Pushes what lies at `address` onto this CPU's shard, if it lies on the CPU's node and the shard is not full of them; whether it did. For frees
/// whose entries are closed.
///
/// The caller gives up an object of `class`, if this is true.
#[inline]
pub fn push_if_here(sections: Sections, class: Class, address: usize) -> bool {
    let Some(cpu) = registration::current_index(Index::CpuId) else { return false };
    node::of_cpu(cpu) == PAGE_HEAP.node_at(address) && sections.push(class, address) == 0
}

/// The object again if the thread has no per-CPU shard.
#[inline]
fn free_by_sections(sections: Sections, class: Class, mut object: Object) -> Option<Object> {
    for _ in 0..RETRIES {
        object = match Shard::push(&sections, class, object) {
            Push::Done => return None,
            Push::Full(object) => {
                match percpu::open_or_create(sections) {
                    true => flush(&sections, class, object),
                    false => give_back_one(class, object),
                }
                return None;
            }
            Push::Aborted(object) => {
                count(&sections, Counter::Aborts);
                object
            }
            Push::NoShard(object) if registration::ensure_registered(sections) => object,
            Push::NoShard(object) => return Some(object),
        };
    }
    Some(object)
}

#[inline]
fn free_without_sections(class: Class, mut object: Object) {
    if let Some(shard) = leases::own_shard() {
        object = match shard.push(class, object) {
            Push::Done => return,
            Push::Full(object) => return flush(shard, class, object),
            Push::Aborted(object) | Push::NoShard(object) => object,
        };
    }
    match Locked::take_any() {
        Some(locked) => free_on(&locked, class, object),
        None => give_back_one(class, object),
    }
}

/// As [`free`], on a shard that the caller has for itself.
pub fn free_on<S: Shard>(shard: &S, class: Class, object: Object) {
    if let Some(object) = shard.push(class, object).left() {
        flush(shard, class, object);
    }
}

/// The short way of the atomic path without a lease: none if the first locked shard tried took `object`.
#[inline]
pub fn try_push(class: Class, object: Object) -> Option<Object> {
    if !locked::serves_process() || leases::ensure_lease() {
        return Some(object);
    }
    match Locked::take_any() {
        Some(locked) => locked.push(class, object).left(),
        None => Some(object),
    }
}
