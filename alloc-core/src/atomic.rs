//! Atomics, cells and waiting: the engine takes them from here only.
//!
//! They are core's. The models under `loom/` compile the engine's files with another module of this name, which runs every order
//! of the same operations, stops waiting sooner, and has smaller tables. With the features `counters` and `delays` something happens
//! before each operation (`observed`).

#[cfg(any(feature = "counters", feature = "delays"))]
mod observed;

pub use core::cell::UnsafeCell;
pub use core::hint::spin_loop;
#[cfg(not(any(feature = "counters", feature = "delays")))]
pub use core::sync::atomic::*;
#[cfg(any(feature = "counters", feature = "delays"))]
pub use core::sync::atomic::{AtomicU16, Ordering, compiler_fence, fence};
#[cfg(any(feature = "counters", feature = "delays"))]
pub use observed::*;

/// The cheap half of an asymmetric barrier: for a thread that calls membarrier(2) between a store and a load of its own, a store
/// before this comes before a load after it. Costs no instruction.
#[inline(always)]
pub fn light_fence() {
    // Ordering: SeqCst, for the compiler alone.
    compiler_fence(Ordering::SeqCst);
}

/// How often a waiter reads a taken lock before it sleeps.
pub const SPINS: u32 = 100;
/// How often a caller that may not wait lets other threads run, see `sync::Backoff`.
pub const BACKOFF_YIELDS: u32 = 300;
/// Slots of the first table of huge spans.
pub const HUGE_SLOTS: usize = 256;
/// Places of each deferred list of huge spans.
pub const DEFERRED_PLACES: usize = 1024;
/// Children on the process' memory whose end the kernel can tell at once, see `rseq::vfork`.
pub const CHILDREN_WATCHED: usize = 256;
