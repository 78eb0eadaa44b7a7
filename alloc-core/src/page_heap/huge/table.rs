//! The hash table of huge spans: linear probing, replaced by another table when it is half full.
//!
//! Look-ups take no lock; a caller checks `HugeSpans::generation` around them.
//!
//! Invariants:
//! I1. A slot that was used is never free again in the same table.
//! I2. A table's memory stays mapped, and begins with a slot that holds the number of those behind it.

use crate::atomic::{AtomicUsize, Ordering};
use crate::os::{self, Place};
use core::mem::offset_of;

/// One huge span; address 0 is a free slot, 1 a tombstone.
#[repr(C)]
pub(super) struct Slot {
    address: AtomicUsize,
    len: AtomicUsize,
}

pub(super) const TOMBSTONE: usize = 1;

impl Slot {
    /// Bytes of a slot, and where in it the address and the length are.
    pub const LAYOUT: [usize; 3] =
        [size_of::<Slot>(), offset_of!(Slot, address), offset_of!(Slot, len)];

    /// Address of the span; 0 or 1 if there is none.
    pub fn address(&self) -> usize {
        // Ordering: Acquire pairs with the Release in `Table::insert`.
        self.address.load(Ordering::Acquire)
    }

    /// Length of the span in bytes.
    pub fn len(&self) -> usize {
        // Ordering: Relaxed, the address acquired it, or the span's owner knows of it from `Table::insert`.
        self.len.load(Ordering::Relaxed)
    }

    /// Takes the span out. The table's lock is held.
    pub fn bury(&self) {
        // Ordering: Relaxed, a tombstone carries nothing.
        self.address.store(TOMBSTONE, Ordering::Relaxed);
    }
}

/// A table.
#[derive(Clone, Copy)]
pub(super) struct Table(&'static [Slot]);

impl Table {
    /// The table whose mapping is at `address`; an empty one at 0.
    ///
    /// # Safety
    /// 1. `address` is 0 or that of a table (I2).
    pub unsafe fn at(address: usize) -> Table {
        if address == 0 {
            return Table(&[]);
        }
        // SAFETY: duty 1.
        unsafe {
            let head = address as *const Slot;
            Table(core::slice::from_raw_parts(head.add(1), (*head).len()))
        }
    }

    /// Maps an empty table of so many slots and returns its address. None if the OS refuses.
    pub fn map(slots: usize) -> Option<usize> {
        let fresh = os::map(Place::Anywhere, bytes(slots)).ok()?;
        // SAFETY: fresh zeroed memory, which begins with a slot.
        let head = unsafe { &*(fresh as *const Slot) };
        // Ordering: Relaxed, published by the table's address.
        head.len.store(slots, Ordering::Relaxed);
        Some(fresh)
    }

    /// Gives the memory of the table back, except its first page, which stays valid (I2).
    ///
    /// # Safety
    /// 1. The table is not the current one.
    pub unsafe fn give_back(address: usize, slots: usize) {
        // SAFETY: duty 1: a look-up that still reads it finds nothing, and the generation makes it look again.
        unsafe { os::give_back(address + os::page_bytes(), bytes(slots) - os::page_bytes()) };
    }

    /// Number of slots.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Makes all slots free. The table is not the current one.
    pub fn clear(self) {
        // Ordering: Relaxed, published by the table's address.
        self.0.iter().for_each(|slot| slot.address.store(0, Ordering::Relaxed));
    }

    /// The slots with spans.
    pub fn spans(self) -> impl Iterator<Item = &'static Slot> {
        self.0.iter().filter(|slot| slot.address() > TOMBSTONE)
    }

    /// The slot of the span at `address`.
    #[inline(never)]
    pub fn find(self, address: usize) -> Option<&'static Slot> {
        // A program may ask for any address; 0 and 1 are marks of the table.
        if address <= TOMBSTONE {
            return None;
        }
        let mut index = hash(address, self.len())?;
        loop {
            match self.0[index].address() {
                0 => return None,
                found if found == address => return Some(&self.0[index]),
                _ => index = (index + 1) % self.len(),
            }
        }
    }

    /// Enters a span; the slot, and whether the slot had been free and not a tombstone. The table has space.
    pub fn insert(self, address: usize, len: usize) -> (&'static Slot, bool) {
        let mut index = hash(address, self.len()).unwrap_or(0);
        while self.0[index].address() > TOMBSTONE {
            index = (index + 1) % self.len();
        }
        let slot = &self.0[index];
        let was_free = slot.address() == 0;
        // Ordering: Relaxed, published by the address.
        slot.len.store(len, Ordering::Relaxed);
        // Ordering: Release pairs with the Acquire in `Slot::address`.
        slot.address.store(address, Ordering::Release);
        (slot, was_free)
    }
}

fn bytes(slots: usize) -> usize {
    os::whole_pages((slots + 1) * size_of::<Slot>())
}

/// Where a span's look-up begins in a table of so many slots.
pub fn hash(address: usize, slots: usize) -> Option<usize> {
    let mixed = (address >> 12).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    (slots != 0).then(|| mixed % slots)
}
