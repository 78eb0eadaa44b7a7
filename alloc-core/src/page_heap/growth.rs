//! Growth: more pages for a segment at the end of what is mapped of it, or one more segment.
//!
//! Promises: invariant I1 of the page heap, under a lock of its own; a segment is whole before a thread can find it, and
//! so is each page before it is free. What is mapped grows with what is in use: at first 1 MiB of pages, then by half of
//! all pages or by what is asked for, so at most a third is mapped without a use, and the number of calls is
//! logarithmic. What is refused leaves everything as it was.
//!
//! ```text
//! in the page-map range:  | metadata | unmapped      | pages | unmapped ...          |     mapped by MAP_FIXED_NOREPLACE
//! outside:        | metadata | inaccessible  | pages | inaccessible ...      |     reserved, then made accessible
//! complete:       | metadata                 | pages                         |
//! ```
//!
//! Invariants:
//! I1. All fields of a segment's `Extent` change under the lock of growth. What it says is mapped, is.

use super::density::Density;
use super::entry::Kind;
use super::segment::{Extent, HEADER_PAGES, Segment, metadata_bytes};
use super::{OUTSIDE_SLOTS, PageHeap, SEGMENTS_MAX, Span, outside_slot};
use crate::atomic::{AtomicPtr, Ordering};
use crate::hot::HOT;
use crate::os::{self, Errno, Place};
use crate::sanitizer;
use crate::sync::{Guard, Guarded, Lock, Rank, WaitBudget};
use crate::units::{PAGE_BYTES, PAGE_MAP_SEGMENTS, SEGMENT_BYTES, SEGMENT_PAGES, SEGMENT_SHIFT};

/// The least number of pages that are mapped at once, if the OS has them.
const STEP_MIN_PAGES: usize = (1 << 20) / PAGE_BYTES;
/// From so many pages on all metadata of a segment is mapped.
const WHOLE_METADATA_PAGES: usize = SEGMENT_PAGES / 4;
/// The lengths of an outside segment that are tried: all of it, or what the OS gives of it.
const OUTSIDE_LENGTHS: [usize; 4] =
    [SEGMENT_BYTES, SEGMENT_BYTES / 4, SEGMENT_BYTES / 16, SEGMENT_BYTES / 64];

/// What came of an attempt to grow a segment in place.
#[derive(PartialEq, Eq)]
enum Growth {
    Done,
    /// Not this segment.
    NoRoom,
    /// The OS has no more memory, or the segment's lock can't be had.
    Refused,
}

impl PageHeap {
    #[cold]
    pub(super) fn grow_and_acquire(
        &self,
        pages: usize,
        align_pages: usize,
        kind: Kind,
        home: Density,
    ) -> Option<Span> {
        // Ordering: Relaxed, the lock orders it: whether another thread has grown the heap meanwhile.
        let seen = self.mapped.load(Ordering::Relaxed);
        let growth = self.growth.acquire(Rank::GROWTH).ok()?;
        // Ordering: Relaxed, as above.
        if self.mapped.load(Ordering::Relaxed) != seen {
            drop(growth);
            return self.acquire(pages, align_pages, kind, home);
        }
        // Aligned pages may begin some way behind what is free so far.
        let slack = if align_pages > 1 { align_pages } else { 0 };
        let segment = self.grow(pages.next_multiple_of(align_pages) + slack, home, &growth)?;
        drop(growth);
        let guard = segment.lock().ok()?;
        self.acquire_in(segment, pages, align_pages, kind, guard)
            .or_else(|| self.acquire(pages, align_pages, kind, home))
    }

    /// Grows `segment` in place so that at least its first `end` pages are mapped; whether they are.
    #[cold]
    pub(super) fn grow_to(&self, segment: &Segment, end: usize) -> bool {
        let Ok(_growth) = self.growth.acquire(Rank::GROWTH) else { return false };
        end <= segment.mapped_pages() || self.grow_in_place(segment, end) == Growth::Done
    }

    /// Adds room for `pages` in the segments of `home` (the lock `growth` is held): to one that can still grow, else with a new
    /// one.
    fn grow(&self, pages: usize, home: Density, growth: &Guard<'_>) -> Option<&'static Segment> {
        for index in self.first_growing.get()..self.segment_count() {
            let Some(segment) = self.segment(index) else { continue };
            let is_complete = segment.mapped_pages() * PAGE_BYTES >= segment.extent().limit.get();
            if is_complete && index == self.first_growing.get() {
                self.first_growing.set(index + 1);
            }
            if segment.density() != home || is_complete {
                continue;
            }
            // What is free at its end is the span's first part. Where the lock can't be had, `add_pages` will say so.
            let tail = segment.lock().map_or(0, |_guard| segment.free_tail());
            if tail >= pages {
                return Some(segment);
            }
            match self.grow_in_place(segment, segment.mapped_pages() + pages - tail) {
                Growth::Done => return Some(segment),
                Growth::NoRoom => {}
                Growth::Refused => return None,
            }
        }
        self.create_segment(pages, home, growth)
    }

    /// How many pages are mapped at once when `needed` are: the most first, fewer if the OS refuses.
    fn steps(&self, needed: usize, room: usize) -> impl Iterator<Item = usize> + use<> {
        // Ordering: Relaxed, the lock of growth orders it.
        let half = self.mapped.load(Ordering::Relaxed) / PAGE_BYTES / 2;
        let most = half.max(STEP_MIN_PAGES).max(needed).min(room);
        let mut next = (needed <= room).then_some(most);
        core::iter::from_fn(move || {
            let step = next?;
            next = (step > needed).then(|| (step / 2).max(needed));
            Some(step)
        })
    }

    /// Adds pages to `segment` so that at least `end` are mapped. The lock of growth is held.
    fn grow_in_place(&self, segment: &Segment, end: usize) -> Growth {
        let (extent, mapped) = (segment.extent(), segment.mapped_pages());
        let room = (extent.limit.get() / PAGE_BYTES).saturating_sub(mapped);
        let mut outcome = Growth::NoRoom;
        for step in self.steps(end.saturating_sub(mapped), room) {
            let before = extent.metadata.get();
            let result = map_to(segment.base(), extent, segment.density(), mapped + step);
            // Ordering: Relaxed, a statistic.
            self.metadata.fetch_add(extent.metadata.get() - before, Ordering::Relaxed);
            match result {
                Ok(()) => return self.add_pages(segment, mapped + step),
                Err(libc::EEXIST) => {
                    // A foreign mapping lies behind it: the segment stays as it is.
                    extent.limit.set(extent.pages.get());
                    return Growth::NoRoom;
                }
                Err(_) => outcome = Growth::Refused,
            }
        }
        outcome
    }

    /// Makes pages that are mapped free ones. Where the segment's lock can't be had, the next growth finds them; an operation
    /// of the program has other ways then than one more segment.
    fn add_pages(&self, segment: &Segment, end: usize) -> Growth {
        let Ok(_guard) = segment.lock() else {
            return if WaitBudget::is_bounded() { Growth::Refused } else { Growth::NoRoom };
        };
        let bytes = (end - segment.mapped_pages()) * PAGE_BYTES;
        // SAFETY: `map_to` has mapped them and their metadata.
        unsafe { segment.add_pages(end) };
        // Ordering: Relaxed, a statistic; whether the heap has grown.
        self.mapped.fetch_add(bytes, Ordering::Relaxed);
        self.note_free(segment);
        Growth::Done
    }

    /// Maps one more segment of `home` with room for `pages` (the lock `growth` is held): in the page-map range if it has
    /// room, else anywhere.
    fn create_segment(
        &self,
        pages: usize,
        home: Density,
        growth: &Guard<'_>,
    ) -> Option<&'static Segment> {
        // Before anything is mapped: a segment without a place in the list could not be given back.
        if self.segment_count() == SEGMENTS_MAX {
            return None;
        }
        let (base, extent, in_page_map) = match self.map_in_page_map(pages, home) {
            Some((base, extent)) => (base, extent, true),
            None => {
                let (base, extent) = self.map_outside(pages, home)?;
                (base, extent, false)
            }
        };
        // SAFETY: fresh, aligned, ours for ever.
        let segment = unsafe { Segment::create(base) };
        segment.extent().set_to(&extent);
        segment.set_density(home);
        // SAFETY: as `extent` says, they are mapped; no other thread knows the segment.
        unsafe { segment.add_pages(extent.pages.get() / PAGE_BYTES) };
        self.publish(segment, in_page_map, growth);
        Some(segment)
    }

    fn map_in_page_map(&self, pages: usize, home: Density) -> Option<(usize, Extent)> {
        // Ordering: Relaxed, written once by init before the first growth.
        let start = HOT.page_map_base.load(Ordering::Relaxed);
        while start != 0 && self.next_slot.get() < PAGE_MAP_SEGMENTS {
            let base = start + (self.next_slot.get() << SEGMENT_SHIFT);
            let extent = Extent::empty(SEGMENT_BYTES);
            match self.map_first(base, &extent, pages, home) {
                Ok(()) => {
                    self.next_slot.set(self.next_slot.get() + 1);
                    return Some((base, extent));
                }
                Err(libc::EEXIST) => self.next_slot.set(self.next_slot.get() + 1),
                // No memory, or no such address on this machine: what anywhere gives will tell.
                Err(_) => return None,
            }
        }
        None
    }

    fn map_outside(&self, pages: usize, home: Density) -> Option<(usize, Extent)> {
        self.make_outside_table()?;
        let fitting = OUTSIDE_LENGTHS.into_iter();
        for len in fitting.take_while(|&len| len >= (HEADER_PAGES + pages) * PAGE_BYTES) {
            let Some(base) = aligned(len, SEGMENT_BYTES, os::map_sealed) else { continue };
            let extent = Extent::empty(len);
            extent.reserved.set(1);
            if self.map_first(base, &extent, pages, home).is_ok() {
                return Some((base, extent));
            }
            // SAFETY: reserved above and known to no other thread.
            unsafe { os::unmap(base, len) };
        }
        None
    }

    /// Maps the first pages of a segment and what describes them, or nothing.
    fn map_first(
        &self,
        base: usize,
        extent: &Extent,
        pages: usize,
        home: Density,
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

    /// There is a place in the list, and outside the page-map range in the table.
    fn publish(&self, segment: &'static Segment, in_page_map: bool, growth: &Guard<'_>) {
        let count = self.segment_count();
        segment.set_index(count);
        if growth.is_of_fork() {
            // A handler of a fork that has all locks: also this one, from before others can find it.
            segment.try_lock().into_iter().for_each(Lock::forget);
        }
        let pointer = core::ptr::from_ref(segment).cast_mut();
        if in_page_map {
            // Ordering: Relaxed, written once before any object exists.
            let slot =
                (segment.base() - HOT.page_map_base.load(Ordering::Relaxed)) >> SEGMENT_SHIFT;
            // Ordering: Release publishes the segment's metadata to `segment_at`.
            self.in_page_map[slot].store(pointer, Ordering::Release);
        } else if let Some(table) = self.outside_table() {
            let mut slot = outside_slot(segment.base());
            // Ordering: Relaxed, only growth writes, under its lock.
            while !table[slot].load(Ordering::Relaxed).is_null() {
                slot = (slot + 1) % OUTSIDE_SLOTS;
            }
            sanitizer::add_root(segment.base(), segment.extent().limit.get());
            // Ordering: Release publishes the segment's metadata to `segment_at`.
            table[slot].store(pointer, Ordering::Release);
        }
        // Ordering: Release publishes the segment to `segments`.
        self.segments[count].store(pointer, Ordering::Release);
        let (metadata, pages) = segment.extent().mapped_bytes();
        // Ordering: Relaxed, statistics; before the count, so that a thread that counts a segment finds its bytes.
        self.mapped.fetch_add(pages, Ordering::Relaxed);
        // Ordering: Relaxed, as above.
        self.metadata.fetch_add(metadata, Ordering::Relaxed);
        // Ordering: Release, after the entry, for readers of the count.
        self.count.store(count + 1, Ordering::Release);
    }

    /// Tells a leak checker of the segments outside the page-map range that there are.
    pub fn name_roots(&self) {
        let Ok(_growth) = self.growth.acquire(Rank::GROWTH) else { return };
        let outside = |segment: &&Segment| self.outside_segment(segment.base()).is_some();
        self.segments()
            .filter(outside)
            .for_each(|segment| sanitizer::add_root(segment.base(), segment.extent().limit.get()));
    }

    #[cold]
    fn make_outside_table(&self) -> Option<()> {
        if self.outside_table().is_none() {
            let bytes = size_of::<[AtomicPtr<Segment>; OUTSIDE_SLOTS]>();
            let fresh = os::map(Place::Anywhere, bytes).ok()?;
            // Ordering: Release publishes the fresh memory to `outside_table`.
            self.outside.store(fresh as *mut _, Ordering::Release);
        }
        Some(())
    }
}

/// Maps what is missing of the pages up to number `end`, and of what describes all pages that are mapped. Nothing new
/// stays mapped if a part is refused, but for pages that can't be sealed again; the next attempt finds those.
fn map_to(base: usize, extent: &Extent, home: Density, end: usize) -> Result<(), Errno> {
    // Of pages the OS has the least: what describes them is small.
    let before = extent.pages.get();
    map_between(base, extent, &extent.pages, end * PAGE_BYTES)?;
    let (start, len) = (base + before, extent.pages.get() - before);
    let Err(refused) = map_metadata(base, extent) else {
        if home == Density::Sparse && len > 0 {
            os::no_huge_pages(start, len);
        }
        return Ok(());
    };
    if len > 0 {
        // SAFETY: mapped above, and known to no other thread.
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

/// Maps what is missing of what describes the pages that are mapped.
fn map_metadata(base: usize, extent: &Extent) -> Result<(), Errno> {
    let end = extent.pages.get() / PAGE_BYTES;
    let described = if end >= WHOLE_METADATA_PAGES { SEGMENT_PAGES } else { end };
    let metadata = metadata_bytes(described).next_multiple_of(os::page_bytes());
    let metadata = metadata.min(HEADER_PAGES * PAGE_BYTES);
    let was_partial = extent.metadata.get() < metadata;
    map_between(base, extent, &extent.metadata, metadata)?;
    if was_partial && metadata == HEADER_PAGES * PAGE_BYTES {
        os::no_huge_pages(base, metadata);
    }
    Ok(())
}

/// Maps what lies between the end that `word` says and `end`.
fn map_between(base: usize, extent: &Extent, word: &Guarded, end: usize) -> Result<(), Errno> {
    let start = word.get();
    if end > start {
        match extent.reserved.get() {
            0 => drop(os::map(Place::Exactly(base + start), end - start)?),
            // SAFETY: a part of the segment that nothing was put in yet.
            _ => unsafe { os::unseal(base + start, end - start)? },
        }
        word.set(end);
    }
    Ok(())
}

impl Extent {
    /// Nothing yet of a segment of `limit` bytes.
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

    /// Of metadata, and of pages.
    fn mapped_bytes(&self) -> (usize, usize) {
        (self.metadata.get(), self.pages.get() - HEADER_PAGES * PAGE_BYTES)
    }
}

/// Maps `len` bytes at a multiple of `align` (at least a page).
pub fn map_aligned(len: usize, align: usize) -> Option<usize> {
    aligned(len, align, |len| os::map(Place::Anywhere, len))
}

/// `len` bytes at a multiple of `align` by `map`, which maps more; the rest is cut off.
fn aligned(len: usize, align: usize, map: impl Fn(usize) -> Result<usize, Errno>) -> Option<usize> {
    let total = len.checked_add(align)?;
    let start = map(total).ok()?;
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
