//! The metadata of a page, in front of its segment.
//!
//! Promises: an entry tells its page's address and the page its entry's, both without a look at memory.
//! Called by segment, slab (the entries of its slabs), large and the validator; calls asm (prefetch).

use crate::arch;
use crate::size_class::{CLASS, Class};
use crate::sync::{Guarded, Guarded32, Guarded64};
use crate::units::{PAGE_BYTES, SEGMENT_BYTES, SEGMENT_PAGES, SLAB_OBJECTS_MAX};

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
    /// A span that was given up where the segment's lock could not be had.
    Deferred = 3,
}

/// Words of a bitmap that have room in the entry.
const INLINE_WORDS: usize = 3;
/// The first class whose bitmap lies in the entry: one line has all then.
const INLINE_FROM: Class = {
    let mut class = 1;
    while CLASS[class].objects > INLINE_WORDS * 64 {
        class += 1;
    }
    class
};

/// Metadata of one page; of the whole span if the page is its first. Guarded by the slab class's lock
/// (slabs) or by being the owner (large spans); `kind` and `pages` by the segment's lock (I5).
#[repr(C, align(64))]
#[derive(Default)]
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
    /// 1 + the number of the list that a slab is in; 0 if in none.
    pub bin: Guarded32,
    /// Next and previous slab in the list, as addresses of entries.
    pub next: Guarded,
    /// See `next`.
    pub prev: Guarded,
    /// The bitmap of a slab of few objects.
    inline: [Guarded64; INLINE_WORDS],
}

const _: () = assert!(size_of::<PageEntry>() == 64);

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

    /// The thread that purges the run which this is the first page of: in a word that is a slab's otherwise.
    pub(super) fn purger(&self) -> usize {
        self.prev.get()
    }

    /// Says that the run of `pages` from this one on is purged by the thread of this pointer.
    pub(super) fn set_purger(&self, pages: usize, thread: usize) {
        self.pages.set(pages as u32);
        self.prev.set(thread);
    }

    /// Address of the page.
    pub fn page(&self) -> usize {
        let segment = self.segment_base();
        segment
            + (core::ptr::from_ref(self) as usize - segment) / size_of::<PageEntry>() * PAGE_BYTES
    }

    /// The slab's bitmap; a set bit is a free object.
    pub fn bitmap(&self) -> &[Guarded64] {
        if self.class.get() as Class >= INLINE_FROM {
            return &self.inline;
        }
        let at = bitmap_address(core::ptr::from_ref(self) as usize);
        // SAFETY: bitmaps follow the entries in the segment's metadata, mapped for ever (I4).
        unsafe { &*(at as *const [Guarded64; BITMAP_WORDS]) }
    }

    fn segment_base(&self) -> usize {
        core::ptr::from_ref(self) as usize & !(SEGMENT_BYTES - 1)
    }
}

/// Where the bitmap of the page with this entry is, if it lies outside of the entry.
fn bitmap_address(entry: usize) -> usize {
    let segment = entry & !(SEGMENT_BYTES - 1);
    let index = (entry - segment) / size_of::<PageEntry>();
    segment + SEGMENT_PAGES * size_of::<PageEntry>() + index * BITMAP_BYTES
}

/// Asks for what is known of the object with this number in its slab of `class`: a hint, whatever `object` is.
pub fn prefetch(object: usize, class: Class, number: usize) {
    let segment = object & !(SEGMENT_BYTES - 1);
    let entry = segment + (object - segment) / PAGE_BYTES * size_of::<PageEntry>();
    arch::prefetch(entry);
    if class < INLINE_FROM {
        arch::prefetch(bitmap_address(entry) + number / 64 * 8);
    }
}
