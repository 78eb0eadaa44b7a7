//! The list of segments: full, and beside foreign mappings; and how much of the address space they take. Each test's life is a
//! child whose heap has no segment yet.

#[path = "support/child.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod child;

use child::in_child;
use rsalloc_core::internals::hot::HOT;
use rsalloc_core::internals::page_heap::entry::PageEntry;
use rsalloc_core::internals::page_heap::segment::HEADER_PAGES;
use rsalloc_core::internals::page_heap::{PAGE_HEAP, SEGMENTS_MAX, SpanRequest};
use rsalloc_core::internals::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES, SPAN_MAX_PAGES};
use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Instant;

fn acquire(pages: usize) -> Option<usize> {
    PAGE_HEAP.acquire(SpanRequest::large(pages)).map(|span| span.address())
}

fn entry_of(span: usize) -> &'static PageEntry {
    PAGE_HEAP.entry_at(span).expect("a span")
}

/// Bytes of address space, and the number of areas.
fn address_space() -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
    let lens = maps.lines().map(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        number(end) - number(start)
    });
    (lens.sum(), maps.lines().count())
}

#[test]
fn a_request_at_the_most_segments_maps_nothing() {
    in_child(|| {
        // Two spans fill a segment. None is touched.
        let rest = SEGMENT_PAGES - HEADER_PAGES - SPAN_MAX_PAGES;
        let mut segments = 0;
        while acquire(SPAN_MAX_PAGES).is_some() {
            assert!(acquire(rest).is_some(), "the other half of segment {segments}");
            segments += 1;
        }
        assert_eq!(segments, SEGMENTS_MAX, "fewer: another limit was met, and nothing is tested");
        let (before, _) = address_space();
        (0..50).for_each(|_| assert_eq!(acquire(SPAN_MAX_PAGES), None));
        let (after, _) = address_space();
        assert!(after < before + SEGMENT_BYTES, "{} bytes are lost", after - before);
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

/// Seconds of 1000 look-ups, the least of some rounds.
fn look_up(address: usize) -> f64 {
    let round = || {
        let start = Instant::now();
        for _ in 0..1000 {
            assert!(PAGE_HEAP.segment_at(black_box(address)).is_some());
        }
        start.elapsed().as_secs_f64()
    };
    (0..50).map(|_| round()).fold(f64::MAX, f64::min)
}

/// Maps a page that is not the allocator's.
fn map_foreign(address: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new mapping that replaces nothing.
    let at = unsafe { libc::mmap(address as *mut _, 4096, libc::PROT_READ, flags, -1, 0) };
    assert_eq!(at as usize, address);
}

#[test]
fn a_foreign_mapping_in_the_range_does_not_slow_look_ups_down() {
    in_child(|| {
        assert_eq!(rsalloc_core::check(), Ok(()));
        map_foreign(HOT.page_map_base.load(Ordering::Relaxed));
        let spans: Vec<usize> = (0..400).map(|_| acquire(SPAN_MAX_PAGES).unwrap()).collect();
        let (first, last) = (look_up(spans[0]), look_up(spans[spans.len() - 1]));
        assert!(last < 10.0 * first, "{first} s for the first segment, {last} s for the last");
    });
}

/// A mapping of the program's right behind what is mapped of a segment.
#[test]
fn a_segment_that_cannot_grow_is_followed_by_another() {
    in_child(|| {
        let first = acquire(1).unwrap();
        let segment = PAGE_HEAP.segment_at(first).unwrap();
        let end = segment.base() + segment.mapped_pages() * PAGE_BYTES;
        map_foreign(end + 3 * PAGE_BYTES);
        let spans: Vec<usize> = (0..2000).map(|_| acquire(1).unwrap()).collect();
        assert!(spans.iter().all(|&span| !(span..span + PAGE_BYTES).contains(&end)));
        assert_eq!(segment.base() + segment.mapped_pages() * PAGE_BYTES, end, "it has not grown");
        assert!(PAGE_HEAP.segments().count() > 1);
        for span in spans {
            // SAFETY: a span from above; its first byte and its last.
            unsafe {
                (span as *mut u8).write(1);
                ((span + PAGE_BYTES - 1) as *mut u8).write(1);
                PAGE_HEAP.release(entry_of(span));
            }
        }
        rsalloc_core::release();
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

#[test]
fn mapped_memory_follows_used_memory() {
    in_child(|| {
        let (before, areas) = address_space();
        for pages in [1, 20, 100, 300, 1000, 3000, 16_000] {
            while PAGE_HEAP.held_bytes() < pages * PAGE_BYTES {
                acquire(1).unwrap();
            }
            let (now, areas_now) = address_space();
            let most = pages * PAGE_BYTES * 3 / 2 + pages.div_ceil(1000) * (640 << 10) + (1 << 20);
            assert!(now - before <= most, "{} bytes for {pages} pages", now - before);
            // The metadata of a segment and its pages, until it is complete; then the kernel may merge them.
            assert!(
                areas_now - areas <= 2 * pages.div_ceil(1000) + 4,
                "{} areas",
                areas_now - areas
            );
        }
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

/// A span at the end of what is mapped grows where it is.
#[test]
fn a_span_grows_in_place_behind_the_mapped_pages() {
    in_child(|| {
        let span = acquire(1).unwrap();
        for pages in 1..400 {
            // SAFETY: the caller holds the span.
            assert!(unsafe { PAGE_HEAP.extend(entry_of(span), 1) }, "{pages} pages and one more");
            // SAFETY: the last byte of the span.
            unsafe { ((span + (pages + 1) * PAGE_BYTES - 1) as *mut u8).write(1) };
        }
        // SAFETY: as above.
        unsafe { PAGE_HEAP.release(entry_of(span)) };
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

/// Free pages at the end of what is mapped are the first part of what is asked for.
#[test]
fn free_pages_at_the_end_are_not_mapped_again() {
    in_child(|| {
        let address = acquire(320).unwrap();
        // SAFETY: the caller holds the span.
        unsafe { PAGE_HEAP.release(entry_of(address)) };
        let most = (address_space().0 + (10 << 20)) as libc::rlim_t;
        let before = limit_addresses(most);
        assert_eq!(acquire(500), None, "the limit is none: nothing is tested");
        assert_eq!(acquire(448), Some(address));
        // SAFETY: as above.
        unsafe { PAGE_HEAP.release(entry_of(address)) };
        limit_addresses(before);
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

/// Sets RLIMIT_AS; what it was.
fn limit_addresses(most: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a live struct.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, most);
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), 0);
        before
    }
}
