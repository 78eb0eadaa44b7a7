//! Loads on an allocator, one row of the comparison each, and how they are measured.
//!
//! The loads call the C functions (`malloc`, `free`, ...), so `LD_PRELOAD` decides which allocator
//! is measured. The `workload` program runs one row; `cargo lab compare` runs it on every peer. Rust programs on
//! a `#[global_allocator]` are in benches/front, those on libraries from crates.io in benches/applications.
//!
//! One way down: `rows` (the table) -> `loads` (what they do) -> `client`, `slots`, `rng`;
//! beside them `measure` (runs a row) and `latency` (times call by call) -> `process` (what the kernel
//! says about us) and `samples` (where the threads are), `phases` (memory over time, of the `memory` program) and `trace` (calls of real
//! programs, run again by the `replay` program).
#![deny(unsafe_code)]

pub mod cli;
pub mod client;
pub mod latency;
pub mod loads;
pub mod measure;
pub mod named;
pub mod phases;
pub mod process;
pub mod rng;
pub mod rows;
pub mod samples;
pub mod slots;
pub mod trace;
