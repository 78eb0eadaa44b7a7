//! The slabs of a class: their lists by fullness, and how many objects are handed out.
//!
//! Promises: a slab is found by fullness in a few steps; a fall of what is handed out is noticed. Called by slab,
//! and by those who look: cpu_cache (decay), statistics and the validator.

use crate::page_heap::entry::PageEntry;
use crate::size_class::{CLASS, CLASSES, Class, ClassInfo};
use crate::sync::{Guarded, Lock, Rank};

/// Lists by fullness, the fullest first; the last one has the empty slab.
const BINS: usize = 9;

/// The slabs of one class.
#[repr(align(128))] // As in `cpu_cache::shard::locked`.
pub struct SlabClass {
    pub(super) lock: Lock,
    /// Addresses of the first entries of the lists.
    bins: [Guarded; BINS],
    /// Slabs of the class.
    pub(super) slabs: Guarded,
    /// Objects handed out.
    pub(super) out: Guarded,
    /// The most that were since the class last declined, and since it was last looked at.
    peak: Guarded,
    seen: Guarded,
    /// Whether it is to be looked at, and whether it has next to no object left.
    fallen: Guarded,
    pub(super) declined: Guarded,
}

/// A fall of so many bytes, and by an eighth, is worth a look.
const FALL_BYTES: usize = 16 << 10;

/// All slab classes, by class.
pub static SLABS: [SlabClass; CLASSES] = [const { SlabClass::new() }; CLASSES];

impl SlabClass {
    const fn new() -> Self {
        SlabClass {
            lock: Lock::new(),
            bins: [const { Guarded::new(0) }; BINS],
            slabs: Guarded::new(0),
            out: Guarded::new(0),
            peak: Guarded::new(0),
            seen: Guarded::new(0),
            fallen: Guarded::new(0),
            declined: Guarded::new(0),
        }
    }

    /// Notes how many objects are handed out after some were taken. The lock is held.
    pub(super) fn rise_to(&self, out: usize) {
        self.out.set(out);
        self.declined.set(0);
        if out > self.seen.get() {
            self.seen.set(out);
            self.peak.set(out.max(self.peak.get()));
        }
    }

    /// As [`SlabClass::rise_to`], after objects came home.
    pub(super) fn fall_to(&self, out: usize, size: usize) {
        self.out.set(out);
        let fallen = self.seen.get() - out;
        if fallen >= self.seen.get() / 8 && fallen * size >= FALL_BYTES {
            self.fallen.set(1);
        }
    }

    /// Whether the objects handed out have become fewer since the last [`SlabClass::look`].
    pub fn has_fallen(&self) -> bool {
        self.fallen.get() != 0
    }

    /// Whether next to no object of the class is left in the program, so that what is freed should go home.
    pub fn has_declined(&self) -> bool {
        self.declined.get() != 0
    }

    /// From now on rises and falls are counted from what is handed out. The lock is held.
    pub(super) fn begin_anew(&self) {
        self.peak.set(self.out.get());
        self.seen.set(self.out.get());
        self.fallen.set(0);
    }

    /// Objects handed out, caches included, and the most there were since the class last declined. From now
    /// on a fall is counted from here.
    pub fn look(&self, class: Class) -> Option<(usize, usize)> {
        let _guard = self.lock.acquire(Rank::slab(class)).ok()?;
        self.fallen.set(0);
        self.seen.set(self.out.get());
        Some((self.out.get(), self.peak.get()))
    }

    /// Slabs of the class and objects handed out, as one look can tell.
    pub fn totals(&self) -> (usize, usize) {
        (self.slabs.get(), self.out.get())
    }

    /// The lock, for fork and for the validator.
    pub fn raw_lock(&self) -> &Lock {
        &self.lock
    }

    /// The first slab of the first list that has one. The lock is held.
    pub(super) fn fullest(&self) -> Option<&'static PageEntry> {
        self.bins.iter().find_map(|bin| entry_ref(bin.get()))
    }

    /// The slabs that have a free object. The lock is held.
    pub fn partial(&self) -> impl Iterator<Item = (usize, &'static PageEntry)> {
        (0..BINS).flat_map(move |bin| {
            let mut at = self.bins[bin].get();
            core::iter::from_fn(move || {
                let entry = entry_ref(at)?;
                at = entry.next.get();
                Some((bin, entry))
            })
        })
    }

    /// An empty slab that is kept. The lock is held.
    pub(super) fn kept(&self) -> Option<&'static PageEntry> {
        entry_ref(self.bins[BINS - 1].get())
    }

    /// Puts the slab into the list that is its own by now (I2).
    pub(super) fn rebin(&self, slab: &PageEntry, class: Class) {
        let free = slab.free.get() as usize;
        let wanted = if free == 0 { 0 } else { bin_of(&CLASS[class], free) + 1 };
        let bin = slab.bin.get() as usize;
        if wanted == bin {
            return;
        }
        self.unlink(slab);
        if wanted != 0 {
            self.link(slab, wanted - 1);
        }
    }

    fn link(&self, slab: &PageEntry, bin: usize) {
        let head = &self.bins[bin];
        let this = core::ptr::from_ref(slab) as usize;
        slab.prev.set(0);
        slab.next.set(head.get());
        if let Some(next) = entry_ref(head.get()) {
            next.prev.set(this);
        }
        head.set(this);
        slab.bin.set(bin as u32 + 1);
    }

    /// Takes the slab out of the list that it is in, if any.
    pub(super) fn unlink(&self, slab: &PageEntry) {
        let Some(bin) = (slab.bin.get() as usize).checked_sub(1) else { return };
        match entry_ref(slab.prev.get()) {
            Some(prev) => prev.next.set(slab.next.get()),
            None => self.bins[bin].set(slab.next.get()),
        }
        if let Some(next) = entry_ref(slab.next.get()) {
            next.prev.set(slab.prev.get());
        }
        slab.bin.set(0);
    }
}

/// The list for a slab with `free` free objects: eighths of fullness, and one for empty slabs.
pub fn bin_of(info: &ClassInfo, free: usize) -> usize {
    match free == info.objects {
        true => BINS - 1,
        false => free * (BINS - 1) / info.objects,
    }
}

fn entry_ref(address: usize) -> Option<&'static PageEntry> {
    // SAFETY: lists hold 0 or addresses of entries, which live as long as their segments: for ever.
    unsafe { (address as *const PageEntry).as_ref() }
}
