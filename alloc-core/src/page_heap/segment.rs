//! A segment: 64 MiB of address space with its own metadata in front.
//!
//! Promises: hands out and takes back runs of pages under its own lock; knows which free pages may
//! still hold old contents. Called by page_heap (runs) and slab (the entries of its pages).
//!
//! ```text
//! segment:  | entry 0..1023, 64 B each | bitmaps, 512 B each | page 9 | page 10 | ... | page 1023 |
//!           ^ the header lies over the entries of the metadata pages themselves
//! ```
//!
//! Only a part is mapped at first: the pages up to `mapped_pages`, and of the metadata what describes them. The part
//! grows at its end, see `growth`.
//!
//! Invariants:
//! I1. `free` has a bit for each page that nobody holds; metadata and unmapped pages have none.
//! I2. A page without a `dirty` bit reads as zero.
//! I3. No run of free pages is longer than `longest`.
//! I4. What is mapped of a segment is never unmapped.
//! I5. Under the lock, each page that is not free belongs to the span whose first entry's kind is not
//!     `None`, or is being purged.
//! I6. The entries and bitmaps of all pages below `mapped_pages` are mapped.

use super::density::Density;
use super::entry::{BITMAP_BYTES, Kind, PageEntry};
use crate::arch::{self, thread_id};
use crate::atomic::{AtomicU32, Ordering};
use crate::sync::{Guard, Guarded, Guarded32, Guarded64, Lock, Rank, Reentered};
use crate::units::{PAGE_BYTES, SEGMENT_PAGES};

/// Pages in front of each segment that are kept for metadata.
pub const HEADER_PAGES: usize =
    (SEGMENT_PAGES * (size_of::<PageEntry>() + BITMAP_BYTES)).div_ceil(PAGE_BYTES);
const WORDS: usize = SEGMENT_PAGES / 64;

/// Bytes of metadata, from a segment's start, that describe its first `pages` pages.
pub const fn metadata_bytes(pages: usize) -> usize {
    SEGMENT_PAGES * size_of::<PageEntry>() + pages * BITMAP_BYTES
}

const _: () = assert!(size_of::<Header>() <= HEADER_PAGES * size_of::<PageEntry>());

#[repr(C)]
struct Header {
    lock: Lock,
    mapped_pages: AtomicU32,
    longest: Guarded32,
    index: Guarded32,
    /// 1 if its density is sparse.
    sparse: Guarded32,
    free: [Guarded64; WORDS],
    dirty: [Guarded64; WORDS],
    /// Taken by a purge, which puts them back.
    purging: [Guarded64; WORDS],
    extent: Extent,
}

/// How far a segment's mappings reach, in bytes from its start; the lock of growth guards it.
#[derive(Default)]
pub struct Extent {
    /// End of the metadata that is mapped.
    pub metadata: Guarded,
    /// End of the pages that are mapped.
    pub pages: Guarded,
    /// Where the pages may end one day.
    pub limit: Guarded,
    /// 1 if what is not mapped yet is reserved without access; 0 if it is nobody's.
    pub reserved: Guarded32,
}

/// A run of pages taken from a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Number of the first page in its segment.
    pub first: usize,
    /// Number of pages.
    pub pages: usize,
    /// How many of them were dirty.
    pub dirty: usize,
}

/// A segment, by the address of its metadata.
#[repr(transparent)]
pub struct Segment {
    entries: [PageEntry; SEGMENT_PAGES],
}

impl Segment {
    /// Makes a segment without a page of fresh memory.
    ///
    /// # Safety
    /// 1. `base` is aligned to `SEGMENT_BYTES`; the header there is zeroed memory of ours for ever.
    pub unsafe fn create(base: usize) -> &'static Segment {
        // SAFETY: duty 1; all zeroes is a valid segment.
        let segment = unsafe { &*(base as *const Segment) };
        // Ordering: Relaxed, published with the segment.
        segment.header().mapped_pages.store(HEADER_PAGES as u32, Ordering::Relaxed);
        segment
    }

    /// Adds the pages up to number `end` as free ones. The lock is held.
    ///
    /// # Safety
    /// 1. They and their metadata are mapped for ever and read as zero.
    pub unsafe fn add_pages(&self, end: usize) {
        let first = self.mapped_pages();
        // Ordering: Release pairs with the Acquire in `mapped_pages`: after the mappings.
        self.header().mapped_pages.store(end as u32, Ordering::Release);
        self.put(first, end - first, true);
    }

    /// How far the mappings reach.
    pub fn extent(&self) -> &Extent {
        &self.header().extent
    }

    fn header(&self) -> &Header {
        // SAFETY: the first HEADER_PAGES entries are those of the metadata itself and serve as header.
        unsafe { &*core::ptr::from_ref(&self.entries).cast::<Header>() }
    }

    /// Address of the segment.
    pub fn base(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// The entry of page `index`.
    pub fn entry(&self, index: usize) -> &PageEntry {
        debug_assert!(index >= HEADER_PAGES);
        &self.entries[index]
    }

    /// Takes the segment's lock.
    pub fn lock(&self) -> Result<Guard<'_>, Reentered> {
        self.header().lock.acquire(self.rank())
    }

    /// Asks for the lock and the bitmaps behind it: a hint.
    pub fn prefetch(&self) {
        (0..size_of::<Header>()).step_by(64).for_each(|at| arch::prefetch(self.base() + at));
    }

    /// Takes the segment's lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_>> {
        self.header().lock.try_acquire(self.rank())
    }

    /// The lock's place in the order.
    pub fn rank(&self) -> Rank {
        Rank::segment(self.index())
    }

    /// The lock itself, for fork.
    pub fn raw_lock(&self) -> &Lock {
        &self.header().lock
    }

    /// The segment's number in the page heap's list.
    pub fn index(&self) -> usize {
        self.header().index.get() as usize
    }

    /// Sets [`Segment::index`], before the segment is published.
    pub fn set_index(&self, index: usize) {
        self.header().index.set(index as u32);
    }

    /// What the spans are like that come from here first.
    pub fn density(&self) -> Density {
        if self.header().sparse.get() == 0 { Density::Dense } else { Density::Sparse }
    }

    /// Sets [`Segment::density`], before the segment is published.
    pub fn set_density(&self, density: Density) {
        self.header().sparse.set(u32::from(density == Density::Sparse));
    }

    /// An upper bound on the run that the segment has.
    pub fn longest(&self) -> usize {
        self.header().longest.get() as usize
    }

    /// Pages that are mapped, metadata included.
    pub fn mapped_pages(&self) -> usize {
        // Ordering: Acquire pairs with the Release in `add_pages`.
        self.header().mapped_pages.load(Ordering::Acquire) as usize
    }

    /// Free pages, and the dirty ones of them and of what is being purged.
    pub fn free_pages(&self) -> (usize, usize) {
        let header = self.header();
        let mut counts = (0, 0);
        for word in 0..WORDS {
            let [free, dirty, purging] =
                [&header.free, &header.dirty, &header.purging].map(|words| words[word].get());
            counts.0 += free.count_ones() as usize;
            counts.1 += ((free | purging) & dirty).count_ones() as usize;
        }
        counts
    }

    /// Whether page `index` is free.
    pub fn is_free(&self, index: usize) -> bool {
        get(&self.header().free, index)
    }

    /// Whether page `index` is held by a purge.
    pub fn is_purging(&self, index: usize) -> bool {
        get(&self.header().purging, index)
    }

    /// Puts back what purges hold whose threads are gone; the calling thread's own are below it, in a handler,
    /// and go on. How many of the pages had been deferred. The lock is held.
    pub fn end_purges(&self) -> usize {
        let mut deferred = 0;
        let mut page = HEADER_PAGES;
        while page < SEGMENT_PAGES {
            if !self.is_purging(page) {
                page += 1;
                continue;
            }
            let (entry, first) = (self.entry(page), page);
            page += entry.pages.get() as usize;
            if entry.purger() == thread_id() {
                continue;
            }
            if entry.kind() == Kind::Deferred {
                entry.set_kind(Kind::None);
                deferred += page - first;
            }
            self.put(first, page - first, false);
        }
        deferred
    }

    /// Takes one page, a dirty one if there is any. The lock is held.
    pub fn take_page(&self) -> Option<Run> {
        let header = self.header();
        let mut clean = None;
        for word in 0..WORDS {
            let free = header.free[word].get();
            let warm = free & header.dirty[word].get();
            if warm != 0 {
                return Some(self.take_run(word * 64 + warm.trailing_zeros() as usize, 1));
            }
            if free != 0 && clean.is_none() {
                clean = Some(word * 64 + free.trailing_zeros() as usize);
            }
        }
        if clean.is_none() {
            header.longest.set(0);
        }
        clean.map(|page| self.take_run(page, 1))
    }

    /// Takes the first run of `pages` pages that starts at a multiple of `align` pages (counted from
    /// the segment, whose base is aligned further). The lock is held.
    pub fn take(&self, pages: usize, align: usize) -> Option<Run> {
        let header = self.header();
        if let Some(first) = find_short(&header.free, pages, align) {
            return Some(self.take_run(first, pages));
        }
        let mut longest = 0;
        let mut page = HEADER_PAGES;
        while let Some(start) = next(&header.free, page, true) {
            let end = next(&header.free, start, false).unwrap_or(SEGMENT_PAGES);
            let first = start.next_multiple_of(align);
            if first + pages <= end {
                return Some(self.take_run(first, pages));
            }
            longest = longest.max(end - start);
            page = end;
        }
        header.longest.set(longest as u32);
        None
    }

    /// Pages of the longest run that the segment has, which [`Segment::longest`] bounds. The lock is held.
    pub fn longest_run(&self) -> usize {
        let free = &self.header().free;
        let (mut longest, mut page) = (0, HEADER_PAGES);
        while let Some(start) = next(free, page, true) {
            page = next(free, start, false).unwrap_or(SEGMENT_PAGES);
            longest = longest.max(page - start);
        }
        longest
    }

    /// Takes the `more` pages behind page `end` if all are free. The lock is held.
    pub fn extend(&self, end: usize, more: usize) -> Option<Run> {
        let fits = end + more <= SEGMENT_PAGES && (end..end + more).all(|page| self.is_free(page));
        fits.then(|| self.take_run(end, more))
    }

    /// Whether all mapped pages from `first` on are free. The lock is held.
    pub fn is_free_from(&self, first: usize) -> bool {
        (first..self.mapped_pages()).all(|page| self.is_free(page))
    }

    /// How many of the last mapped pages are free in a row. The lock is held.
    pub fn free_tail(&self) -> usize {
        (HEADER_PAGES..self.mapped_pages()).rev().take_while(|&page| self.is_free(page)).count()
    }

    /// Takes the first run of free dirty pages at or behind `from`. The lock is held.
    pub fn take_dirty(&self, from: usize) -> Option<Run> {
        let header = self.header();
        let is_warm = |page: usize| self.is_free(page) && get(&header.dirty, page);
        let first = (from..SEGMENT_PAGES).find(|&page| is_warm(page))?;
        let pages = (first..SEGMENT_PAGES).take_while(|&page| is_warm(page)).count();
        Some(self.take_to_purge(first, pages))
    }

    /// Takes all pages if all are free and clean, so that what is known of each may be forgotten. The lock is
    /// held.
    pub fn take_unused(&self) -> Option<Run> {
        let pages = self.mapped_pages() - HEADER_PAGES;
        (self.free_pages() == (pages, 0)).then(|| self.take_to_purge(HEADER_PAGES, pages))
    }

    /// The first page's entry says how many there are and who has them.
    fn take_to_purge(&self, first: usize, pages: usize) -> Run {
        self.entry(first).set_purger(pages, thread_id());
        (first..first + pages).for_each(|page| set(&self.header().purging, page));
        self.take_run(first, pages)
    }

    fn take_run(&self, first: usize, pages: usize) -> Run {
        let header = self.header();
        let mut dirty = 0;
        for page in first..first + pages {
            clear(&header.free, page);
            dirty += usize::from(get(&header.dirty, page));
        }
        Run { first, pages, dirty }
    }

    /// What is mapped of the metadata behind the header, from the next page of the OS on: entries and bitmaps, which
    /// all read as zero in a fresh segment.
    pub fn page_metadata(&self, os_page_bytes: usize) -> (usize, usize) {
        let header = size_of::<Header>().next_multiple_of(os_page_bytes);
        (self.base() + header, self.extent().metadata.get().saturating_sub(header))
    }

    /// Marks a run dirty: its holder will write to it. The lock is held.
    pub fn mark_dirty(&self, run: Run) {
        (run.first..run.first + run.pages).for_each(|page| set(&self.header().dirty, page));
    }

    /// Takes pages back; `clean` if they read as zero. The lock is held.
    pub fn put(&self, first: usize, pages: usize, clean: bool) {
        let header = self.header();
        for page in first..first + pages {
            set(&header.free, page);
            clear(&header.purging, page);
            if clean {
                clear(&header.dirty, page);
            }
        }
        header.longest.set(SEGMENT_PAGES as u32);
    }
}

fn get(words: &[Guarded64; WORDS], bit: usize) -> bool {
    words[bit / 64].get() >> (bit % 64) & 1 == 1
}

fn set(words: &[Guarded64; WORDS], bit: usize) {
    words[bit / 64].set(words[bit / 64].get() | 1 << (bit % 64));
}

fn clear(words: &[Guarded64; WORDS], bit: usize) {
    words[bit / 64].set(words[bit / 64].get() & !(1 << (bit % 64)));
}

/// The first run of `pages` set bits at a multiple of `align`, if both are at most 64: 64 starts at a time, where a
/// look from run to run guesses wrong at each end.
fn find_short(words: &[Guarded64; WORDS], pages: usize, align: usize) -> Option<usize> {
    if pages > 64 || align > 64 {
        return None;
    }
    let aligned = !0u64 / (!0 >> (64 - align));
    (0..WORDS).find_map(|index| {
        let behind = words.get(index + 1).map_or(0, |word| word.get());
        let mut starts = u128::from(words[index].get()) | u128::from(behind) << 64;
        // A bit stays if the `known` bits from it on are set.
        let mut known = 1;
        while known < pages {
            let more = known.min(pages - known);
            starts &= starts >> more;
            known += more;
        }
        let starts = starts as u64 & aligned;
        (starts != 0).then(|| index * 64 + starts.trailing_zeros() as usize)
    })
}

/// The first bit at or behind `from` that is `wanted`.
fn next(words: &[Guarded64; WORDS], from: usize, wanted: bool) -> Option<usize> {
    let mut index = from / 64;
    let mut mask = !0u64 << (from % 64);
    while index < WORDS {
        let word = words[index].get();
        let hits = (if wanted { word } else { !word }) & mask;
        if hits != 0 {
            return Some(index * 64 + hits.trailing_zeros() as usize);
        }
        mask = !0;
        index += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of each length at each place, between runs that are one page too short.
    #[test]
    fn short_runs_are_found_where_they_are() {
        for (pages, align) in [(1, 1), (2, 1), (3, 1), (5, 2), (17, 4), (64, 1), (64, 64), (33, 16)]
        {
            for first in (0..=SEGMENT_PAGES - pages).step_by(align) {
                let words = [const { Guarded64::new(0) }; WORDS];
                let mut page = 0;
                while page + pages < first {
                    (page..page + pages - 1).for_each(|page| set(&words, page));
                    page += pages;
                }
                (first..first + pages).for_each(|page| set(&words, page));
                assert_eq!(find_short(&words, pages, align), Some(first), "{pages} at {align}");
                clear(&words, first + pages / 2);
                let found = find_short(&words, pages, align);
                assert_eq!(found, None, "{pages} at {align}: no run of that length is left");
            }
        }
    }
}
