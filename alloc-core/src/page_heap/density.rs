//! The segments that a span comes from, by node and density: each node has its own (docs/adr/0051), and where the system gives huge pages unasked, sparse spans have segments of
//! their own, which get no huge pages (docs/adr/0022).
//!
//! Elsewhere all spans of a node share its segments. A span that finds no memory in the segments of its home takes free pages of
//! other segments. What lies in a node's segments is on that node because its threads touch it first: the kernel is told nothing.
//!
//! Invariants:
//! I1. A segment's home is set before the segment is published, and never changes.
//! I2. Pages of a sparse segment are advised against huge pages before any of them is free.

use super::{PageHeap, Span, SpanRequest};
use crate::atomic::Ordering;
use crate::node::{self, Node};

/// How much of a span its holder will touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Density {
    /// All of it, or nearly.
    Dense,
    /// At most seven eighths of it.
    Sparse,
}

impl Density {
    /// The density of a span of `bytes` of which `used` are touched.
    pub const fn of(bytes: usize, used: usize) -> Density {
        if (bytes - used) * 8 >= bytes { Density::Sparse } else { Density::Dense }
    }
}

/// What the spans of a segment have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    /// How much of them is touched.
    pub density: Density,
    /// The node whose threads acquire them.
    pub node: Node,
}

/// Where sparse spans lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SparseSpans {
    /// In the same segments as all others.
    Together,
    /// In segments of their own.
    Separate,
}

/// What a search of the segments did not find.
pub(super) enum Missing {
    Pages,
    /// There may be pages, in a segment whose lock could not be had.
    Lock,
}

impl PageHeap {
    /// Says where sparse spans lie from now on. For init, before the first segment.
    pub fn set_sparse_spans(&self, place: SparseSpans) {
        // Ordering: Relaxed, published by init's READY.
        self.is_sparse_separate.store(place == SparseSpans::Separate, Ordering::Relaxed);
    }

    /// Where sparse spans lie.
    pub fn sparse_spans(&self) -> SparseSpans {
        // Ordering: Relaxed, published by init's READY.
        match self.is_sparse_separate.load(Ordering::Relaxed) {
            true => SparseSpans::Separate,
            false => SparseSpans::Together,
        }
    }

    /// The density of the segments from which a span of `density` comes.
    pub(super) fn home_of(&self, density: Density) -> Density {
        match density {
            Density::Sparse if self.sparse_spans() == SparseSpans::Separate => Density::Sparse,
            _ => Density::Dense,
        }
    }

    /// A span from segments of another home, when those of its own have no pages and the OS has none either.
    #[cold]
    pub(super) fn acquire_elsewhere(&self, request: SpanRequest) -> Option<Span> {
        let sparse = (self.sparse_spans() == SparseSpans::Separate).then_some(Density::Sparse);
        let densities = || [Some(Density::Dense), sparse].into_iter().flatten();
        let homes = node::all().flat_map(|node| densities().map(move |density| (node, density)));
        homes
            .map(|(node, density)| SpanRequest { density, node, ..request })
            .filter(|other| other.home() != request.home())
            .find_map(|other| self.acquire_free(other).ok())
    }
}
