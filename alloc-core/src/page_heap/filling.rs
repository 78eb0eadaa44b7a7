//! Which tracts a span comes from: where the system gives huge pages unasked, spans with an untouched rest have tracts of
//! their own, which no huge page fills.
//!
//! Promises: elsewhere all spans share all tracts, and nothing is called. A span that finds no memory in its own kind of
//! tracts takes free pages of the other kind. Called by init and slab; see `adr/0022`.
//!
//! Invariants:
//! I1. A tract's filling is set before it is published and never changes.
//! I2. Pages of a sparse tract are advised against huge pages before any of them is free.

use super::entry::Kind;
use super::{PageHeap, Span};
use crate::atomic::Ordering;

/// How much of a span its holder will touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filling {
    /// All of it, or nearly.
    Whole,
    /// An eighth of it stays untouched, or more.
    Sparse,
}

impl Filling {
    /// That of `pages` bytes in pages of which `used` are touched.
    pub const fn of(pages: usize, used: usize) -> Filling {
        if (pages - used) * 8 >= pages { Filling::Sparse } else { Filling::Whole }
    }

    fn other(self) -> Filling {
        match self {
            Filling::Whole => Filling::Sparse,
            Filling::Sparse => Filling::Whole,
        }
    }
}

/// Where sparse spans lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SparseSpans {
    /// In the same tracts as all others.
    Together,
    /// In tracts of their own.
    Separate,
}

/// What a search of the tracts did not find.
pub(super) enum Missing {
    Pages,
    /// There may be pages, in a tract whose lock could not be had.
    Lock,
}

impl PageHeap {
    /// Says where sparse spans lie from now on. Init does, before the first tract.
    pub fn set_sparse_spans(&self, place: SparseSpans) {
        // Ordering: Relaxed, published by init's READY.
        self.is_sparse_separate.store(place == SparseSpans::Separate, Ordering::Relaxed);
    }

    /// Where sparse spans lie.
    pub fn sparse_spans(&self) -> SparseSpans {
        // Ordering: Relaxed, as above.
        match self.is_sparse_separate.load(Ordering::Relaxed) {
            true => SparseSpans::Separate,
            false => SparseSpans::Together,
        }
    }

    /// The filling of the tracts that a span comes from.
    pub(super) fn home_of(&self, filling: Filling) -> Filling {
        match filling {
            Filling::Sparse if self.sparse_spans() == SparseSpans::Separate => Filling::Sparse,
            _ => Filling::Whole,
        }
    }

    /// A span from the other tracts: those of its home have no page, and the OS has no more.
    #[cold]
    pub(super) fn acquire_elsewhere(
        &self,
        pages: usize,
        align_pages: usize,
        kind: Kind,
        home: Filling,
    ) -> Option<Span> {
        if self.sparse_spans() == SparseSpans::Together {
            return None;
        }
        self.acquire_free(pages, align_pages, kind, home.other()).ok()
    }
}
