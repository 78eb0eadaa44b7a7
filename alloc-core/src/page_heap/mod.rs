//! The page heap: spans of pages out of segments, and the return of memory to the OS.
//!
//! Memory that stays free goes back to the OS without a thread of its own, above a limit with hysteresis. No lock is common to
//! all sizes: each segment has its own, and another one covers growth only.
//!
//! Invariants:
//! I1. `segments[..count]` are the segments in order of creation. None is ever removed.
//! I2. `dirty` is the number of pages that may be resident and are free or being purged.
//! I3. No segment's lock is held around madvise: the pages are taken out first. The lock of growth is held where metadata is
//!     given back.

#[forbid(unsafe_code)]
pub mod density;
pub mod entry;
mod growth;
pub mod huge;
#[forbid(unsafe_code)]
mod limit;
#[forbid(unsafe_code)]
mod page_set;
mod purging;
mod release;
pub mod segment;
#[forbid(unsafe_code)]
mod swing;

pub use purging::Recount;

use crate::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::hot::HOT;
use crate::node::{self, Node};
use crate::object::{Contents, Link};
use crate::sanitizer;
use crate::sync::{Guard, Guarded, Lock, Rank, WaitBudget};
use crate::units::{PAGE_BYTES, PAGE_MAP_SEGMENTS, SEGMENT_BYTES, SEGMENT_SHIFT};
use density::{Density, Home, Missing};
use entry::{Kind, PageEntry};
use limit::Limits;
use segment::{HEADER_PAGES, PageRun, Segment};
use swing::Swing;

/// The most segments of a process, which together have 1 TiB. More live memory than that can only be in huge spans.
pub const SEGMENTS_MAX: usize = 16_384;
const _: () = assert!(SEGMENTS_MAX * SEGMENT_BYTES == 1 << 40);

/// Slots of the hash table of segments outside the page-map range.
const OUTSIDE_SLOTS: usize = 2 * SEGMENTS_MAX;
/// The hash table; all zeroes is empty.
struct OutsideTable([Link<Segment>; OUTSIDE_SLOTS]);

/// A span of pages that the caller holds.
#[must_use = "a span that is not released is lost"]
pub struct Span {
    /// The entry of the first page.
    pub entry: &'static PageEntry,
    /// What is in it.
    pub contents: Contents,
}

impl Span {
    /// Address of the first byte.
    pub fn address(&self) -> usize {
        self.entry.page()
    }
}

/// What span is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpanRequest {
    /// Number of pages, at most `SPAN_MAX_PAGES`.
    pub pages: usize,
    /// The span begins at a multiple of so many pages.
    pub align_pages: usize,
    /// What its entry says.
    pub kind: Kind,
    /// How much of it will be touched.
    pub density: Density,
    /// Where it is wanted.
    pub node: Node,
}

impl SpanRequest {
    /// A dense large span of so many pages, without an alignment, on the first node.
    pub const fn large(pages: usize) -> SpanRequest {
        let (density, node) = (Density::Dense, Node::FIRST);
        SpanRequest { pages, align_pages: 1, kind: Kind::Large, density, node }
    }

    /// Which segments it comes from, if those have pages.
    fn home(&self) -> Home {
        Home { density: self.density, node: self.node }
    }
}

/// The page heap of the process; all zeroes is a valid one. The order of the fields puts what acquiring and releasing a span of
/// the first segments writes into the first cache line, and what that only reads into the second.
#[repr(C, align(64))]
pub struct PageHeap {
    dirty: AtomicUsize,
    /// Pages in spans that are held.
    held: AtomicUsize,
    /// The most pages held since the last decay, as seen by `trim`.
    peak: AtomicUsize,
    /// Whether that peak was set by a decay: since then the number has only fallen.
    is_decaying: AtomicBool,
    /// Pages that `trim` purged and that were not acquired again.
    purged: AtomicUsize,
    /// Pages that were purged too early: see `limit`.
    refault_credit: AtomicUsize,
    /// No segment before this one has a free page.
    first_free: AtomicUsize,
    /// The deferred list: spans that were released where the segment's lock could not be had, by their first pages.
    deferred: Link<PageEntry>,
    dirty_limit: AtomicUsize,
    limits: Limits,
    /// The second up to which `purged` and `refault_credit` have expired.
    expired_at: AtomicUsize,
    count: AtomicUsize,
    /// The most pages in spans at once, as releases saw it: more is held by now if `held` says so.
    held_peak: AtomicUsize,
    segments: [Link<Segment>; SEGMENTS_MAX],
    /// The segments in the page-map range, by place.
    in_page_map: [Link<Segment>; PAGE_MAP_SEGMENTS],
    /// The segments outside the page-map range; none until there is one.
    outside: Link<OutsideTable>,
    purged_total: AtomicUsize,
    /// The most pages that were held or dirty at once, as purges saw it.
    touched_peak: AtomicUsize,
    /// Written where more is free than stays, so not beside what acquiring a span reads.
    swing: Swing,
    /// Bytes of pages that are mapped.
    mapped: AtomicUsize,
    /// Bytes of metadata that are mapped.
    metadata: AtomicUsize,
    growth: Lock,
    /// The next place in the page-map range for a segment.
    next_place: Guarded,
    /// No segment before this one can grow.
    first_growing: Guarded,
    /// Whether sparse spans have segments of their own.
    is_sparse_separate: AtomicBool,
}

/// The one page heap.
pub static PAGE_HEAP: PageHeap = PageHeap::new();

/// The counters of a page heap.
pub struct Counters<'a> {
    /// Pages in spans that are held.
    pub held: &'a AtomicUsize,
    /// Pages that are free and may be resident.
    pub dirty: &'a AtomicUsize,
    /// Bytes of pages that are mapped.
    pub mapped: &'a AtomicUsize,
    /// Bytes of metadata that are mapped.
    pub metadata: &'a AtomicUsize,
    /// Bytes given back since start.
    pub purged: &'a AtomicUsize,
    /// The most pages held at once, and the most held or dirty, as of the last release and the last purge.
    pub peaks: [&'a AtomicUsize; 2],
    /// Number of segments.
    pub segments_used: &'a AtomicUsize,
    /// Addresses of segments.
    pub segments: &'a [Link<Segment>; SEGMENTS_MAX],
}

impl PageHeap {
    const fn new() -> PageHeap {
        PageHeap {
            dirty: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            is_decaying: AtomicBool::new(false),
            purged: AtomicUsize::new(0),
            refault_credit: AtomicUsize::new(0),
            first_free: AtomicUsize::new(0),
            deferred: Link::none(),
            dirty_limit: AtomicUsize::new(0),
            limits: Limits::new(),
            expired_at: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            held_peak: AtomicUsize::new(0),
            segments: [const { Link::none() }; SEGMENTS_MAX],
            in_page_map: [const { Link::none() }; PAGE_MAP_SEGMENTS],
            outside: Link::none(),
            purged_total: AtomicUsize::new(0),
            touched_peak: AtomicUsize::new(0),
            swing: Swing::new(),
            mapped: AtomicUsize::new(0),
            metadata: AtomicUsize::new(0),
            growth: Lock::new(),
            next_place: Guarded::new(0),
            first_growing: Guarded::new(0),
            is_sparse_separate: AtomicBool::new(false),
        }
    }

    /// Acquires a span. None when the OS has no more memory or the hard limit is reached, or when an operation of the program can't have the lock of a segment
    /// that may have pages; it is barred then (see `sync`).
    pub fn acquire(&self, request: SpanRequest) -> Option<Span> {
        self.collect_deferred();
        let _admission = self.admit(request.pages * PAGE_BYTES)?;
        self.acquire_admitted(request)
    }

    fn acquire_admitted(&self, request: SpanRequest) -> Option<Span> {
        let request = SpanRequest { density: self.home_of(request.density), ..request };
        match self.acquire_free(request) {
            Ok(span) => Some(span),
            // A lock is missing, not pages: there are other ways, none of which maps a segment.
            Err(Missing::Lock) if WaitBudget::is_bounded() => None,
            Err(_) => self.grow_and_acquire(request).or_else(|| self.acquire_elsewhere(request)),
        }
    }

    /// A span of free pages in the segments of its home. First tries the locks of all segments, then waits for them.
    fn acquire_free(&self, request: SpanRequest) -> Result<Span, Missing> {
        let mut is_left_out = false;
        for may_wait in [false, true] {
            // Ordering: Relaxed, a hint.
            let first = self.first_free.load(Ordering::Relaxed);
            for (index, segment) in self.segments().enumerate().skip(first) {
                if segment.longest() < request.pages || segment.home() != request.home() {
                    if segment.longest() == 0 && index == first {
                        self.advance_first_free(first);
                    }
                    continue;
                }
                let guard = if may_wait { segment.lock().ok() } else { segment.try_lock() };
                is_left_out |= may_wait && guard.is_none();
                if let Some(guard) = guard
                    && let Some(span) = self.acquire_in(segment, request, guard)
                {
                    return Ok(span);
                }
            }
        }
        Err(if is_left_out { Missing::Lock } else { Missing::Pages })
    }

    /// Counts metadata that another tier has mapped: the long stacks of shards.
    pub fn add_metadata(&self, bytes: usize) {
        // Ordering: Relaxed, a statistic.
        self.metadata.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Prefetches the lock and the sets of the segment that [`PageHeap::acquire`] tries first: a hint.
    pub fn prefetch(&self) {
        // Ordering: Relaxed, a hint.
        if let Some(segment) = self.segment(self.first_free.load(Ordering::Relaxed)) {
            segment.prefetch();
        }
    }

    /// Moves the hint past the segment at `seen`, which had no free page. It may have got one since: a release raises `longest`
    /// before it lowers the hint, so this looks at `longest` again after it has raised the hint.
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
        segment: &'static Segment,
        request: SpanRequest,
        _guard: Guard<'_>,
    ) -> Option<Span> {
        let run = match (request.pages, request.align_pages) {
            (1, 1) => segment.take_page()?,
            (pages, align) => segment.take(pages, align)?,
        };
        self.account_taken(segment, &run);
        let entry = segment.entry(run.first);
        entry.pages.set(run.pages as u32);
        entry.set_kind(request.kind);
        let span = Span { entry, contents: run.contents() };
        sanitizer::pages_taken(span.address(), run.pages);
        Some(span)
    }

    /// Counts a run whose holder will write to it. The segment's lock is held.
    fn account_taken(&self, segment: &Segment, run: &PageRun) {
        segment.mark_dirty(run);
        // Ordering: Relaxed throughout, statistics that steer purging.
        self.dirty.fetch_sub(run.dirty, Ordering::Relaxed);
        self.held.fetch_add(run.pages, Ordering::Relaxed);
        let (clean, purged) = (run.pages - run.dirty, self.purged.load(Ordering::Relaxed));
        self.add_grown(clean);
        if clean > 0 && purged > 0 {
            let again = clean.min(purged);
            // Ordering: Relaxed, as above; two threads at once may be credited with the same pages.
            self.purged.store(purged - again, Ordering::Relaxed);
            self.refault_credit.fetch_add(again, Ordering::Relaxed);
        }
    }

    /// Bytes in spans that are held; a snapshot.
    pub fn held_bytes(&self) -> usize {
        // Ordering: Relaxed, a value that steers policies.
        self.held.load(Ordering::Relaxed) * PAGE_BYTES
    }

    /// Extends the span with this `first` page by `more` pages in place; whether that was done.
    ///
    /// # Safety
    /// 1. The caller holds the span.
    pub unsafe fn extend(&self, first: &'static PageEntry, more: usize) -> bool {
        let Some(_admission) = self.admit(more * PAGE_BYTES) else { return false };
        let segment = first.segment();
        let pages = first.pages.get() as usize;
        let end = first.index() + pages;
        // None: the pages are taken; false: they are not mapped yet.
        let extend = || {
            let _guard = segment.lock().ok()?;
            if end + more > segment.mapped_pages() && segment.is_free_from(end) {
                return Some(false);
            }
            let run = segment.extend(end, more)?;
            sanitizer::pages_taken(segment.base() + end * PAGE_BYTES, more);
            self.account_taken(segment, &run);
            first.pages.set((pages + more) as u32);
            Some(true)
        };
        match extend() {
            Some(false) => self.grow_to(segment, end + more) && extend() == Some(true),
            done => done.is_some(),
        }
    }

    /// The segment in which `address` lies.
    pub fn segment_at(&self, address: usize) -> Option<&'static Segment> {
        // Ordering: Relaxed, written once before any object exists.
        let place =
            address.wrapping_sub(HOT.page_map_base.load(Ordering::Relaxed)) >> SEGMENT_SHIFT;
        match self.in_page_map.get(place) {
            // Ordering: Acquire pairs with the Release in `publish`.
            Some(link) => link.load(Ordering::Acquire),
            None => self.outside_segment(address & !(SEGMENT_BYTES - 1)),
        }
    }

    #[inline(never)]
    fn outside_segment(&self, base: usize) -> Option<&'static Segment> {
        // Ordering: Acquire pairs with the Release in `make_outside_table`.
        let table = self.outside.load(Ordering::Acquire)?;
        let mut slot = outside_slot(base);
        loop {
            // Ordering: Acquire pairs with the Release in `publish`.
            let segment = table.0[slot].load(Ordering::Acquire);
            if segment.is_none_or(|segment| segment.base() == base) {
                return segment;
            }
            slot = (slot + 1) % OUTSIDE_SLOTS;
        }
    }

    /// The node of the segment in which `address` lies; the first one for all else.
    #[inline]
    pub fn node_at(&self, address: usize) -> Node {
        if !node::are_many() {
            return Node::FIRST;
        }
        self.segment_at(address).map_or(Node::FIRST, |segment| segment.home().node)
    }

    /// The entry of the page in which `address` lies, if it is a page of a segment that can hold objects.
    #[inline(never)]
    pub fn entry_at(&self, address: usize) -> Option<&'static PageEntry> {
        let segment = self.segment_at(address)?;
        let index = (address - segment.base()) / PAGE_BYTES;
        (index >= HEADER_PAGES && index < segment.mapped_pages()).then(|| segment.entry(index))
    }

    /// Whether the page of `address` belongs to a span that is held; a snapshot.
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
        self.segments.get(index)?.load(Ordering::Acquire)
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

    /// The counters, for `publish`.
    pub const fn counters(&self) -> Counters<'_> {
        Counters {
            held: &self.held,
            dirty: &self.dirty,
            mapped: &self.mapped,
            metadata: &self.metadata,
            purged: &self.purged_total,
            peaks: [&self.held_peak, &self.touched_peak],
            segments_used: &self.count,
            segments: &self.segments,
        }
    }

    /// The lock of growth, for tests.
    #[doc(hidden)]
    pub fn raw_growth_lock(&self) -> &Lock {
        &self.growth
    }

    /// Calls `f` with the locks in rank order, for a fork.
    pub fn for_each_lock(&self, f: &mut dyn FnMut(&Lock, Rank)) {
        f(&self.growth, Rank::GROWTH);
        self.segments().for_each(|segment| f(segment.raw_lock(), segment.rank()));
    }
}

fn outside_slot(base: usize) -> usize {
    (base >> SEGMENT_SHIFT).wrapping_mul(0x9E37_79B9) % OUTSIDE_SLOTS
}
