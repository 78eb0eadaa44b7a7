//! Spans that come back: at once, in part, or later by the deferred list.

use super::PageHeap;
use super::entry::{Kind, PageEntry};
use super::segment::{PageRun, Segment};
use crate::atomic::Ordering;
use crate::object::Contents;
use crate::sanitizer;
use crate::units::PAGE_BYTES;

impl PageHeap {
    /// Takes back the span with this `first` page. The caller calls [`PageHeap::trim`] when it holds no lock.
    ///
    /// # Safety
    /// 1. The caller holds the span and gives it up.
    pub unsafe fn release(&self, first: &'static PageEntry) {
        let segment = first.segment();
        match segment.lock() {
            Ok(_guard) => {
                let pages = first.pages.get() as usize;
                sanitizer::pages_given_up(first.page(), pages);
                first.set_kind(Kind::None);
                self.take_back(segment, first.index(), pages);
            }
            Err(_) => self.defer(first),
        }
    }

    /// Takes back what lies behind the first `keep` pages of the span with this `first` page; whether that was done.
    ///
    /// # Safety
    /// 1. The caller holds the span, and gives those pages up.
    pub unsafe fn release_tail(&self, first: &'static PageEntry, keep: usize) -> bool {
        let segment = first.segment();
        let Ok(_guard) = segment.lock() else { return false };
        let pages = first.pages.get() as usize;
        first.pages.set(keep as u32);
        sanitizer::pages_given_up(first.page() + keep * PAGE_BYTES, pages - keep);
        self.take_back(segment, first.index() + keep, pages - keep);
        true
    }

    /// The segment's lock is held.
    fn take_back(&self, segment: &Segment, first: usize, pages: usize) {
        // Ordering: Relaxed, statistics that steer purging; before the pages can be taken, so that the difference never falls
        // below 0.
        self.dirty.fetch_add(pages, Ordering::Relaxed);
        let held = self.held.fetch_sub(pages, Ordering::Relaxed);
        // Ordering: Relaxed, a statistic. The most is held before a release, so acquiring spans looks at nothing.
        if held > self.held_peak.load(Ordering::Relaxed) {
            self.held_peak.fetch_max(held, Ordering::Relaxed);
        }
        segment.put(PageRun { first, pages, dirty: pages }, Contents::Any);
        self.lower_first_free(segment);
    }

    /// Puts a span on the deferred list, for a later call to take back: a signal handler on top of a holder can't wait for the
    /// segment's lock, and a late thread does not.
    #[cold]
    pub(super) fn defer(&self, first: &'static PageEntry) {
        first.set_kind(Kind::Deferred);
        // Ordering: Relaxed, the exchange confirms it.
        let mut head = self.deferred.load(Ordering::Relaxed);
        loop {
            first.next.set(head);
            // Ordering: Release publishes the entry to `collect_deferred`. Only the whole list is popped, so a head that comes
            // back does no harm.
            let order = Ordering::Release;
            match self.deferred.compare_exchange(head, Some(first), order, Ordering::Relaxed) {
                Ok(()) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// Takes back the spans of the deferred list.
    pub(super) fn collect_deferred(&self) {
        // Ordering: Relaxed, a hint.
        if self.deferred.load(Ordering::Relaxed).is_none() {
            return;
        }
        for first in self.take_deferred() {
            // SAFETY: the holder of the span gave it up when it was deferred.
            unsafe { self.release(first) };
        }
    }

    /// Empties the deferred list; the caller may defer its spans again.
    pub(super) fn take_deferred(&self) -> impl Iterator<Item = &'static PageEntry> {
        // Ordering: Acquire pairs with the Release in `defer`.
        let mut next = self.deferred.swap(None, Ordering::Acquire);
        core::iter::from_fn(move || {
            let first = next?;
            next = first.next.get();
            Some(first)
        })
    }

    /// Says that the segment, whose lock is held, has a free page again.
    pub(super) fn lower_first_free(&self, segment: &Segment) {
        // Ordering: SeqCst, after the segment's `longest`: see `advance_first_free`.
        self.first_free.fetch_min(segment.index(), Ordering::SeqCst);
    }
}
