//! The slab tier: spans cut into objects of one class, with a bitmap outside the objects.
//!
//! A double free is found when the object comes back. The fullest slabs are used first, and empty ones go back to the page heap.
//!
//! Invariants, under the lock of the class:
//! I1. A bit of a slab's bitmap is set if the object is in the slab, clear if it is handed out.
//! I2. `free` is the number of set bits; the slab is in the list `bin_of(free)`, and in none if `free` is 0.
//! I3. At most one empty slab of a class is kept on each node; it is in the last list.
//! I4. An object is handed out at most once until it is put back.
//! I5. The lists are those of the slab's domain.

#[forbid(unsafe_code)]
mod class;
mod take;

use crate::arch;
use crate::domain::{self, Domain};
use crate::fail::{Misuse, deny, fail};
use crate::guard;
use crate::object::Batch;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::entry::{self, PageEntry};
use crate::page_heap::huge::HUGE;
use crate::page_map;
use crate::profile;
use crate::sanitizer;
use crate::size_class::{CLASS, Class, ClassInfo, RECIPROCAL_SHIFT};
use crate::sync::{Guarded64, Lock, Rank, Reentered};
use crate::units::PAGE_BYTES;
pub use class::{SLABS, SlabClass, bin_of};
pub use take::{has_or_may_open, take};

/// Prefetches what [`take`] and [`put`] of `class` begin with: a hint.
pub fn prefetch_class(class: Class) {
    let slabs = core::ptr::from_ref(&SLABS[class]) as usize;
    arch::prefetch(slabs);
    arch::prefetch(slabs + 64);
}

/// The domain of the slab in which an object lies; the first one for all else. A hint.
pub fn domain_of(object: usize) -> Domain {
    PAGE_HEAP.entry_at(object).map_or(Domain::FIRST, PageEntry::domain)
}

/// Whole OS pages at the end of a slab in which no object fits.
fn untouched_bytes(info: &ClassInfo) -> usize {
    let used = os::whole_pages(info.objects * info.size);
    (info.pages * PAGE_BYTES).saturating_sub(used)
}

/// Which object of a slab of `class` starts at `object`, an address in the slab's first page.
pub fn index_of(slab: &PageEntry, class: Class, object: usize) -> Option<usize> {
    CLASS[class].index_at(object.checked_sub(slab.page())?)
}

/// Whether an object of `class` starts at `object`.
pub fn is_object_start(object: usize, class: Class) -> bool {
    PAGE_HEAP.entry_at(object).is_some_and(|slab| index_of(slab, class, object).is_some())
}

/// As [`put`], for objects that a cache held as objects of `class`; a sized free may have named the wrong class. The caller
/// trims the page heap.
#[inline(never)]
pub fn put_cached(class: Class, batch: &mut Batch) {
    let objects = batch.addresses();
    if prefetch_run(class, objects) == objects.len() {
        // A refusal leaves all in the batch.
        let _ = put_run(class, batch, batch.len());
        return;
    }
    for &object in objects {
        deny(is_smaller(object, class), Misuse::WrongSize, object);
    }
    put_home(batch);
}

/// Whether `object` is smaller than the objects of `class`: a sized free named a wrong size. A larger object serves as well.
pub fn is_smaller(object: usize, class: Class) -> bool {
    is_smaller_than(page_map::class_at(object), object, class)
}

/// As [`is_smaller`], of an object whose class in the page map is known.
#[inline(never)]
pub fn is_smaller_than(real: Class, object: usize, class: Class) -> bool {
    match real {
        0 if guard::owns(object) => guard::size_of(object, Misuse::DoubleFree) < CLASS[class].size,
        0 if profile::owns(object) => {
            profile::size_of(object, Misuse::DoubleFree) < CLASS[class].size
        }
        0 => false,
        real => real < class,
    }
}

/// Puts the objects of `batch` back where they came from, in order; the rest stays in the batch where the lock of a class
/// can't be had. They may be of any class, or in mappings of their own or guarded, but runs of one class are cheapest.
pub fn put(batch: &mut Batch) {
    put_home(batch);
    PAGE_HEAP.trim();
}

fn put_home(batch: &mut Batch) {
    while let Some(&first) = batch.addresses().first() {
        match page_map::class_at(first) {
            0 if guard::owns(first) => {
                batch.forget_first(1);
                // SAFETY: the batch has given the object up.
                unsafe { guard::free(first) };
            }
            0 if profile::owns(first) => {
                batch.forget_first(1);
                // SAFETY: the batch has given the object up.
                unsafe { profile::free(first) };
            }
            // SAFETY: the batch gives the object up.
            0 if unsafe { HUGE.release(first) } => batch.forget_first(1),
            0 => fail(Misuse::ForeignPointer, first),
            class => {
                let run = prefetch_run(class, batch.addresses());
                if put_run(class, batch, run).is_err() {
                    return;
                }
            }
        }
    }
}

/// How many of the first of `objects` are of `class`. Prefetches the metadata of these: the slabs lie anywhere, so the cache misses
/// overlap if this is done before the lock is taken.
fn prefetch_run(class: Class, objects: &[usize]) -> usize {
    let Some((&first, &last)) = objects.first().zip(objects.last()) else { return 0 };
    // Mostly all lie on one page. Without branches, to be vectorized.
    let apart = objects.iter().fold(0, |apart, object| apart | (object ^ first));
    if apart >= PAGE_BYTES {
        return prefetch_each(class, objects);
    }
    if page_map::class_at(first) != class {
        return 0;
    }
    prefetch(class, first);
    prefetch(class, last);
    objects.len()
}

/// As [`prefetch_run`], object by object.
fn prefetch_each(class: Class, objects: &[usize]) -> usize {
    let mut last = !0; // On a page where no object is.
    let is_of_class = |&&object: &&usize| {
        let apart = object ^ last;
        if apart >= NEAR_BYTES {
            if apart >= PAGE_BYTES && page_map::class_at(object) != class {
                return false;
            }
            prefetch(class, object);
            last = object;
        }
        true
    };
    objects.iter().take_while(is_of_class).count()
}

/// Puts the first `count` objects of `batch` back, which are of `class`.
fn put_run(class: Class, batch: &mut Batch, count: usize) -> Result<(), Reentered> {
    let slabs = &SLABS[class];
    let objects = &batch.addresses()[..count];
    sanitizer::objects_taken(objects);
    let guard = slabs.lock.acquire(Rank::slab(class))?;
    let mut rest = objects;
    while let Some(&first) = rest.first() {
        let Some(slab) = PAGE_HEAP.entry_at(first) else { fail(Misuse::ForeignPointer, first) };
        // The slab was released since the caller read the page map: all of its objects were back.
        if slab.class.get() as Class != class {
            fail(Misuse::DoubleFree, first);
        }
        rest = &rest[put_in(slabs, slab, class, rest)..];
    }
    slabs.fall_to(slabs.out.get() - count, CLASS[class].size);
    drop(guard);
    batch.forget_first(count);
    Ok(())
}

/// Puts back the first of `objects`, which lies in `slab`, and those that follow it there; how many.
fn put_in(slabs: &SlabClass, slab: &'static PageEntry, class: Class, objects: &[usize]) -> usize {
    let info = CLASS[class];
    let (page, bitmap) = (slab.page(), slab.bitmap());
    // The word of the bitmap that is in `bits`.
    let (mut at, mut bits, mut scan) = (0, bitmap[0].get(), slab.scan.get() as usize);
    let (mut rest, mut inner) = (objects, 0);
    while let Some(&object) = rest.first() {
        let offset = object.wrapping_sub(page);
        let Some(index) = info.index_at(offset) else {
            if offset >= PAGE_BYTES {
                break;
            }
            deny(true, Misuse::InnerPointer, object);
            rest = &rest[1..];
            inner += 1;
            continue;
        };
        if index / 64 != at {
            store(&bitmap[at], bits);
            at = index / 64;
            bits = bitmap[at].get();
        }
        let run = run_down(&rest[..rest.len().min(index % 64 + 1)], info.size);
        let run_bits = !0 >> (64 - run) << (index % 64 + 1 - run);
        deny(bits & run_bits != 0, Misuse::DoubleFree, object);
        bits |= run_bits;
        scan = scan.min(at);
        rest = &rest[run..];
    }
    store(&bitmap[at], bits);
    if scan < slab.scan.get() as usize {
        slab.scan.set(scan as u32);
    }
    let count = objects.len() - rest.len();
    let put = count - inner;
    if put > 0 {
        let free = slab.free.get() as usize + put;
        slab.free.set(free as u32);
        if free == info.objects {
            keep_or_release(slabs, slab, class);
        } else {
            slabs.rebin(slab, class);
        }
    }
    count
}

/// How many of the first of `objects` lie each `size` bytes below the one before. What a program frees in the order in which it
/// allocated leaves a stack so.
fn run_down(objects: &[usize], size: usize) -> usize {
    let is_below = |pair: &&[usize]| pair[0].wrapping_sub(pair[1]) == size;
    1 + objects.windows(2).take_while(is_below).count()
}

/// Writes the word only if it changes: another CPU may share the cache line.
fn store(word: &Guarded64, bits: u64) {
    if word.get() != bits {
        word.set(bits);
    }
}

/// Objects in the same block of so many bytes nearly always have their bits in one cache line, which holds 512.
const NEAR_BYTES: usize = 4096;

/// Prefetches what [`put_in`] touches of the slab of `object`.
fn prefetch(class: Class, object: usize) {
    let offset = (object % PAGE_BYTES) as u64;
    let number = (offset * CLASS[class].reciprocal) >> RECIPROCAL_SHIFT;
    entry::prefetch(object, class, number as usize);
}

/// Keeps an empty slab if it is the only one (I3), so that a program which frees and allocates the same object does not release
/// and acquire a span each time. Spans of one object are never kept: the page heap keeps them as well, for all classes.
fn keep_or_release(slabs: &SlabClass, slab: &'static PageEntry, class: Class) {
    let is_only = || {
        let own = slab.domain();
        let mut all = core::iter::once(own).chain(domain::others(own));
        all.all(|domain| slabs.kept(class, domain).is_none())
    };
    if CLASS[class].objects > 1 && !slabs.has_decayed() && is_only() {
        slabs.rebin(slab, class);
    } else {
        release(slabs, slab, class);
    }
}

#[inline(never)]
fn release(slabs: &SlabClass, slab: &'static PageEntry, class: Class) {
    slabs.unlink(slab, class);
    slabs.slabs.set(slabs.slabs.get() - 1);
    page_map::set_class_at(slab.page(), 0);
    let untouched = untouched_bytes(&CLASS[class]);
    if untouched > 0 {
        PAGE_HEAP.remove_untouched(untouched);
    }
    // SAFETY: all objects are back, so the class alone holds the span.
    unsafe { PAGE_HEAP.release(slab) };
}

/// What becomes of the objects of a decayed class that the program still has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// Shards cache them when they are freed; the depot not before objects were taken.
    Cached,
    /// Each goes back to its slab when it is freed, and empty slabs are released at once.
    PutBack,
}

/// Records that the caches of `class` were drained; before, `out` objects were handed out. Resets the peaks. `rest` holds until
/// more objects are taken.
pub fn decay(class: Class, out: usize, rest: Rest) {
    let slabs = &SLABS[class];
    let Ok(_guard) = slabs.lock.acquire(Rank::slab(class)) else { return };
    slabs.reset_peaks(out, rest);
    if slabs.has_decayed() {
        release_kept(slabs, class);
    }
}

/// Bytes of the empty slabs that are kept; a snapshot.
pub fn kept_bytes() -> usize {
    let kept = |class: Class| {
        domain::all().filter(|&domain| SLABS[class].kept(class, domain).is_some()).count()
    };
    CLASS.iter().enumerate().map(|(class, info)| kept(class) * info.pages * PAGE_BYTES).sum()
}

/// Releases the kept empty slabs of all classes.
pub fn release_empty() {
    for (class, slabs) in SLABS.iter().enumerate() {
        let Ok(_guard) = slabs.lock.acquire(Rank::slab(class)) else { continue };
        release_kept(slabs, class);
    }
}

/// Releases the kept empty slabs, if any. The lock is held.
#[inline(never)]
fn release_kept(slabs: &SlabClass, class: Class) {
    for domain in domain::all() {
        while let Some(slab) = slabs.kept(class, domain) {
            release(slabs, slab, class);
        }
    }
}

/// Calls `f` with the locks of the classes in rank order, for a fork.
pub fn for_each_lock(f: &mut dyn FnMut(&Lock, Rank)) {
    SLABS.iter().enumerate().for_each(|(class, slabs)| f(&slabs.lock, Rank::slab(class)));
}
