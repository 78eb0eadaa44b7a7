//! Huge spans: objects above `SPAN_MAX_PAGES`, each in a mapping of its own.
//!
//! Promises: memory comes zeroed and goes straight back to the OS; growth moves page tables, not
//! bytes (mremap). Called by large; calls os. Lives by system calls, so one lock does.
//!
//! Invariants:
//! I1. The table has one entry for each live huge span, found by linear probing from its hash; it is
//!     at most half full.
//! I2. The table's memory is given up only when a larger one has replaced it, under the lock.

use crate::fail::{Misuse, fail};
use crate::os::{self, Place};
use crate::page_heap::map_aligned;
use crate::sync::{Guard, Guarded, Lock, Rank, Reentered};
use crate::units::PAGE_BYTES;
use core::sync::atomic::{AtomicUsize, Ordering};

/// One huge span; address 0 is a free slot, 1 a tombstone.
#[repr(C)]
struct Slot {
    address: Guarded,
    len: Guarded,
}

const TOMBSTONE: usize = 1;
const FIRST_SLOTS: usize = 256;

/// All huge spans of the process; all zeroes is valid.
pub struct HugeSpans {
    lock: Lock,
    table: Guarded,
    slots: Guarded,
    /// Slots that are not free, tombstones included.
    used: Guarded,
    live: Guarded,
    bytes: Guarded,
}

/// The one table.
pub static HUGE: HugeSpans = HugeSpans {
    lock: Lock::new(),
    table: Guarded::new(0),
    slots: Guarded::new(0),
    used: Guarded::new(0),
    live: Guarded::new(0),
    bytes: Guarded::new(0),
};

/// Spans that a signal handler makes or gives up on top of a holder of the lock; 0 is a free slot, 1 one
/// that somebody is at. One behind the other, as many as it takes: on a slow machine handler after
/// handler comes on top of the same holder. All zeroes is valid.
struct Aside {
    made: [AsideSlot; ASIDE],
    /// Addresses of spans in the table, to be released by the next holder.
    given_up: [AtomicUsize; ASIDE],
    /// Address of the next one, never unmapped; 0: none yet.
    next: AtomicUsize,
}

struct AsideSlot {
    address: AtomicUsize,
    len: AtomicUsize,
}

const ASIDE: usize = 64;

static ASIDE_SPANS: Aside = Aside {
    made: [const { AsideSlot { address: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; ASIDE],
    given_up: [const { AtomicUsize::new(0) }; ASIDE],
    next: AtomicUsize::new(0),
};

impl Aside {
    /// This one and those behind it.
    fn all(&'static self) -> impl Iterator<Item = &'static Aside> {
        core::iter::successors(Some(self), |aside| aside.next())
    }

    fn next(&self) -> Option<&'static Aside> {
        // Ordering: Acquire pairs with the Release in `next_or_new`.
        let address = self.next.load(Ordering::Acquire);
        // SAFETY: 0, or what `next_or_new` mapped for good; all zeroes was valid.
        unsafe { (address as *const Aside).as_ref() }
    }

    fn next_or_new(&self) -> Option<&'static Aside> {
        if let Some(next) = self.next() {
            return Some(next);
        }
        let bytes = size_of::<Aside>().next_multiple_of(os::page_bytes());
        let fresh = os::map(Place::Anywhere, bytes).ok()?;
        if !claim(&self.next, 0, fresh) {
            // SAFETY: mapped above, known to nobody.
            unsafe { os::unmap(fresh, bytes) };
        }
        self.next()
    }

    /// Gives `put` one after the other until it has found room; false if the OS refuses another.
    fn with_room(&'static self, put: impl Fn(&Aside) -> bool) -> bool {
        let mut aside = self;
        while !put(aside) {
            let Some(next) = aside.next_or_new() else { return false };
            aside = next;
        }
        true
    }

    fn insert(&'static self, address: usize, len: usize) -> bool {
        self.with_room(|aside| {
            let claimed = aside.made.iter().find(|slot| claim(&slot.address, 0, TOMBSTONE));
            if let Some(slot) = claimed {
                // Ordering: Relaxed, published by the address.
                slot.len.store(len, Ordering::Relaxed);
                // Ordering: Release pairs with the Acquire in `find`.
                slot.address.store(address, Ordering::Release);
            }
            claimed.is_some()
        })
    }

    /// Notes a span of the table for the next holder; false if the OS refuses the room.
    fn give_up(&'static self, address: usize) -> bool {
        self.with_room(|aside| aside.given_up.iter().any(|slot| claim(slot, 0, address)))
    }

    fn find(&'static self, address: usize) -> Option<&'static AsideSlot> {
        // Ordering: Acquire pairs with the Release in `insert`.
        let is_it = |slot: &&AsideSlot| slot.address.load(Ordering::Acquire) == address;
        self.all().find_map(|aside| aside.made.iter().find(is_it))
    }

    /// Whether there was a span at `address`.
    fn release(&'static self, address: usize) -> bool {
        let Some(slot) = self.find(address) else { return false };
        // Ordering: Relaxed, `find` acquired it.
        let len = slot.len.load(Ordering::Relaxed);
        if !claim(&slot.address, address, 0) {
            return false;
        }
        // SAFETY: the span was live and its owner gave it up.
        unsafe { os::unmap(address, len) };
        true
    }

    /// Number and bytes.
    fn totals(&'static self) -> (usize, usize) {
        // Ordering: Relaxed, statistics.
        let live = |slot: &&AsideSlot| slot.address.load(Ordering::Relaxed) > TOMBSTONE;
        self.all().flat_map(|aside| &aside.made).filter(live).fold(
            (0, 0),
            |(count, bytes), slot| {
                (count + 1, bytes + slot.len.load(Ordering::Relaxed)) // Ordering: Relaxed, as above.
            },
        )
    }
}

fn claim(word: &AtomicUsize, from: usize, to: usize) -> bool {
    // Ordering: Acquire and Release, the word owns the rest of its slot.
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

impl HugeSpans {
    /// Maps a span of at least `bytes` at a multiple of `align`, zeroed. None if the OS refuses.
    pub fn acquire(&self, bytes: usize, align: usize) -> Option<usize> {
        let len = bytes.checked_next_multiple_of(os::page_bytes())?;
        let guard = self.lock();
        if guard.is_ok() && !self.make_room() {
            return None;
        }
        let address = match align <= os::page_bytes() {
            true => os::map(Place::Anywhere, len).ok()?,
            false => map_aligned(len, align.max(PAGE_BYTES))?,
        };
        if guard.is_ok() {
            self.insert(address, len);
        } else if !ASIDE_SPANS.insert(address, len) {
            // SAFETY: mapped above, known to nobody.
            unsafe { os::unmap(address, len) };
            return None;
        }
        Some(address)
    }

    /// Unmaps the span at `address`; false if there is none.
    pub fn release(&self, address: usize) -> bool {
        if ASIDE_SPANS.release(address) {
            return true;
        }
        let Ok(_guard) = self.lock() else {
            // The table can't be looked into here; if there is no room either, the mapping stays, unused.
            let _ = ASIDE_SPANS.give_up(address);
            return true;
        };
        self.release_listed(address)
    }

    /// Takes the lock, and releases what handlers have given up.
    fn lock(&self) -> Result<Guard<'_>, Reentered> {
        let guard = self.lock.acquire(Rank::HUGE)?;
        for slot in ASIDE_SPANS.all().flat_map(|aside| &aside.given_up) {
            // Ordering: Relaxed, the address is all there is.
            let address = slot.load(Ordering::Relaxed);
            if address != 0 {
                // Ordering: Relaxed, as above.
                slot.store(0, Ordering::Relaxed);
                if !self.release_listed(address) {
                    fail(Misuse::ForeignPointer, address);
                }
            }
        }
        Ok(guard)
    }

    /// The lock is held.
    fn release_listed(&self, address: usize) -> bool {
        let Some(slot) = self.find(address) else { return false };
        let len = slot.len.get();
        self.remove(slot);
        // SAFETY: the span was live and its owner gave it up.
        unsafe { os::unmap(address, len) };
        true
    }

    /// Resizes the span at `address`, moving it if needed; the new address. None if it is not huge or
    /// the OS refuses (the span is untouched then).
    pub fn resize(&self, address: usize, bytes: usize) -> Option<usize> {
        let len = bytes.checked_next_multiple_of(os::page_bytes())?;
        let _guard = self.lock().ok()?;
        if !self.make_room() {
            return None;
        }
        let slot = self.find(address)?;
        // SAFETY: a live span; its owner asked for the move.
        let moved = unsafe { os::remap(address, slot.len.get(), len) }.ok()?;
        self.remove(slot);
        self.insert(moved, len);
        Some(moved)
    }

    /// Moves the memory of `old_bytes` at `address`, which stays mapped and reads as zero, into a new huge
    /// span of at least `bytes`. None if the OS refuses; nothing has changed then.
    ///
    /// # Safety
    /// 1. The caller holds that memory.
    pub unsafe fn take_over(
        &self,
        address: usize,
        old_bytes: usize,
        bytes: usize,
    ) -> Option<usize> {
        let len = bytes.checked_next_multiple_of(os::page_bytes())?;
        let _guard = self.lock().ok()?;
        if !self.make_room() {
            return None;
        }
        // SAFETY: duty 1.
        let moved = unsafe { os::move_away(address, old_bytes) }.ok()?;
        // SAFETY: a mapping of its own, made above.
        match unsafe { os::remap(moved, old_bytes, len) } {
            Ok(grown) => {
                self.insert(grown, len);
                Some(grown)
            }
            Err(_) => {
                // SAFETY: both ranges are ours, mapped and apart; the new one is known to nobody.
                unsafe {
                    (address as *mut u8).copy_from_nonoverlapping(moved as *const u8, old_bytes);
                    os::unmap(moved, old_bytes);
                }
                None
            }
        }
    }

    /// Length of the span at `address`, if it is a huge one.
    pub fn len_of(&self, address: usize) -> Option<usize> {
        if let Some(slot) = ASIDE_SPANS.find(address) {
            // Ordering: Relaxed, `find` acquired it.
            return Some(slot.len.load(Ordering::Relaxed));
        }
        let _guard = self.lock().ok()?;
        self.find(address).map(|slot| slot.len.get())
    }

    /// Number and bytes of live huge spans.
    pub fn totals(&self) -> (usize, usize) {
        let (count, bytes) = ASIDE_SPANS.totals();
        (self.live.get() + count, self.bytes.get() + bytes)
    }

    /// The lock, for fork.
    pub fn raw_lock(&self) -> &Lock {
        &self.lock
    }

    fn table(&self) -> &'static [Slot] {
        let (table, slots) = (self.table.get(), self.slots.get());
        if slots == 0 {
            return &[];
        }
        // SAFETY: I2: mapped with that many zeroed slots.
        unsafe { core::slice::from_raw_parts(table as *const Slot, slots) }
    }

    fn find(&self, address: usize) -> Option<&'static Slot> {
        let table = self.table();
        let mut index = hash(address, table.len())?;
        loop {
            match table[index].address.get() {
                0 => return None,
                found if found == address => return Some(&table[index]),
                _ => index = (index + 1) % table.len(),
            }
        }
    }

    fn insert(&self, address: usize, len: usize) {
        let table = self.table();
        let Some(mut index) = hash(address, table.len()) else { return };
        while table[index].address.get() > TOMBSTONE {
            index = (index + 1) % table.len();
        }
        if table[index].address.get() == 0 {
            self.used.set(self.used.get() + 1);
        }
        table[index].address.set(address);
        table[index].len.set(len);
        self.live.set(self.live.get() + 1);
        self.bytes.set(self.bytes.get() + len);
    }

    fn remove(&self, slot: &Slot) {
        slot.address.set(TOMBSTONE);
        self.live.set(self.live.get() - 1);
        self.bytes.set(self.bytes.get() - slot.len.get());
    }

    /// Keeps the table at most half full (I1), for one more entry.
    fn make_room(&self) -> bool {
        let slots = self.slots.get();
        if (self.used.get() + 1) * 2 <= slots {
            return true;
        }
        let grown = FIRST_SLOTS.max((self.live.get() + 1).next_power_of_two() * 4);
        let bytes = (grown * size_of::<Slot>()).next_multiple_of(os::page_bytes());
        let Ok(fresh) = os::map(Place::Anywhere, bytes) else { return false };
        let old = self.table();
        self.table.set(fresh);
        self.slots.set(grown);
        self.used.set(0);
        self.live.set(0);
        self.bytes.set(0);
        for slot in old.iter().filter(|slot| slot.address.get() > TOMBSTONE) {
            self.insert(slot.address.get(), slot.len.get());
        }
        if !old.is_empty() {
            let bytes = size_of_val(old).next_multiple_of(os::page_bytes());
            // SAFETY: I2: the table was replaced above, under the lock.
            unsafe { os::unmap(old.as_ptr() as usize, bytes) };
        }
        true
    }
}

fn hash(address: usize, slots: usize) -> Option<usize> {
    let mixed = (address >> 12).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    (slots != 0).then(|| mixed % slots)
}
