//! Purging: free pages go back to the OS, where they are freed and without a thread.
//!
//! Promises: above a limit with hysteresis, on request down to what the caller names; a page is in nobody's
//! hands while the OS takes its memory (I3 of the page heap). Called by the page heap's callers when they
//! hold no lock, and by fork in the child; calls segment and os.

use super::PageHeap;
use super::entry::Kind;
use super::segment::{HEADER_PAGES, Run, Segment};
use crate::atomic::Ordering;
use crate::os;
use crate::sync::{Rank, WaitBudget, is_barred};
use crate::token_bucket::TokenBucket;
use crate::units::PAGE_BYTES;

/// The part of the regret that a second takes away.
const FADE_PARTS: usize = 16;

/// The part of their peak to which the pages held have declined when all others are purged; and the least
/// peak for which it is done.
const PEAK_PARTS: usize = 8;
const PEAK_MIN_PAGES: usize = (1 << 20) / PAGE_BYTES;
/// Pages that declines may purge, at once and in a second: 16 MiB, some 4,000 page faults if they come back.
static ALLOWANCE: TokenBucket = TokenBucket::new((64 << 20) / PAGE_BYTES, (16 << 20) / PAGE_BYTES);

impl PageHeap {
    /// Purges if more than the limit and the regret is dirty, to half of it, so that the next purge is some
    /// way off; and if nearly all that was held is free. Called by those who released spans, when they hold
    /// no lock.
    pub fn trim(&self) {
        self.collect_deferred();
        let limit = self.limit();
        // Ordering: Relaxed, statistics that steer purging.
        let (held, peak) = (self.held.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed));
        if held > peak {
            // Ordering: Relaxed, as above.
            self.peak.store(held, Ordering::Relaxed);
            self.declining.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
        } else if held < peak / PEAK_PARTS && peak >= PEAK_MIN_PAGES {
            self.decline_to(held);
        }
        // Ordering: Relaxed, as above.
        if self.dirty.load(Ordering::Relaxed) > limit {
            self.trim_above(limit);
        }
    }

    /// Purges all that is free, whatever was regretted: it may be for the last time that the program frees
    /// something, and nobody looks later. One that swings pays for the part that its allowance covers; while
    /// it only falls, each step is an eighth of the one before, and goes with the first.
    #[cold]
    fn decline_to(&self, held: usize) {
        // Ordering: Relaxed, statistics that steer purging.
        let (dirty, goes_on) =
            (self.dirty.load(Ordering::Relaxed), self.declining.load(Ordering::Relaxed));
        if goes_on || ALLOWANCE.spend(dirty, os::seconds()) {
            // Ordering: Relaxed, as above.
            self.peak.store(held, Ordering::Relaxed);
            self.declining.store(true, Ordering::Relaxed); // Ordering: Relaxed, as above.
            let pages = self.purge(0) / PAGE_BYTES;
            // Ordering: Relaxed, as above. As in `trim_above`.
            self.purged.fetch_add(pages, Ordering::Relaxed);
        }
    }

    /// How many free pages may stay resident, regret aside: a base, or a quarter of what is in use. Regret
    /// adds what was purged too early lately: a program that swings keeps its pages after a few swings; one
    /// that has freed everything keeps next to nothing.
    fn limit(&self) -> usize {
        // Ordering: Relaxed, values that steer purging.
        let base = self.dirty_limit.load(Ordering::Relaxed);
        // Ordering: Relaxed, as above.
        base.max(self.held.load(Ordering::Relaxed) / 4)
    }

    fn trim_above(&self, limit: usize) {
        self.fade(os::seconds());
        // Ordering: Relaxed, statistics that steer purging.
        let (dirty, regret) =
            (self.dirty.load(Ordering::Relaxed), self.regret.load(Ordering::Relaxed));
        if dirty > limit + regret {
            // Ordering: Relaxed, as above.
            self.regret.store(regret - regret.div_ceil(4), Ordering::Relaxed);
            let pages = self.purge((limit + regret) / 2) / PAGE_BYTES;
            // Ordering: Relaxed, as above. What is given back on request was not given back too early.
            self.purged.fetch_add(pages, Ordering::Relaxed);
        }
    }

    /// Regret that is not renewed goes with time. Without this a limit above all swings would stay for ever,
    /// and the heap at the most that was ever held.
    fn fade(&self, now: usize) {
        // Ordering: Relaxed, the exchange confirms it.
        let then = self.faded_at.load(Ordering::Relaxed);
        if now == then {
            return;
        }
        let faded_at = &self.faded_at;
        // Ordering: Relaxed, it carries nothing: one thread takes a second.
        if faded_at.compare_exchange(then, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        for pages in [&self.purged, &self.regret] {
            // Ordering: Relaxed, statistics that steer purging.
            let left = faded(pages.load(Ordering::Relaxed), now.wrapping_sub(then));
            // Ordering: Relaxed, as above.
            pages.store(left, Ordering::Relaxed);
        }
    }

    /// Gives free memory back to the OS until at most `keep` pages of it may be resident, from the
    /// youngest segment down; bytes given back.
    #[cold]
    pub fn purge(&self, keep: usize) -> usize {
        self.collect_deferred();
        let (mut purged, mut refused) = (0, false);
        for index in (0..self.segment_count()).rev() {
            let Some(segment) = self.segment(index) else { continue };
            let mut from = HEADER_PAGES;
            // Ordering: Relaxed, a statistic that steers purging.
            while self.dirty.load(Ordering::Relaxed) > keep {
                let taken = segment.lock().ok().and_then(|_guard| segment.take_dirty(from));
                let Some(run) = taken else { break };
                from = run.first + run.pages;
                let address = segment.base() + run.first * PAGE_BYTES;
                // SAFETY: the run was just taken, so nobody holds it (I3).
                let done = unsafe { os::purge(address, run.pages * PAGE_BYTES) }.is_ok();
                self.put_back(segment, run, done);
                match done {
                    true => purged += run.pages,
                    false => refused = true,
                }
            }
            if from > HEADER_PAGES {
                self.forget_pages(segment);
            }
        }
        if refused {
            // Locked in memory, most likely: not to be tried again with each free, but some seconds later.
            // Ordering: Relaxed, statistics that steer purging.
            self.regret.fetch_max(self.dirty.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        // Ordering: Relaxed, a statistic.
        self.purged_total.fetch_add(purged * PAGE_BYTES, Ordering::Relaxed);
        purged * PAGE_BYTES
    }

    /// Gives the metadata of a segment back of which nothing is in use, nor resident any more: up to 572 KiB.
    fn forget_pages(&self, segment: &Segment) {
        // A handler on top of a holder, or who is late, might not get the lock twice, and these pages can't be deferred:
        // they would come back as dirty.
        if is_barred() {
            return;
        }
        // And not once the lock has been had the first time: what was waited for it is not missing the second time.
        let _budget = WaitBudget::unbounded();
        // No page is added meanwhile, whose entry would be lost. If another thread adds some, the heap is not idle.
        let Some(_growth) = self.growth.try_acquire(Rank::GROWTH) else { return };
        let Some(run) = segment.lock().ok().and_then(|_guard| segment.take_unused()) else {
            return;
        };
        let (address, len) = segment.page_metadata(os::page_bytes());
        // SAFETY: the metadata of pages that were all just taken: nobody writes to it, and zero is what a
        // page's is that was never used, as good as what is left of its last use.
        unsafe { os::give_back(address, len) };
        self.put_back(segment, run, true);
    }

    fn put_back(&self, segment: &Segment, run: Run, clean: bool) {
        let Ok(_guard) = segment.lock() else {
            // A handler on top of a holder, which another thread was faster than, or late: as a span given up.
            // Ordering: Relaxed, statistics that steer purging.
            self.dirty.fetch_sub(run.dirty, Ordering::Relaxed);
            self.held.fetch_add(run.pages, Ordering::Relaxed);
            return self.defer(segment.entry(run.first));
        };
        segment.put(run.first, run.pages, clean);
        self.note_free(segment);
        if clean {
            // Ordering: Relaxed, a statistic that steers purging.
            self.dirty.fetch_sub(run.dirty, Ordering::Relaxed);
        }
    }

    /// In the child of a fork: ends the purges of threads that are not there; `recount` if this one is not in
    /// the middle of changing a count. The locks are held, but for those that it lies upon.
    pub fn end_purges(&self, recount: bool) {
        let held = self.segments().filter(|segment| segment.raw_lock().is_forgotten_here());
        let deferred: usize = held.map(Segment::end_purges).sum();
        // Ordering: Relaxed, there is no other thread.
        self.held.fetch_sub(deferred, Ordering::Relaxed);
        self.dirty.fetch_add(deferred, Ordering::Relaxed); // Ordering: Relaxed, as above.
        for entry in self.take_deferred().filter(|entry| entry.kind() == Kind::Deferred) {
            self.defer(entry);
        }
        if recount {
            let dirty = self.segments().map(|segment| segment.free_pages().1).sum();
            // Ordering: Relaxed, as above.
            self.dirty.store(dirty, Ordering::Relaxed);
        }
        // Ordering: Relaxed, as above.
        self.first_free.store(0, Ordering::Relaxed);
    }
}

/// What `seconds` leave of so many pages.
fn faded(pages: usize, seconds: usize) -> usize {
    // Longer than any number of pages lasts.
    (0..seconds.min(1 << 10)).fold(pages, |left, _| left - left.div_ceil(FADE_PARTS))
}

#[cfg(test)]
mod tests {
    use super::faded;

    #[test]
    fn refault_credit_fades_with_time() {
        assert_eq!(faded(1600, 0), 1600);
        assert_eq!(faded(1600, 1), 1500);
        assert!((700..=800).contains(&faded(1600, 11)), "{}", faded(1600, 11));
        assert_eq!(faded(PAGES_MAX, usize::MAX), 0);
        assert_eq!(faded(0, 5), 0);
    }

    const PAGES_MAX: usize = crate::page_heap::SEGMENTS_MAX * crate::units::SEGMENT_PAGES;
}
