//! Sampled guard pages (GWP-ASan): a pool of a few objects, each on a page of its own between inaccessible pages.
//!
//! An access past such an object's page, or after its free, faults at that very instruction, and [`fault`] names it. A write
//! inside the page is found when the object is freed. The pool exists on request only (`guard:N`). It takes no lock, so
//! it is safe in handlers and across fork: an operation that never continues loses one slot.
//!
//! ```text
//! | sealed | page 0: ....object | sealed | page 1: object.... | sealed | ...
//! ```
//!
//! Invariants:
//! I1. The page of a slot is open while it is `LIVE`; while `BUSY`, its holder opens or seals it; otherwise it is sealed, unless
//!     the OS refused.
//! I2. The page's bytes outside a live object are `PATTERN`.
//! I3. A slot rests for at least half a round of the pool before it is used again.

mod fault;

use crate::arch;
use crate::atomic::{AtomicUsize, Ordering};
use crate::fail::{Misuse, deny, fail};
use crate::object::{Memory, Object};
use crate::os;
use crate::parts;
use crate::profile;
use crate::sanitizer;
use crate::sums::Column;
use core::ops::Range;

/// Slots of the pool.
pub const SLOTS: usize = 128;
/// Slots that one allocation tries.
const ATTEMPTS: usize = 8;
const PATTERN: u8 = 0xAB;

/// States of a slot; `REST` and above are `REST` plus the ticket at which it was freed.
const UNUSED: usize = 0;
const BUSY: usize = 1;
/// Of a slot with a live object.
pub const LIVE: usize = 2;
const REST: usize = 3;

struct Slot {
    state: AtomicUsize,
    object: AtomicUsize,
    size: AtomicUsize,
    /// The stack of the last allocation, and of the free behind it; see `profile::stack_here`.
    allocated_by: AtomicUsize,
    freed_by: AtomicUsize,
}

static POOL: [Slot; SLOTS] = [const {
    Slot {
        state: AtomicUsize::new(UNUSED),
        object: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        allocated_by: AtomicUsize::new(0),
        freed_by: AtomicUsize::new(0),
    }
}; SLOTS];

/// Where the pool lies; 0: nowhere.
static BASE: AtomicUsize = AtomicUsize::new(0);
/// One in how many calls gets a guarded object.
static EVERY: AtomicUsize = AtomicUsize::new(0);
/// Slots tried since start.
static TICKETS: AtomicUsize = AtomicUsize::new(0);

/// Has one of `every` calls get a guarded object, 0: none. The first time, creates the pool and installs the handler of faults;
/// false if the OS refuses the memory, or the part is left out. For init, or one thread at a time.
pub fn sample(every: usize) -> bool {
    if !parts::GUARD {
        return every == 0;
    }
    // Ordering: Relaxed, this thread alone stores.
    let is_open = every == 0 || BASE.load(Ordering::Relaxed) != 0 || open();
    // Ordering: Release publishes the pool to `tick`.
    EVERY.store(if is_open { every } else { 0 }, Ordering::Release);
    is_open
}

fn open() -> bool {
    let Ok(base) = os::map_sealed(pool_bytes()) else { return false };
    sanitizer::add_root(base, pool_bytes());
    // Without the memory for them, a report has no stacks.
    let _ = profile::prepare();
    fault::install();
    // Last: the child of a fork that comes before does all of it again. Ordering: Release, behind the above; published by `EVERY`,
    // and to owners of objects with these.
    BASE.store(base, Ordering::Release);
    true
}

/// Whether calls get guarded objects.
pub fn is_sampling() -> bool {
    // Ordering: Relaxed, a hint.
    EVERY.load(Ordering::Relaxed) != 0
}

/// Tells a leak checker of the pool.
pub fn name_root() {
    // Ordering: Relaxed, published by init's READY.
    let base = BASE.load(Ordering::Relaxed);
    if parts::GUARD && base != 0 {
        sanitizer::add_root(base, pool_bytes());
    }
}

fn pool_bytes() -> usize {
    (2 * SLOTS + 1) * os::page_bytes()
}

/// The states of the slots and the size of the first one's object; the others lie as far apart. For `publish`.
pub const fn counters() -> (Column<AtomicUsize>, &'static AtomicUsize) {
    let Slot { state, size, .. } = &POOL[0];
    (Column { first: state, stride: core::mem::size_of::<Slot>(), count: SLOTS }, size)
}

/// Counts a call of the thread; whether it gets a guarded object.
#[inline]
pub fn tick() -> bool {
    // Ordering: Acquire pairs with the Release in `sample`.
    let every = EVERY.load(Ordering::Acquire);
    parts::GUARD && every != 0 && count_down(every)
}

fn count_down(every: usize) -> bool {
    let word = arch::guard_countdown();
    // Ordering: Relaxed, the thread's own word; a handler in between loses or adds one sample.
    let left = match word.load(Ordering::Relaxed) {
        0 => distance(every),
        left => left,
    };
    let next = if left == 1 { distance(every) } else { left - 1 };
    word.store(next, Ordering::Relaxed); // Ordering: Relaxed, as above.
    left == 1
}

/// Calls to the next sample, `every` on average; a constant number would always sample the same place of a loop.
fn distance(every: usize) -> u32 {
    // Ordering: Relaxed, any number does.
    let seed = arch::thread_id() ^ TICKETS.load(Ordering::Relaxed) << 20;
    let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
    (1 + random % (2 * every - 1)) as u32
}

/// An object of `size` bytes at `align` on a page of its own, which reads as zero. None if the object does not fit a page, or
/// the slots tried are in use or at rest.
pub fn allocate(size: usize, align: usize) -> Option<Object> {
    let page = os::page_bytes();
    let align = align.max(if size <= 8 { 8 } else { 16 });
    if size > page || align > page {
        return None;
    }
    let (index, round) = claim()?;
    let start = page_of(index);
    // SAFETY: the slot is this call's, and so is its sealed page (I1).
    if unsafe { os::unseal(start, page) }.is_err() {
        // Ordering: Release, gives the slot back.
        POOL[index].state.store(UNUSED, Ordering::Release);
        return None;
    }
    // At the end of its page, in the next round at the start.
    let offset =
        if (round + index).is_multiple_of(2) { (page - size.max(1)) & !(align - 1) } else { 0 };
    let slot = &POOL[index];
    // Ordering: Relaxed, published by the state.
    slot.object.store(start + offset, Ordering::Relaxed);
    slot.size.store(size, Ordering::Relaxed); // Ordering: Relaxed, as above.
    slot.allocated_by.store(profile::stack_here(), Ordering::Relaxed); // Ordering: Relaxed, as above.
    slot.freed_by.store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
    let (page, surroundings) = surroundings(slot, start);
    surroundings.into_iter().for_each(|range| page.fill(range, PATTERN));
    // Ordering: Release publishes the above.
    slot.state.store(LIVE, Ordering::Release);
    // SAFETY: the object of a slot that this call has claimed.
    unsafe { Object::from_address(start + offset) }
}

/// A slot for the caller, and the number of the round of the pool.
fn claim() -> Option<(usize, usize)> {
    for _ in 0..ATTEMPTS {
        // Ordering: Relaxed, a number.
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
        let (slot, round) = (ticket % SLOTS, ticket / SLOTS);
        // Ordering: Relaxed, the exchange acquires.
        let state = POOL[slot].state.load(Ordering::Relaxed);
        let rested = state >= REST && ticket.saturating_sub(state - REST) >= SLOTS / 2;
        if (state == UNUSED || rested) && change(slot, state, BUSY) {
            return Some((slot, round));
        }
    }
    None
}

fn change(slot: usize, from: usize, to: usize) -> bool {
    let state = &POOL[slot].state;
    // Ordering: AcqRel, the state owns the page and the rest of the slot; Relaxed on failure reads nothing.
    state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

fn page_of(slot: usize) -> usize {
    // Ordering: Relaxed, a constant by now.
    BASE.load(Ordering::Relaxed) + (2 * slot + 1) * os::page_bytes()
}

/// The page of a slot, and the bytes of it in front of and behind the slot's object, which only the pool uses. The caller
/// owns the slot.
fn surroundings(slot: &Slot, page: usize) -> (Memory, [Range<usize>; 2]) {
    // Ordering: Relaxed, the caller owns the slot.
    let (object, size) = (slot.object.load(Ordering::Relaxed), slot.size.load(Ordering::Relaxed));
    let (start, len) = (object - page, os::page_bytes());
    // SAFETY: I1: the page is open.
    (unsafe { Memory::new(page, len) }, [0..start, start + size..len])
}

/// Whether the address lies in the pool.
#[inline]
pub fn owns(address: usize) -> bool {
    // Ordering: Relaxed, a constant by now.
    let base = BASE.load(Ordering::Relaxed);
    parts::GUARD && base != 0 && address.wrapping_sub(base) < pool_bytes()
}

/// The slot on whose page `address`, in the pool, lies; none for an inaccessible page.
fn slot_at(address: usize) -> Option<usize> {
    // Ordering: Relaxed, a constant by now.
    let page = (address - BASE.load(Ordering::Relaxed)) / os::page_bytes();
    (page % 2 == 1).then_some(page / 2)
}

/// Bytes of the live object at `address` in the pool. Ends the process if there is none, with `of_freed` if there was one.
pub fn size_of(address: usize, of_freed: Misuse) -> usize {
    let Some(slot) = slot_at(address).map(|index| &POOL[index]) else {
        fail(Misuse::InnerPointer, address)
    };
    // Ordering: Acquire pairs with the Release in `allocate`.
    let state = slot.state.load(Ordering::Acquire);
    // Ordering: Relaxed, acquired by the state.
    let object = slot.object.load(Ordering::Relaxed);
    deny(state == UNUSED, Misuse::NeverAllocated, address);
    deny(object != address, Misuse::InnerPointer, address);
    deny(state != LIVE, of_freed, address);
    slot.size.load(Ordering::Relaxed) // Ordering: Relaxed, as above.
}

/// Frees the object at `address` in the pool; ends the process if there is none.
///
/// # Safety
/// 1. The caller gives up the object there, if there is one.
pub unsafe fn free(address: usize) {
    size_of(address, Misuse::DoubleFree);
    let Some(index) = slot_at(address) else { return };
    if !change(index, LIVE, BUSY) {
        // Another thread freed it since `size_of`.
        return deny(true, Misuse::DoubleFree, address);
    }
    let (slot, page) = (&POOL[index], page_of(index));
    // Ordering: Relaxed, `change` acquired it.
    if slot.object.load(Ordering::Relaxed) != address {
        // Another thread freed it since `size_of`, and the slot has been used again: that object stays.
        // Ordering: Release gives the slot back.
        slot.state.store(LIVE, Ordering::Release);
        return deny(true, Misuse::DoubleFree, address);
    }
    let (bytes, [before, behind]) = surroundings(slot, page);
    deny(!bytes.is_filled(behind, PATTERN), Misuse::PastEnd, address);
    deny(!bytes.is_filled(before, PATTERN), Misuse::BeforeStart, address);
    slot.freed_by.store(profile::stack_here(), Ordering::Relaxed); // Ordering: Relaxed, the slot is this call's.
    // SAFETY: the page is the slot's, which this call owns. If the OS refuses, the page stays open, and a use after free may
    // go unnoticed.
    let _ = unsafe { os::seal(page, os::page_bytes()) };
    // Ordering: Relaxed, a number.
    let ticket = TICKETS.load(Ordering::Relaxed);
    // Ordering: Release gives the slot up.
    slot.state.store(REST + ticket, Ordering::Release);
}
