//! The whole-heap validator: an observer that stops the shards and walks every tier.
//!
//! Promises: `Ok` means that each invariant below held at one instant; nothing is changed. Called by
//! tests, `rsalloc` and programs on demand; must not be called from a signal handler.
//!
//! Checked: V1 each taken page belongs to one span (tract I5), and the page map agrees. V2 a slab's free count is
//! the number of its set bits, none beyond its objects. V3 a slab is in the list that its fullness
//! names, once, or in none if full. V4 a class's objects handed out add up. V5 each cached object is
//! the start of an object of a slab of its class or a larger one, not free in the slab, and cached once.
//! V6 stacks keep `bottom <= top <= bottom + slots_max` above a null sentinel, and ends stay below that.

use crate::atomic::{AtomicUsize, Ordering};
use crate::cpu_cache::{locked, while_still};
use crate::depot::DEPOT;
use crate::guard;
use crate::os::{self, Place};
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::entry::{BITMAP_WORDS, Kind, PageEntry};
use crate::page_heap::huge::HUGE;
use crate::page_heap::tract::{HEADER_PAGES, Tract};
use crate::page_map;
use crate::shard::Region;
use crate::size_class::{CLASS, CLASSES, Class};
use crate::slab::{self, SLABS};
use crate::sync::{Guarded64, Lock, Patience, Rank};
use crate::units::{PAGE_BYTES, TRACT_PAGES};
use core::fmt;

/// The first broken invariant that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defect {
    /// What is broken.
    pub what: &'static str,
    /// The object, page or class it was seen at.
    pub at: usize,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {:#x})", self.what, self.at)
    }
}

type Verdict = Result<(), Defect>;

fn broken(what: &'static str, at: usize) -> Verdict {
    Err(Defect { what, at })
}

/// Validates the whole heap while other threads use it.
pub fn check() -> Verdict {
    crate::engine::init::ensure();
    let mut patience = Patience::usual();
    loop {
        // Without a fence the shards can't be looked into while they run; the rest can.
        let verdict = while_still(&mut Patience::usual(), |regions| check_held(regions))
            .unwrap_or_else(|| check_held(&mut core::iter::empty()));
        // A handler that forks on top of a holder of some lock goes first.
        if verdict != broken(BUSY, 0) || !patience.spend() {
            return verdict;
        }
    }
}

/// Said of a lock that could not be had: in a signal handler, or from who forks in one.
const BUSY: &str = "a lock that the validator may not wait for";

/// With the shards stopped: takes the locked shards and every slab lock, walks, releases.
fn check_held(regions: &mut dyn Iterator<Item = &'static Region>) -> Verdict {
    // Whoever holds a locked shard may wait for a slab's lock, so these come first.
    let held = locked::hold_all(&mut Patience::usual());
    let before = Rank::held();
    let mut gives_way = false;
    slab::for_each_lock(|lock, rank| match lock.acquire(rank) {
        Ok(guard) => Lock::forget(guard),
        Err(_) => gives_way |= !lock.is_held_here(),
    });
    let given_way = if gives_way { broken(BUSY, 0) } else { Ok(()) };
    let verdict = given_way.and_then(|()| Walk::new()).and_then(|walk| {
        let verdict = walk.run(&mut regions.chain(locked::held_regions(held)));
        walk.end();
        verdict
    });
    slab::for_each_lock(|lock, _| lock.release_forgotten());
    before.restore();
    locked::release_all(held);
    verdict
}

/// A walk in progress: a shadow of all bitmaps marks the cached objects.
struct Walk {
    shadow: usize,
    shadow_len: usize,
    slabs: [AtomicUsize; CLASSES],
    out: [AtomicUsize; CLASSES],
    listed: [AtomicUsize; CLASSES],
}

impl Walk {
    fn new() -> Result<Walk, Defect> {
        let tracts = PAGE_HEAP.tracts().count();
        let shadow_len = (tracts.max(1) + 1) * TRACT_PAGES * BITMAP_WORDS * 8;
        let shadow = os::map(Place::Anywhere, shadow_len)
            .map_err(|errno| Defect { what: "no memory to check with", at: errno as usize })?;
        let zeroes = || [const { AtomicUsize::new(0) }; CLASSES];
        Ok(Walk { shadow, shadow_len, slabs: zeroes(), out: zeroes(), listed: zeroes() })
    }

    fn end(&self) {
        // SAFETY: mapped by `new`, used by this walk only.
        unsafe { os::unmap(self.shadow, self.shadow_len) };
    }

    fn run(&self, regions: &mut dyn Iterator<Item = &'static Region>) -> Verdict {
        for tract in PAGE_HEAP.tracts() {
            self.tract(tract)?;
        }
        for class in 1..CLASSES {
            self.lists(class)?;
            self.totals(class)?;
        }
        for region in regions {
            self.region(region)?;
        }
        let mut verdict = Ok(());
        for class in 1..CLASSES {
            DEPOT.visit(class, |objects| {
                for &object in objects {
                    verdict = verdict.and_then(|()| self.cached(object, class));
                }
            });
        }
        verdict
    }

    /// V1, V2.
    fn tract(&self, tract: &Tract) -> Verdict {
        let Ok(_guard) = tract.lock() else { return broken(BUSY, 0) };
        let mut index = HEADER_PAGES;
        while index < tract.mapped_pages() {
            let page = tract.base() + index * PAGE_BYTES;
            let class = page_map::class_at(page);
            let entry = tract.entry(index);
            match entry.kind() {
                _ if tract.is_free(index) && class != 0 => {
                    return broken("free page with a class", page);
                }
                _ if tract.is_free(index) => index += 1,
                Kind::Slab if class == 0 || class != entry.class.get() as Class => {
                    return broken("page map and slab disagree on the class", page);
                }
                Kind::Slab => {
                    self.slab(entry, class)?;
                    index += CLASS[class].pages;
                }
                Kind::Large if class != 0 => return broken("large span with a class", page),
                Kind::Large | Kind::Deferred => index += entry.pages.get() as usize,
                Kind::None if tract.is_purging(index) => index += 1,
                Kind::None => return broken("taken page without a span", page),
            }
        }
        Ok(())
    }

    fn slab(&self, slab: &PageEntry, class: Class) -> Verdict {
        let info = &CLASS[class];
        let words = info.objects.div_ceil(64);
        let bits: u32 = slab.bitmap()[..words].iter().map(|word| word.get().count_ones()).sum();
        let last = slab.bitmap()[words - 1].get();
        if !info.objects.is_multiple_of(64) && last >> (info.objects % 64) != 0 {
            return broken("free bit beyond the last object", slab.page());
        }
        if bits != slab.free.get() {
            return broken("slab's free count is not the number of its bits", slab.page());
        }
        add(&self.slabs[class], 1);
        add(&self.out[class], info.objects - bits as usize);
        if (bits == 0) != (slab.bin.get() == 0) {
            return broken("slab in a list though full, or in none though not", slab.page());
        }
        add(&self.listed[class], usize::from(bits != 0));
        Ok(())
    }

    /// V3.
    fn lists(&self, class: Class) -> Verdict {
        let mut count = 0;
        for (bin, slab) in SLABS[class].partial() {
            count += 1;
            if slab.kind() != Kind::Slab || slab.class.get() as Class != class {
                return broken("list of a class has something else in it", slab.page());
            }
            if slab::bin_of(&CLASS[class], slab.free.get() as usize) != bin {
                return broken("slab in the wrong list", slab.page());
            }
            if count > get(&self.listed[class]) {
                return broken("list of a class is longer than its slabs", class);
            }
        }
        match count == get(&self.listed[class]) {
            true => Ok(()),
            false => broken("a slab with free objects is in no list", class),
        }
    }

    /// V4.
    fn totals(&self, class: Class) -> Verdict {
        match SLABS[class].totals() == (get(&self.slabs[class]), get(&self.out[class])) {
            true => Ok(()),
            false => broken("a class's totals are not the sum of its slabs", class),
        }
    }

    /// V6, and V5 for its objects.
    fn region(&self, region: &Region) -> Verdict {
        for (class, info) in CLASS.iter().enumerate().skip(1) {
            let bottom = region.bottom(class) as *const usize;
            let len = region.len(class);
            if len > info.slots_max {
                return broken("top of a stack out of its bounds", class);
            }
            if region.capacity(class) > info.slots_max {
                return broken("end of a stack out of its bounds", class);
            }
            // SAFETY: V6 was just checked: the slots are in the region, which is stopped or locked.
            let slots = unsafe { core::slice::from_raw_parts(bottom, len + 1) };
            if slots[0] != 0 {
                return broken("sentinel of a stack overwritten", class);
            }
            for &object in slots[1..].iter().filter(|&&object| object != 0) {
                self.cached(object, class)?;
            }
        }
        Ok(())
    }

    /// V5.
    fn cached(&self, object: usize, class: Class) -> Verdict {
        let real = page_map::class_at(object);
        if real == 0 && guard::owns(object) {
            return Ok(()); // Guarded, freed by its size.
        }
        if real == 0 && HUGE.len_of(object).is_some_and(|len| len >= CLASS[class].size) {
            return Ok(()); // Allocated apart, freed by its class.
        }
        let Some(slab) = PAGE_HEAP.entry_at(object) else {
            return broken("cached pointer outside the heap", object);
        };
        let Some(bit) = slab::index_of(slab, real, object).filter(|_| real >= class) else {
            return broken("cached pointer is not an object of its class", object);
        };
        if slab.bitmap()[bit / 64].get() >> (bit % 64) & 1 == 1 {
            return broken("object both cached and free in its slab", object);
        }
        let tract = PAGE_HEAP.tract_at(object).map_or(0, Tract::index);
        let word =
            (tract * TRACT_PAGES + (object / PAGE_BYTES) % TRACT_PAGES) * BITMAP_WORDS + bit / 64;
        // SAFETY: the shadow has a bitmap for each page of each tract.
        let seen = unsafe { &*(self.shadow as *const Guarded64).add(word) };
        if seen.get() >> (bit % 64) & 1 == 1 {
            return broken("object cached twice", object);
        }
        seen.set(seen.get() | 1 << (bit % 64));
        Ok(())
    }
}

fn add(sum: &AtomicUsize, value: usize) {
    // Ordering: Relaxed, the walk is one thread.
    sum.fetch_add(value, Ordering::Relaxed);
}

fn get(sum: &AtomicUsize) -> usize {
    // Ordering: Relaxed, the walk is one thread.
    sum.load(Ordering::Relaxed)
}
