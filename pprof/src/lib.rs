//! Heap profiles in the pprof format (`profile.proto`), which `go tool pprof` and many other tools read.
//!
//! A [`HeapProfile`] is what was sampled: stacks of return addresses, amounts, and what was mapped. It becomes a [`Profile`],
//! the format's own model, which [`Profile::write`] encodes and [`Profile::read`] decodes. Symbols may be added to a
//! [`Profile`] at any time: what they are found by, addresses and build ids, stays in it.
//!
//! Promises that `read` of what `write` wrote is the same profile, that damaged input is an error and nothing else, and that
//! nothing here depends on the allocator.

#![forbid(unsafe_code)]

mod decode;
mod encode;
mod heap;

pub use decode::DecodeError;
pub use heap::{Amount, HeapProfile, HeapSample, MEASURES, Measure};

/// A profile. Strings stand where they are used; the format's string table is the encoder's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// What each of a sample's values is.
    pub sample_types: Vec<ValueType>,
    /// Stacks, and what was measured at them.
    pub samples: Vec<Sample>,
    /// What was mapped into the process.
    pub mappings: Vec<Mapping>,
    /// Places in the program that stacks are made of.
    pub locations: Vec<Location>,
    /// Functions, as far as they are known.
    pub functions: Vec<Function>,
    /// When the profile was taken, in nanoseconds since 1970; 0: unknown.
    pub time_nanos: i64,
    /// The time in which the allocations happened, in nanoseconds; 0: unknown.
    pub duration_nanos: i64,
    /// What a period is counted in.
    pub period_type: ValueType,
    /// Mean distance of two samples.
    pub period: i64,
    /// Lines for the reader.
    pub comments: Vec<String>,
    /// Name of the sample type that is shown first; empty: the last.
    pub default_sample_type: String,
}

/// A kind of value and its unit, as `inuse_space` and `bytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueType {
    /// What is measured.
    pub kind: String,
    /// In what unit.
    pub unit: String,
}

impl ValueType {
    /// The value of `kind` in `unit`.
    pub fn new(kind: &str, unit: &str) -> Self {
        Self { kind: kind.into(), unit: unit.into() }
    }
}

/// A stack and its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Indices into [`Profile::locations`], innermost first.
    pub locations: Vec<usize>,
    /// A value for each of [`Profile::sample_types`].
    pub values: Vec<i64>,
}

/// A range of a process's addresses that a file, or something else with a name, was mapped to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address behind its last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub file_offset: u64,
    /// The file, or a name as `[vdso]`.
    pub file: String,
    /// The file's build id in hexadecimal digits; empty: none is known.
    pub build_id: String,
    /// Whether its locations have functions, and lines.
    pub symbolized: Symbolized,
}

/// What the locations of a mapping were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Symbolized {
    /// Addresses only.
    #[default]
    No,
    /// Names of functions.
    Functions,
    /// Names of functions, lines, and functions that were inlined.
    Lines,
}

/// A place in the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Index into [`Profile::mappings`].
    pub mapping: Option<usize>,
    /// An address in the instruction: for a caller, its return address minus one.
    pub address: u64,
    /// The functions there: the one that was inlined last first. Empty if none is known.
    pub lines: Vec<Line>,
}

/// A function at a location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Index into [`Profile::functions`].
    pub function: usize,
    /// Line of its file; 0: unknown.
    pub line: i64,
}

/// A function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Function {
    /// Its name, as people read it.
    pub name: String,
    /// Its name, as the linker has it.
    pub system_name: String,
    /// The source file; empty: unknown.
    pub file: String,
}
