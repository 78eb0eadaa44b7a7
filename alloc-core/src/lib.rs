//! The engine of rsalloc: a per-CPU memory allocator on restartable sequences.
//!
//! `no_std`, allocates nothing but from the OS. The fronts (`alloc-global`, `alloc-preload`) use the
//! functions of this page; the rooms behind them, from the top down:
//!
//! ```text
//! engine -> cpu_cache -> depot -> slab -> page_heap -> os
//!              |                   |         |
//!            rseq -> os            +--- page_map, guard, canary
//! leaves: sanitizer, secret, units, config, size_class, sync, fail, shard, asm, report, publish, describe, token_bucket,
//!         atomic, counters
//! observers: stats, check, sources
//! ```
#![no_std]

#[doc(hidden)]
pub mod asm;
mod atomic;
mod canary;
mod check;
pub mod config;
#[cfg(feature = "counters")]
pub mod counters;
pub mod cpu_cache;
pub mod depot;
pub mod describe;
#[doc(hidden)]
pub mod engine;
pub mod fail;
#[doc(hidden)]
pub mod guard;
pub mod os;
pub mod page_heap;
pub mod page_map;
pub mod publish;
mod report;
pub mod rseq;
mod sanitizer;
mod secret;
#[doc(hidden)]
pub mod shard;
pub mod size_class;
pub mod slab;
#[cfg(feature = "counters")]
pub mod sources;
mod stats;
pub mod sync;
mod token_bucket;
pub mod units;

pub use check::{Defect, DefectKind, check};
pub use config::{Origin, Setting, Value, settings};
pub use engine::init::report;
pub use engine::{
    allocate, allocate_aligned, allocate_zeroed, free, free_sized, keep_loaded, limit_dirty,
    reallocate, reallocate_sized, release, usable_size,
};
pub use report::{Mode, ModeReason, Report};
pub use stats::{FreeObjects, Shape, Stats, shape, stats};
