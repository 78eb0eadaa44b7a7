//! The order in which locks nest, and the highest rank that the calling thread holds (I2 of the locks).
//!
//! The thread's word has that rank in its lower half, and the marks of `wait_budget` above it.

use crate::arch;
use crate::atomic::{Ordering, compiler_fence};

/// The bits of the thread's word that are a rank.
pub(super) const RANK_BITS: u32 = 0xffff;

/// The place of a lock in the order of nesting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank(u32);

impl Rank {
    /// Of the lock under which one fork at a time happens.
    pub const FORK: Rank = Rank(1);
    /// Of the lock under which shards are created and stopped.
    pub const SHARDS: Rank = Rank(2);
    /// Of the lock under which children of vfork are counted.
    pub const VFORK: Rank = Rank(3);
    /// Of the owners of biased shards, and their leases.
    pub const LEASES: Rank = Rank(4);
    /// Of the table of huge spans.
    pub const HUGE: Rank = Rank(1 << 10);
    /// Of the page heap's growth.
    pub const GROWTH: Rank = Rank(1 << 11);

    /// Above all locks: a thread with this rank waits for none.
    const TOP: Rank = Rank(RANK_BITS);

    /// Of the slabs of `class`.
    pub const fn slab(class: usize) -> Rank {
        Rank((1 << 9) + class as u32)
    }

    /// Of the segment with this number.
    pub const fn segment(index: usize) -> Rank {
        Rank((1 << 12) + index as u32)
    }

    /// The rank as a number, to keep it in a static.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The inverse of [`Rank::number`].
    pub const fn of_number(number: u32) -> Rank {
        Rank(number)
    }

    /// The highest rank that the calling thread holds, for [`Rank::restore`].
    pub fn held() -> Rank {
        // Ordering: Relaxed, the thread's own word; its handlers leave it as they found it.
        Rank(arch::held_rank().load(Ordering::Relaxed) & RANK_BITS)
    }

    /// Whether this is the rank of any lock.
    pub fn is_any(self) -> bool {
        self > Rank(0)
    }

    /// Whether the calling thread holds any lock: in code that takes none itself, whether it runs in a signal handler on
    /// top of a holder.
    pub fn is_any_held() -> bool {
        Rank::held().is_any()
    }

    /// Makes this the rank that the calling thread holds, after it has released forgotten locks.
    pub fn restore(self) {
        // Ordering: SeqCst, for the compiler alone: nothing from before moves behind the store.
        compiler_fence(Ordering::SeqCst);
        self.store();
    }

    /// From here on the thread waits for no lock, until [`Rank::restore`].
    pub fn wait_for_none() {
        Rank::TOP.enter();
    }

    /// Counts this rank as held (I2) and returns the rank that was held before.
    pub(super) fn enter(self) -> Rank {
        let before = Rank::held();
        self.max(before).store();
        // Ordering: SeqCst, for the compiler alone: the lock is not taken before.
        compiler_fence(Ordering::SeqCst);
        before
    }

    fn store(self) {
        let word = arch::held_rank();
        // Ordering: Relaxed, the thread's own word, for its handlers, which leave it as they found it.
        let marks = word.load(Ordering::Relaxed) & !RANK_BITS;
        // Ordering: Relaxed, as above.
        word.store(marks | self.0, Ordering::Relaxed);
    }
}
