//! What the validator can find. The numbers V1 to V8 are its invariants.

use core::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $text:literal,)*) => {
        /// What [`check`](crate::check) can find.
        ///
        /// ```
        /// use rsalloc::DefectKind;
        ///
        /// assert_eq!(DefectKind::CachedTwice.text(), "object cached twice");
        /// ```
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum DefectKind {
            $($(#[$doc])* $kind,)*
        }

        impl DefectKind {
            /// All of them.
            pub const ALL: &[DefectKind] = &[$(DefectKind::$kind),*];

            /// In words.
            pub fn text(self) -> &'static str {
                match self {
                    $(DefectKind::$kind => $text,)*
                }
            }
        }
    };
}

kinds! {
    /// Nothing is known to be broken: a lock could not be had, in a signal handler, or from one that forks.
    Busy = "a lock that the validator may not wait for",
    /// Nothing is known to be broken: the walk needs a shadow of all bitmaps.
    NoMemory = "no memory to check with",
    /// V1: a free page, but the page map says that a slab starts there.
    FreePageWithClass = "free page with a class",
    /// V1: the page map and the entry of a slab name different classes.
    ClassMismatch = "page map and slab disagree on the class",
    /// V1: a span of one object, but the page map says that a slab starts there.
    LargeWithClass = "large span with a class",
    /// V1: a page that is neither free nor part of a span.
    PageWithoutSpan = "taken page without a span",
    /// V1: the entry of a slab says another length than its class.
    SpanMiscounted = "slab is longer or shorter than its class's",
    /// V1: a span reaches past the pages of its segment.
    SpanBeyondSegment = "span is longer than its segment",
    /// V1: a page of a span can be handed out once more.
    FreePageInSpan = "free page inside a span",
    /// V1: a span, but the page map says that a slab starts at a page inside.
    InnerPageWithClass = "page inside a span with a class",
    /// V8: a request for such a run goes to another segment.
    LongestTooShort = "a segment has more free pages in a row than it says",
    /// V2: a bitmap names an object that the slab does not have.
    BitBeyondEnd = "free bit beyond the last object",
    /// V2: the count that steers the lists is wrong.
    FreeMiscounted = "slab's free count is not the number of its bits",
    /// V3: a slab's own word says so.
    ListingMismatch = "slab in a list though full, or in none though not",
    /// V3: a slab of another class, or no slab.
    ForeignInList = "list of a class has something else in it",
    /// V3: a list is not the one that the slab's fullness names.
    WrongList = "slab in the wrong list",
    /// V3: a slab is listed twice.
    ListTooLong = "list of a class is longer than its slabs",
    /// V3: no list leads to the slab.
    LostFromList = "a slab with free objects is in no list",
    /// V4: the slabs, or the objects handed out.
    ClassMiscounted = "a class's totals are not the sum of its slabs",
    /// V6: more objects than the stack has slots, or fewer than none.
    TopOutOfBounds = "top of a stack out of its bounds",
    /// V6: a capacity that the stack has no slots for.
    EndOutOfBounds = "end of a stack out of its bounds",
    /// V6: the null below the first slot.
    SentinelOverwritten = "sentinel of a stack overwritten",
    /// V5: what the program freed was never an object.
    CachedOutside = "cached pointer outside the heap",
    /// V5: it lies inside an object, or is smaller than the class's objects.
    CachedInner = "cached pointer is not an object of its class",
    /// V5: it can be handed out by the cache and by the slab.
    CachedAndFree = "object both cached and free in its slab",
    /// V5: in one cache or in two.
    CachedTwice = "object cached twice",
    /// V7: the totals are not those of the table, or a look-up misses an entry.
    HugeMiscounted = "table of huge spans disagrees with its totals",
}

/// The first broken invariant that [`check`](crate::check) found.
///
/// ```
/// use rsalloc::DefectKind;
///
/// match rsalloc::check() {
///     Ok(()) => {}
///     Err(defect) if matches!(defect.what, DefectKind::Busy | DefectKind::NoMemory) => {}
///     Err(defect) => panic!("the heap is damaged: {defect}"),
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Defect {
    /// What is broken.
    pub what: DefectKind,
    /// The object, page or class it was seen at.
    pub at: usize,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {:#x})", self.what.text(), self.at)
    }
}

impl core::error::Error for Defect {}
