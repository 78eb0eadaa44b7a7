//! The sampled heap profile: which allocations are live, and which call stacks made them.
//!
//! While no profile runs, it costs nothing. While one runs, each allocation is sampled with a probability that depends on its size
//! only, so that the sums are unbiased estimates. `rsalloc profile` reads the records from outside; `write_pprof` (feature
//! `pprof`) writes them from the program itself.
//!
//! ```standalone_crate
//! # #[global_allocator]
//! # static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
//! # fn main() {
//! rsalloc::profile::start(64 << 10).unwrap();
//! let kept = vec![1u8; 10 << 20];
//! rsalloc::profile::stop().unwrap();
//! # drop(kept);
//! # }
//! ```

#[doc(inline)]
pub use rsalloc_core::{ProfileError, start_profile as start, stop_profile as stop};

#[cfg(feature = "pprof")]
mod write;
#[cfg(feature = "pprof")]
pub use write::write_pprof;
