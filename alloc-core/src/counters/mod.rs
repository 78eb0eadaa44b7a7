//! Counters of the slow paths: locks, and writes to cache lines that several CPUs write.
//!
//! They exist with the feature `counters` only, which no shipped library has; without it, what the tiers call here
//! compiles to nothing. With it, every write that the engine's Rust code makes through `atomic` is counted, and the
//! contents of magazines; the sections write to their CPU's region and are not seen.

#[cfg(feature = "counters")]
mod on;

#[cfg(feature = "counters")]
pub use on::*;

#[cfg(not(feature = "counters"))]
pub use off::*;

#[cfg(not(feature = "counters"))]
mod off {
    /// The time that policies see.
    #[inline(always)]
    pub fn slowed(now: libc::timespec) -> libc::timespec {
        now
    }

    /// A lock was taken.
    #[inline(always)]
    pub fn lock_taken() {}

    /// A lock was wanted that another thread held.
    #[inline(always)]
    pub fn lock_contended() {}

    /// A word is written to.
    #[inline(always)]
    #[allow(dead_code, reason = "called by `atomic::observed` alone")]
    pub fn wrote(_address: usize) {}

    /// All lines of these words are written to.
    #[inline(always)]
    pub fn wrote_all(_words: &[usize]) {}
}
