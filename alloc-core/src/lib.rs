//! The engine of rsalloc: a per-CPU memory allocator on restartable sequences.
//!
//! `no_std`; takes memory from the OS only. Programs use it through the crates `rsalloc` (a Rust global allocator) and
//! `rsalloc-preload` (`librsalloc.so`), which are made of the functions of this page. The modules behind them, from the
//! top down:
//!
//! ```text
//! engine -> cpu_cache -> depot -> slab -> page_heap -> os
//!              |                   |         |
//!            rseq -> os            +--- page_map, guard, canary
//! ```
//!
//! Below all of these are the leaves, such as `config`, `sync` and `arch`; above them the observers `stats`, `check`, `print`
//! and `sources`. `docs/layers.txt` has the whole order.
#![no_std]

mod arch;
mod atomic;
#[cfg_attr(not(test), forbid(unsafe_code))]
mod canary;
#[forbid(unsafe_code)]
mod check;
#[cfg(test)]
#[path = "../tests/support/child.rs"]
mod child;
#[forbid(unsafe_code)]
mod config;
#[cfg_attr(not(test), forbid(unsafe_code))]
mod counters;
mod cpu_cache;
#[forbid(unsafe_code)]
mod delays;
mod depot;
#[forbid(unsafe_code)]
mod describe;
#[forbid(unsafe_code)]
mod domain;
mod engine;
#[forbid(unsafe_code)]
mod fail;
mod guard;
mod hot;
#[forbid(unsafe_code)]
mod metrics;
mod node;
mod object;
mod os;
mod page_heap;
#[forbid(unsafe_code)]
mod page_map;
#[forbid(unsafe_code)]
mod parts;
#[forbid(unsafe_code)]
mod postponed;
#[forbid(unsafe_code)]
mod print;
mod profile;
mod publish;
mod region;
#[forbid(unsafe_code)]
mod report;
mod rseq;
mod sanitizer;
#[forbid(unsafe_code)]
mod secret;
#[forbid(unsafe_code)]
mod size_class;
mod slab;
#[cfg(feature = "counters")]
mod sources;
#[forbid(unsafe_code)]
mod stats;
#[forbid(unsafe_code)]
mod sums;
#[forbid(unsafe_code)]
mod sync;
mod token_bucket;
#[forbid(unsafe_code)]
mod units;

pub use check::{Defect, DefectKind, check};
pub use config::{Bound, Config, Origin, RequestedMode, Setting, StatsAtExit, Value, settings};
pub use engine::api::{
    allocate, allocate_aligned, allocate_zeroed, free, free_sized, limit_dirty, reallocate,
    reallocate_sized, release, start_profile, stop_profile, usable_size, usable_size_of,
};
pub use engine::init::report;
pub use engine::keep_loaded;
pub use metrics::{Metrics, MetricsFormat};
pub use profile::ProfileError;
pub use report::{Mode, ModeReason, PurgeMethod, Report, ShardIndex};
pub use stats::{metrics, stats};
pub use sums::Stats;

/// The engine's modules, for its fronts, tests and benchmarks. Not part of the public interface: anything here may
/// change in any release.
#[doc(hidden)]
pub mod internals {
    macro_rules! expose {
        ($($(#[$meta:meta])* $module:ident),* $(,)?) => {
            $($(#[$meta])* #[allow(missing_docs)] pub mod $module {
                pub use crate::$module::*;
            })*
        };
    }
    expose!(
        arch,
        config,
        #[cfg(feature = "counters")]
        counters,
        #[cfg(feature = "delays")]
        delays,
        sums,
        cpu_cache,
        depot,
        describe,
        domain,
        engine,
        fail,
        guard,
        hot,
        metrics,
        node,
        object,
        os,
        page_heap,
        page_map,
        print,
        profile,
        publish,
        region,
        report,
        rseq,
        size_class,
        slab,
        #[cfg(feature = "counters")]
        sources,
        stats,
        sync,
        units,
    );
}
