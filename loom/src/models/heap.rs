//! The page heap, the page map and what is published: what another thread sees of a change.

use super::{Found, Model, on, threads};
use crate::domain::Domain;
use crate::atomic::Ordering;
use crate::depot::DEPOT;
use crate::object::Batch;
use crate::os;
use crate::page_heap::{PAGE_HEAP, SEGMENTS_MAX, SpanRequest};
use crate::page_heap::segment::{HEADER_PAGES, Segment};
use crate::page_map;
use crate::hot::HOT;
use crate::size_class::{CLASS as CLASS_INFO, Class, class_of};
use crate::slab;
use crate::units::{PAGE_BYTES, SEGMENT_BYTES};
use crate::world::{bytes_of, explore_only};

const CLASS: usize = 4;
/// Pages of a segment at first, those for metadata included: the models' OS grants no more at once.
const PAGES: usize = HEADER_PAGES + 16;

/// What init does; the words of the header of a segment at `base` that no lock guards alone.
fn start(in_page_map: bool, bases: &[usize]) {
    HOT.page_map_base.store(if in_page_map { os::arena() } else { 0 }, Ordering::Relaxed);
    PAGE_HEAP.set_dirty_limit(1000);
    explore_only(bytes_of(&PAGE_HEAP));
    bases.iter().for_each(|&base| explore_only(base..base + 20));
}

fn acquire() -> usize {
    PAGE_HEAP.acquire(SpanRequest::large(1)).expect("memory").address()
}

/// Pages that can be handed out, of all segments.
fn pages() -> usize {
    PAGE_HEAP.segments().map(|segment| segment.mapped_pages() - HEADER_PAGES).sum()
}

fn is_whole(segment: &Segment) {
    assert!(segment.mapped_pages() > HEADER_PAGES, "a segment without its header");
}

fn release(span: usize) {
    let first = PAGE_HEAP.entry_at(span).expect("a page of a segment");
    // SAFETY: the model's own span.
    unsafe { PAGE_HEAP.release(first) };
}

/// A batch of one object of a slab.
pub fn one_of(class: Class) -> Batch {
    let mut batch = Batch::new();
    slab::take(class, Domain::FIRST, &mut batch, 1).expect("no handler");
    assert_eq!(batch.len(), 1);
    batch
}

/// Puts a batch back into its slabs.
pub fn put(mut batch: Batch) {
    slab::put(&mut batch);
    assert!(batch.is_empty());
}

/// Two threads acquire the first page of all, a third looks on.
fn grow(base: usize) {
    let found = Found::default();
    let (one, two) = (found.clone(), found.clone());
    threads(vec![
        on(0, move || one.add([acquire()])),
        on(1, move || {
            PAGE_HEAP.segment_at(base).into_iter().for_each(is_whole);
            PAGE_HEAP.segments().for_each(is_whole);
            let mapped = PAGE_HEAP.counters().mapped.load(Ordering::Relaxed);
            assert!(mapped < 4 * PAGES * PAGE_BYTES);
            two.add([acquire()]);
        }),
    ]);
    let spans = found.sorted();
    assert!(spans[0] + PAGE_BYTES <= spans[1], "a page given out twice");
    for span in spans {
        release(span);
    }
    let free: usize = PAGE_HEAP.segments().map(|segment| segment.free_pages().0).sum();
    assert_eq!(free, pages());
}

/// In the page-map range.
pub const SEGMENTS: Model = Model {
    name: "segments",
    preemptions: 2,
    body: || {
        start(true, &[os::arena()]);
        grow(os::arena());
    },
};

/// Two slots of a word for each segment that there may be.
const OUTSIDE_TABLE_BYTES: usize = 2 * SEGMENTS_MAX * size_of::<usize>();

/// Outside of it, where segments are found by a hash.
pub const OUTSIDE: Model = Model {
    name: "outside",
    preemptions: 2,
    body: || {
        // The table of outside segments is mapped first, so the segment begins at the next multiple.
        let table = os::map(os::Place::Anywhere, 0).expect("an address");
        let base = table.next_multiple_of(SEGMENT_BYTES) + SEGMENT_BYTES;
        start(false, &[base, base + SEGMENT_BYTES]);
        explore_only(table..table + OUTSIDE_TABLE_BYTES);
        grow(base);
    },
};

/// A page comes home while another thread finds its segment empty: the hint must not pass it.
pub const HINT: Model = Model {
    name: "first-free",
    preemptions: 3,
    body: || {
        start(true, &[os::arena(), os::arena() + SEGMENT_BYTES]);
        // Behind its first pages the segment meets another mapping, so it never grows: growth would mend the hint.
        let end = os::arena() + PAGES * PAGE_BYTES;
        os::map(os::Place::Exactly(end), 0).expect("an address");
        let spans: Vec<_> = (HEADER_PAGES..PAGES).map(|_| acquire()).collect();
        assert_eq!(PAGE_HEAP.segments().count(), 1);
        let span = spans[0];
        threads(vec![
            on(0, move || release(span)),
            on(1, || {
                acquire();
            }),
        ]);
        let before = pages();
        let free: usize = PAGE_HEAP.segments().map(|segment| segment.free_pages().0).sum();
        (0..free).for_each(|_| {
            acquire();
        });
        assert_eq!(pages(), before, "a free page is behind the hint");
    },
};

/// A span is given up on top of its segment's lock, and another thread comes along.
pub const DEFERRED: Model = Model {
    name: "deferred",
    preemptions: 3,
    body: || {
        start(true, &[os::arena()]);
        let spans = [acquire(), acquire()];
        for span in spans {
            explore_only(bytes_of(PAGE_HEAP.entry_at(span).expect("a page of a segment")));
        }
        let give_up = |span: usize| {
            move || {
                let segment = PAGE_HEAP.segment_at(span).expect("a page of a segment");
                let guard = segment.lock();
                release(span);
                drop(guard);
            }
        };
        threads(vec![
            on(0, give_up(spans[0])),
            on(1, || PAGE_HEAP.trim()),
            on(1, give_up(spans[1])),
        ]);
        PAGE_HEAP.trim();
        let free: usize = PAGE_HEAP.segments().map(|segment| segment.free_pages().0).sum();
        assert_eq!(free, pages(), "a span got lost");
    },
};

/// A thread that gets an object from another finds its class by the address.
pub const PAGE_MAP: Model = Model {
    name: "page-map",
    preemptions: 3,
    body: || {
        HOT.page_map_base.store(os::arena(), Ordering::Relaxed);
        PAGE_HEAP.set_dirty_limit(1000);
        explore_only(bytes_of(&HOT.pages));
        explore_only(bytes_of(&DEPOT));
        let chunk = os::map(os::Place::Anywhere, 0).expect("an address");
        explore_only(chunk..chunk + (1 << 20));
        threads(vec![
            on(0, || {
                assert!(DEPOT.put_unbounded(CLASS, Domain::FIRST, &mut one_of(CLASS)));
            }),
            on(1, || {
                let mut batch = Batch::new();
                DEPOT.take(CLASS, Domain::FIRST, &mut batch);
                if let &[object] = batch.addresses() {
                    assert_eq!(page_map::class_at(object), CLASS);
                    put(batch);
                }
            }),
        ]);
        let cached = DEPOT.magazines(CLASS);
        assert_eq!(slab::SLABS[CLASS].totals().1, cached);
    },
};

/// A slab goes back to the page heap while another thread takes one, perhaps of the same page.
pub const PAGE_MAP_RELEASE: Model = Model {
    name: "page-map-end",
    preemptions: 3,
    body: || {
        // One object in a slab of one page: it never stays.
        let class = class_of(PAGE_BYTES);
        assert_eq!((CLASS_INFO[class].objects, CLASS_INFO[class].pages), (1, 1));
        start(true, &[os::arena()]);
        explore_only(bytes_of(&HOT.pages));
        let one = one_of(class);
        threads(vec![
            on(0, move || put(one)),
            on(1, || {
                let mut other = one_of(CLASS);
                let object = other.pop_first().expect("one");
                assert_eq!(page_map::class_at(object.address()), CLASS, "a slab's page has its class");
            }),
        ]);
        let slabs = PAGE_HEAP.segments().flat_map(|segment| {
            (HEADER_PAGES..PAGES).map(|page| page_map::class_at(segment.base() + page * PAGE_BYTES))
        });
        assert!(slabs.filter(|&class| class != 0).eq([CLASS]), "and no other page has one");
    },
};
