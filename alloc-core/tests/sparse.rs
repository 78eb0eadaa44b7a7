//! Spans with an untouched rest, where the system gives huge pages unasked and where it does not: which segments they come
//! from, and what the kernel is advised of them. Each test's life is a child whose heap has no segment yet.

#[path = "support/child.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod child;

use rsalloc_core::internals::engine::settings;
use rsalloc_core::internals::hot::HOT;
use rsalloc_core::internals::page_heap::density::{Density, SparseSpans};
use rsalloc_core::internals::page_heap::{PAGE_HEAP, SpanRequest};
use rsalloc_core::internals::units::SEGMENT_SHIFT;
use std::collections::HashSet;
use std::fs;
use std::sync::atomic::Ordering;

/// Of each the class leaves an eighth of its pages untouched, or more.
const SPARSE: [usize; 6] = [11_000, 18_000, 22_000, 33_000, 57_000, 70_000];
/// 8 B: nearly every program has those.
const WHOLE: [usize; 6] = [8, 1_024, 30_000, 60_000, 250_000, 300_000];
/// Enough of each for a segment that grows in place.
const COUNT: usize = 60;

/// Runs `life` in a child, with the engine started and sparse spans where `place` says, else where init put them.
fn in_child(place: Option<SparseSpans>, life: fn()) {
    child::in_child(|| {
        assert_eq!(rsalloc_core::check(), Ok(()));
        assert_eq!(PAGE_HEAP.segments().count(), 0);
        place.into_iter().for_each(|place| PAGE_HEAP.set_sparse_spans(place));
        life();
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

/// The areas that the kernel was advised to keep huge pages from.
fn small_areas() -> Vec<(usize, usize)> {
    let smaps = fs::read_to_string("/proc/self/smaps").expect("/proc");
    let (mut area, mut small) = (None, Vec::new());
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or("");
        let hex = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = first.split_once('-') {
            area = hex(start).zip(hex(end));
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && flags.split_whitespace().any(|flag| flag == "nh")
        {
            small.extend(area);
        }
    }
    small
}

fn is_small(address: usize) -> bool {
    small_areas().iter().any(|&(start, end)| (start..end).contains(&address))
}

/// Objects of each size, all of them written.
fn objects(sizes: &[usize]) -> Vec<usize> {
    let size_of_each = sizes.iter().flat_map(|&size| (0..COUNT).map(move |_| size));
    let objects = size_of_each.map(|size| {
        let object = rsalloc_core::allocate(size);
        assert!(!object.is_null(), "{size} B");
        // SAFETY: a live object of that size.
        unsafe { object.write_bytes(1, size) };
        object as usize
    });
    objects.collect()
}

fn segments(objects: &[usize]) -> HashSet<usize> {
    objects.iter().map(|object| object >> SEGMENT_SHIFT).collect()
}

#[test]
fn sparse_spans_have_segments_of_their_own_without_huge_pages() {
    in_child(Some(SparseSpans::Separate), || {
        let (whole, sparse) = (objects(&WHOLE), objects(&SPARSE));
        assert!(segments(&whole).is_disjoint(&segments(&sparse)));
        let small = small_areas();
        let is_in = |object: &usize| small.iter().any(|area| (area.0..area.1).contains(object));
        assert!(sparse.iter().all(is_in), "{small:x?}");
        assert!(!whole.iter().any(is_in), "{small:x?}");
        // Adjacent areas merge, however often a segment has grown.
        let areas =
            small.iter().filter(|area| sparse.iter().any(|at| (area.0..area.1).contains(at)));
        assert!(areas.count() <= segments(&sparse).len(), "{small:x?}");
        for object in whole.into_iter().chain(sparse) {
            // SAFETY: a live object from above.
            unsafe { rsalloc_core::free(object as *mut u8) };
        }
        rsalloc_core::release();
        // What was given up is found again in its own segments: none is added.
        let before = PAGE_HEAP.segments().count();
        assert!(segments(&objects(&WHOLE)).is_disjoint(&segments(&objects(&SPARSE))));
        assert_eq!(PAGE_HEAP.segments().count(), before);
    });
}

#[test]
fn with_the_switch_off_all_spans_share_a_segment_without_advice() {
    in_child(Some(SparseSpans::Together), || {
        let (first, second) = (objects(&[1_024, 33_000]), objects(&[22_000, 8]));
        let all: Vec<usize> = first.into_iter().chain(second).collect();
        assert_eq!(segments(&all).len(), 1);
        assert!(!all.iter().any(|&object| is_small(object)));
    });
}

/// Outside the page-map range pages are reserved first and made accessible as they are needed.
#[test]
fn sparse_spans_outside_the_range_have_segments_of_their_own() {
    in_child(Some(SparseSpans::Separate), || {
        HOT.page_map_base.store(0, Ordering::Relaxed);
        let acquire = |density| {
            PAGE_HEAP.acquire(SpanRequest { density, ..SpanRequest::large(1) }).unwrap().address()
        };
        for _ in 0..COUNT {
            let (whole, sparse) = (acquire(Density::Dense), acquire(Density::Sparse));
            assert_ne!(whole >> SEGMENT_SHIFT, sparse >> SEGMENT_SHIFT);
            assert!(is_small(sparse) && !is_small(whole));
        }
    });
}

/// A free page serves a request that finds none in its own segments.
#[test]
fn out_of_memory_each_kind_takes_pages_of_the_other() {
    in_child(Some(SparseSpans::Separate), || {
        let acquire = |density| {
            PAGE_HEAP
                .acquire(SpanRequest { density, ..SpanRequest::large(1) })
                .map(|span| span.address())
        };
        let (whole, sparse) = (acquire(Density::Dense).unwrap(), acquire(Density::Sparse).unwrap());
        let limit_mappings = |rlim_cur| {
            let limit = libc::rlimit { rlim_cur, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: a plain call on a live value.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        };
        limit_mappings(0);
        while acquire(Density::Dense).is_some() {}
        for (given_up, wanted) in [(whole, Density::Sparse), (sparse, Density::Dense)] {
            assert_eq!(acquire(wanted), None);
            // SAFETY: a span from above.
            unsafe { PAGE_HEAP.release(PAGE_HEAP.entry_at(given_up).unwrap()) };
            assert_eq!(acquire(wanted), Some(given_up));
        }
        limit_mappings(libc::RLIM_INFINITY);
    });
}

/// At a limit, dirty pages of one kind of segment go when spans of the other kind take clean ones, however often the kinds alternate.
#[test]
fn at_a_limit_dirty_pages_are_purged_for_spans_of_the_other_kind() {
    const LIMIT: usize = 48 << 20;
    in_child(Some(SparseSpans::Separate), || {
        assert_eq!(settings::change_by_call(b"limit:48m"), Ok(()));
        let mut largest = 0;
        for density in [Density::Dense, Density::Sparse].into_iter().cycle().take(40) {
            let acquire = || PAGE_HEAP.acquire(SpanRequest { density, ..SpanRequest::large(16) });
            let spans: Vec<_> = (0..32).map(|_| acquire().unwrap().address()).collect();
            let stats = rsalloc_core::stats();
            largest = largest.max(PAGE_HEAP.used_bytes() + stats.dirty_bytes);
            for span in spans {
                // SAFETY: a span from above.
                unsafe { PAGE_HEAP.release(PAGE_HEAP.entry_at(span).unwrap()) };
            }
        }
        // A purge gives 1 MiB back at least, and waits until so much is due.
        assert!((32 << 20..LIMIT + (1 << 20)).contains(&largest), "{largest}");
    });
}

#[test]
fn init_obeys_the_systems_switch() {
    in_child(None, || {
        let switch = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        let is_always = switch.is_ok_and(|text| text.contains("[always]"));
        let expected = if is_always { SparseSpans::Separate } else { SparseSpans::Together };
        assert_eq!(PAGE_HEAP.sparse_spans(), expected);
    });
}
