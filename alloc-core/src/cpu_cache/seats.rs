//! Who has which seat and which region: biased shards for threads without rseq.
//!
//! Promises: memory grows with processors, not with threads: a seat comes back when its owner's thread ends, a
//! region when its owner is idle and another thread wants one. At any instant all seats can be closed from
//! outside, and then their regions are the caller's alone. Nobody waits for a seat: who has none takes a lock.
//! No system call but the barrier: an owner says itself that it ends, by a destructor of thread-specific data,
//! where asking the kernel (tgkill) would be what filters kill for. A thread that ends without its
//! destructors (a raw `exit`) keeps its seat, 128 bytes, for ever; its region is idle.
//! Called by the slow twins, cpu_cache, the observers and fork; calls `seat`, `cpus`, os and membarrier.
//!
//! Invariants:
//! I1. A seat has one owner until that one has left or, after a fork, is in another process: a thread that was
//!     held up between finding its seat and writing to it writes to nobody else's. The owner is a thread by its
//!     thread-local words: a child of vfork, which has its parent's, has its parent's seat.
//! I2. A region is lent to one seat or to none. Its seat shows it, or nothing.
//! I3. All but what the owners do (seat I1) changes under LOCK.

use super::seat::{Seat, is_odd};
use super::{cpus, shards};
use crate::arch;
use crate::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use crate::os;
use crate::region::Region;
use crate::rseq::abi::membarrier;
use crate::sync::{Backoff, Guarded, Guarded32, Lock, Rank};
use core::ptr;

/// Threads that can have a seat at once.
const SEATS_MAX: usize = 1024;
/// The most regions that are lent.
const LOANS_MAX: usize = 192;

/// Slow calls of a thread without a region before it asks for one, so that a short life costs nothing; and
/// before it asks again if it got none.
const FIRST_CALLS: u32 = 32;
const AGAIN_CALLS: u32 = 256;
/// Of a thread whose destructor has run: it asks no more.
const NO_MORE_CALLS: u32 = u32::MAX;
/// Seats that are looked at for a free one or one that was left before one more is used.
const PROBES: usize = 4;
/// Microseconds between two looks at who is idle: a small part of a time slice, and many times a barrier.
const LOOK_US: usize = 200;

/// A seat and what is known of it.
#[repr(align(128))] // As in `locked`.
struct Place {
    seat: Seat,
    /// Its turn when it was last looked whether the owner is idle.
    seen: Guarded32,
    /// FREE, OWNED or LEFT.
    owner: AtomicU32,
    /// Number of the loan, from 1, that the owner has; 0 if none.
    loan: Guarded,
}

/// The life of a seat: free, under the lock; owned; left by its owner, which does so without the lock.
const FREE: u32 = 0;
const OWNED: u32 = 1;
const LEFT: u32 = 2;

static PLACES: [Place; SEATS_MAX] = [const { Place::new() }; SEATS_MAX];
/// Seats that ever had an owner: the first ones.
static USED: Guarded = Guarded::new(0);
/// The seat that is looked at next.
static HAND: Guarded = Guarded::new(0);

/// A region, and the number from 1 of the seat that has it; 0: nobody's.
struct Loan {
    region: AtomicPtr<Region>,
    holder: Guarded,
}

static LOANS: [Loan; LOANS_MAX] =
    [const { Loan { region: AtomicPtr::new(ptr::null_mut()), holder: Guarded::new(0) } };
        LOANS_MAX];
/// Regions that were made, and that may be for each CPU: with a limit of 0 no thread has a seat.
static MADE: Guarded = Guarded::new(0);
static LIMIT: Guarded = Guarded::new(0);
static OPEN: AtomicBool = AtomicBool::new(false);

/// The key of thread-specific data whose destructor says that the owner ends.
static KEY: Guarded32 = Guarded32::new(0);
/// When the idle ones were looked for.
static LOOKED: Guarded = Guarded::new(0);

static LOCK: Lock = Lock::new();

/// Lets threads have seats, with at most `each_cpu` regions for each CPU, if the kernel has the barrier; whether
/// it has. For init.
pub fn open(each_cpu: usize) -> bool {
    if !membarrier::register_plain() {
        return false;
    }
    let Some(key) = os::make_thread_end_key(leave) else { return false };
    KEY.set(key);
    LIMIT.set(each_cpu);
    // Ordering: Release publishes the key and the limit to a thread that comes to the lock before this one.
    OPEN.store(true, Ordering::Release);
    // The one thread of most programs asks for nothing later, when a filter may be in place.
    sit();
    true
}

/// The calling thread's seat, if it ever got one.
#[inline]
pub fn mine() -> Option<&'static Seat> {
    my_place().map(|place| &place.seat)
}

#[inline]
fn my_place() -> Option<&'static Place> {
    // Ordering: Relaxed, the thread's own word.
    let place = arch::seat().load(Ordering::Relaxed) as *const Place;
    // SAFETY: null, or one of PLACES by `sit`.
    unsafe { place.as_ref() }
}

/// Whether the calling thread can use its seat now; asks for one now and then.
#[inline]
pub fn is_seated() -> bool {
    // Both are hints; each operation looks itself.
    mine().is_some_and(|seat| !is_odd(seat.turn()) && !seat.is_hidden()) || is_due() && sit()
}

/// Whether a thread without a seat should ask for one.
fn is_due() -> bool {
    // Ordering: Acquire pairs with the Release in `open`.
    if !OPEN.load(Ordering::Acquire) {
        return false;
    }
    let calls = arch::seat_countdown();
    // Ordering: Relaxed, as above. A handler in between makes it a few calls more or less.
    let left = match calls.load(Ordering::Relaxed) {
        NO_MORE_CALLS => return false,
        0 => FIRST_CALLS,
        left => left,
    };
    // Ordering: Relaxed, as above.
    calls.store(if left == 1 { AGAIN_CALLS } else { left - 1 }, Ordering::Relaxed);
    left == 1
}

/// Gives the calling thread a seat with a region, if there is one to be had without waiting.
#[cold]
pub(crate) fn sit() -> bool {
    let had_place = my_place().is_some();
    let is_seated = sit_down();
    // Without the lock: libc may allocate for it.
    if let Some(place) = my_place().filter(|_| !had_place)
        && !os::call_at_thread_end(KEY.get(), ptr::from_ref(place) as usize)
    {
        get_up(place);
        return false;
    }
    is_seated
}

fn sit_down() -> bool {
    let Some(_guard) = LOCK.try_acquire(Rank::SEATS) else { return false };
    // Under the lock: a handler may have got one since the caller looked. And a handler on top of an operation
    // must leave the seat closed, or not, as it is.
    match my_place() {
        Some(place) if is_odd(place.seat.turn()) => return false,
        Some(place) if place.loan.get() != 0 => return true,
        _ => {}
    }
    let Some(place) = my_place().or_else(take_place) else { return false };
    // Ordering: Relaxed, the thread's own words.
    arch::seat().store(ptr::from_ref(place) as usize, Ordering::Relaxed);
    let Some(loan) = find_loan() else { return false };
    place.take(loan);
    arch::seat_countdown().store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
    true
}

/// The number, from 1, of a region that is nobody's: a free one, a new one, an idle thread's.
fn find_loan() -> Option<usize> {
    free_loan().or_else(make_region).or_else(|| {
        take_from_idle();
        free_loan()
    })
}

fn free_loan() -> Option<usize> {
    holders().filter(|place| place.was_left()).for_each(Place::vacate);
    LOANS[..MADE.get()].iter().position(|loan| loan.holder.get() == 0).map(|index| index + 1)
}

fn make_region() -> Option<usize> {
    let made = MADE.get();
    if made >= (LIMIT.get() * cpus::mark_here()).min(LOANS_MAX) {
        return None;
    }
    let region = shards::new_region()?;
    // Ordering: Release, for observers without the lock.
    LOANS[made].region.store(ptr::from_ref(region).cast_mut(), Ordering::Release);
    MADE.set(made + 1);
    Some(made + 1)
}

/// A closed seat for the calling thread: a free one, one that was left, one more.
fn take_place() -> Option<&'static Place> {
    let used = USED.get();
    let found = (0..PROBES.min(used)).find_map(|_| {
        let place = &PLACES[HAND.get() % used];
        HAND.set(HAND.get() + 1);
        (!place.is_owned()).then_some(place)
    });
    let place = found.or_else(|| {
        let fresh = PLACES.get(used)?;
        USED.set(used + 1);
        Some(fresh)
    })?;
    place.vacate();
    place.own();
    Some(place)
}

/// At the end of a thread: its seat is free, and it gets none any more.
unsafe extern "C" fn leave(place: *mut libc::c_void) {
    // SAFETY: one of PLACES by `sit`.
    get_up(unsafe { &*place.cast::<Place>() });
}

/// The calling thread, the owner, has no seat from now on.
fn get_up(place: &Place) {
    // Ordering: Relaxed, the thread's own words; handlers that come in between find no seat, or this one whole.
    arch::seat_countdown().store(NO_MORE_CALLS, Ordering::Relaxed);
    arch::seat().store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
    // Ordering: Release: who sees it, sees the seat and the region as the owner left them.
    place.owner.store(LEFT, Ordering::Release);
}

/// Takes the regions of those that did nothing since the last look. Also a thread that waits for a
/// processor is idle, unless it has to wait in the middle of an operation.
fn take_from_idle() {
    let now = os::microseconds();
    if now.wrapping_sub(LOOKED.get()) < LOOK_US {
        return;
    }
    LOOKED.set(now);
    let mut idle = false;
    for place in holders() {
        let turn = place.seat.turn();
        if turn == place.seen.get() && !is_odd(turn) {
            place.seat.hide();
            idle = true;
        }
        place.seen.set(turn);
    }
    if !idle {
        return;
    }
    let fenced = membarrier::barrier();
    for place in holders().filter(|place| place.seat.is_hidden()) {
        // Who has begun since is not idle.
        if fenced && !is_odd(place.seat.turn()) { place.give_back() } else { place.show() }
    }
}

/// The seats that have a region.
fn holders() -> impl Iterator<Item = &'static Place> {
    let holders = LOANS[..MADE.get()].iter().map(|loan| loan.holder.get());
    holders.filter(|&holder| holder != 0).map(|holder| &PLACES[holder - 1])
}

/// Closes all seats and hands all their regions, which nobody else can touch meanwhile, to `f`; but those
/// whose owners stay in the middle of an operation for longer than `backoff`. None if the kernel has no
/// barrier, a handler came on top of the lock's holder, or another thread has it and there is no backoff:
/// nothing was closed then.
pub fn while_closed<R>(
    backoff: &mut Backoff,
    f: impl FnOnce(&mut dyn Iterator<Item = &'static Region>) -> R,
) -> Option<R> {
    let _guard = LOCK.acquire_or_try(Rank::SEATS, backoff)?;
    holders().for_each(|place| place.seat.hide());
    let result = (LIMIT.get() == 0 || membarrier::barrier()).then(|| {
        holders().filter(|place| !place.becomes_quiet(backoff)).for_each(Place::show);
        f(&mut LOANS[..MADE.get()].iter().filter(|loan| !loan.is_shown()).filter_map(Loan::region))
    });
    holders().for_each(Place::show);
    result
}

/// All regions of seats, for statistics: they may change while one looks.
pub fn regions() -> impl Iterator<Item = &'static Region> {
    LOANS.iter().map_while(Loan::region)
}

/// Seats that ever had an owner, for tests.
#[doc(hidden)]
pub fn used() -> usize {
    USED.get()
}

/// The lock, for fork and for a look.
pub fn raw_lock() -> &'static Lock {
    &LOCK
}

/// To be called in the child of a fork by its only thread, with the lock held: it keeps its seat, the
/// others' are free. What they were about is whole: each operation ends in one store.
pub fn start_anew() {
    if LIMIT.get() == 0 {
        return;
    }
    let is_whole = LOCK.is_forgotten_here();
    // Ordering: Relaxed, there is no other thread. Not whole if a handler forked on top of the holder: then
    // no thread gets a seat in this process.
    OPEN.store(is_whole, Ordering::Relaxed);
    let used = if is_whole { USED.get() } else { 0 };
    for place in PLACES[..used].iter().filter(|place| place.is_owned() || place.was_left()) {
        if my_place().is_none_or(|mine| !ptr::eq(mine, place)) {
            place.vacate();
        }
    }
}

impl Loan {
    fn region(&self) -> Option<&'static Region> {
        // Ordering: Acquire pairs with the Release in `make_region`.
        let region = self.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        unsafe { region.as_ref() }
    }

    fn is_shown(&self) -> bool {
        let holder = self.holder.get().checked_sub(1);
        holder.is_some_and(|holder| !PLACES[holder].seat.is_hidden())
    }
}

impl Place {
    const fn new() -> Self {
        Place {
            seat: Seat::new(),
            seen: Guarded32::new(0),
            owner: AtomicU32::new(FREE),
            loan: Guarded::new(0),
        }
    }

    /// Gets the loan of this number, which is nobody's. The caller is the owner.
    fn take(&self, loan: usize) {
        let number =
            (ptr::from_ref(self) as usize - PLACES.as_ptr() as usize) / size_of::<Place>() + 1;
        LOANS[loan - 1].holder.set(number);
        self.loan.set(loan);
        self.show();
    }

    /// Shows the owner what it has.
    fn show(&self) {
        self.seat.show(self.loan.get().checked_sub(1).and_then(|loan| LOANS[loan].region()));
    }

    /// Waits with `backoff` for the end of the operation that may know the region, if it is not below the
    /// caller; whether it is over. The seat is hidden, the barrier passed.
    fn becomes_quiet(&self, backoff: &mut Backoff) -> bool {
        let first = self.seat.turn();
        let over = || !is_odd(first) || self.seat.turn() != first;
        if my_place().is_some_and(|mine| ptr::eq(mine, self)) {
            return over();
        }
        while !over() {
            if self.was_left() {
                return true;
            }
            if !backoff.spend() {
                return false;
            }
        }
        true
    }

    /// Whether the owner has said that it ends: no thread is left that could write to the seat.
    fn was_left(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `get_up`.
        self.owner.load(Ordering::Acquire) == LEFT
    }

    fn is_owned(&self) -> bool {
        // Ordering: Acquire, as above, for what follows if it is not.
        self.owner.load(Ordering::Acquire) == OWNED
    }

    /// Makes the calling thread the owner.
    fn own(&self) {
        // Ordering: Relaxed, the lock orders it.
        self.owner.store(OWNED, Ordering::Relaxed);
    }

    /// Makes what a closed seat has nobody's.
    fn give_back(&self) {
        if let Some(loan) = self.loan.get().checked_sub(1) {
            self.loan.set(0);
            LOANS[loan].holder.set(0);
        }
    }

    /// Makes the seat nobody's. The owner has left, or was left behind by fork.
    fn vacate(&self) {
        self.seat.hide();
        self.give_back();
        self.seat.forget();
        // Ordering: Relaxed, the lock orders it.
        self.owner.store(FREE, Ordering::Relaxed);
    }
}
