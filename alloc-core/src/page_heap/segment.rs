//! A segment: 64 MiB of address space, with its own metadata in front.
//!
//! A segment hands out and takes back runs of pages under its own lock, and knows which free pages may hold old contents.
//!
//! ```text
//! segment:  | entry 0..1023, 64 B each | bitmaps, 512 B each | page 9 | page 10 | ... | page 1023 |
//!           ^ the header lies over the entries of the metadata pages themselves
//! ```
//!
//! At first only a part is mapped: the pages up to `mapped_pages`, and the metadata that describes them. The part grows at
//! its end, see `growth`.
//!
//! Invariants:
//! I1. `free` has a bit for each page that no span has; metadata and unmapped pages have none.
//! I2. A page without a `dirty` bit reads as zero.
//! I3. No run of free pages is longer than `longest`.
//! I4. What is mapped of a segment is never unmapped.
//! I5. Under the lock, each page that is not free belongs to the span whose first entry's kind is not `None`, or is being
//!     purged.
//! I6. The entries and bitmaps of all pages below `mapped_pages` are mapped.

use super::density::{Density, Home};
use super::entry::{BITMAP_BYTES, Kind, PageEntry};
use super::page_set::{PageSet, WORDS};
use crate::arch::{self, thread_id};
use crate::atomic::{AtomicU32, Ordering};
use crate::node::Node;
use crate::object::Contents;
use crate::sync::{Guard, Guarded, Guarded32, Lock, Rank, Reentered};
use crate::units::{PAGE_BYTES, SEGMENT_PAGES};
use core::mem::offset_of;

/// Pages at the start of each segment that hold metadata.
pub const HEADER_PAGES: usize =
    (SEGMENT_PAGES * (size_of::<PageEntry>() + BITMAP_BYTES)).div_ceil(PAGE_BYTES);

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
    /// The segment's home: 1 if it is sparse, plus twice the number of its node.
    home: Guarded32,
    free: PageSet,
    dirty: PageSet,
    /// Taken by a purge, which puts them back.
    purging: PageSet,
    extent: Extent,
}

/// Where a segment's own words are, in bytes from its start, for `publish`.
pub struct Layout {
    /// A half word: the pages that are mapped.
    pub mapped_pages: usize,
    /// The set of free pages.
    pub free: usize,
    /// The set of pages that may be resident if they are free.
    pub dirty: usize,
    /// The set of pages that are being purged.
    pub purging: usize,
}

impl Layout {
    /// The layout.
    pub const OWN: Layout = Layout {
        mapped_pages: offset_of!(Header, mapped_pages),
        free: offset_of!(Header, free),
        dirty: offset_of!(Header, dirty),
        purging: offset_of!(Header, purging),
    };
}

/// How far a segment's mappings reach, in bytes from its start; guarded by the lock of growth.
#[derive(Default)]
pub struct Extent {
    /// End of the metadata that is mapped.
    pub metadata: Guarded,
    /// End of the pages that are mapped.
    pub pages: Guarded,
    /// End of the pages that may be mapped.
    pub limit: Guarded,
    /// 1 if the unmapped part is reserved without access; 0 if other mappings may take it.
    pub reserved: Guarded32,
}

/// A run of pages taken from a segment, which the holder of this value alone uses.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "pages that are not put back are lost"]
pub struct PageRun {
    /// Number of the first page in its segment.
    pub first: usize,
    /// Number of pages.
    pub pages: usize,
    /// How many of them were dirty.
    pub dirty: usize,
}

impl PageRun {
    /// Number of the first page behind the run.
    pub fn end(&self) -> usize {
        self.first + self.pages
    }

    /// What the pages hold (I2).
    pub fn contents(&self) -> Contents {
        if self.dirty == 0 { Contents::Zero } else { Contents::Any }
    }
}

/// A segment, by the address of its metadata.
#[repr(transparent)]
pub struct Segment {
    entries: [PageEntry; SEGMENT_PAGES],
}

impl Segment {
    /// Makes a segment without pages.
    ///
    /// # Safety
    /// 1. `base` is aligned to `SEGMENT_BYTES`. 2. All entries there are zeroed memory that the caller gives up for ever.
    pub unsafe fn create(base: usize) -> &'static Segment {
        // SAFETY: duties 1 and 2; all zeroes is a valid segment.
        let segment = unsafe { &*(base as *const Segment) };
        // Ordering: Relaxed, published with the segment.
        segment.header().mapped_pages.store(HEADER_PAGES as u32, Ordering::Relaxed);
        segment
    }

    /// Adds the pages up to number `end` as free ones. The lock is held.
    ///
    /// # Safety
    /// 1. They and their metadata are mapped and read as zero, and stay mapped for ever.
    pub unsafe fn add_pages(&self, end: usize) {
        let first = self.mapped_pages();
        // Ordering: Release pairs with the Acquire in `mapped_pages`: after the mappings.
        self.header().mapped_pages.store(end as u32, Ordering::Release);
        self.put(PageRun { first, pages: end - first, dirty: 0 }, Contents::Zero);
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
    #[inline]
    pub fn entry(&'static self, index: usize) -> &'static PageEntry {
        debug_assert!(index >= HEADER_PAGES);
        &self.entries[index]
    }

    /// Takes the segment's lock.
    pub fn lock(&self) -> Result<Guard<'_>, Reentered> {
        self.header().lock.acquire(self.rank())
    }

    /// Prefetches the lock and the sets of pages behind it: a hint.
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

    /// The lock itself, for a fork.
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

    /// What the spans that come from this segment first have in common.
    #[inline]
    pub fn home(&self) -> Home {
        let home = self.header().home.get();
        let density = if home & 1 == 0 { Density::Dense } else { Density::Sparse };
        Home { density, node: Node::of_index(home as usize >> 1) }
    }

    /// Sets [`Segment::home`], before the segment is published.
    pub fn set_home(&self, home: Home) {
        let sparse = usize::from(home.density == Density::Sparse);
        self.header().home.set((home.node.index() << 1 | sparse) as u32);
    }

    /// An upper bound on the segment's runs of free pages (I3).
    pub fn longest(&self) -> usize {
        self.header().longest.get() as usize
    }

    /// Pages that are mapped, metadata included.
    pub fn mapped_pages(&self) -> usize {
        // Ordering: Acquire pairs with the Release in `add_pages`.
        self.header().mapped_pages.load(Ordering::Acquire) as usize
    }

    /// Free pages, and how many of them and of those being purged are dirty.
    pub fn free_pages(&self) -> (usize, usize) {
        let header = self.header();
        let mut counts = (0, 0);
        for word in 0..WORDS {
            let [free, dirty, purging] =
                [&header.free, &header.dirty, &header.purging].map(|set| set.word(word));
            counts.0 += free.count_ones() as usize;
            counts.1 += ((free | purging) & dirty).count_ones() as usize;
        }
        counts
    }

    /// Whether page `index` is free.
    pub fn is_free(&self, index: usize) -> bool {
        self.header().free.has(index)
    }

    /// Whether page `index` is being purged.
    pub fn is_purging(&self, index: usize) -> bool {
        self.header().purging.has(index)
    }

    /// Puts back the pages of purges whose threads are gone, in the child of a fork, and returns how many of the pages were on
    /// the deferred list. A purge of the calling thread goes on below the handler that runs. The lock is held.
    pub fn end_purges(&'static self) -> usize {
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
            self.put(PageRun { first, pages: page - first, dirty: 0 }, Contents::Any);
        }
        deferred
    }

    /// Takes one page, a dirty one if there is any. The lock is held.
    pub fn take_page(&self) -> Option<PageRun> {
        let header = self.header();
        let mut clean = None;
        for word in 0..WORDS {
            let free = header.free.word(word);
            let warm = free & header.dirty.word(word);
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
    pub fn take(&self, pages: usize, align: usize) -> Option<PageRun> {
        let header = self.header();
        if let Some(first) = header.free.find_short_run(pages, align) {
            return Some(self.take_run(first, pages));
        }
        let mut longest = 0;
        let mut page = HEADER_PAGES;
        while let Some((start, end)) = header.free.next_run(page) {
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

    /// Pages of the longest free run, of which [`Segment::longest`] is a bound. The lock is held.
    pub fn longest_run(&self) -> usize {
        let (mut longest, mut page) = (0, HEADER_PAGES);
        while let Some((start, end)) = self.header().free.next_run(page) {
            longest = longest.max(end - start);
            page = end;
        }
        longest
    }

    /// Takes the `more` pages behind page `end` if all are free. The lock is held.
    pub fn extend(&self, end: usize, more: usize) -> Option<PageRun> {
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
    pub fn take_dirty(&'static self, from: usize) -> Option<PageRun> {
        let header = self.header();
        let is_warm = |page: usize| self.is_free(page) && header.dirty.has(page);
        let first = (from..SEGMENT_PAGES).find(|&page| is_warm(page))?;
        let pages = (first..SEGMENT_PAGES).take_while(|&page| is_warm(page)).count();
        Some(self.take_to_purge(first, pages))
    }

    /// Takes all pages if all are free and clean, so that their metadata may be given back. The lock is held.
    pub fn take_unused(&'static self) -> Option<PageRun> {
        let pages = self.mapped_pages() - HEADER_PAGES;
        (self.free_pages() == (pages, 0)).then(|| self.take_to_purge(HEADER_PAGES, pages))
    }

    /// Takes a run for a purge; the first page's entry says how many pages it has and which thread purges it.
    fn take_to_purge(&'static self, first: usize, pages: usize) -> PageRun {
        self.entry(first).set_purger(pages, thread_id());
        (first..first + pages).for_each(|page| self.header().purging.add(page));
        self.take_run(first, pages)
    }

    fn take_run(&self, first: usize, pages: usize) -> PageRun {
        let header = self.header();
        let mut dirty = 0;
        for page in first..first + pages {
            header.free.remove(page);
            dirty += usize::from(header.dirty.has(page));
        }
        PageRun { first, pages, dirty }
    }

    /// Address and bytes of the mapped metadata behind the header, from the next OS page on: entries and bitmaps, which read as
    /// zero in a fresh segment.
    pub fn page_metadata(&self, os_page_bytes: usize) -> (usize, usize) {
        let header = size_of::<Header>().next_multiple_of(os_page_bytes);
        (self.base() + header, self.extent().metadata.get().saturating_sub(header))
    }

    /// Marks a run dirty: its holder will write to it. The lock is held.
    pub fn mark_dirty(&self, run: &PageRun) {
        (run.first..run.end()).for_each(|page| self.header().dirty.add(page));
    }

    /// Takes pages back, which hold `contents`. The lock is held.
    #[inline(never)]
    pub fn put(&self, run: PageRun, contents: Contents) {
        let header = self.header();
        for page in run.first..run.end() {
            header.free.add(page);
            header.purging.remove(page);
            if contents == Contents::Zero {
                header.dirty.remove(page);
            }
        }
        header.longest.set(SEGMENT_PAGES as u32);
    }
}
