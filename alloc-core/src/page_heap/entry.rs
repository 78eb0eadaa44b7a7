//! The metadata of a page, in front of its segment.
//!
//! An entry leads to its page, and the page to its entry, by arithmetic: no memory is read.
//!
//! Invariants:
//! I1. Entries exist only in segments, so they live for ever.

use super::segment::Segment;
use crate::arch;
use crate::domain::Domain;
use crate::object::Link;
use crate::size_class::{CLASS, Class};
use crate::sync::{Guarded32, Guarded64};
use crate::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES, SLAB_OBJECTS_MAX};
use core::mem::offset_of;

/// 64-bit words of a slab's bitmap.
pub const BITMAP_WORDS: usize = SLAB_OBJECTS_MAX / 64;
pub(super) const BITMAP_BYTES: usize = BITMAP_WORDS * 8;

/// What a page is, in the entry of the first page of its span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// Free, or not the first page of a span.
    None = 0,
    /// A slab of `class`.
    Slab = 1,
    /// A large span.
    Large = 2,
    /// A span on the deferred list: it was released where the segment's lock could not be had.
    Deferred = 3,
}

/// Words of a bitmap that fit into the entry.
const INLINE_WORDS: usize = 3;
/// The first class whose bitmap lies in the entry, where one cache line has everything.
const INLINE_FROM: Class = {
    let mut class = 1;
    while CLASS[class].objects > INLINE_WORDS * 64 {
        class += 1;
    }
    class
};

/// Metadata of a page; in the entry of its first page, of a span. Guarded by the slab class's lock (slabs) or by the owner
/// (large spans); `kind` and `pages` by the segment's lock (I5 of the segment).
#[repr(C, align(64))]
pub struct PageEntry {
    kind: Guarded32,
    /// Size class of a slab.
    pub class: Guarded32,
    /// Pages of the span.
    pub pages: Guarded32,
    /// Free objects of a slab.
    pub free: Guarded32,
    /// No word of the bitmap below this one has a free object.
    pub scan: Guarded32,
    /// The list that a slab is in: see [`PageEntry::bin`] and [`PageEntry::domain`].
    list: Guarded32,
    /// The next slab in its list, or the next span on the deferred list.
    pub next: Link<PageEntry>,
    /// The previous slab in its list.
    pub prev: Link<PageEntry>,
    /// The bitmap of a slab of few objects; in a run that is being purged, the first word is the purging thread's id.
    inline: [Guarded64; INLINE_WORDS],
}

const _: () = assert!(size_of::<PageEntry>() == 64);

/// Bits of a bin in `PageEntry::list`; above them is the domain.
const BIN_BITS: u32 = 8;
const BIN_MASK: usize = (1 << BIN_BITS) - 1;

/// Where the half words of an entry are, in bytes, for `publish`.
pub struct Layout {
    /// See [`Kind`].
    pub kind: usize,
    /// Class of a slab.
    pub class: usize,
    /// Pages of the span.
    pub pages: usize,
    /// Free objects of a slab.
    pub free: usize,
}

impl Layout {
    /// The layout.
    pub const OWN: Layout = Layout {
        kind: offset_of!(PageEntry, kind),
        class: offset_of!(PageEntry, class),
        pages: offset_of!(PageEntry, pages),
        free: offset_of!(PageEntry, free),
    };
}

impl PageEntry {
    /// What the page is.
    pub fn kind(&self) -> Kind {
        match self.kind.get() {
            1 => Kind::Slab,
            2 => Kind::Large,
            3 => Kind::Deferred,
            _ => Kind::None,
        }
    }

    /// Says what the page is.
    pub fn set_kind(&self, kind: Kind) {
        self.kind.set(kind as u32);
    }

    /// 1 + the number of the list that a slab is in; 0 if in none.
    pub fn bin(&self) -> usize {
        self.list.get() as usize & BIN_MASK
    }

    /// Sets what [`PageEntry::bin`] is.
    pub fn set_bin(&self, bin: usize) {
        self.list.set((self.list.get() as usize & !BIN_MASK | bin) as u32);
    }

    /// The domain whose lists a slab is in; without the lock, a hint.
    pub fn domain(&self) -> Domain {
        Domain::of_index(self.list.get() as usize >> BIN_BITS)
    }

    /// Gives a slab, which is in no list, to `domain`.
    pub fn set_domain(&self, domain: Domain) {
        self.list.set((domain.index() << BIN_BITS) as u32);
    }

    /// Id of the thread that purges the run of which this is the first page.
    pub(super) fn purger(&self) -> usize {
        self.inline[0].get() as usize
    }

    /// Says that `thread` purges the run of `pages` from this one on.
    pub(super) fn set_purger(&self, pages: usize, thread: usize) {
        self.pages.set(pages as u32);
        self.inline[0].set(thread as u64);
    }

    /// Address of the page.
    #[inline]
    pub fn page(&self) -> usize {
        self.segment_base() + self.index() * PAGE_BYTES
    }

    /// Number of the page in its segment.
    #[inline]
    pub(super) fn index(&self) -> usize {
        (self.address() - self.segment_base()) / size_of::<PageEntry>()
    }

    /// The segment of the page.
    #[inline]
    pub(super) fn segment(&self) -> &'static Segment {
        // SAFETY: I1: the entry lies in a segment, which is aligned to its length.
        unsafe { &*(self.segment_base() as *const Segment) }
    }

    /// The slab's bitmap; a set bit is a free object.
    #[inline]
    pub fn bitmap(&self) -> &[Guarded64] {
        if self.class.get() as Class >= INLINE_FROM {
            return &self.inline;
        }
        // SAFETY: bitmaps follow the entries in the segment's metadata, which is never unmapped (I4 and I6 of the segment).
        unsafe { &*(bitmap_address(self.address()) as *const [Guarded64; BITMAP_WORDS]) }
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    fn segment_base(&self) -> usize {
        self.address() & !(SEGMENT_BYTES - 1)
    }
}

/// Address of the bitmap of the page with this entry, if the bitmap lies outside the entry.
fn bitmap_address(entry: usize) -> usize {
    let segment = entry & !(SEGMENT_BYTES - 1);
    let index = (entry - segment) / size_of::<PageEntry>();
    segment + SEGMENT_PAGES * size_of::<PageEntry>() + index * BITMAP_BYTES
}

/// Prefetches the metadata of the object with this number in its slab of `class`. A hint: `object` may be any address.
pub fn prefetch(object: usize, class: Class, number: usize) {
    let segment = object & !(SEGMENT_BYTES - 1);
    let entry = segment + (object - segment) / PAGE_BYTES * size_of::<PageEntry>();
    arch::prefetch(entry);
    if class < INLINE_FROM {
        arch::prefetch(bitmap_address(entry) + number / 64 * 8);
    }
}
