//! Children in the process' memory, of vfork and clone: no thread of the process runs sections while one lives.
//!
//! Such a child has its parent's memory, and mostly its thread pointer, so also its rseq area, in which a plausible
//! CPU stands; but the kernel has not registered the child (kernel/fork.c: CLONE_VM), so nothing aborts its
//! sections. Nothing that the entries look at is the child's alone, and the area must not be written. So for as long
//! as there is a child all threads look at an area that is never registered: they have no shard and take
//! the atomic path. See docs/adr/0008 and 0021.
//!
//! Invariants:
//! I1. Before a child starts, its parent has counted it and, after that, hidden the areas by [`Hidden::Fresh`].
//! I2. Areas are shown under the lock only, by an exchange that finds [`Hidden::Settled`], which the same thread
//!     had stored before it found no child. So a parent that comes in between, in another thread or in a handler on
//!     top of the lock's holder, is either seen or makes the exchange fail; it waits for nothing. A full fence stands
//!     between the two steps of I1, and one between that store and the look.

use super::registration::{self, Hidden};
use crate::atomic::{AtomicU32, CHILDREN_WATCHED, Ordering, fence};
use crate::sync::{Lock, Rank};

/// Children whose end is told by [`end`] or [`leave`].
static CHILDREN: AtomicU32 = AtomicU32::new(0);

/// A word for each child whose end the kernel tells; 0: free.
static WATCHED: [AtomicU32; CHILDREN_WATCHED] = [const { AtomicU32::new(0) }; CHILDREN_WATCHED];

/// Calls without a shard from one look for children to the next.
const LOOK_CALLS: u32 = 64;
static CALLS: AtomicU32 = AtomicU32::new(0);

static LOCK: Lock = Lock::new();

/// To be called before vfork, or clone with memory in common.
pub fn begin() {
    if registration::sections().is_some() {
        // Ordering: Relaxed, the fence in `hide_after` orders it.
        hide_after(|| CHILDREN.fetch_add(1, Ordering::Relaxed));
    }
}

/// To be called by the parent when its child has ended or runs another program, or did not start.
pub fn end() {
    leave();
    if registration::sections().is_some() {
        show_if_alone();
    }
}

/// To be called by a child that [`begin`] has counted, before it ends, with all signals blocked. Touches no memory
/// of threads: the child may have a thread pointer that is none of libc's.
pub fn leave() {
    if registration::sections().is_some() {
        // Ordering: Release, for `has_children`: the child has looked at its area for the last time.
        CHILDREN.fetch_sub(1, Ordering::Release);
    }
}

/// As [`begin`], for a child whose end the kernel tells by clearing this word (CLONE_CHILD_CLEARTID: at its exit,
/// however it comes, and at its exec). None if there is nothing to be told, or no word.
pub fn begin_watched() -> Option<&'static AtomicU32> {
    registration::sections()?;
    // Ordering: Acquire, what the kernel told of the word's last child goes on with `end_watched`; else as in `begin`.
    let claim = |word: &&AtomicU32| {
        word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    };
    hide_after(|| WATCHED.iter().find(claim))
}

/// To be called by the parent when such a child did not start.
pub fn end_watched(word: &AtomicU32) {
    // Ordering: Release, for `has_children`, as the kernel's clearing is.
    word.store(0, Ordering::Release);
    show_if_alone();
}

/// Hides the areas when `count` has counted a child.
fn hide_after<R>(count: impl FnOnce() -> R) -> R {
    // What the child registered would be lost with it, and its parent would think it still were.
    registration::register_early();
    let counted = count();
    // Ordering: SeqCst, pairs with the fence in `show_if_alone` (I2).
    fence(Ordering::SeqCst);
    registration::hide_areas(Hidden::Fresh);
    counted
}

/// For a call that finds the areas hidden: shows them if it is time to look and no child is left. Whether they are
/// shown.
#[cold]
pub(super) fn show_now_and_then() -> bool {
    // Ordering: Relaxed, a count.
    CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_CALLS) && show_if_alone()
}

/// Shows the areas if no child is left and no other thread, nor one below this handler, is about to; whether
/// they are shown. A later call looks again.
fn show_if_alone() -> bool {
    // A child that is killed must not hold the lock: for it, there is a child.
    if has_children() {
        return false;
    }
    let Some(_guard) = LOCK.try_acquire(Rank::VFORK) else { return false };
    if !registration::are_areas_hidden() {
        return true;
    }
    registration::hide_areas(Hidden::Settled);
    // Ordering: SeqCst, pairs with the fence in `hide_after`: the later fence's thread either finds the child of the
    // other one, or its `Fresh` comes behind that `Settled` (I2).
    fence(Ordering::SeqCst);
    !has_children() && registration::show_settled_areas()
}

fn has_children() -> bool {
    // Ordering: Acquire pairs with the Release in `leave`, and with the kernel's clearing of a word: the areas are
    // shown after the child's last look at its own.
    CHILDREN.load(Ordering::Acquire) != 0
        || WATCHED.iter().any(|word| word.load(Ordering::Acquire) != 0)
}

/// To be called in the child of a fork, whose memory no other process shares. It may be such a child's child
/// itself: then the kernel has not registered it.
pub fn start_anew() {
    // Children that another thread had counted, but not yet hidden the areas for, are not this process' either.
    let is_concerned = registration::are_areas_hidden() || has_children();
    if is_concerned && registration::is_registered_really() {
        // Ordering: Relaxed, there is no other thread.
        CHILDREN.store(0, Ordering::Relaxed);
        WATCHED.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        registration::show_areas();
    }
}

/// The lock, for fork.
pub fn raw_lock() -> &'static Lock {
    &LOCK
}
