//! Restartable sequences: the sections of both indices behind one set of names.
//!
//! Promises: each function of [`Sections`] either commits whole or changes nothing and says why; it never retries.
//!
//! `abi` is the kernel's interface, `registration` decides the mode and registers threads, `keys` undoes that when a thread ends,
//! `vfork` keeps sections from running while a child has the process' memory, `reference` is what each section does, in Rust.

pub mod abi;
mod keys;
pub mod outcome;
pub mod reference;
pub mod registration;
pub mod vfork;

/// What a section returns that did nothing.
pub mod status {
    /// The kernel aborted it.
    pub const ABORTED: isize = -1;
    /// The thread has no shard: it is not registered, or its shard's index is out of range.
    pub const NO_SHARD: isize = -2;
    /// It found something else than it was told to expect.
    pub const CHANGED: isize = -3;
    /// It found its class full.
    pub const FULL: isize = -4;
}
pub use status::*;

use crate::arch::sections;
use crate::region::{Bounds, COUNTERS, Region};
use crate::size_class::Class;
use crate::units::MAGAZINE_MAX;

/// The index that the sections use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Index {
    /// The CPU's number: dense enough for small machines, exact for remote fences.
    CpuId,
    /// The kernel's concurrency id: compact for small processes on large machines.
    MmCid,
}

/// The sections of one index mode.
#[derive(Clone, Copy)]
pub struct Sections {
    /// Which.
    pub index: Index,
}

impl Sections {
    /// Pops one object: its address, 0 if `class` is empty, or a status.
    #[inline]
    pub fn pop(self, class: Class) -> isize {
        // SAFETY: it is a class.
        unsafe {
            match self.index {
                Index::CpuId => sections::pop_cpu(class),
                Index::MmCid => sections::pop_cid(class),
            }
        }
    }

    /// Pushes one free object: 0 or a status.
    #[inline]
    pub fn push(self, class: Class, object: usize) -> isize {
        // SAFETY: it is a class; a section stores the address and never follows it.
        unsafe {
            match self.index {
                Index::CpuId => sections::push_cpu(class, object),
                Index::MmCid => sections::push_cid(class, object),
            }
        }
    }

    /// Pops up to `out.len()` objects, topmost first: how many, or a status.
    #[inline]
    pub fn pop_batch(self, class: Class, out: &mut [usize]) -> isize {
        let n = out.len().min(MAGAZINE_MAX);
        let (bottom, long) = (Region::bottom_offset(class), Region::long_bottom_offset(class));
        // SAFETY: class and bottoms belong together; `out` takes n.
        unsafe {
            match self.index {
                Index::CpuId => sections::pop_batch_cpu(class, out.as_mut_ptr(), n, bottom, long),
                Index::MmCid => sections::pop_batch_cid(class, out.as_mut_ptr(), n, bottom, long),
            }
        }
    }

    /// Pushes the last objects first while there is space: how many, or a status.
    #[inline]
    pub fn push_batch(self, class: Class, objects: &[usize]) -> isize {
        debug_assert!(objects.len() <= MAGAZINE_MAX);
        let n = objects.len();
        // SAFETY: it is a class; `objects` has n.
        unsafe {
            match self.index {
                Index::CpuId => sections::push_batch_cpu(class, objects.as_ptr(), n),
                Index::MmCid => sections::push_batch_cid(class, objects.as_ptr(), n),
            }
        }
    }

    /// Changes the bounds of `class` in `region`, if the shard still uses it: 0 or a status.
    #[inline]
    pub fn set_bounds(self, class: Class, region: &Region, from: Bounds, to: Bounds) -> isize {
        let (from, to) = (from.word(), to.word());
        // SAFETY: it is a class; the caller computes the bounds of a stack of `class`.
        unsafe {
            match self.index {
                Index::CpuId => sections::set_bounds_cpu(class, region, from, to),
                Index::MmCid => sections::set_bounds_cid(class, region, from, to),
            }
        }
    }

    /// Adds to a per-CPU counter: 0 or a status.
    #[inline]
    pub fn add(self, counter: usize, delta: usize) -> isize {
        debug_assert!(counter < COUNTERS);
        let offset = core::mem::offset_of!(Region, counters) + counter * size_of::<usize>();
        // SAFETY: the offset is that of a counter.
        unsafe {
            match self.index {
                Index::CpuId => sections::add_cpu(offset, delta),
                Index::MmCid => sections::add_cid(offset, delta),
            }
        }
    }
}
