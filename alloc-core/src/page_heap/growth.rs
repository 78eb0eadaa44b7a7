//! Growth: more pages at the mapped end of a segment, or one more segment.
//!
//! A segment is complete before other threads can find it, and a page before it is free. What is mapped grows with what is in
//! use: at first 1 MiB of pages, then by half of all pages, or by what is requested if that is more. So at most a third is
//! mapped without use, and the number of system calls is logarithmic. A refused step leaves everything as it was.
//!
//! ```text
//! in the page-map range:  | metadata | unmapped      | pages | unmapped ...          |     mapped by MAP_FIXED_NOREPLACE
//! outside:        | metadata | inaccessible  | pages | inaccessible ...      |     reserved, then made accessible
//! complete:       | metadata                 | pages                         |
//! ```
//!
//! Invariants:
//! I1. All fields of a segment's `Extent` change under the lock of growth. What an extent says is mapped, is mapped.

use super::density::{Density, Home};
use super::segment::{Extent, HEADER_PAGES, Segment, metadata_bytes};
use super::{OUTSIDE_SLOTS, OutsideTable, PageHeap, SEGMENTS_MAX, Span, SpanRequest, outside_slot};
use crate::atomic::Ordering;
use crate::hot::HOT;
use crate::os::{self, Errno, Place};
use crate::sanitizer;
use crate::sync::{Guard, Guarded, Lock, Rank, WaitBudget};
use crate::units::{PAGE_BYTES, PAGE_MAP_SEGMENTS, SEGMENT_BYTES, SEGMENT_PAGES, SEGMENT_SHIFT};

/// The least number of pages that are mapped at once, if the OS has them.
const STEP_MIN_PAGES: usize = (1 << 20) / PAGE_BYTES;
/// From so many mapped pages on, all metadata of a segment is mapped.
const WHOLE_METADATA_PAGES: usize = SEGMENT_PAGES / 4;
/// The lengths that are tried for a segment outside the page-map range: all of it, or as much as the OS gives.
const OUTSIDE_LENGTHS: [usize; 4] =
    [SEGMENT_BYTES, SEGMENT_BYTES / 4, SEGMENT_BYTES / 16, SEGMENT_BYTES / 64];

/// The outcome of an attempt to grow a segment in place.
#[derive(PartialEq, Eq)]
enum Growth {
    Done,
    /// This segment can't grow.
    NoSpace,
    /// The OS has no more memory, or the segment's lock can't be had.
    Refused,
}

impl PageHeap {
    #[cold]
    pub(super) fn grow_and_acquire(&self, request: SpanRequest) -> Option<Span> {
        // Ordering: Relaxed, the lock orders it: whether another thread has grown the heap meanwhile.
        let seen = self.mapped.load(Ordering::Relaxed);
        let growth = self.growth.acquire(Rank::GROWTH).ok()?;
        // Ordering: Relaxed, as above.
        if self.mapped.load(Ordering::Relaxed) != seen {
            drop(growth);
            return self.acquire_admitted(request);
        }
        // Aligned pages may begin some way behind the first free page.
        let SpanRequest { pages, align_pages, .. } = request;
        let slack = if align_pages > 1 { align_pages } else { 0 };
        let segment =
            self.grow(pages.next_multiple_of(align_pages) + slack, request.home(), &growth)?;
        drop(growth);
        let guard = segment.lock().ok()?;
        self.acquire_in(segment, request, guard).or_else(|| self.acquire_admitted(request))
    }

    /// Grows `segment` in place so that at least its first `end` pages are mapped; whether they are.
    #[cold]
    pub(super) fn grow_to(&self, segment: &Segment, end: usize) -> bool {
        let Ok(_growth) = self.growth.acquire(Rank::GROWTH) else { return false };
        end <= segment.mapped_pages() || self.grow_in_place(segment, end) == Growth::Done
    }

    /// Adds `pages` to the segments of `home`: to a segment that can still grow, or with a new one.
    fn grow(&self, pages: usize, home: Home, growth: &Guard<'_>) -> Option<&'static Segment> {
        for index in self.first_growing.get()..self.segment_count() {
            let Some(segment) = self.segment(index) else { continue };
            let is_complete = segment.mapped_pages() * PAGE_BYTES >= segment.extent().limit.get();
            if is_complete && index == self.first_growing.get() {
                self.first_growing.set(index + 1);
            }
            if segment.home() != home || is_complete {
                continue;
            }
            // The free pages at its end become the span's first part. If the lock can't be had, `add_pages` says so.
            let tail = segment.lock().map_or(0, |_guard| segment.free_tail());
            if tail >= pages {
                return Some(segment);
            }
            match self.grow_in_place(segment, segment.mapped_pages() + pages - tail) {
                Growth::Done => return Some(segment),
                Growth::NoSpace => {}
                Growth::Refused => return None,
            }
        }
        self.create_segment(pages, home, growth)
    }

    /// The numbers of pages to try to map when `needed` are: the most first, fewer after each refusal.
    fn steps(&self, needed: usize, space: usize) -> impl Iterator<Item = usize> + use<> {
        // Ordering: Relaxed, the lock of growth orders it.
        let half = self.mapped.load(Ordering::Relaxed) / PAGE_BYTES / 2;
        let most = half.max(STEP_MIN_PAGES).max(needed).min(space);
        let mut next = (needed <= space).then_some(most);
        core::iter::from_fn(move || {
            let step = next?;
            next = (step > needed).then(|| (step / 2).max(needed));
            Some(step)
        })
    }

    /// Adds pages to `segment` so that at least `end` are mapped. The lock of growth is held.
    fn grow_in_place(&self, segment: &Segment, end: usize) -> Growth {
        let (extent, mapped) = (segment.extent(), segment.mapped_pages());
        let space = (extent.limit.get() / PAGE_BYTES).saturating_sub(mapped);
        let mut outcome = Growth::NoSpace;
        for step in self.steps(end.saturating_sub(mapped), space) {
            let before = extent.metadata.get();
            let result = map_to(segment.base(), extent, segment.home(), mapped + step);
            // Ordering: Relaxed, a statistic.
            self.metadata.fetch_add(extent.metadata.get() - before, Ordering::Relaxed);
            match result {
                Ok(()) => return self.add_pages(segment, mapped + step),
                Err(libc::EEXIST) => {
                    // A foreign mapping lies behind the segment, which stays as it is.
                    extent.limit.set(extent.pages.get());
                    return Growth::NoSpace;
                }
                Err(_) => outcome = Growth::Refused,
            }
        }
        outcome
    }

    /// Makes mapped pages free. If the segment's lock can't be had, the next growth does; an operation of the program then takes
    /// other ways than one more segment.
    fn add_pages(&self, segment: &Segment, end: usize) -> Growth {
        let Ok(_guard) = segment.lock() else {
            return if WaitBudget::is_bounded() { Growth::Refused } else { Growth::NoSpace };
        };
        let bytes = (end - segment.mapped_pages()) * PAGE_BYTES;
        // SAFETY: `map_to` has mapped them and their metadata.
        unsafe { segment.add_pages(end) };
        // Ordering: Relaxed, a statistic; whether the heap has grown.
        self.mapped.fetch_add(bytes, Ordering::Relaxed);
        self.lower_first_free(segment);
        Growth::Done
    }

    /// Maps one more segment of `home` with at least `pages`: in the page-map range if there is a place, otherwise anywhere.
    fn create_segment(
        &self,
        pages: usize,
        home: Home,
        growth: &Guard<'_>,
    ) -> Option<&'static Segment> {
        // Checked before anything is mapped: a segment without a place in the list could not be given back.
        if self.segment_count() == SEGMENTS_MAX {
            return None;
        }
        let (base, extent) =
            self.map_in_page_map(pages, home).or_else(|| self.map_outside(pages, home))?;
        // SAFETY: fresh and aligned; its metadata is mapped and stays so.
        let segment = unsafe { Segment::create(base) };
        segment.extent().set_to(&extent);
        segment.set_home(home);
        // SAFETY: as `extent` says, they are mapped; no other thread knows the segment.
        unsafe { segment.add_pages(extent.pages.get() / PAGE_BYTES) };
        self.publish(segment, growth);
        Some(segment)
    }

    fn map_in_page_map(&self, pages: usize, home: Home) -> Option<(usize, Extent)> {
        // Ordering: Relaxed, written once by init before the first growth.
        let start = HOT.page_map_base.load(Ordering::Relaxed);
        while start != 0 && self.next_place.get() < PAGE_MAP_SEGMENTS {
            let base = start + (self.next_place.get() << SEGMENT_SHIFT);
            let extent = Extent::empty(SEGMENT_BYTES);
            match self.map_first(base, &extent, pages, home) {
                Ok(()) => {
                    self.next_place.set(self.next_place.get() + 1);
                    return Some((base, extent));
                }
                Err(libc::EEXIST) => self.next_place.set(self.next_place.get() + 1),
                // No memory, or no such address on this machine: the attempt elsewhere will tell.
                Err(_) => return None,
            }
        }
        None
    }

    fn map_outside(&self, pages: usize, home: Home) -> Option<(usize, Extent)> {
        self.make_outside_table()?;
        let fitting = OUTSIDE_LENGTHS.into_iter();
        for len in fitting.take_while(|&len| len >= (HEADER_PAGES + pages) * PAGE_BYTES) {
            let Some(base) = aligned(len, SEGMENT_BYTES, os::map_sealed) else { continue };
            let extent = Extent::empty(len);
            extent.reserved.set(1);
            if self.map_first(base, &extent, pages, home).is_ok() {
                return Some((base, extent));
            }
            // SAFETY: reserved above, and known to no other code.
            unsafe { os::unmap(base, len) };
        }
        None
    }

    /// Maps the first pages of a segment and what describes them, or nothing.
    #[inline(never)]
    fn map_first(
        &self,
        base: usize,
        extent: &Extent,
        pages: usize,
        home: Home,
    ) -> Result<(), Errno> {
        let mut refused = libc::ENOMEM;
        for step in self.steps(pages, extent.limit.get() / PAGE_BYTES - HEADER_PAGES) {
            let Err(error) = map_to(base, extent, home, HEADER_PAGES + step) else { return Ok(()) };
            refused = error;
            if refused == libc::EEXIST {
                break;
            }
        }
        Err(refused)
    }

    /// Makes a segment visible to other threads. The list has a place for it, and so has the table if the segment lies outside
    /// the page-map range.
    fn publish(&self, segment: &'static Segment, growth: &Guard<'_>) {
        let count = self.segment_count();
        segment.set_index(count);
        if growth.is_of_fork() {
            // A fork handler of a thread that has all locks: it has this one too, from before others can find it.
            segment.try_lock().into_iter().for_each(Lock::forget);
        }
        // Ordering: Relaxed, written once before any object exists.
        let start = HOT.page_map_base.load(Ordering::Relaxed);
        let place = segment.base().wrapping_sub(start) >> SEGMENT_SHIFT;
        if let Some(link) = self.in_page_map.get(place) {
            // Ordering: Release publishes the segment's metadata to `segment_at`.
            link.store(Some(segment), Ordering::Release);
        // Ordering: Relaxed, the lock of growth orders it.
        } else if let Some(table) = self.outside.load(Ordering::Relaxed) {
            let mut slot = outside_slot(segment.base());
            // Ordering: Relaxed, only growth writes, under its lock.
            while table.0[slot].load(Ordering::Relaxed).is_some() {
                slot = (slot + 1) % OUTSIDE_SLOTS;
            }
            sanitizer::add_root(segment.base(), segment.extent().limit.get());
            // Ordering: Release publishes the segment's metadata to `segment_at`.
            table.0[slot].store(Some(segment), Ordering::Release);
        }
        // Ordering: Release publishes the segment to `segments`.
        self.segments[count].store(Some(segment), Ordering::Release);
        let (metadata, pages) = segment.extent().mapped_bytes();
        // Ordering: Relaxed, statistics; before the count, so that a thread that counts a segment finds its bytes.
        self.mapped.fetch_add(pages, Ordering::Relaxed);
        // Ordering: Relaxed, as above.
        self.metadata.fetch_add(metadata, Ordering::Relaxed);
        // Ordering: Release, after the link, for readers of the count.
        self.count.store(count + 1, Ordering::Release);
    }

    /// Tells a leak checker of the segments outside the page-map range.
    pub fn name_roots(&self) {
        let Ok(_growth) = self.growth.acquire(Rank::GROWTH) else { return };
        let outside = |segment: &&Segment| self.outside_segment(segment.base()).is_some();
        self.segments()
            .filter(outside)
            .for_each(|segment| sanitizer::add_root(segment.base(), segment.extent().limit.get()));
    }

    #[cold]
    fn make_outside_table(&self) -> Option<()> {
        // Ordering: Relaxed, the lock of growth orders it.
        if self.outside.load(Ordering::Relaxed).is_none() {
            let fresh = os::map(Place::Anywhere, size_of::<OutsideTable>()).ok()?;
            // SAFETY: fresh zeroed memory of that size, mapped for ever; zero is a valid table.
            let table = unsafe { &*(fresh as *const OutsideTable) };
            // Ordering: Release publishes the fresh memory to `outside_segment`.
            self.outside.store(Some(table), Ordering::Release);
        }
        Some(())
    }
}

/// Maps what is missing of the pages up to number `end`, and of the metadata of all mapped pages. If a part is refused nothing
/// new stays mapped, except pages that can't be sealed again; the next attempt uses those.
fn map_to(base: usize, extent: &Extent, home: Home, end: usize) -> Result<(), Errno> {
    // The pages first: their metadata is small, so the OS is more likely to refuse the pages.
    let before = extent.pages.get();
    map_between(base, extent, &extent.pages, end * PAGE_BYTES)?;
    let (start, len) = (base + before, extent.pages.get() - before);
    let Err(refused) = map_metadata(base, extent) else {
        if home.density == Density::Sparse && len > 0 {
            os::no_huge_pages(start, len);
        }
        return Ok(());
    };
    if len > 0 {
        // SAFETY: mapped above, and known to no other code.
        let undone = unsafe {
            match extent.reserved.get() {
                0 => {
                    os::unmap(start, len);
                    Ok(())
                }
                _ => os::seal(start, len),
            }
        };
        extent.pages.set(if undone.is_ok() { before } else { before + len });
    }
    Err(refused)
}

/// Maps what is missing of the metadata of the mapped pages.
fn map_metadata(base: usize, extent: &Extent) -> Result<(), Errno> {
    let end = extent.pages.get() / PAGE_BYTES;
    let described = if end >= WHOLE_METADATA_PAGES { SEGMENT_PAGES } else { end };
    let metadata = os::whole_pages(metadata_bytes(described));
    let metadata = metadata.min(HEADER_PAGES * PAGE_BYTES);
    let was_partial = extent.metadata.get() < metadata;
    map_between(base, extent, &extent.metadata, metadata)?;
    if was_partial && metadata == HEADER_PAGES * PAGE_BYTES {
        os::no_huge_pages(base, metadata);
    }
    Ok(())
}

/// Maps what lies between the end that `word` says and `end`, and moves `word` there.
fn map_between(base: usize, extent: &Extent, word: &Guarded, end: usize) -> Result<(), Errno> {
    let start = word.get();
    if end > start {
        match extent.reserved.get() {
            0 => drop(os::map(Place::Exactly(base + start), end - start)?),
            // SAFETY: a reserved part of the segment, which nothing uses yet.
            _ => unsafe { os::unseal(base + start, end - start)? },
        }
        word.set(end);
    }
    Ok(())
}

impl Extent {
    /// That of a segment of `limit` bytes of which nothing is mapped.
    fn empty(limit: usize) -> Extent {
        let extent = Extent::default();
        extent.pages.set(HEADER_PAGES * PAGE_BYTES);
        extent.limit.set(limit);
        extent
    }

    fn set_to(&self, other: &Extent) {
        self.metadata.set(other.metadata.get());
        self.pages.set(other.pages.get());
        self.limit.set(other.limit.get());
        self.reserved.set(other.reserved.get());
    }

    /// Mapped bytes of metadata and of pages.
    fn mapped_bytes(&self) -> (usize, usize) {
        (self.metadata.get(), self.pages.get() - HEADER_PAGES * PAGE_BYTES)
    }
}

/// Maps `len` bytes at a multiple of `align` (at least a page).
pub fn map_aligned(len: usize, align: usize) -> Option<usize> {
    aligned(len, align, |len| os::map(Place::Anywhere, len))
}

/// Has `map` map more than `len` bytes, and unmaps all but `len` bytes at a multiple of `align`.
#[inline(never)]
fn aligned(len: usize, align: usize, map: impl Fn(usize) -> Result<usize, Errno>) -> Option<usize> {
    let total = len.checked_add(align)?;
    let start = map(total).ok()?;
    let base = start.next_multiple_of(align);
    // SAFETY: both cuts are parts of the mapping made above, which no other code knows.
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
