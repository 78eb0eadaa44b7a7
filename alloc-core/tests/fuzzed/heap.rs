//! The heap as the engine itself sees it: the validator, what is handed out, and an OS that refuses.
//!
//! Promises that an object which got lost between the tiers is noticed once all is given back. Shared by
//! the fuzz targets and by `regressions.rs`; knows no operation.

use crate::objects::{Defect, Objects};
#[cfg(feature = "faults")]
use rsalloc_core::internals::os::faults;
use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::internals::page_heap::segment::HEADER_PAGES;
use rsalloc_core::internals::size_class::CLASSES;
use rsalloc_core::internals::slab::SLABS;
use rsalloc_core::internals::units::PAGE_BYTES;

/// Validates the whole heap.
pub fn check(objects: &Objects) {
    if objects.defect() == Some(Defect::Count)
        && let Some((_, _, slab)) =
            (1..CLASSES).find_map(|class| SLABS[class].partial(class).next())
    {
        slab.free.set(slab.free.get() + 1);
    }
    if let Err(defect) = rsalloc_core::check() {
        panic!("check: {defect}");
    }
}

/// Calls that the OS refuses on demand. Needs alloc-core's feature `faults`.
#[derive(Default)]
pub struct Refusals {
    first: Option<u64>,
}

#[cfg(feature = "faults")]
impl Refusals {
    /// `count` calls are refused, after `first` more that are not.
    pub fn begin(&mut self, first: u64, count: u64) {
        self.first = Some(first);
        faults::refuse(first, first.saturating_add(count - 1));
    }

    /// The OS is willing again.
    pub fn end(&mut self) {
        self.first = None;
        faults::refuse(u64::MAX, 0);
    }

    /// Whether a call was refused since `begin`.
    pub fn happened(&self) -> bool {
        self.first.is_some_and(|first| faults::count() > first)
    }
}

#[cfg(not(feature = "faults"))]
impl Refusals {
    pub fn begin(&mut self, _first: u64, _count: u64) {
        panic!("this sequence has refusals: run the test with --features faults");
    }

    pub fn end(&mut self) {
        self.first = None;
    }

    pub fn happened(&self) -> bool {
        self.first.is_some()
    }
}

/// What is handed out: objects by class, large objects, pages.
#[derive(PartialEq, Eq, Debug)]
pub struct Census {
    pub objects: Vec<usize>,
    large: (usize, usize),
    held_pages: usize,
}

impl Census {
    /// Gives back what lies in the tiers, then counts.
    pub fn take() -> Census {
        rsalloc_core::release();
        let pages = PAGE_HEAP.segments().map(|segment| {
            let (free, dirty) = segment.free_pages();
            (segment.mapped_pages() - HEADER_PAGES - free, dirty)
        });
        let (held_pages, dirty) = pages.fold((0, 0), |sum, page| (sum.0 + page.0, sum.1 + page.1));
        let stats = rsalloc_core::stats();
        let counted = stats.dirty_bytes / PAGE_BYTES;
        assert_eq!(counted, dirty, "the page heap's count of dirty pages is not their number");
        Census {
            objects: (0..CLASSES).map(|class| SLABS[class].totals().1).collect(),
            large: (stats.large_count, stats.large_bytes),
            held_pages,
        }
    }
}
