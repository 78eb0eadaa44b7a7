//! Huge spans: objects above `SPAN_MAX_PAGES`, each in a mapping of its own.
//!
//! Their memory comes zeroed, and goes straight back to the OS. Growth moves page tables, not bytes (mremap), and what grows large
//! gets huge pages. Each operation costs a system call, so one lock serves all. The owner of a span finds its length without the
//! lock, in a signal handler on top of a holder too.
//!
//! Invariants:
//! I1. The table has one entry for each live huge span, except those on the deferred lists. It is at most half full.
//! I2. A table is complete before it becomes the current one. It gets other contents, or none, only after `generation` has
//!     changed.

#[forbid(unsafe_code)]
mod deferred;
mod table;

use super::PAGE_HEAP;
use super::growth::map_aligned;
use crate::atomic::{AtomicUsize, HUGE_SLOTS, Ordering, fence};
use crate::fail::{Misuse, fail};
use crate::object::Object;
use crate::os::{self, Place};
use crate::sanitizer;
use crate::sync::{Backoff, Guard, Guarded, Lock, Rank, Reentered, WaitBudget};
use crate::units::PAGE_BYTES;
pub use deferred::Places;

use deferred::DeferredSpans;
use table::{Slot, Table};

#[doc(hidden)]
pub use table::hash;

/// From so many huge pages on, lengths are rounded up to whole huge pages; at most 1/16 is wasted.
const DENSE_HUGE_PAGES: usize = 16;

/// All huge spans of the process; all zeroes is valid.
pub struct HugeSpans {
    lock: Lock,
    /// Address of the current table's mapping; 0 before the first span.
    table: AtomicUsize,
    /// How often the table has been replaced.
    generation: AtomicUsize,
    /// Address of a former table of the same size, or 0.
    spare: Guarded,
    /// Slots that are not free, tombstones included.
    used: Guarded,
    live: Guarded,
    bytes: Guarded,
    /// The most bytes at once.
    peak: Guarded,
    deferred: DeferredSpans,
}

/// The one set of huge spans.
pub static HUGE: HugeSpans = HugeSpans {
    lock: Lock::new(),
    table: AtomicUsize::new(0),
    generation: AtomicUsize::new(0),
    spare: Guarded::new(0),
    used: Guarded::new(0),
    live: Guarded::new(0),
    bytes: Guarded::new(0),
    peak: Guarded::new(0),
    deferred: DeferredSpans::new(),
};

impl HugeSpans {
    /// Maps a span of at least `bytes` at a multiple of `align`, which reads as zero. None if the OS refuses, or
    /// the hard limit does.
    pub fn acquire(&self, bytes: usize, align: usize) -> Option<Object> {
        let len = bytes.checked_next_multiple_of(os::page_bytes())?;
        let _admission = PAGE_HEAP.admit(len)?;
        // Without the lock: the system call may take long.
        let address = map_span(len, align).or_else(|| {
            // Spans that were released without the lock still occupy their addresses.
            if !self.deferred.has_released() {
                return None;
            }
            self.collect();
            map_span(len, align)
        })?;
        let is_listed = match self.lock() {
            Ok(_guard) => self.enter(address, len).is_some(),
            Err(_) => self.deferred.insert(address, len) || self.insert_with(address, len),
        };
        if !is_listed {
            // SAFETY: mapped above, known to no other code.
            unsafe { os::unmap(address, len) };
            return None;
        }
        // SAFETY: the span is this call's alone.
        unsafe { Object::from_address(address) }
    }

    /// In a handler, when the deferred list is full: a holder in another thread will soon be done.
    #[cold]
    fn insert_with(&self, address: usize, len: usize) -> bool {
        let mut backoff = Backoff::usual();
        let guard = self.lock.acquire_with(Rank::HUGE, &mut backoff);
        guard.is_some_and(|_guard| self.enter(address, len).is_some())
    }

    /// Enters a span, if there is memory for the table. The lock is held.
    fn enter(&self, address: usize, len: usize) -> Option<&'static Slot> {
        self.ensure_space().then(|| self.insert(address, len))
    }

    /// Unmaps the span at `address`; false if there is none.
    ///
    /// # Safety
    /// 1. The caller holds the span, if there is one, and gives it up.
    pub unsafe fn release(&self, address: usize) -> bool {
        if let Some(len) = self.deferred.remove(address) {
            // SAFETY: duty 1.
            unsafe { os::unmap(address, len) };
            return true;
        }
        if let Ok(guard) = self.lock() {
            let Some(len) = self.forget(address) else { return false };
            // Other threads must not wait until the kernel has taken gigabytes back.
            drop(guard);
            // SAFETY: duty 1; the table has no entry of it any more.
            unsafe { os::unmap(address, len) };
            return true;
        }
        let Some(len) = self.len_of(address) else { return false };
        // The memory goes back at once, since the lock's next holder may come late; and before the list names the span.
        // SAFETY: duty 1.
        unsafe { os::give_back(address, len) };
        // If the list is full the mapping stays, unused, and so does its entry.
        let _ = self.deferred.release(address);
        true
    }

    /// Unmaps the spans that were released where the lock could not be had.
    pub fn collect(&self) {
        drop(self.lock());
    }

    /// Takes the lock, and works off the deferred lists.
    fn lock(&self) -> Result<Guard<'_>, Reentered> {
        let guard = self.lock.acquire(Rank::HUGE)?;
        self.deferred
            .move_created(|address, len| self.enter(address, len), |slot| self.remove(slot));
        for address in self.deferred.take_released() {
            let Some(len) = self.forget(address) else { fail(Misuse::ForeignPointer, address) };
            // SAFETY: its holder gave it up. Its memory went back at that time, so this is short.
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

    /// Resizes the span at `address`, moving it if needed, and returns its new address. None if there is none, or the OS or the hard limit refuses;
    /// the span is unchanged then.
    ///
    /// # Safety
    /// 1. The caller holds the span, if there is one, and gives up its old address if the new one is another.
    pub unsafe fn resize(&self, address: usize, bytes: usize) -> Option<usize> {
        let more = bytes.saturating_sub(self.len_of(address)?);
        let _admission = PAGE_HEAP.admit(more)?;
        // To wait for another thread's lock is cheaper than to copy so many bytes.
        let _budget = WaitBudget::unbounded();
        let _guard = self.lock().ok()?;
        if !self.ensure_space() {
            return None;
        }
        let slot = self.find(address)?;
        // SAFETY: duty 1.
        let (moved, len) = unsafe { remap(address, slot.len(), bytes) }?;
        self.remove(slot);
        self.insert(moved, len);
        Some(moved)
    }

    /// Moves the memory of `old_bytes` at `address` into a new huge span of at least `bytes`, and returns the span's address; the
    /// old range stays mapped. None if the OS refuses; nothing has changed then.
    ///
    /// # Safety
    /// 1. The caller holds that memory, whole OS pages.
    pub unsafe fn take_over(
        &self,
        address: usize,
        old_bytes: usize,
        bytes: usize,
    ) -> Option<usize> {
        let _admission = PAGE_HEAP.admit(bytes.saturating_sub(old_bytes))?;
        let _guard = self.lock().ok()?;
        if !self.ensure_space() {
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
                // SAFETY: both ranges are mapped, don't overlap and are this call's alone.
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
            if let Some(len) = self.deferred.len_of(address) {
                return Some(len);
            }
            let len = self.find(address).map(Slot::len);
            // The answer holds if the table was the current one all the while: that has the owner's span (I1), which only the
            // owner changes. A former table may have got other contents, even between the loads of an address and its length.
            // Ordering: Acquire, with the Relaxed load: if a word was read of a table that is in use again, the load returns the
            // new generation (I2).
            fence(Ordering::Acquire);
            if self.generation.load(Ordering::Relaxed) == generation {
                return len;
            }
        }
    }

    /// Whether `address` lies in a span; false if the lock can't be had. For the name of a misuse.
    pub fn covers(&self, address: usize) -> bool {
        let _budget = WaitBudget::unbounded();
        let Ok(_guard) = self.lock() else { return false };
        self.current_table().spans().any(|slot| address.wrapping_sub(slot.address()) < slot.len())
    }

    /// Tells a leak checker of the spans.
    pub fn name_roots(&self) {
        let Ok(_guard) = self.lock() else { return };
        self.current_table()
            .spans()
            .for_each(|slot| sanitizer::add_root(slot.address(), slot.len()));
    }

    /// Bytes of the spans in the table; a snapshot.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Number of the spans in the table; a snapshot.
    pub fn live(&self) -> usize {
        self.live.get()
    }

    /// Number and bytes of the spans in the table, and the places of those on the deferred list, for `publish`.
    pub const fn counters(&'static self) -> (&'static Guarded, &'static Guarded, Places) {
        (&self.live, &self.bytes, self.deferred.places())
    }

    /// The most bytes at once, for `publish`.
    pub const fn peak(&'static self) -> &'static Guarded {
        &self.peak
    }

    /// The word with the address of the current table; bytes of a slot, where in it the address and the length are, and the
    /// highest address that is a mark: for `publish`.
    pub const fn table_layout(&'static self) -> (&'static AtomicUsize, [usize; 3], usize) {
        (&self.table, Slot::LAYOUT, table::TOMBSTONE)
    }

    /// For the validator: the address of a span that a look-up misses, or of the table if its entries don't add up to the totals.
    pub fn find_broken(&self) -> Result<Option<usize>, Reentered> {
        let _guard = self.lock()?;
        let (mut live, mut bytes) = (0, 0);
        for slot in self.current_table().spans() {
            if self.find(slot.address()).is_none_or(|found| !core::ptr::eq(found, slot)) {
                return Ok(Some(slot.address()));
            }
            (live, bytes) = (live + 1, bytes + slot.len());
        }
        Ok(((live, bytes) != (self.live.get(), self.bytes.get())).then(|| self.table()))
    }

    /// Address of the table's mapping, for tests.
    #[doc(hidden)]
    pub fn table(&self) -> usize {
        // Ordering: Relaxed, a number that stands alone.
        self.table.load(Ordering::Relaxed)
    }

    /// The lock, for a fork.
    pub fn raw_lock(&self) -> &Lock {
        &self.lock
    }

    #[inline(never)]
    fn find(&self, address: usize) -> Option<&'static Slot> {
        // Ordering: Acquire pairs with the Release in `rebuild`.
        let table = self.table.load(Ordering::Acquire);
        // SAFETY: the address of a table.
        unsafe { Table::at(table) }.find(address)
    }

    /// The current table. The lock is held.
    fn current_table(&self) -> Table {
        // SAFETY: the address of a table.
        unsafe { Table::at(self.table()) }
    }

    /// The lock is held and the table has space.
    #[inline(never)]
    fn insert(&self, address: usize, len: usize) -> &'static Slot {
        let (slot, was_free) = self.current_table().insert(address, len);
        sanitizer::mapping_begins(address, len);
        self.used.set(self.used.get() + usize::from(was_free));
        self.live.set(self.live.get() + 1);
        self.bytes.set(self.bytes.get() + len);
        self.peak.set(self.peak.get().max(self.bytes.get()));
        slot
    }

    fn remove(&self, slot: &Slot) {
        sanitizer::mapping_ends(slot.address(), slot.len());
        slot.bury();
        self.live.set(self.live.get() - 1);
        self.bytes.set(self.bytes.get() - slot.len());
    }

    /// Keeps the table at most half full (I1), with one more entry. The lock is held.
    fn ensure_space(&self) -> bool {
        let slots = self.current_table().len();
        (self.used.get() + 1) * 2 <= slots || self.rebuild(slots).is_some()
    }

    /// Replaces the table, of so many slots, by one without tombstones, of the same size or larger. None if the OS refuses.
    #[cold]
    fn rebuild(&self, slots: usize) -> Option<()> {
        let old = self.table();
        let grown = slots.max((self.live.get() + 1).next_power_of_two() * 4).max(HUGE_SLOTS);
        let reused = self.spare.get();
        let fresh = match grown == slots && reused != 0 {
            true => reused,
            false => Table::map(grown)?,
        };
        // Ordering: Release pairs with the Acquire in `len_of`: a thread that sees this number sees the table that
        // is current now, or a later one.
        self.generation.fetch_add(1, Ordering::Release);
        // Ordering: Release, pairs with the fence in `len_of`: before any table gets other contents (I2).
        fence(Ordering::Release);
        // SAFETY: addresses of tables.
        let (table, old_table) = unsafe { (Table::at(fresh), Table::at(old)) };
        if fresh == reused {
            table.clear();
        }
        for slot in old_table.spans() {
            table.insert(slot.address(), slot.len());
        }
        // Ordering: Release publishes the complete table to `find`.
        self.table.store(fresh, Ordering::Release);
        self.used.set(self.live.get());
        self.spare.set(if grown == slots { old } else { 0 });
        if grown > slots && old != 0 {
            // SAFETY: it has just been replaced.
            unsafe { Table::give_back(old, slots) };
        }
        Some(())
    }
}

/// Maps `len` bytes, whole OS pages, at a multiple of `align`.
fn map_span(len: usize, align: usize) -> Option<usize> {
    match align <= os::page_bytes() {
        true => os::map(Place::Anywhere, len).ok(),
        false => map_aligned(len, align.max(PAGE_BYTES)),
    }
}

/// Resizes a mapping to at least `bytes`, moving it if needed; its address and length. None if the OS refuses.
///
/// # Safety
/// 1. As for [`os::remap`].
unsafe fn remap(address: usize, old: usize, bytes: usize) -> Option<(usize, usize)> {
    let is_dense = bytes / os::huge_page_bytes() >= DENSE_HUGE_PAGES;
    // The kernel keeps a length of whole huge pages aligned, and so moves them whole. And the last one stays whole when little is
    // given back.
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
