//! Huge spans: objects above `SPAN_MAX_PAGES`, each in a mapping of its own.
//!
//! Promises: memory comes zeroed and goes straight back to the OS; growth moves page tables, not
//! bytes (mremap), and what grows large gets huge pages. Called by large; calls os. Lives by system calls,
//! so one lock does; the owner of a span finds its length without it, in a signal handler on top of a
//! holder too.
//!
//! Invariants:
//! I1. The table has one entry for each live huge span, found by linear probing from its hash; it is
//!     at most half full. A slot that was used is never free again in the same table.
//! I2. A table's memory stays mapped. It is whole before it becomes the table, and gets other contents,
//!     or none, only after `generation` has said so.

use super::growth::map_aligned;
use crate::atomic::{AtomicUsize, HUGE_SLOTS, Ordering, fence};
use crate::fail::{Misuse, fail};
use crate::os::{self, Place};
use crate::page_heap::aside::Aside;
use crate::sanitizer;
use crate::sync::{Backoff, Guard, Guarded, Lock, Rank, Reentered, WaitBudget};
use crate::units::PAGE_BYTES;

/// One huge span; address 0 is a free slot, 1 a tombstone.
#[repr(C)]
struct Slot {
    address: AtomicUsize,
    len: AtomicUsize,
}

const TOMBSTONE: usize = 1;

/// Who has grown to so many huge pages will fill them: of the last one he may leave a sixteenth of all untouched.
const DENSE_HUGE_PAGES: usize = 16;

/// The slots of a table, whose mapping begins with their number.
type Table = &'static [Slot];

/// All huge spans of the process; all zeroes is valid.
pub struct HugeSpans {
    lock: Lock,
    /// Address of the table's mapping.
    table: AtomicUsize,
    /// How often a table has been replaced.
    generation: AtomicUsize,
    /// A former table of the same size, or 0.
    spare: Guarded,
    /// Slots that are not free, tombstones included.
    used: Guarded,
    live: Guarded,
    bytes: Guarded,
    aside: Aside,
}

/// The one table.
pub static HUGE: HugeSpans = HugeSpans {
    lock: Lock::new(),
    table: AtomicUsize::new(0),
    generation: AtomicUsize::new(0),
    spare: Guarded::new(0),
    used: Guarded::new(0),
    live: Guarded::new(0),
    bytes: Guarded::new(0),
    aside: Aside::new(),
};

impl HugeSpans {
    /// Maps a span of at least `bytes` at a multiple of `align`, zeroed. None if the OS refuses.
    pub fn acquire(&self, bytes: usize, align: usize) -> Option<usize> {
        let len = bytes.checked_next_multiple_of(os::page_bytes())?;
        // Without the lock: the kernel may take its time.
        let address = map_span(len, align).or_else(|| {
            // What was given up late has its addresses still.
            if !self.aside.has_given_up() {
                return None;
            }
            self.collect();
            map_span(len, align)
        })?;
        let is_listed = match self.lock() {
            Ok(_guard) => self.enter(address, len).is_some(),
            Err(_) => self.aside.insert(address, len) || self.insert_with(address, len),
        };
        if !is_listed {
            // SAFETY: mapped above, known to nobody.
            unsafe { os::unmap(address, len) };
            return None;
        }
        Some(address)
    }

    /// In a handler, with all places aside taken: whoever else holds the lock will soon be done.
    #[cold]
    fn insert_with(&self, address: usize, len: usize) -> bool {
        let mut backoff = Backoff::usual();
        let guard = self.lock.acquire_with(Rank::HUGE, &mut backoff);
        guard.is_some_and(|_guard| self.enter(address, len).is_some())
    }

    /// Enters a span, if there is memory for the table. The lock is held.
    fn enter(&self, address: usize, len: usize) -> Option<&'static Slot> {
        self.make_room().then(|| self.insert(address, len))
    }

    /// Unmaps the span at `address`; false if there is none.
    pub fn release(&self, address: usize) -> bool {
        if let Some(len) = self.aside.remove(address) {
            // SAFETY: the span was live and its owner gave it up.
            unsafe { os::unmap(address, len) };
            return true;
        }
        if let Ok(guard) = self.lock() {
            let Some(len) = self.forget(address) else { return false };
            // Another thread's free must not wait until the kernel has taken gigabytes back.
            drop(guard);
            // SAFETY: the span was live and its owner gave it up; the table does not name it any more.
            unsafe { os::unmap(address, len) };
            return true;
        }
        let Some(len) = self.len_of(address) else { return false };
        // Its memory goes at once, and before others can know of it: the next holder may come late.
        // SAFETY: as above.
        unsafe { os::give_back(address, len) };
        // Without a place the mapping stays, unused, and so does its entry.
        let _ = self.aside.give_up(address);
        true
    }

    /// Unmaps what handlers have given up where the lock could not be had.
    pub fn collect(&self) {
        drop(self.lock());
    }

    /// Takes the lock, and does what handlers could not.
    fn lock(&self) -> Result<Guard<'_>, Reentered> {
        let guard = self.lock.acquire(Rank::HUGE)?;
        self.aside.move_made(|address, len| self.enter(address, len), |slot| self.remove(slot));
        for address in self.aside.given_up() {
            let Some(len) = self.forget(address) else { fail(Misuse::ForeignPointer, address) };
            // SAFETY: the span was live and its owner gave it up. Its memory went at that time, so this is short.
            unsafe { os::unmap(address, len) };
        }
        Ok(guard)
    }

    /// Takes the span at `address` out of the table; its length. The lock is held.
    fn forget(&self, address: usize) -> Option<usize> {
        let slot = self.find(address)?;
        let len = slot.len();
        self.remove(slot);
        Some(len)
    }

    /// Resizes the span at `address`, moving it if needed; the new address. None if it is not huge or
    /// the OS refuses (the span is untouched then).
    pub fn resize(&self, address: usize, bytes: usize) -> Option<usize> {
        // So many bytes are not copied for want of a lock that another thread has.
        let _budget = WaitBudget::unbounded();
        let _guard = self.lock().ok()?;
        if !self.make_room() {
            return None;
        }
        let slot = self.find(address)?;
        // SAFETY: a live span; its owner asked for the move.
        let (moved, len) = unsafe { remap(address, slot.len(), bytes) }?;
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
        let _guard = self.lock().ok()?;
        if !self.make_room() {
            return None;
        }
        // SAFETY: duty 1.
        let moved = unsafe { os::move_away(address, old_bytes) }.ok()?;
        // SAFETY: a mapping of its own, made above.
        match unsafe { remap(moved, old_bytes, bytes) } {
            Some((grown, len)) => {
                self.insert(grown, len);
                Some(grown)
            }
            None => {
                // SAFETY: both ranges are ours, mapped and apart; the new one is known to nobody.
                unsafe {
                    (address as *mut u8).copy_from_nonoverlapping(moved as *const u8, old_bytes);
                    os::unmap(moved, old_bytes);
                }
                None
            }
        }
    }

    /// Length of the span at `address`, if it is a huge one. Takes no lock.
    pub fn len_of(&self, address: usize) -> Option<usize> {
        loop {
            // Ordering: Acquire pairs with the Release in `rebuild`: before the table.
            let generation = self.generation.load(Ordering::Acquire);
            if let Some(len) = self.aside.len_of(address) {
                return Some(len);
            }
            let len = self.find(address).map(Slot::len);
            // What was found is the owner's, and what was not found is not there, if the table was current all the
            // while: it has the owner's span (I1), which only the owner changes. A former table may have got
            // other contents, between the look at an address and the look at its length too.
            // Ordering: Acquire, with the Relaxed load: what was read of a table that served again since
            // comes with the new generation (I2).
            fence(Ordering::Acquire);
            if self.generation.load(Ordering::Relaxed) == generation {
                return len;
            }
        }
    }

    /// Whether `address` lies in a span, as far as can be told: for the name of a misuse.
    pub fn covers(&self, address: usize) -> bool {
        let _budget = WaitBudget::unbounded();
        let Ok(_guard) = self.lock() else { return false };
        let inside = |slot: &Slot| address.wrapping_sub(slot.address()) < slot.len();
        // Ordering: Relaxed, the lock orders it.
        let table = table_at(self.table.load(Ordering::Relaxed));
        table.iter().any(|slot| slot.address() > TOMBSTONE && inside(slot))
    }

    /// Tells a leak checker of the spans that there are.
    pub fn name_roots(&self) {
        let Ok(_guard) = self.lock() else { return };
        // Ordering: Relaxed, the lock orders it.
        let table = table_at(self.table.load(Ordering::Relaxed));
        let live = table.iter().filter(|slot| slot.address() > TOMBSTONE);
        live.for_each(|slot| sanitizer::add_root(slot.address(), slot.len()));
    }

    /// Number and bytes of live huge spans.
    pub fn totals(&self) -> (usize, usize) {
        let (count, bytes) = self.aside.totals();
        (self.live.get() + count, self.bytes.get() + bytes)
    }

    /// For the validator: an entry that a look-up misses, or the table if its entries are not what the totals say.
    pub fn find_broken(&self) -> Result<Option<usize>, Reentered> {
        let _guard = self.lock()?;
        // Ordering: Relaxed, the lock orders it.
        let at = self.table.load(Ordering::Relaxed);
        let (mut live, mut bytes) = (0, 0);
        for slot in table_at(at).iter().filter(|slot| slot.address() > TOMBSTONE) {
            if self.find(slot.address()).is_none_or(|found| !core::ptr::eq(found, slot)) {
                return Ok(Some(slot.address()));
            }
            (live, bytes) = (live + 1, bytes + slot.len());
        }
        Ok(((live, bytes) != (self.live.get(), self.bytes.get())).then_some(at))
    }

    /// Address of the table's mapping, for tests.
    #[doc(hidden)]
    pub fn table(&self) -> usize {
        // Ordering: Relaxed, a number that stands alone.
        self.table.load(Ordering::Relaxed)
    }

    /// The lock, for fork.
    pub fn raw_lock(&self) -> &Lock {
        &self.lock
    }

    fn find(&self, address: usize) -> Option<&'static Slot> {
        // A program may ask for any address: one that is no span's but is a mark of the table would be found.
        if address <= TOMBSTONE {
            return None;
        }
        // Ordering: Acquire pairs with the Release in `rebuild`.
        let table = table_at(self.table.load(Ordering::Acquire));
        let mut index = hash(address, table.len())?;
        loop {
            match table[index].address() {
                0 => return None,
                found if found == address => return Some(&table[index]),
                _ => index = (index + 1) % table.len(),
            }
        }
    }

    /// The lock is held and there is room.
    fn insert(&self, address: usize, len: usize) -> &'static Slot {
        // Ordering: Relaxed, the lock orders it.
        let table = table_at(self.table.load(Ordering::Relaxed));
        let (slot, was_free) = put_in(table, address, len);
        sanitizer::mapping_begins(address, len);
        self.used.set(self.used.get() + usize::from(was_free));
        self.live.set(self.live.get() + 1);
        self.bytes.set(self.bytes.get() + len);
        slot
    }

    fn remove(&self, slot: &Slot) {
        sanitizer::mapping_ends(slot.address(), slot.len());
        // Ordering: Relaxed, a tombstone carries nothing.
        slot.address.store(TOMBSTONE, Ordering::Relaxed);
        self.live.set(self.live.get() - 1);
        self.bytes.set(self.bytes.get() - slot.len());
    }

    /// Keeps the table at most half full (I1), for one more entry. The lock is held.
    fn make_room(&self) -> bool {
        // Ordering: Relaxed, the lock orders it.
        let old = self.table.load(Ordering::Relaxed);
        let slots = table_at(old).len();
        (self.used.get() + 1) * 2 <= slots || self.rebuild(old, slots).is_some()
    }

    /// Replaces the table by one without tombstones, of the same size or larger. None if the OS refuses.
    #[cold]
    fn rebuild(&self, old: usize, slots: usize) -> Option<()> {
        let grown = slots.max((self.live.get() + 1).next_power_of_two() * 4).max(HUGE_SLOTS);
        let reused = self.spare.get();
        let fresh = match grown == slots && reused != 0 {
            true => reused,
            false => os::map(Place::Anywhere, table_bytes(grown)).ok()?,
        };
        // Ordering: Release pairs with the Acquire in `len_of`: a thread that sees this number sees the table that
        // is current now, or a later one.
        self.generation.fetch_add(1, Ordering::Release);
        // Ordering: Release, pairs with the fence in `len_of`: before any table gets other contents (I2).
        fence(Ordering::Release);
        // SAFETY: the mapping begins with a slot, by I2 mapped for ever.
        let head = unsafe { &*(fresh as *const Slot) };
        // Ordering: Relaxed, published by the table's address.
        head.len.store(grown, Ordering::Relaxed);
        let table = table_at(fresh);
        if fresh == reused {
            // Ordering: Relaxed, as above.
            table.iter().for_each(|slot| slot.address.store(0, Ordering::Relaxed));
        }
        for slot in table_at(old).iter().filter(|slot| slot.address() > TOMBSTONE) {
            put_in(table, slot.address(), slot.len());
        }
        // Ordering: Release publishes the whole table to `find`.
        self.table.store(fresh, Ordering::Release);
        self.used.set(self.live.get());
        self.spare.set(if grown == slots { old } else { 0 });
        if grown > slots && old != 0 {
            // SAFETY: outgrown; who still looks into it finds nothing there, and looks again.
            unsafe {
                os::give_back(old + os::page_bytes(), table_bytes(slots) - os::page_bytes());
            }
        }
        Some(())
    }
}

impl Slot {
    fn address(&self) -> usize {
        // Ordering: Acquire pairs with the Release in `put_in`.
        self.address.load(Ordering::Acquire)
    }

    fn len(&self) -> usize {
        // Ordering: Relaxed, the address acquired it, or its owner knows of it from `put_in`.
        self.len.load(Ordering::Relaxed)
    }
}

/// Maps `len` bytes, whole OS pages, at a multiple of `align`.
fn map_span(len: usize, align: usize) -> Option<usize> {
    match align <= os::page_bytes() {
        true => os::map(Place::Anywhere, len).ok(),
        false => map_aligned(len, align.max(PAGE_BYTES)),
    }
}

/// Resizes a mapping to at least `bytes`, moving it if it must; where it is, and how long. None if the OS refuses.
///
/// # Safety
/// 1. As for [`os::remap`].
unsafe fn remap(address: usize, old: usize, bytes: usize) -> Option<(usize, usize)> {
    let is_dense = bytes / os::huge_page_bytes() >= DENSE_HUGE_PAGES;
    // Whole huge pages: the kernel keeps such a length aligned, and so moves them whole. And the last one
    // stays whole when little is given back.
    let unit = if is_dense { os::huge_page_bytes() } else { os::page_bytes() };
    let rounded = bytes.checked_next_multiple_of(unit)?;
    let len = if bytes > old { rounded } else { rounded.min(old) };
    if len == old {
        return Some((address, old));
    }
    // SAFETY: duty 1.
    let moved = unsafe { os::remap(address, old, len) }.ok()?;
    if is_dense && len > old {
        os::want_huge_pages(moved, len);
    }
    Some((moved, len))
}

/// The slots of the table at `address`; none at 0.
fn table_at(address: usize) -> Table {
    if address == 0 {
        return &[];
    }
    // SAFETY: I2: the mapping begins with a slot that holds the number of those behind it.
    unsafe {
        let head = address as *const Slot;
        core::slice::from_raw_parts(head.add(1), (*head).len())
    }
}

fn table_bytes(slots: usize) -> usize {
    ((slots + 1) * size_of::<Slot>()).next_multiple_of(os::page_bytes())
}

/// Enters a span; the slot, and whether it had been free. The table has room.
fn put_in(table: Table, address: usize, len: usize) -> (&'static Slot, bool) {
    let mut index = hash(address, table.len()).unwrap_or(0);
    while table[index].address() > TOMBSTONE {
        index = (index + 1) % table.len();
    }
    let slot = &table[index];
    let was_free = slot.address() == 0;
    // Ordering: Relaxed, published by the address.
    slot.len.store(len, Ordering::Relaxed);
    // Ordering: Release pairs with the Acquire in `Slot::address`.
    slot.address.store(address, Ordering::Release);
    (slot, was_free)
}

/// Where a span's look-up begins in a table of so many slots.
pub(crate) fn hash(address: usize, slots: usize) -> Option<usize> {
    let mixed = (address >> 12).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    (slots != 0).then(|| mixed % slots)
}
