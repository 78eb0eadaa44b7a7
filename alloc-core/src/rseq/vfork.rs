//! Children of vfork: no thread of the process runs sections while one lives.
//!
//! Such a child has its parent's memory, so also its rseq area, in which a plausible CPU stands; but the
//! kernel has not registered the child (kernel/fork.c: CLONE_VM), so nothing aborts its sections. Nothing
//! that the entries look at is the child's alone, and the area must not be written. So for as long as
//! there is a child all threads look at an area that is never registered: they have no shard and take
//! the atomic path. See docs/adr/0008. Called by the front's `vfork` and by fork; calls registration.
//!
//! Invariants:
//! I1. Before a child starts, its parent has counted it and seen to it that the areas are hidden.
//! I2. Areas are shown again only under the lock, with no child left.

use super::registration;
use crate::atomic::{AtomicU32, Ordering};
use crate::sync::{Lock, Patience, Rank};

/// Children that live, or are about to.
static CHILDREN: AtomicU32 = AtomicU32::new(0);

static LOCK: Lock = Lock::new();

/// To be called before vfork.
pub fn begin() {
    if registration::sections().is_none() {
        return;
    }
    // What the child registered would be lost with it, and its parent would think it still were.
    registration::register_early();
    // Ordering: SeqCst, before the lock: whoever shows the areas later sees it (I2).
    CHILDREN.fetch_add(1, Ordering::SeqCst);
    // Not had by a handler on top of a holder, who shows nothing while the handler has a child.
    let _guard = LOCK.acquire_patiently(Rank::VFORK, &mut Patience::usual());
    registration::hide_areas();
}

/// To be called by the parent when its child has ended or runs another program, or did not start.
pub fn end() {
    if registration::sections().is_none() {
        return;
    }
    // Ordering: SeqCst, as in `begin`.
    CHILDREN.fetch_sub(1, Ordering::SeqCst);
    let guard = LOCK.acquire_patiently(Rank::VFORK, &mut Patience::usual());
    // Ordering: SeqCst, as above.
    if guard.is_some() && CHILDREN.load(Ordering::SeqCst) == 0 {
        registration::show_areas();
    }
}

/// To be called in the child of a fork, whose memory no child of vfork shares. It may be one's child
/// itself: then the kernel has not registered it.
pub fn start_anew() {
    // Ordering: SeqCst, as above; there is no other thread.
    if CHILDREN.load(Ordering::SeqCst) != 0 && registration::is_registered_really() {
        CHILDREN.store(0, Ordering::SeqCst); // Ordering: SeqCst, as above.
        registration::show_areas();
    }
}

/// The lock, for fork.
pub fn raw_lock() -> &'static Lock {
    &LOCK
}
