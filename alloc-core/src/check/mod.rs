//! The whole-heap validator: stops the shards and walks every tier.
//!
//! `Ok` means that each invariant below held at one instant; nothing is changed. Not to be called in a signal handler.
//!
//! V1. Each taken page belongs to one span (I5 of the segment), and the page map agrees.
//! V2. A slab's free count is the number of its set bits, and no bit is set beyond its objects.
//! V3. A slab is in the list that its fullness names, once, or in none if it is full.
//! V4. A class's objects handed out are the sum of those of its slabs.
//! V5. Each cached object is an object of a slab of its class or a larger one, not free in the slab, and cached once.
//! V6. Stacks keep `bottom <= top <= bottom + slots` above a null sentinel, and ends are at most `bottom + slots`, of the short or
//!     of the long stack.
//! V7. The table of huge spans finds each of its entries, and its totals are their sums.
//! V8. No run of free pages is longer than its segment says (I3 of the segment).

mod defect;

pub use defect::{Defect, DefectKind};

use crate::atomic::{AtomicUsize, Ordering};
use crate::cpu_cache::exclusive::{self, Stopped};
use crate::cpu_cache::shard::locked;
use crate::depot::DEPOT;
use crate::guard;
use crate::os::Scratch;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::entry::{BITMAP_WORDS, Kind, PageEntry};
use crate::page_heap::huge::HUGE;
use crate::page_heap::segment::{HEADER_PAGES, Segment};
use crate::page_map;
use crate::profile;
use crate::region::Region;
use crate::size_class::{CLASS, CLASSES, Class};
use crate::slab::{self, SLABS};
use crate::sync::{Backoff, Lock, Rank, Reentered, TryLock};
use crate::units::{PAGE_BYTES, SEGMENT_PAGES};

type Verdict = Result<(), Defect>;

fn broken(what: DefectKind, at: usize) -> Verdict {
    Err(Defect { what, at })
}

/// Validates the whole heap while other threads use it. For tests and debugging: it stops all caches meanwhile. Not for
/// signal handlers.
///
/// ```standalone_crate
/// # #[global_allocator]
/// # static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
/// # fn main() {
/// assert_eq!(rsalloc::check(), Ok(()));
/// # }
/// ```
pub fn check() -> Verdict {
    crate::engine::init::ensure();
    let mut backoff = Backoff::usual();
    loop {
        // Without a fence the shards can't be looked into while they run; the rest can.
        let verdict = exclusive::stop_all(&mut Backoff::usual(), |stopped| {
            check_held(&mut stopped.map(Stopped::region))
        })
        .unwrap_or_else(|| check_held(&mut core::iter::empty()));
        // A handler that forks on top of a holder of some lock goes first.
        if verdict != broken(DefectKind::Busy, 0) || !backoff.spend() {
            return verdict;
        }
    }
}

/// With the shards stopped: takes the locked shards and every slab lock, walks, releases.
fn check_held(regions: &mut dyn Iterator<Item = &'static Region>) -> Verdict {
    // The locked shards first: a thread that holds one may wait for a slab's lock.
    let held = locked::hold_all(&mut Backoff::usual(), TryLock::keep);
    let before = Rank::held();
    let mut gives_way = false;
    slab::for_each_lock(&mut |lock, rank| match lock.acquire(rank) {
        // In a handler of a fork, which holds the lock for longer.
        Ok(guard) if guard.is_of_fork() => {}
        Ok(guard) => Lock::keep(guard),
        Err(_) => gives_way |= !lock.is_held_here(),
    });
    let given_way = if gives_way { broken(DefectKind::Busy, 0) } else { Ok(()) };
    let verdict = given_way
        .and_then(|()| Walk::new())
        .and_then(|walk| walk.run(&mut regions.chain(locked::held_regions(held))));
    slab::for_each_lock(&mut |lock, _| lock.release_kept());
    before.restore();
    locked::release_all(held);
    verdict
}

/// A walk in progress: a shadow of all bitmaps marks the cached objects.
struct Walk {
    shadow: Scratch,
    slabs: [AtomicUsize; CLASSES],
    out: [AtomicUsize; CLASSES],
    listed: [AtomicUsize; CLASSES],
}

impl Walk {
    fn new() -> Result<Walk, Defect> {
        let segments = PAGE_HEAP.segments().count();
        let shadow = Scratch::map((segments.max(1) + 1) * SEGMENT_PAGES * BITMAP_WORDS)
            .map_err(|errno| Defect { what: DefectKind::NoMemory, at: errno as usize })?;
        let zeroes = || [const { AtomicUsize::new(0) }; CLASSES];
        Ok(Walk { shadow, slabs: zeroes(), out: zeroes(), listed: zeroes() })
    }

    fn run(&self, regions: &mut dyn Iterator<Item = &'static Region>) -> Verdict {
        for segment in PAGE_HEAP.segments() {
            self.segment(segment)?;
        }
        for class in 1..CLASSES {
            self.lists(class)?;
            self.totals(class)?;
        }
        for region in regions {
            self.region(region)?;
        }
        match HUGE.find_broken() {
            Err(Reentered) => return broken(DefectKind::Busy, 0),
            Ok(Some(at)) => return broken(DefectKind::HugeMiscounted, at),
            Ok(None) => {}
        }
        let mut verdict = Ok(());
        for class in 1..CLASSES {
            DEPOT.visit(class, |objects| {
                for &object in objects {
                    verdict = verdict.and_then(|()| self.cached(object, class));
                }
            });
        }
        verdict
    }

    /// V1, V2, V8.
    fn segment(&self, segment: &'static Segment) -> Verdict {
        let Ok(_guard) = segment.lock() else { return broken(DefectKind::Busy, 0) };
        let mut index = HEADER_PAGES;
        while index < segment.mapped_pages() {
            let page = segment.base() + index * PAGE_BYTES;
            let class = page_map::class_at(page);
            let entry = segment.entry(index);
            match entry.kind() {
                _ if segment.is_free(index) && class != 0 => {
                    return broken(DefectKind::FreePageWithClass, page);
                }
                _ if segment.is_free(index) => index += 1,
                Kind::Slab if class == 0 || class != entry.class.get() as Class => {
                    return broken(DefectKind::ClassMismatch, page);
                }
                Kind::Slab if entry.pages.get() as usize != CLASS[class].pages => {
                    return broken(DefectKind::SpanMiscounted, page);
                }
                Kind::Large if class != 0 => return broken(DefectKind::LargeWithClass, page),
                kind @ (Kind::Slab | Kind::Large | Kind::Deferred) => {
                    if kind == Kind::Slab {
                        self.slab(entry, class)?;
                    }
                    inside(segment, index, entry.pages.get() as usize)?;
                    index += entry.pages.get() as usize;
                }
                Kind::None if segment.is_purging(index) => index += 1,
                Kind::None => return broken(DefectKind::PageWithoutSpan, page),
            }
        }
        match segment.longest_run() <= segment.longest() {
            true => Ok(()),
            false => broken(DefectKind::LongestTooShort, segment.base()),
        }
    }

    fn slab(&self, slab: &PageEntry, class: Class) -> Verdict {
        let info = &CLASS[class];
        let words = info.objects.div_ceil(64);
        let bits: u32 = slab.bitmap()[..words].iter().map(|word| word.get().count_ones()).sum();
        let last = slab.bitmap()[words - 1].get();
        if !info.objects.is_multiple_of(64) && last >> (info.objects % 64) != 0 {
            return broken(DefectKind::BitBeyondEnd, slab.page());
        }
        if bits != slab.free.get() {
            return broken(DefectKind::FreeMiscounted, slab.page());
        }
        add(&self.slabs[class], 1);
        add(&self.out[class], info.objects - bits as usize);
        if (bits == 0) != (slab.bin() == 0) {
            return broken(DefectKind::ListingMismatch, slab.page());
        }
        add(&self.listed[class], usize::from(bits != 0));
        Ok(())
    }

    /// V3.
    fn lists(&self, class: Class) -> Verdict {
        let mut count = 0;
        for (domain, bin, slab) in SLABS[class].partial(class) {
            count += 1;
            if slab.kind() != Kind::Slab || slab.class.get() as Class != class {
                return broken(DefectKind::ForeignInList, slab.page());
            }
            let wanted = slab::bin_of(&CLASS[class], slab.free.get() as usize);
            if (slab.domain(), wanted) != (domain, bin) {
                return broken(DefectKind::WrongList, slab.page());
            }
            if count > get(&self.listed[class]) {
                return broken(DefectKind::ListTooLong, class);
            }
        }
        match count == get(&self.listed[class]) {
            true => Ok(()),
            false => broken(DefectKind::LostFromList, class),
        }
    }

    /// V4.
    fn totals(&self, class: Class) -> Verdict {
        match SLABS[class].totals() == (get(&self.slabs[class]), get(&self.out[class])) {
            true => Ok(()),
            false => broken(DefectKind::ClassMiscounted, class),
        }
    }

    /// V6, and V5 for its objects.
    fn region(&self, region: &Region) -> Verdict {
        for class in 1..CLASSES {
            let head = &region.heads[class];
            // Ordering: Relaxed, for both: the region is stopped or locked.
            if !is_slot(head.top.load(Ordering::Relaxed), class) {
                return broken(DefectKind::TopOutOfBounds, class);
            }
            let end = head.end.load(Ordering::Relaxed); // Ordering: Relaxed, as above.
            if end != 0 && !is_slot(end, class) {
                return broken(DefectKind::EndOutOfBounds, class);
            }
            // Ordering: Relaxed, as above.
            let slots = region.stack(class, region.len(class));
            let mut words = slots.map(|slot| slot.load(Ordering::Relaxed));
            if words.next() != Some(0) {
                return broken(DefectKind::SentinelOverwritten, class);
            }
            for object in words.filter(|&word| word != 0) {
                self.cached(object, class)?;
            }
        }
        Ok(())
    }

    /// V5.
    fn cached(&self, object: usize, class: Class) -> Verdict {
        let real = page_map::class_at(object);
        if real == 0 && guard::owns(object) {
            return Ok(()); // Guarded, freed by its size.
        }
        if real == 0 && profile::owns(object) {
            return match profile::has_live(object, CLASS[class].size) {
                true => Ok(()), // Sampled, freed by its size.
                false => broken(DefectKind::CachedInner, object),
            };
        }
        if real == 0 && HUGE.len_of(object).is_some_and(|len| len >= CLASS[class].size) {
            return Ok(()); // A standalone mapping, freed by its class.
        }
        let Some(slab) = PAGE_HEAP.entry_at(object) else {
            return broken(DefectKind::CachedOutside, object);
        };
        let Some(bit) = slab::index_of(slab, real, object).filter(|_| real >= class) else {
            return broken(DefectKind::CachedInner, object);
        };
        if slab.bitmap()[bit / 64].get() >> (bit % 64) & 1 == 1 {
            return broken(DefectKind::CachedAndFree, object);
        }
        let segment = PAGE_HEAP.segment_at(object).map_or(0, Segment::index);
        let word = (segment * SEGMENT_PAGES + (object / PAGE_BYTES) % SEGMENT_PAGES) * BITMAP_WORDS
            + bit / 64;
        // Ordering: Relaxed, the shadow is this thread's alone.
        match self.shadow.words()[word].fetch_or(1 << (bit % 64), Ordering::Relaxed) >> (bit % 64)
            & 1
        {
            0 => Ok(()),
            _ => broken(DefectKind::CachedTwice, object),
        }
    }
}

/// V1, of the pages of a span: the segment has them, and all but the first are nothing of their own.
fn inside(segment: &Segment, first: usize, pages: usize) -> Verdict {
    let at = |index| segment.base() + index * PAGE_BYTES;
    let end = first + pages;
    if pages == 0 || end > segment.mapped_pages() {
        return broken(DefectKind::SpanBeyondSegment, at(first));
    }
    for index in first + 1..end {
        if segment.is_free(index) {
            return broken(DefectKind::FreePageInSpan, at(index));
        }
        if page_map::class_at(at(index)) != 0 {
            return broken(DefectKind::InnerPageWithClass, at(index));
        }
    }
    Ok(())
}

/// V6: whether `offset` is that of the sentinel or of a slot of `class`.
fn is_slot(offset: u32, class: Class) -> bool {
    let offset = offset as usize;
    let bottom = Region::bottom_below(class, offset);
    let slots = match bottom == Region::bottom_offset(class) {
        true => CLASS[class].slots_short,
        false => CLASS[class].slots_max,
    };
    offset.checked_sub(bottom).is_some_and(|above| {
        above.is_multiple_of(size_of::<usize>()) && above / size_of::<usize>() <= slots
    })
}

fn add(sum: &AtomicUsize, value: usize) {
    // Ordering: Relaxed, the walk is one thread.
    sum.fetch_add(value, Ordering::Relaxed);
}

fn get(sum: &AtomicUsize) -> usize {
    // Ordering: Relaxed, the walk is one thread.
    sum.load(Ordering::Relaxed)
}
