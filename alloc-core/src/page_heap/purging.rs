//! Purging: free pages go back to the OS when spans are released, without a thread for it.
//!
//! It happens above a limit with hysteresis, when nearly everything is free (decay), and on request; the first two not while the
//! heap swings. No page can be acquired while the OS takes its memory (I3 of the page heap).

use super::PageHeap;
use super::entry::Kind;
use super::segment::{HEADER_PAGES, PageRun, Segment};
use crate::atomic::Ordering;
use crate::object::Contents;
use crate::os;
use crate::postponed;
use crate::sync::{Rank, WaitBudget, is_barred};
use crate::token_bucket::TokenBucket;
use crate::units::PAGE_BYTES;

/// The refault credit loses one part of so many each second.
const EXPIRY_PARTS: usize = 16;

/// The heap decays when the pages held are fewer than their peak divided by this.
const DECAY_PARTS: usize = 8;
/// It decays only if the peak was at least so many pages.
const DECAY_PEAK_MIN_PAGES: usize = (1 << 20) / PAGE_BYTES;
/// The most free pages that stay in a swing: 32 MiB.
const KEPT_MAX_PAGES: usize = (32 << 20) / PAGE_BYTES;
/// Pages that decays may purge: 64 MiB at once, and 16 MiB each second, which are some 4,000 page faults if they come back.
static ALLOWANCE: TokenBucket = TokenBucket::new((64 << 20) / PAGE_BYTES, (16 << 20) / PAGE_BYTES);

/// Whether the number of dirty pages is counted anew at the end of purges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recount {
    /// It is.
    Yes,
    /// It is not: the calling thread is in the middle of changing it.
    No,
}

impl PageHeap {
    /// Purges if more is dirty than the limit and the refault credit, down to half of that, so that the next purge is some way
    /// off; and if nearly everything that was held is free. To be called after releases, without a lock held.
    pub fn trim(&self) {
        self.collect_deferred();
        let limit = self.limit();
        // Ordering: Relaxed, statistics that steer purging.
        let (held, peak) = (self.held.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed));
        if held > peak {
            // Ordering: Relaxed, as above.
            self.peak.store(held, Ordering::Relaxed);
            self.is_decaying.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
        // Ordering: Relaxed, as above.
        let dirty = self.dirty.load(Ordering::Relaxed);
        // What a decay frees later, by draining caches, follows it: the heap has not risen since.
        let is_fallen = held < peak / DECAY_PARTS && peak >= DECAY_PEAK_MIN_PAGES
            || dirty >= DECAY_PEAK_MIN_PAGES && self.is_decaying.load(Ordering::Relaxed); // Ordering: Relaxed, as above.
        if dirty > limit || is_fallen && dirty > 0 {
            self.trim_fallen(is_fallen, held, peak, limit);
        }
        self.trim_to_limits();
    }

    /// Purges what is above the limits, unless the heap swings: then a slow allocation later looks again.
    #[cold]
    #[inline(never)]
    fn trim_fallen(&self, is_fallen: bool, held: usize, peak: usize, limit: usize) {
        let now = os::milliseconds();
        // Ordering: Relaxed, a statistic that steers purging.
        let dirty = self.dirty.load(Ordering::Relaxed);
        // With `dirty:0` nothing stays, in a swing neither.
        // Ordering: Relaxed, as above.
        let may_keep = self.dirty_limit.load(Ordering::Relaxed) > 0;
        let keeps = may_keep && self.swing.keeps(held, dirty, now);
        if keeps && dirty <= KEPT_MAX_PAGES && held + dirty <= peak.max(held) {
            return postponed::put_off(now / 1000);
        }
        if is_fallen {
            self.decay_to(held);
        }
        // Ordering: Relaxed, as above.
        if self.dirty.load(Ordering::Relaxed) > limit {
            self.trim_above(limit);
        }
    }

    /// Purges everything that is free, whatever the refault credit: this may be the program's last free, after which nothing
    /// would purge. For a program that grows and shrinks again and again, the allowance bounds the cost. While it only
    /// shrinks, the first decay pays for the later ones: no page is purged twice without a rise.
    #[cold]
    fn decay_to(&self, held: usize) {
        // Ordering: Relaxed, statistics that steer purging.
        let (dirty, goes_on) =
            (self.dirty.load(Ordering::Relaxed), self.is_decaying.load(Ordering::Relaxed));
        let now = os::seconds();
        if !goes_on && !ALLOWANCE.spend(dirty, now) {
            postponed::put_off(now);
        } else {
            // Ordering: Relaxed, as above.
            self.peak.store(held, Ordering::Relaxed);
            self.is_decaying.store(true, Ordering::Relaxed); // Ordering: Relaxed, as above.
            self.purge_unasked(0);
        }
    }

    /// Bytes that [`PageHeap::purge_at_rest`] would purge.
    pub fn bytes_to_purge(&self) -> usize {
        // Ordering: Relaxed, statistics that steer purging.
        let keep = self.dirty_limit.load(Ordering::Relaxed);
        self.dirty.load(Ordering::Relaxed).saturating_sub(keep) * PAGE_BYTES // Ordering: Relaxed, as above.
    }

    /// Purges the free pages above the configured bound, without the quarter of what is in use, for a program that rests; whether that is
    /// done. The allowance bounds the cost, as in a fall. To be called without a lock held.
    pub fn purge_at_rest(&self) -> bool {
        let pages = self.bytes_to_purge() / PAGE_BYTES;
        let now = os::milliseconds();
        if pages == 0 {
            return true;
        }
        if self.swing.lasts(now) || !ALLOWANCE.spend(pages, now / 1000) {
            return false;
        }
        // Ordering: Relaxed, a value that steers purging.
        self.purge_unasked(self.dirty_limit.load(Ordering::Relaxed));
        true
    }

    /// Whether what the heap has freed is likely to be taken again soon.
    #[inline(never)]
    pub fn is_swinging(&self) -> bool {
        self.swing.lasts(os::milliseconds())
    }

    /// How many free pages may stay resident, without the refault credit: a base, or a quarter of what is in use. The credit adds
    /// what was purged too early lately: a program that grows and shrinks again and again soon keeps its pages, and a program
    /// that has freed everything keeps next to nothing.
    fn limit(&self) -> usize {
        // Ordering: Relaxed, values that steer purging.
        let base = self.dirty_limit.load(Ordering::Relaxed);
        // Ordering: Relaxed, as above.
        base.max(self.held.load(Ordering::Relaxed) / 4)
    }

    fn trim_above(&self, limit: usize) {
        self.expire_credit(os::seconds());
        // Ordering: Relaxed, statistics that steer purging.
        let (dirty, credit) =
            (self.dirty.load(Ordering::Relaxed), self.refault_credit.load(Ordering::Relaxed));
        if dirty > limit + credit {
            // Ordering: Relaxed, as above.
            self.refault_credit.store(credit - credit.div_ceil(4), Ordering::Relaxed);
            self.purge_unasked((limit + credit) / 2);
        }
    }

    /// Purges down to `keep` pages, and counts what may come back too early. A purge on request is not counted.
    fn purge_unasked(&self, keep: usize) {
        let pages = self.purge(keep) / PAGE_BYTES;
        // Ordering: Relaxed, a statistic that steers purging.
        self.purged.fetch_add(pages, Ordering::Relaxed);
    }

    /// Lets the refault credit expire with time. Otherwise a credit above all later peaks would stay for ever, and the heap at
    /// the most that was ever held.
    fn expire_credit(&self, now: usize) {
        // Ordering: Relaxed, the exchange confirms it.
        let then = self.expired_at.load(Ordering::Relaxed);
        if now == then {
            return;
        }
        let expired_at = &self.expired_at;
        // Ordering: Relaxed, it carries nothing: one thread takes each second.
        if expired_at.compare_exchange(then, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        for pages in [&self.purged, &self.refault_credit] {
            // Ordering: Relaxed, statistics that steer purging.
            let left = left_after(pages.load(Ordering::Relaxed), now.wrapping_sub(then));
            // Ordering: Relaxed, as above.
            pages.store(left, Ordering::Relaxed);
        }
    }

    /// Gives free memory back to the OS until at most `keep` pages of it may be resident, from the youngest segment down. Returns
    /// the bytes given back.
    #[cold]
    pub fn purge(&self, keep: usize) -> usize {
        self.collect_deferred();
        // Ordering: Relaxed, statistics. The most is held or dirty before a purge.
        let touched = self.held.load(Ordering::Relaxed) + self.dirty.load(Ordering::Relaxed);
        // Ordering: Relaxed, as above.
        self.touched_peak.fetch_max(touched, Ordering::Relaxed);
        let (mut purged, mut refused) = (0, false);
        for index in (0..self.segment_count()).rev() {
            let Some(segment) = self.segment(index) else { continue };
            let mut from = HEADER_PAGES;
            // Ordering: Relaxed, a statistic that steers purging.
            while self.dirty.load(Ordering::Relaxed) > keep {
                let taken = segment.lock().ok().and_then(|_guard| segment.take_dirty(from));
                let Some(run) = taken else { break };
                from = run.end();
                let address = segment.base() + run.first * PAGE_BYTES;
                // SAFETY: the run was just taken, so this call alone has it.
                match unsafe { os::purge(address, run.pages * PAGE_BYTES) } {
                    Ok(()) => {
                        purged += run.pages;
                        self.put_back(segment, run, Contents::Zero);
                    }
                    Err(_) => {
                        refused = true;
                        self.put_back(segment, run, Contents::Any);
                    }
                }
            }
            if from > HEADER_PAGES {
                self.give_metadata_back(segment);
            }
        }
        if refused {
            // Locked in memory, most likely: tried again some seconds later, not with each free.
            // Ordering: Relaxed, statistics that steer purging.
            self.refault_credit.fetch_max(self.dirty.load(Ordering::Relaxed), Ordering::Relaxed);
            self.is_decaying.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
        // Ordering: Relaxed, a statistic.
        self.purged_total.fetch_add(purged * PAGE_BYTES, Ordering::Relaxed);
        purged * PAGE_BYTES
    }

    /// Gives the metadata of a segment back, up to 572 KiB, if no page of it is in use or resident.
    fn give_metadata_back(&self, segment: &'static Segment) {
        // A handler on top of a holder, or a late thread, might not get the lock a second time, and deferred pages would come
        // back as dirty.
        if is_barred() {
            return;
        }
        // The wait for the lock the first time must not use up the time for the second.
        let _budget = WaitBudget::unbounded();
        // No page is added meanwhile, whose entry would be lost. If another thread holds this lock, the heap is not idle.
        let Some(_growth) = self.growth.try_acquire(Rank::GROWTH) else { return };
        let Some(run) = segment.lock().ok().and_then(|_guard| segment.take_unused()) else {
            return;
        };
        let (address, len) = segment.page_metadata(os::page_bytes());
        // SAFETY: the metadata of pages that were all just taken, which nothing writes to. Zero is what the metadata of a page is
        // that was never used, as good as what is left of its last use.
        unsafe { os::give_back(address, len) };
        self.put_back(segment, run, Contents::Zero);
    }

    /// Puts back a run that was purged.
    #[inline(never)]
    fn put_back(&self, segment: &'static Segment, run: PageRun, contents: Contents) {
        let Ok(_guard) = segment.lock() else {
            // A handler on top of a thread that holds the lock by now, or a late thread: the run is deferred as a span.
            // Ordering: Relaxed, statistics that steer purging.
            self.dirty.fetch_sub(run.dirty, Ordering::Relaxed);
            self.held.fetch_add(run.pages, Ordering::Relaxed);
            return self.defer(segment.entry(run.first));
        };
        let dirty = run.dirty;
        segment.put(run, contents);
        self.lower_first_free(segment);
        if contents == Contents::Zero {
            // Ordering: Relaxed, a statistic that steers purging.
            self.dirty.fetch_sub(dirty, Ordering::Relaxed);
        }
    }

    /// In the child of a fork: ends the purges of threads that the child does not have. The locks are held, except those that the
    /// calling thread holds below the handler that runs.
    pub fn end_purges(&self, recount: Recount) {
        let held = self.segments().filter(|segment| segment.raw_lock().is_forgotten_here());
        let deferred: usize = held.map(|segment| segment.end_purges()).sum();
        // Ordering: Relaxed, there is no other thread.
        self.held.fetch_sub(deferred, Ordering::Relaxed);
        self.dirty.fetch_add(deferred, Ordering::Relaxed); // Ordering: Relaxed, as above.
        for entry in self.take_deferred().filter(|entry| entry.kind() == Kind::Deferred) {
            self.defer(entry);
        }
        if recount == Recount::Yes {
            let dirty = self.segments().map(|segment| segment.free_pages().1).sum();
            // Ordering: Relaxed, as above.
            self.dirty.store(dirty, Ordering::Relaxed);
        }
        // Ordering: Relaxed, as above.
        self.first_free.store(0, Ordering::Relaxed);
    }
}

/// What is left of a credit of so many pages after `seconds`.
fn left_after(pages: usize, seconds: usize) -> usize {
    // No number of pages lasts longer than 1024 seconds.
    (0..seconds.min(1 << 10)).fold(pages, |left, _| left - left.div_ceil(EXPIRY_PARTS))
}

#[cfg(test)]
mod tests {
    use super::left_after;

    #[test]
    fn refault_credit_fades_with_time() {
        assert_eq!(left_after(1600, 0), 1600);
        assert_eq!(left_after(1600, 1), 1500);
        assert!((700..=800).contains(&left_after(1600, 11)), "{}", left_after(1600, 11));
        assert_eq!(left_after(PAGES_MAX, usize::MAX), 0);
        assert_eq!(left_after(0, 5), 0);
    }

    const PAGES_MAX: usize = crate::page_heap::SEGMENTS_MAX * crate::units::SEGMENT_PAGES;
}
