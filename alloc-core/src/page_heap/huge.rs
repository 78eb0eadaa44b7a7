//! Huge spans: objects above `SPAN_MAX_PAGES`, each in a mapping of its own.
//!
//! Promises: memory comes zeroed and goes straight back to the OS; growth moves page tables, not
//! bytes (mremap). Called by large; calls os. Lives by system calls, so one lock does.
//!
//! Invariants:
//! I1. The table has one entry for each live huge span, found by linear probing from its hash; it is
//!     at most half full.
//! I2. The table's memory is given up only when a larger one has replaced it, under the lock.

use crate::os::{self, Place};
use crate::page_heap::map_aligned;
use crate::sync::{Guarded, Lock, Rank, Reentered};
use crate::units::PAGE_BYTES;

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

impl HugeSpans {
    /// Maps a span of at least `bytes` at a multiple of `align`, zeroed. None if the OS refuses.
    pub fn acquire(&self, bytes: usize, align: usize) -> Option<usize> {
        let len = bytes.checked_next_multiple_of(os::page_bytes())?;
        let _guard = self.lock.acquire(Rank::HUGE).ok()?;
        if !self.make_room() {
            return None;
        }
        let address = match align <= os::page_bytes() {
            true => os::map(Place::Anywhere, len).ok()?,
            false => map_aligned(len, align.max(PAGE_BYTES))?,
        };
        self.insert(address, len);
        Some(address)
    }

    /// Unmaps the span at `address`; `Ok(false)` if there is none.
    pub fn release(&self, address: usize) -> Result<bool, Reentered> {
        let _guard = self.lock.acquire(Rank::HUGE)?;
        let Some(slot) = self.find(address) else { return Ok(false) };
        let len = slot.len.get();
        self.remove(slot);
        // SAFETY: the span was live and its owner gave it up.
        unsafe { os::unmap(address, len) };
        Ok(true)
    }

    /// Resizes the span at `address`, moving it if needed; the new address. None if it is not huge or
    /// the OS refuses (the span is untouched then).
    pub fn resize(&self, address: usize, bytes: usize) -> Option<usize> {
        let len = bytes.checked_next_multiple_of(os::page_bytes())?;
        let _guard = self.lock.acquire(Rank::HUGE).ok()?;
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

    /// Length of the span at `address`, if it is a huge one.
    pub fn len_of(&self, address: usize) -> Option<usize> {
        let _guard = self.lock.acquire(Rank::HUGE).ok()?;
        self.find(address).map(|slot| slot.len.get())
    }

    /// Number and bytes of live huge spans.
    pub fn totals(&self) -> (usize, usize) {
        (self.live.get(), self.bytes.get())
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
