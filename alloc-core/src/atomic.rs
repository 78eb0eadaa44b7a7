//! Atomics, cells and waiting: the one place that the engine takes them from.
//!
//! Promises nothing of its own: all is core's. The models under `loom/` compile the engine's files with
//! a room of this name that runs every order of the same operations, gives up waiting sooner, and has smaller tables. With the
//! feature `counters` each write is noted first (`counting`). A low leaf, used by every room.

#[cfg(feature = "counters")]
mod counting;

pub use core::cell::UnsafeCell;
pub use core::hint::spin_loop;
#[cfg(not(feature = "counters"))]
pub use core::sync::atomic::*;
#[cfg(feature = "counters")]
pub use core::sync::atomic::{Ordering, compiler_fence, fence};
#[cfg(feature = "counters")]
pub use counting::*;

/// The cheap half of an asymmetric barrier: a store before it comes before a load after it, for whoever calls
/// membarrier(2) between a store and a load of his own. The processor is not asked for anything.
#[inline(always)]
pub fn light_fence() {
    // Ordering: SeqCst, for the compiler alone.
    compiler_fence(Ordering::SeqCst);
}

/// How often a taken lock is looked at before its waiter sleeps.
pub const SPINS: u32 = 100;
/// How often others are let run in place of waiting, see `sync::Backoff`.
pub const BACKOFF_YIELDS: u32 = 300;
/// Slots of the first table of huge spans, and places for spans that handlers make beside it.
pub const HUGE_SLOTS: usize = 256;
/// See [`HUGE_SLOTS`].
pub const DEFERRED_PLACES: usize = 1024;
/// Children on the process' memory whose end the kernel can tell at once, see `rseq::vfork`.
pub const CHILDREN_WATCHED: usize = 256;
