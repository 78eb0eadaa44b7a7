//! The retry of a request that no tier could serve, after giving idle memory back if there is any.
//!
//! Promises: what a release can bring back is tried before a request is refused; a program that asks again and
//! again for what is not to be had keeps its caches.
#![forbid(unsafe_code)]

use super::shortage;
use crate::atomic::{AtomicUsize, Ordering};
use crate::cpu_cache::{self, drain};
use crate::object::Fresh;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::slab;
use crate::sync::{Rank, WaitBudget, is_barred};

/// Releases that may be in vain, in one second.
const VAIN_MAX: usize = 8;

/// The last second in which a release was in vain, and how many were.
static VAIN_AT: AtomicUsize = AtomicUsize::new(0);
static VAIN: AtomicUsize = AtomicUsize::new(0);

/// Releases what idles and calls `allocate_once`, if anything idles and that was not in vain too often: one cached object
/// may be all that a slab, and with it a long run of pages, waits for.
pub(super) fn retry(allocate_once: impl FnOnce() -> Option<Fresh>) -> Option<Fresh> {
    // A barred thread failed for want of a lock, so a release would not help.
    if is_barred() || idle_bytes() == 0 {
        return None;
    }
    let now = os::seconds();
    // Ordering: Relaxed throughout, a policy; threads that race here release once more or once less.
    let in_vain = match VAIN_AT.load(Ordering::Relaxed) == now {
        true => VAIN.load(Ordering::Relaxed), // Ordering: Relaxed, as above.
        false => 0,
    };
    if in_vain >= VAIN_MAX {
        return None;
    }
    drain::drain_all();
    let object = allocate_once();
    VAIN_AT.store(now, Ordering::Relaxed); // Ordering: Relaxed, as above.
    // Ordering: Relaxed, as above.
    VAIN.store(if object.is_some() { 0 } else { in_vain + 1 }, Ordering::Relaxed);
    object
}

/// Releases what idles, since the heap has reached its soft limit and purging dirty pages did not suffice. The object that was
/// just allocated is untouched yet. Bounded in cost: once in a second, and once for each 32nd by which the heap has grown since.
#[cold]
pub(super) fn relieve() {
    let Some(soft) = PAGE_HEAP.bounds().soft.filter(|_| !is_barred()) else { return };
    let (now, used, step) = (os::seconds(), PAGE_HEAP.used_bytes(), soft / 32);
    // Ordering: Relaxed throughout, a policy; threads that race here release once more or once less.
    let grown = used.saturating_sub(RELIEVED_USED.load(Ordering::Relaxed));
    // Ordering: Relaxed, as above.
    if RELIEVED_AT.swap(now, Ordering::Relaxed) == now && grown < step {
        return;
    }
    if idle_bytes() >= step / 4 {
        drain::drain_idle();
    }
    // Ordering: Relaxed, as above.
    RELIEVED_USED.store(PAGE_HEAP.used_bytes(), Ordering::Relaxed);
    if PAGE_HEAP.is_above_soft_limit() {
        shortage::tell_of_limit();
    }
}

/// The second of the last [`relieve`], and the bytes in use behind it.
static RELIEVED_AT: AtomicUsize = AtomicUsize::new(0);
static RELIEVED_USED: AtomicUsize = AtomicUsize::new(0);

/// What a release gives up: cached objects, and slabs that are kept empty.
fn idle_bytes() -> usize {
    cpu_cache::cached_bytes() + slab::kept_bytes()
}

/// For a late thread that found no way around a held lock. The lock may guard free memory, so the thread now waits for the
/// holder. It waits for a fork no longer than any operation does.
#[cold]
pub(super) fn wait_and_retry(allocate_once: impl FnOnce() -> Option<Fresh>) -> Option<Fresh> {
    if !is_barred() || Rank::is_any_held() {
        return None;
    }
    let _budget = WaitBudget::unbounded();
    allocate_once()
}
