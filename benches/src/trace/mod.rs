//! Traces of real programs: read, made into a flat program, and run on the allocator of this process.
//!
//! ```text
//! trace --load--> events of each thread --compile--> program (flat file) --replay--> what it cost
//! ```
//!
//! `cargo lab replay` runs that on every peer. The recorder is benches/record; docs/trace.md has the format and what a
//! replay does.

pub mod compile;
pub mod flat;
mod format;
pub mod load;
pub mod objects;
pub mod replay;
