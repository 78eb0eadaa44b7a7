//! The slabs of a class: their lists by fullness, and how many objects are handed out.
//!
//! The number of objects handed out counts cached ones too. The class notices when it has fallen, so that caches can give back
//! what a program that shrank leaves in them.

use super::Rest;
use crate::domain::{self, DOMAINS_MAX, Domain};
use crate::object::Link;
use crate::page_heap::entry::PageEntry;
use crate::size_class::{CLASS, CLASSES, Class, ClassInfo};
use crate::sync::{Guarded, Lock, Rank};

/// Lists by fullness, the fullest first; the last one has the empty slab.
const BINS: usize = 9;

/// The slabs of one class. Unless a function says otherwise, its caller holds the lock.
#[repr(align(128))] // As in `cpu_cache::shard::locked`.
pub struct SlabClass {
    pub(super) lock: Lock,
    /// The first slabs of the lists of the first domain; those of others are in `OTHERS`.
    bins: Lists,
    /// Slabs of the class.
    pub(super) slabs: Guarded,
    /// Objects handed out.
    pub(super) out: Guarded,
    /// The most objects handed out since the class last decayed.
    peak: Guarded,
    /// The most objects handed out since the last [`SlabClass::take_fall`].
    recent_peak: Guarded,
    /// 1 if `out` has fallen well below `recent_peak`.
    fallen: Guarded,
    /// What the caches of the class may keep since they were drained, until objects are taken: [`DRAINED`], [`DECAYED`], or 0.
    decayed: Guarded,
}

type Lists = [Link<PageEntry>; BINS];

/// By domain but the first, and class: the first slabs of the lists, under the lock of the class. Untouched in one domain.
static OTHERS: [[Lists; CLASSES]; DOMAINS_MAX - 1] =
    [const { [const { [const { Link::none() }; BINS] }; CLASSES] }; DOMAINS_MAX - 1];

/// The list from which on another domain may adopt a slab: a quarter is free.
const ADOPTED_BIN_MIN: usize = (BINS - 1) / 4;

/// The caches were drained, and the depot keeps no objects.
const DRAINED: usize = 1;
/// The caches were drained, and keep none: nearly no object is left in the program.
const DECAYED: usize = 2;

/// A fall is noticed if it is at least so many bytes, and an eighth.
const FALL_BYTES: usize = 16 << 10;

/// All slab classes, by class.
pub static SLABS: [SlabClass; CLASSES] = [const { SlabClass::new() }; CLASSES];

impl SlabClass {
    const fn new() -> Self {
        SlabClass {
            lock: Lock::new(),
            bins: [const { Link::none() }; BINS],
            slabs: Guarded::new(0),
            out: Guarded::new(0),
            peak: Guarded::new(0),
            recent_peak: Guarded::new(0),
            fallen: Guarded::new(0),
            decayed: Guarded::new(0),
        }
    }

    /// Sets how many objects are handed out, after some were taken.
    pub(super) fn rise_to(&self, out: usize) {
        self.out.set(out);
        self.decayed.set(0);
        if out > self.recent_peak.get() {
            self.recent_peak.set(out);
            self.peak.set(out.max(self.peak.get()));
        }
    }

    /// Sets how many objects, of `size` bytes, are handed out, after some came back.
    pub(super) fn fall_to(&self, out: usize, size: usize) {
        self.out.set(out);
        let fallen = self.recent_peak.get() - out;
        if fallen >= self.recent_peak.get() / 8 && fallen * size >= FALL_BYTES {
            self.fallen.set(1);
        }
    }

    /// Whether fewer objects are handed out than before, and [`SlabClass::take_fall`] was not called since. Needs no lock.
    pub fn has_fallen(&self) -> bool {
        self.fallen.get() != 0
    }

    /// Whether nearly no object of the class is left in the program, so that freed ones should go back to their slabs. Needs no
    /// lock.
    pub fn has_decayed(&self) -> bool {
        self.decayed.get() == DECAYED
    }

    /// Whether the caches of the class were drained since an object was taken from its slabs. The depot keeps none then: what it had would
    /// not come home, so the class would not be seen to fall on. Needs no lock.
    pub fn was_drained(&self) -> bool {
        self.decayed.get() != 0
    }

    /// Counts rises and falls from what is handed out now. The caches were drained when `out` objects were.
    pub(super) fn reset_peaks(&self, out: usize, rest: Rest) {
        let now = self.out.get();
        self.peak.set(now);
        self.recent_peak.set(now);
        self.fallen.set(0);
        self.decayed.set(match rest {
            _ if now > out => 0,
            Rest::Cached => DRAINED,
            Rest::PutBack => DECAYED,
        });
    }

    /// Objects handed out, and the most there were since the class last decayed. Falls are counted from now on. None if the lock
    /// can't be had; takes it itself.
    pub fn take_fall(&self, class: Class) -> Option<(usize, usize)> {
        let _guard = self.lock.acquire(Rank::slab(class)).ok()?;
        self.fallen.set(0);
        self.recent_peak.set(self.out.get());
        Some((self.out.get(), self.peak.get()))
    }

    /// Slabs of the class and objects handed out; a snapshot without the lock.
    pub fn totals(&self) -> (usize, usize) {
        (self.slabs.get(), self.out.get())
    }

    /// The words of [`SlabClass::totals`], for `publish`.
    pub const fn counters(&self) -> [&Guarded; 2] {
        [&self.slabs, &self.out]
    }

    /// The lock, for a fork and for the validator.
    pub fn raw_lock(&self) -> &Lock {
        &self.lock
    }

    /// The lists of `domain`, of this class.
    fn lists(&self, class: Class, domain: Domain) -> &Lists {
        match domain.index().checked_sub(1) {
            None => &self.bins,
            Some(other) => &OTHERS[other][class],
        }
    }

    /// The first slab of the first list of `domain` that has one. Without the lock, a snapshot.
    pub(super) fn fullest(&self, class: Class, domain: Domain) -> Option<&'static PageEntry> {
        self.lists(class, domain).iter().find_map(Link::get)
    }

    /// The slab of another domain on the same node that has the most free objects: an empty one, else, if much of the class is free,
    /// one of which enough is free. With few free objects it would scatter what this domain allocates among what the other one uses.
    pub(super) fn emptiest_of_others(
        &self,
        class: Class,
        domain: Domain,
    ) -> Option<&'static PageEntry> {
        let least = if self.may_open(class) { BINS - 1 } else { ADOPTED_BIN_MIN };
        let in_bin = |bin: usize| {
            domain::others(domain).find_map(move |other| self.lists(class, other)[bin].get())
        };
        (least..BINS).rev().find_map(in_bin)
    }

    /// Whether a domain without a free object of `class`, which this is, gets a new slab before it takes what other domains have: if little is
    /// free, half a slab for each domain and an eighth of what is handed out.
    pub(super) fn may_open(&self, class: Class) -> bool {
        let (objects, out) = (CLASS[class].objects, self.out.get());
        let free = (self.slabs.get() * objects).saturating_sub(out);
        free <= domain::count() * objects / 2 + out / 8
    }

    /// The slabs of `class`, which this is, that have a free object, and the domains and numbers of their lists.
    pub fn partial(
        &self,
        class: Class,
    ) -> impl Iterator<Item = (Domain, usize, &'static PageEntry)> {
        domain::all().flat_map(move |domain| {
            let lists = self.lists(class, domain).iter().enumerate();
            lists.flat_map(move |(bin, head)| {
                let slabs = core::iter::successors(head.get(), |slab| slab.next.get());
                slabs.map(move |slab| (domain, bin, slab))
            })
        })
    }

    /// The empty slab that `domain` keeps. Without the lock, a snapshot.
    pub(super) fn kept(&self, class: Class, domain: Domain) -> Option<&'static PageEntry> {
        self.lists(class, domain)[BINS - 1].get()
    }

    /// Moves the slab to the list that its number of free objects names (I2 of the slabs).
    pub(super) fn rebin(&self, slab: &'static PageEntry, class: Class) {
        let free = slab.free.get() as usize;
        let wanted = if free == 0 { 0 } else { bin_of(&CLASS[class], free) + 1 };
        let bin = slab.bin();
        if wanted == bin {
            return;
        }
        let lists = self.lists_of(slab, class);
        unlink(slab, lists);
        if wanted != 0 {
            link(slab, lists, wanted - 1);
        }
    }

    /// Takes the slab out of the list that it is in, if any.
    pub(super) fn unlink(&self, slab: &PageEntry, class: Class) {
        unlink(slab, self.lists_of(slab, class));
    }

    fn lists_of(&self, slab: &PageEntry, class: Class) -> &Lists {
        self.lists(class, slab.domain())
    }
}

fn link(slab: &'static PageEntry, lists: &Lists, bin: usize) {
    let head = &lists[bin];
    slab.prev.set(None);
    slab.next.set(head.get());
    if let Some(next) = head.get() {
        next.prev.set(Some(slab));
    }
    head.set(Some(slab));
    slab.set_bin(bin + 1);
}

fn unlink(slab: &PageEntry, lists: &Lists) {
    let Some(bin) = slab.bin().checked_sub(1) else { return };
    match slab.prev.get() {
        Some(prev) => prev.next.set(slab.next.get()),
        None => lists[bin].set(slab.next.get()),
    }
    if let Some(next) = slab.next.get() {
        next.prev.set(slab.prev.get());
    }
    slab.set_bin(0);
}

/// The list for a slab with `free` free objects: eighths of fullness, and one for empty slabs.
pub fn bin_of(info: &ClassInfo, free: usize) -> usize {
    match free == info.objects {
        true => BINS - 1,
        false => free * (BINS - 1) / info.objects,
    }
}
