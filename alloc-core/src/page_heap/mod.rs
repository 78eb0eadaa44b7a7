//! The page heap: spans of pages out of segments, and the return of memory to the OS.
//!
//! Promises: a span is handed out once until released; memory that stays free goes back to the OS
//! without a thread, above a limit with hysteresis; no lock is common to all sizes (each segment has its
//! own, a second one only covers growth). Called by slab and large; calls os.
//!
//! Invariants:
//! I1. `segments[..count]` are segments, in order of creation, never removed.
//! I2. `dirty` is the number of pages that may be resident and are free or being purged.
//! I3. No lock of a segment is held around madvise: the pages are taken out first. The lock of growth is, where metadata is
//!     given back.

mod aside;
pub mod density;
pub mod entry;
mod growth;
pub mod huge;
mod purging;
pub mod segment;

use crate::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use crate::hot::HOT;
use crate::object::Contents;
use crate::sanitizer;
use crate::sync::{Guard, Guarded, Lock, Rank, WaitBudget};
use crate::units::{PAGE_BYTES, PAGE_MAP_SEGMENTS, SEGMENT_BYTES, SEGMENT_PAGES, SEGMENT_SHIFT};
use density::{Density, Missing};
use entry::{Kind, PageEntry};
use segment::{HEADER_PAGES, Run, Segment};

/// The most segments of a process: 1 TiB.
pub const SEGMENTS_MAX: usize = 16_384;
/// Slots of the hash table of segments outside the page-map range.
const OUTSIDE_SLOTS: usize = 2 * SEGMENTS_MAX;

/// A span of pages that the caller holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Address of the first byte.
    pub address: usize,
    /// Length in pages.
    pub pages: usize,
    /// What is in it.
    pub contents: Contents,
}

/// The page heap of the process; all zeroes is valid. In an order in which taking a span from the first segments, and giving
/// it back, finds what it writes in the first cache line and what it only reads in the second.
#[repr(C, align(64))]
pub struct PageHeap {
    dirty: AtomicUsize,
    /// Pages in spans that somebody holds.
    held: AtomicUsize,
    /// The most of them since the heap last declined, as `trim` saw it.
    peak: AtomicUsize,
    /// Whether that was when it last declined: it has only fallen since.
    declining: AtomicBool,
    /// Pages that `trim` purged and nobody acquired again.
    purged: AtomicUsize,
    /// Pages that were purged too early, see `limit`.
    regret: AtomicUsize,
    /// No segment before this one has a free page.
    first_free: AtomicUsize,
    /// Spans that were given up where the lock could not be had: the first one's entry, by address.
    deferred: AtomicUsize,
    dirty_limit: AtomicUsize,
    /// The second up to which `purged` and `regret` have faded.
    faded_at: AtomicUsize,
    count: AtomicUsize,
    segments: [AtomicPtr<Segment>; SEGMENTS_MAX],
    /// The segments in the page-map range, by place.
    in_page_map: [AtomicPtr<Segment>; PAGE_MAP_SEGMENTS],
    /// A hash table of the segments outside the page-map range; null until there is one.
    outside: AtomicPtr<[AtomicPtr<Segment>; OUTSIDE_SLOTS]>,
    purged_total: AtomicUsize,
    /// Bytes of pages that are mapped.
    mapped: AtomicUsize,
    /// Bytes of metadata that are mapped.
    metadata: AtomicUsize,
    growth: Lock,
    next_slot: Guarded,
    /// No segment before this one can grow.
    first_growing: Guarded,
    /// Whether sparse spans have segments of their own.
    is_sparse_separate: AtomicBool,
}

/// The one page heap.
pub static PAGE_HEAP: PageHeap = const {
    // SAFETY: zero is a valid value of each field: integers, null pointers, free locks.
    unsafe { core::mem::MaybeUninit::<PageHeap>::zeroed().assume_init() }
};

impl PageHeap {
    /// Acquires a span of `pages` (at most `SPAN_MAX_PAGES`) at a multiple of `align_pages`, whose entry
    /// says that it is a `kind`; none when the OS has no more memory, or an operation of the program can't have the
    /// lock of a segment that may have room: it is barred then (see `sync`).
    pub fn acquire(
        &self,
        pages: usize,
        align_pages: usize,
        kind: Kind,
        density: Density,
    ) -> Option<Span> {
        self.collect_deferred();
        let home = self.home_of(density);
        match self.acquire_free(pages, align_pages, kind, home) {
            Ok(span) => Some(span),
            // What is missing is no page: there are other ways, none of which maps a segment.
            Err(Missing::Lock) if WaitBudget::is_bounded() => None,
            Err(_) => self
                .grow_and_acquire(pages, align_pages, kind, home)
                .or_else(|| self.acquire_elsewhere(pages, align_pages, kind, home)),
        }
    }

    /// A span of what is free in the segments of `home`.
    fn acquire_free(
        &self,
        pages: usize,
        align_pages: usize,
        kind: Kind,
        home: Density,
    ) -> Result<Span, Missing> {
        let mut is_left_out = false;
        for patient in [false, true] {
            // Ordering: Relaxed, a hint.
            let first = self.first_free.load(Ordering::Relaxed);
            for (index, segment) in self.segments().enumerate().skip(first) {
                if segment.longest() < pages || segment.density() != home {
                    if segment.longest() == 0 && index == first {
                        self.advance_first_free(first);
                    }
                    continue;
                }
                let guard = if patient { segment.lock().ok() } else { segment.try_lock() };
                is_left_out |= patient && guard.is_none();
                if let Some(guard) = guard
                    && let Some(span) = self.acquire_in(segment, pages, align_pages, kind, guard)
                {
                    return Ok(span);
                }
            }
        }
        Err(if is_left_out { Missing::Lock } else { Missing::Pages })
    }

    /// Asks for the lock and the bitmaps of the segment that [`PageHeap::acquire`] looks at first: a hint.
    pub fn prefetch(&self) {
        // Ordering: Relaxed, a hint.
        if let Some(segment) = self.segment(self.first_free.load(Ordering::Relaxed)) {
            segment.prefetch();
        }
    }

    /// The segment at `seen` had no free page. It may have got one since: a release raises `longest`
    /// before it lowers the hint, so whoever advances the hint looks again.
    fn advance_first_free(&self, seen: usize) {
        // Ordering: SeqCst, before the second look at `longest`.
        let next = seen + 1;
        let _ = self.first_free.compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed);
        if self.segment(seen).is_some_and(|segment| segment.longest() > 0) {
            // Ordering: Relaxed, a hint.
            self.first_free.fetch_min(seen, Ordering::Relaxed);
        }
    }

    fn acquire_in(
        &self,
        segment: &Segment,
        pages: usize,
        align_pages: usize,
        kind: Kind,
        _guard: Guard<'_>,
    ) -> Option<Span> {
        let run = match (pages, align_pages) {
            (1, 1) => segment.take_page()?,
            _ => segment.take(pages, align_pages)?,
        };
        self.account_taken(segment, run);
        let entry = segment.entry(run.first);
        entry.pages.set(run.pages as u32);
        entry.set_kind(kind);
        let span = span_of(segment, run);
        sanitizer::pages_taken(span.address, span.pages);
        Some(span)
    }

    /// A run goes to a holder, who will write to it. The segment's lock is held.
    fn account_taken(&self, segment: &Segment, run: Run) {
        segment.mark_dirty(run);
        // Ordering: Relaxed throughout, statistics that steer purging.
        self.dirty.fetch_sub(run.dirty, Ordering::Relaxed);
        self.held.fetch_add(run.pages, Ordering::Relaxed);
        let (clean, purged) = (run.pages - run.dirty, self.purged.load(Ordering::Relaxed));
        if clean > 0 && purged > 0 {
            let again = clean.min(purged);
            // Ordering: Relaxed, as above; two at once may regret the same pages twice.
            self.purged.store(purged - again, Ordering::Relaxed);
            self.regret.fetch_add(again, Ordering::Relaxed);
        }
    }

    /// Bytes in spans that somebody holds, as one look can tell.
    pub fn held_bytes(&self) -> usize {
        // Ordering: Relaxed, a value that steers policies.
        self.held.load(Ordering::Relaxed) * PAGE_BYTES
    }

    /// Takes a span back. The caller calls [`PageHeap::trim`] when it holds no lock.
    ///
    /// # Safety
    /// 1. The caller holds the span at `address` and gives it up.
    pub unsafe fn release(&self, address: usize) {
        let Some(segment) = self.segment_at(address) else { return };
        let first = (address - segment.base()) / PAGE_BYTES;
        let entry = segment.entry(first);
        match segment.lock() {
            Ok(_guard) => {
                sanitizer::pages_given_up(address, entry.pages.get() as usize);
                entry.set_kind(Kind::None);
                self.take_back(segment, first, entry.pages.get() as usize);
            }
            Err(_) => self.defer(entry),
        }
    }

    /// Takes back what lies behind the first `keep` pages of a span; whether that could be done.
    ///
    /// # Safety
    /// 1. The caller holds the span at `address` and gives those pages up.
    pub unsafe fn release_tail(&self, address: usize, keep: usize) -> bool {
        let Some(segment) = self.segment_at(address) else { return false };
        let first = (address - segment.base()) / PAGE_BYTES;
        let Ok(_guard) = segment.lock() else { return false };
        let entry = segment.entry(first);
        let pages = entry.pages.get() as usize;
        entry.pages.set(keep as u32);
        sanitizer::pages_given_up(address + keep * PAGE_BYTES, pages - keep);
        self.take_back(segment, first + keep, pages - keep);
        true
    }

    /// The segment's lock is held.
    fn take_back(&self, segment: &Segment, first: usize, pages: usize) {
        // Ordering: Relaxed, statistics that steer purging; before the pages can be taken, so that the
        // difference never falls below 0.
        self.dirty.fetch_add(pages, Ordering::Relaxed);
        self.held.fetch_sub(pages, Ordering::Relaxed);
        segment.put(first, pages, false);
        self.note_free(segment);
    }

    /// A signal handler on top of a holder can't wait for the segment's lock, and a late thread does not: the span is
    /// left for the next one who comes along.
    #[cold]
    fn defer(&self, entry: &PageEntry) {
        entry.set_kind(Kind::Deferred);
        let this = core::ptr::from_ref(entry) as usize;
        // Ordering: Relaxed, the exchange confirms it.
        let mut head = self.deferred.load(Ordering::Relaxed);
        loop {
            entry.next.set(head);
            // Ordering: Release publishes the entry to `collect_deferred`; nobody pops single ones, so
            // a head that comes back means no harm.
            match self.deferred.compare_exchange(head, this, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    fn collect_deferred(&self) {
        // Ordering: Relaxed, a hint.
        if self.deferred.load(Ordering::Relaxed) == 0 {
            return;
        }
        for entry in self.take_deferred() {
            // SAFETY: whoever deferred the span gave it up.
            unsafe { self.release(entry.page()) };
        }
    }

    /// The spans that were given up, off the list; what is done with one may give it up again.
    fn take_deferred(&self) -> impl Iterator<Item = &'static PageEntry> {
        // Ordering: Acquire pairs with the Release in `defer`.
        let mut at = self.deferred.swap(0, Ordering::Acquire);
        core::iter::from_fn(move || {
            // SAFETY: 0, or an entry from `defer`; entries live for ever (segment I4).
            let entry = unsafe { (at as *const PageEntry).as_ref() }?;
            at = entry.next.get();
            Some(entry)
        })
    }

    /// The segment, whose lock is held, has a free page again.
    fn note_free(&self, segment: &Segment) {
        // Ordering: SeqCst, after the segment's `longest`: see `advance_first_free`.
        self.first_free.fetch_min(segment.index(), Ordering::SeqCst);
    }

    /// Extends a held span in place.
    ///
    /// # Safety
    /// 1. The caller holds the span of `pages` at `address`.
    pub unsafe fn extend(&self, address: usize, pages: usize, more: usize) -> bool {
        let Some(segment) = self.segment_at(address) else { return false };
        let end = (address - segment.base()) / PAGE_BYTES + pages;
        let extend = || {
            let _guard = segment.lock().ok()?;
            if end + more > segment.mapped_pages() && segment.is_free_from(end) {
                return Some(false);
            }
            let run = segment.extend(end, more)?;
            sanitizer::pages_taken(segment.base() + end * PAGE_BYTES, more);
            self.account_taken(segment, run);
            segment.entry(end - pages).pages.set((pages + more) as u32);
            Some(true)
        };
        match extend() {
            Some(false) => self.grow_to(segment, end + more) && extend() == Some(true),
            done => done.is_some(),
        }
    }

    /// The segment that `address` lies in.
    #[inline]
    pub fn segment_at(&self, address: usize) -> Option<&'static Segment> {
        // Ordering: Relaxed, written once before any object exists.
        let slot = address.wrapping_sub(HOT.page_map_base.load(Ordering::Relaxed)) >> SEGMENT_SHIFT;
        let Some(link) = self.in_page_map.get(slot) else {
            return self.outside_segment(address & !(SEGMENT_BYTES - 1));
        };
        // Ordering: Acquire pairs with the Release in `publish`.
        let segment = link.load(Ordering::Acquire);
        // SAFETY: published segments live for ever (segment I4).
        unsafe { segment.as_ref() }
    }

    fn outside_segment(&self, base: usize) -> Option<&'static Segment> {
        let table = self.outside_table()?;
        let mut slot = outside_slot(base);
        loop {
            // Ordering: Acquire pairs with the Release in `publish`.
            let segment = table[slot].load(Ordering::Acquire);
            if segment.is_null() || segment as usize == base {
                // SAFETY: published segments live for ever (segment I4).
                return unsafe { segment.as_ref() };
            }
            slot = (slot + 1) % OUTSIDE_SLOTS;
        }
    }

    fn outside_table(&self) -> Option<&'static [AtomicPtr<Segment>; OUTSIDE_SLOTS]> {
        // Ordering: Acquire pairs with the Release in `make_outside_table`.
        let table = self.outside.load(Ordering::Acquire);
        // SAFETY: null, or a mapping that stays for ever; zero is a valid table.
        unsafe { table.as_ref() }
    }

    /// The entry of the page that `address` lies in, if it is a page of ours that can hold objects.
    #[inline]
    pub fn entry_at(&self, address: usize) -> Option<&'static PageEntry> {
        let segment = self.segment_at(address)?;
        let index = (address - segment.base()) / PAGE_BYTES;
        (index >= HEADER_PAGES && index < segment.mapped_pages()).then(|| segment.entry(index))
    }

    /// Whether the page of `address` belongs to a span that somebody holds, as one look can tell.
    pub fn is_held(&self, address: usize) -> bool {
        let Some(segment) = self.segment_at(address) else { return false };
        let index = (address - segment.base()) / PAGE_BYTES;
        (HEADER_PAGES..segment.mapped_pages()).contains(&index)
            && !segment.is_free(index)
            && !segment.is_purging(index)
            && segment.entry(index).kind() != Kind::Deferred
    }

    fn segment_count(&self) -> usize {
        // Ordering: Acquire pairs with the Release in `publish`.
        self.count.load(Ordering::Acquire)
    }

    fn segment(&self, index: usize) -> Option<&'static Segment> {
        // Ordering: Acquire pairs with the Release in `publish`.
        let segment = self.segments.get(index)?.load(Ordering::Acquire);
        // SAFETY: published segments live for ever (segment I4).
        unsafe { segment.as_ref() }
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &'static Segment> {
        (0..self.segment_count()).filter_map(|index| self.segment(index))
    }

    /// Sets how many free pages may stay resident before some are purged.
    pub fn set_dirty_limit(&self, pages: usize) {
        // Ordering: Relaxed, a tuning value.
        self.dirty_limit.store(pages, Ordering::Relaxed);
    }

    /// Bytes of metadata that are mapped in segments.
    pub fn metadata_bytes(&self) -> usize {
        // Ordering: Relaxed, a statistic.
        self.metadata.load(Ordering::Relaxed)
    }

    /// Bytes of pages that are mapped in segments, bytes free and dirty, bytes purged since start.
    pub fn totals(&self) -> (usize, usize, usize) {
        // Ordering: Relaxed, statistics.
        (
            self.mapped.load(Ordering::Relaxed),
            self.dirty.load(Ordering::Relaxed) * PAGE_BYTES,
            self.purged_total.load(Ordering::Relaxed),
        )
    }

    /// The lock of growth, for tests.
    #[doc(hidden)]
    pub fn raw_growth_lock(&self) -> &Lock {
        &self.growth
    }

    /// The locks in rank order, for fork.
    pub fn for_each_lock(&self, mut f: impl FnMut(&Lock, Rank)) {
        f(&self.growth, Rank::GROWTH);
        self.segments().for_each(|segment| f(segment.raw_lock(), segment.rank()));
    }
}

fn span_of(segment: &Segment, run: Run) -> Span {
    Span {
        address: segment.base() + run.first * PAGE_BYTES,
        pages: run.pages,
        contents: if run.dirty == 0 { Contents::Zero } else { Contents::Any },
    }
}

fn outside_slot(base: usize) -> usize {
    (base >> SEGMENT_SHIFT).wrapping_mul(0x9E37_79B9) % OUTSIDE_SLOTS
}

const _: () = assert!(SEGMENT_PAGES.is_multiple_of(64));
