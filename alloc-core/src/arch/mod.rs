//! All assembly of the engine, one file for each architecture, one interface.
//!
//! `sections` has the restartable sequences as functions that return a status, `entry` the hot paths
//! of the fronts, `thread_pointer` and `syscall` the two plain instructions that Rust has no word for.
//! Called by rseq, os and sync; calls the slow twins in the engine by symbol.

#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
#[cfg_attr(not(target_arch = "x86_64"), path = "portable.rs")]
mod arch;

pub use arch::*;
