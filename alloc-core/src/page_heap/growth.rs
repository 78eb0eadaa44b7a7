//! Growth: one more tract, in the window if it has room.
//!
//! Promises: invariant I1 of the page heap, under a lock of its own; a tract is whole before anybody can find it.
//! Called by the page heap when no tract has room; calls tract and os.

use super::entry::Kind;
use super::tract::{HEADER_PAGES, Tract};
use super::{OUTSIDE_SLOTS, PageHeap, Span, TRACTS_MAX, outside_slot};
use crate::atomic::Ordering;
use crate::os::{self, Place};
use crate::shard::HOT;
use crate::sync::{Guard, Lock, Rank};
use crate::units::{PAGE_BYTES, TRACT_BYTES, TRACT_SHIFT, WINDOW_TRACTS};

impl PageHeap {
    #[cold]
    pub(super) fn grow_and_acquire(
        &self,
        pages: usize,
        align_pages: usize,
        kind: Kind,
    ) -> Option<Span> {
        let seen = self.tract_count();
        let growth = self.growth.acquire(Rank::GROWTH).ok()?;
        if self.tract_count() != seen {
            drop(growth);
            return self.acquire(pages, align_pages, kind);
        }
        let tract = self.grow(pages.next_multiple_of(align_pages) + align_pages, &growth)?;
        drop(growth);
        let guard = tract.lock().ok()?;
        self.acquire_in(tract, pages, align_pages, kind, guard)
            .or_else(|| self.acquire(pages, align_pages, kind))
    }

    /// Maps one more tract with room for `pages` (the lock `growth` is held): in the window if it has
    /// room, else anywhere; all of it if the OS lets us, else as much as it gives.
    fn grow(&self, pages: usize, growth: &Guard<'_>) -> Option<&'static Tract> {
        let needed = (HEADER_PAGES + pages) * PAGE_BYTES;
        let mut len = TRACT_BYTES;
        while len >= needed {
            if let Some((base, in_window)) = self.map_tract(len) {
                os::no_huge_pages(base, HEADER_PAGES * PAGE_BYTES);
                // SAFETY: fresh, aligned, ours for ever.
                let tract = unsafe { Tract::create(base, len) };
                return self.publish(tract, in_window, len, growth);
            }
            len /= 4;
        }
        None
    }

    fn map_tract(&self, len: usize) -> Option<(usize, bool)> {
        // Ordering: Relaxed, written once by init before the first growth.
        let window = HOT.window.load(Ordering::Relaxed);
        while window != 0 && self.window_next.get() < WINDOW_TRACTS {
            let base = window + (self.window_next.get() << TRACT_SHIFT);
            match os::map(Place::Exactly(base), len) {
                Ok(_) => {
                    self.window_next.set(self.window_next.get() + 1);
                    return Some((base, true));
                }
                Err(libc::EEXIST) => self.window_next.set(self.window_next.get() + 1),
                // No memory, or no such address on this machine: what anywhere gives will tell.
                Err(_) => break,
            }
        }
        map_aligned(len, TRACT_BYTES).map(|base| (base, false))
    }

    fn publish(
        &self,
        tract: &'static Tract,
        in_window: bool,
        len: usize,
        growth: &Guard<'_>,
    ) -> Option<&'static Tract> {
        let count = self.tract_count();
        if count == TRACTS_MAX {
            return None;
        }
        tract.set_index(count);
        if growth.is_of_fork() {
            // A handler of a fork that has all locks: also this one, from before others can find it.
            tract.try_lock().into_iter().for_each(Lock::forget);
        }
        let pointer = core::ptr::from_ref(tract).cast_mut();
        if !in_window {
            let mut slot = outside_slot(tract.base());
            // Ordering: Relaxed, only growth writes, under its lock.
            while !self.outside[slot].load(Ordering::Relaxed).is_null() {
                slot = (slot + 1) % OUTSIDE_SLOTS;
            }
            // Ordering: Release publishes the tract's metadata to `tract_at`.
            self.outside[slot].store(pointer, Ordering::Release);
        }
        // Ordering: Release publishes the tract to `tracts`.
        self.tracts[count].store(pointer, Ordering::Release);
        // Ordering: Relaxed, a statistic; before the count, so that who counts a tract finds its bytes.
        self.mapped.fetch_add(len, Ordering::Relaxed);
        // Ordering: Release, after the entry, for readers of the count.
        self.count.store(count + 1, Ordering::Release);
        Some(tract)
    }
}

/// Maps `len` bytes at a multiple of `align` (at least a page): maps more and cuts the rest off.
pub fn map_aligned(len: usize, align: usize) -> Option<usize> {
    let total = len.checked_add(align)?;
    let start = os::map(Place::Anywhere, total).ok()?;
    let base = start.next_multiple_of(align);
    // SAFETY: both cuts are parts of the mapping made above that nobody knows.
    unsafe {
        if base > start {
            os::unmap(start, base - start);
        }
        if start + total > base + len {
            os::unmap(base + len, start + total - base - len);
        }
    }
    Some(base)
}
