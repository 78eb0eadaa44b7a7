//! Memory for sampled small objects, which their addresses alone tell from others: no page of the page map is theirs.
//!
//! Promises what the classes promise: an object of a class has its size and its natural alignment, so that a sized free may put it
//! into the cache of the class, from which another request gets it; it comes back when that cache is emptied (as a guarded
//! object does). No operation waits, and each may be interrupted by any other. Memory that an object needed is kept for the
//! next one of its class, but for whole OS pages of large objects.
//!
//! ```text
//! | unit: 4 KiB of one class | unit | .. reserved ..      UNITS: class, first slot, place in its run     STATES: of each slot
//! ```
//!
//! Invariants:
//! I1. The units of a run have one class, and are readable and writable before their words say so; the words never change.
//! I2. A slot's state is LIVE, BUSY, or free: the number, from 1, of the address of the next free slot of its
//! class.

use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::fail::{Misuse, deny, fail};
use crate::object::Object;
use crate::os;
use crate::parts;
use crate::size_class::{CLASS, CLASSES, Class, natural_align};
use crate::units::{PAGE_BYTES, SLAB_OBJECT_MAX_BYTES};

/// Bytes of a unit.
const UNIT: usize = 4096;
/// Addresses that are reserved: halves of it are tried down to the last.
const RESERVED: [usize; 5] = [4 << 30, 2 << 30, 1 << 30, 256 << 20, 64 << 20];
/// Units at most.
pub const UNITS: usize = RESERVED[0] / UNIT;
/// Slots at most.
pub const SLOTS: usize = 1 << 20;
/// Objects of the largest classes have their memory given back when they are freed.
const GIVE_BACK_MIN: usize = 16 << 10;

const LIVE: u32 = u32::MAX;
const BUSY: u32 = u32::MAX - 1;

/// The tables, in memory that the profile has mapped for them. Zeroes are valid.
#[derive(Clone, Copy)]
pub struct Tables {
    /// By unit: first slot of its run, class, place in the run.
    pub units: &'static [AtomicU64; UNITS],
    /// By slot (I2).
    pub states: &'static [AtomicU32; SLOTS],
}

/// Where the pool lies, and its length; 0: nowhere.
static BASE: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);
/// Units and slots that are in use.
static NEXT_UNIT: AtomicUsize = AtomicUsize::new(0);
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);
/// By class: the first free slot, by the number of its address from 1, in the low half; above it a tag that changes with each operation.
static FREE: [AtomicU64; CLASSES] = [const { AtomicU64::new(0) }; CLASSES];

/// Bytes and number of live objects, and bytes of the runs.
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static LIVE_COUNT: AtomicUsize = AtomicUsize::new(0);
static RUN_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Reserves the addresses; false if the OS refuses. For the first start of a profile, under its lock.
pub fn open() -> bool {
    // Ordering: Relaxed, written under the caller's lock only.
    if BASE.load(Ordering::Relaxed) != 0 {
        return true;
    }
    // The natural alignment of a class is that of its place in a run, and a run's that of its place in the pool. Linux before 6.7
    // aligns a mapping to an OS page only.
    let reserve = |len: usize| os::map_sealed(len + PAGE_BYTES).ok();
    let found = RESERVED.into_iter().find_map(|len| Some((reserve(len)?, len)));
    let Some((address, len)) = found else { return false };
    let base = address.next_multiple_of(PAGE_BYTES);
    LEN.store(len, Ordering::Relaxed); // Ordering: Relaxed, published by the profile's tables.
    BASE.store(base, Ordering::Relaxed); // Ordering: Relaxed, as above.
    crate::sanitizer::add_root(base, len);
    true
}

/// Whether the address lies in the pool.
#[inline]
pub fn owns(address: usize) -> bool {
    // Ordering: Relaxed: an address in the pool comes from a thread that has seen it.
    let base = BASE.load(Ordering::Relaxed);
    parts::PROFILE && base != 0 && address.wrapping_sub(base) < LEN.load(Ordering::Relaxed) // Ordering: Relaxed, as above.
}

/// Whether objects of `class` may lie here.
pub fn serves(class: Class) -> bool {
    class != 0 && CLASS[class].size <= SLAB_OBJECT_MAX_BYTES
}

/// Bytes and number of live objects, and bytes of the runs in which they lie.
pub const fn counters() -> [&'static AtomicUsize; 3] {
    [&LIVE_BYTES, &LIVE_COUNT, &RUN_BYTES]
}

/// A slot, and where it lies.
struct Place {
    slot: usize,
    class: Class,
    start: usize,
}

impl Tables {
    /// An object of `class`, with any contents; none if the pool is full or the OS refuses.
    pub fn allocate(&self, class: Class) -> Option<Object> {
        let address = self.pop(class).or_else(|| self.make_run(class))?;
        // Ordering: Relaxed throughout, statistics.
        LIVE_BYTES.fetch_add(CLASS[class].size, Ordering::Relaxed);
        LIVE_COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the slot is this call's alone (I2), and its memory is open (I1).
        unsafe { Object::from_address(address) }
    }

    /// Frees the object at `address`, in the pool; ends the process if there is none.
    ///
    /// # Safety
    /// 1. The caller gives up the object there, if there is one.
    pub unsafe fn free(&self, address: usize) {
        let Place { slot, class, .. } = self.live_at(address, Misuse::DoubleFree);
        // Ordering: Relaxed: what the object held is of no interest.
        let was =
            self.states[slot].compare_exchange(LIVE, BUSY, Ordering::Relaxed, Ordering::Relaxed);
        deny(was.is_err(), Misuse::DoubleFree, address);
        let size = CLASS[class].size;
        // Ordering: Relaxed throughout, statistics.
        LIVE_BYTES.fetch_sub(size, Ordering::Relaxed);
        LIVE_COUNT.fetch_sub(1, Ordering::Relaxed);
        if size >= GIVE_BACK_MIN {
            let start = os::whole_pages(address);
            let end = (address + size) & !(os::page_bytes() - 1);
            // SAFETY: duty 1; whole pages of the slot, which is this call's.
            unsafe { os::give_back(start, end.saturating_sub(start)) };
        }
        self.push(class, slot, address);
    }

    /// Bytes of the live object at `address`, in the pool. Ends the process if there is none, with `of_freed` if there was one.
    pub fn size_of(&self, address: usize, of_freed: Misuse) -> usize {
        CLASS[self.live_at(address, of_freed).class].size
    }

    /// Whether a live object of a class of at least `size` bytes starts at `address`.
    pub fn has_live(&self, address: usize, size: usize) -> bool {
        self.place_of(address).is_some_and(|place| {
            // Ordering: Relaxed, a look.
            let state = self.states[place.slot].load(Ordering::Relaxed);
            place.start == address && state == LIVE && CLASS[place.class].size >= size
        })
    }

    fn live_at(&self, address: usize, of_freed: Misuse) -> Place {
        let Some(place) = self.place_of(address) else { fail(Misuse::NeverAllocated, address) };
        deny(place.start != address, Misuse::InnerPointer, address);
        // Ordering: Relaxed: the caller has the address from the thread that allocated the object.
        let state = self.states[place.slot].load(Ordering::Relaxed);
        deny(state != LIVE, of_freed, address);
        place
    }

    fn place_of(&self, address: usize) -> Option<Place> {
        let unit = offset_of(address) / UNIT;
        // Ordering: Acquire pairs with the Release in `make_run`.
        let word = self.units.get(unit)?.load(Ordering::Acquire);
        let (first_slot, class, at) =
            (word as u32 as usize, (word >> 32) as u8 as usize, (word >> 40) as usize);
        let size = CLASS.get(class).filter(|_| class != 0)?.size;
        let run = address - address % UNIT - at * UNIT;
        let index = (address - run) / size;
        let start = run + index * size;
        (index < slots_of_run(class)).then_some(Place { slot: first_slot + index, class, start })
    }

    /// A free slot of `class`: its address.
    fn pop(&self, class: Class) -> Option<usize> {
        // Ordering: Acquire pairs with the Release in `push`.
        let mut head = FREE[class].load(Ordering::Acquire);
        loop {
            let address = address_of((head as u32).checked_sub(1)?);
            let slot = self.place_of(address)?.slot;
            // Ordering: Relaxed: another number by now is refused by the tag.
            let next = self.states[slot].load(Ordering::Relaxed);
            // Ordering: Acquire, as above.
            match FREE[class].compare_exchange(
                head,
                head_of(head, next),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    // Ordering: Relaxed, the slot is this call's; the object's hand-over orders it.
                    self.states[slot].store(LIVE, Ordering::Relaxed);
                    return Some(address);
                }
                Err(now) => head = now,
            }
        }
    }

    /// Leaves a slot, which is the caller's, to others.
    fn push(&self, class: Class, slot: usize, address: usize) {
        // Ordering: Relaxed, the exchange publishes what is stored in between.
        let mut head = FREE[class].load(Ordering::Relaxed);
        loop {
            self.states[slot].store(head as u32, Ordering::Relaxed); // Ordering: Relaxed, as above.
            let changed = head_of(head, number_of(address) + 1);
            // Ordering: Release pairs with the Acquire in `pop`; Relaxed on failure reads nothing.
            match FREE[class].compare_exchange(head, changed, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// The first slot of a new run of `class`, whose other slots are free then: its address.
    fn make_run(&self, class: Class) -> Option<usize> {
        let (units, align) = (units_of_run(class), natural_align(class).div_ceil(UNIT));
        // Ordering: Relaxed throughout, constants by now, and numbers; the words below publish.
        let len_units = LEN.load(Ordering::Relaxed) / UNIT;
        let take = |used: usize| {
            Some(used.next_multiple_of(align) + units).filter(|&end| end <= len_units)
        };
        // Ordering: Relaxed, as above.
        let before = NEXT_UNIT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        let first = before.next_multiple_of(align);
        let count = slots_of_run(class);
        // Ordering: Relaxed, as above.
        let fits = |used: usize| Some(used + count).filter(|&end| end <= SLOTS);
        let slot = NEXT_SLOT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        let run = BASE.load(Ordering::Relaxed) + first * UNIT; // Ordering: Relaxed, as above.
        // A run may share an OS page of more than 4 KiB with its neighbours, which are open or become so.
        let page = os::page_bytes();
        let start = run & !(page - 1);
        let len = (run + units * UNIT - start).next_multiple_of(page);
        // SAFETY: the pool is this module's.
        unsafe { os::unseal(start, len) }.ok()?;
        // Ordering: Relaxed, a statistic.
        RUN_BYTES.fetch_add(units * UNIT, Ordering::Relaxed);
        // Ordering: Relaxed, published by the units' words.
        self.states[slot].store(LIVE, Ordering::Relaxed);
        for (at, unit) in self.units[first..first + units].iter().enumerate() {
            let word = slot as u64 | (class as u64) << 32 | (at as u64) << 40;
            // Ordering: Release: the memory is open (I1).
            unit.store(word, Ordering::Release);
        }
        (1..count).for_each(|at| self.push(class, slot + at, run + at * CLASS[class].size));
        Some(run)
    }
}

fn units_of_run(class: Class) -> usize {
    CLASS[class].size.div_ceil(UNIT)
}

fn slots_of_run(class: Class) -> usize {
    units_of_run(class) * UNIT / CLASS[class].size
}

fn head_of(before: u64, first: u32) -> u64 {
    ((before >> 32) + 1) << 32 | u64::from(first)
}

/// Bytes from the start of the pool.
fn offset_of(address: usize) -> usize {
    // Ordering: Relaxed, a constant by now.
    address.wrapping_sub(BASE.load(Ordering::Relaxed))
}

/// The number of an address: every object begins at a multiple of 8.
fn number_of(address: usize) -> u32 {
    (offset_of(address) / 8) as u32
}

fn address_of(number: u32) -> usize {
    // Ordering: Relaxed, a constant by now.
    BASE.load(Ordering::Relaxed) + number as usize * 8
}

const _: () = assert!(RESERVED[0] / 8 < BUSY as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_has_the_alignment_of_its_classes() {
        assert!(open());
        let most = (1..CLASSES).filter(|&class| serves(class)).map(natural_align).max();
        assert!(most.is_some_and(|align| align > UNIT && PAGE_BYTES.is_multiple_of(align)));
        assert!(address_of(0).is_multiple_of(PAGE_BYTES));
    }
}
