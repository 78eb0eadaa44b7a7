//! The memory of one thread, by its layout.
//!
//! ```text
//! ThreadBlock: area (struct rseq) | words | area, never registered | another one
//!              0                    32      64                       96        128
//! ```

use crate::atomic::{AtomicU32, AtomicUsize};
use crate::rseq::abi::Area;
use core::mem::offset_of;

/// What the engine keeps for each thread; see [`super::thread_words`].
#[repr(C)]
pub struct ThreadWords {
    /// The address of the thread's biased shard.
    pub biased_shard: AtomicUsize,
    /// Slow calls until the next request for a biased shard.
    pub lease_countdown: AtomicU32,
    /// The rank of the locks that the thread holds.
    pub held_rank: AtomicU32,
    /// Calls until the next guarded object.
    pub guard_countdown: AtomicU32,
    /// The life of the thread's own rseq area, see `rseq::registration`; unused where there are no sections.
    pub registration: AtomicU32,
    /// Bytes until the next sample of the heap profile, see `profile::countdown`.
    pub sample_countdown: AtomicUsize,
}

impl ThreadWords {
    /// As a thread finds them first.
    pub const fn zeroed() -> Self {
        ThreadWords {
            biased_shard: AtomicUsize::new(0),
            lease_countdown: AtomicU32::new(0),
            held_rank: AtomicU32::new(0),
            guard_countdown: AtomicU32::new(0),
            registration: AtomicU32::new(0),
            sample_countdown: AtomicUsize::new(0),
        }
    }
}

/// The block of a thread where there are sections; see [`super::sections::thread_block`].
#[repr(C, align(64))]
pub struct ThreadBlock {
    /// The thread's own area, registered where libc registers none. The kernel writes to it.
    pub area: Area,
    /// The thread's words.
    pub words: ThreadWords,
    /// Areas that are never registered: a section that uses one has no shard (`rseq::vfork`).
    pub never_registered: [Area; 2],
}

const _: () = {
    assert!(offset_of!(ThreadBlock, area) == 0);
    // One line for what slow paths touch, one for what stands in for the area.
    assert!(offset_of!(ThreadBlock, never_registered) == 64);
    assert!(size_of::<ThreadBlock>() == 128);
};
