//! Biased shards: on the atomic path a thread has a shard for itself and works on it by plain stores.
//!
//! Promises: whoever has a seat pops and pushes without an atomic instruction; at any instant all seats can
//! be closed from outside, and then their regions are the caller's alone; a signal handler on top of its own
//! thread's operation is turned away, and takes a lock as those do who have no seat. Threads keep nothing:
//! a seat comes back when its owner is dead, a region when its owner is idle and another thread wants one.
//! Called by the slow twins, cpu_cache, the observers and fork; calls emulated, os and membarrier.
//!
//! The protocol is Dekker's with an asymmetric barrier (docs/adr/0010):
//!
//! ```text
//! owner, each operation                     whoever closes the seat, under LOCK
//!   turn += 1: odd                            region = null
//!   (light fence: the compiler's)             membarrier
//!   region, or null: go elsewhere             wait until turn is even, or another one
//!   work on the region                        the region is his
//!   turn += 1: even, Release
//! ```
//!
//! Invariants:
//! I1. `turn` is written by the owner only, in operations that do not nest: odd as long as one is under way.
//! I2. A seat has one owner until that one is dead or, after a fork, in another process: a thread that was
//!     held up between finding its seat and writing to it writes to nobody else's.
//! I3. A region is in the pool, or lent to one seat. Its seat shows it, or null.
//! I4. Regions are written by the owner of the seat that shows them, inside of an operation, or by who closed it.
//! I5. All but `turn` changes under LOCK.

use super::{Shard, shards};
use crate::asm;
use crate::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, TRY_PATIENCE, light_fence};
use crate::os;
use crate::rseq::abi::membarrier;
use crate::rseq::{CHANGED, NO_SHARD, emulated};
use crate::shard::{Counter, Region};
use crate::size_class::Class;
use crate::sync::{Guarded, Guarded32, Lock, Rank};
use core::ptr;

/// Threads that can have a seat at once.
const SEATS_MAX: usize = 1024;
/// The most regions that are lent.
const LOANS_MAX: usize = 192;

/// Slow calls of a thread without a region before it asks for one, so that a short life costs nothing; and
/// before it asks again if it got none.
const FIRST_CALLS: u32 = 32;
const AGAIN_CALLS: u32 = 256;
/// Seats that are looked at for a free one or a dead owner before one more is used.
const PROBES: usize = 4;
/// Microseconds between two looks at who is idle: a small part of a time slice, and many times a barrier.
const LOOK_US: usize = 200;

/// What one thread owns; zero: nobody.
#[repr(align(128))] // As in `locked`.
pub struct Seat {
    turn: AtomicU32,
    /// Its turn when it was last looked whether the owner is idle.
    seen: Guarded32,
    /// Thread id of the owner.
    owner: Guarded32,
    /// What the owner works on; null: closed.
    region: AtomicPtr<Region>,
    /// Number of the loan, from 1, that this seat has; 0 if none.
    loan: Guarded,
}

static SEATS: [Seat; SEATS_MAX] = [const { Seat::new() }; SEATS_MAX];
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
/// Regions that were made, and that may be: with a limit of 0 no thread has a seat.
static MADE: Guarded = Guarded::new(0);
static LIMIT: Guarded = Guarded::new(0);
static OPEN: AtomicBool = AtomicBool::new(false);

/// The process that the owners' ids belong to: another one, a child of vfork, has the memory but not the ids.
static PROCESS: Guarded32 = Guarded32::new(0);
/// When the idle ones were looked for.
static LOOKED: Guarded = Guarded::new(0);

static LOCK: Lock = Lock::new();

/// Lets threads have seats, if the kernel has the barrier; whether it has. For init.
pub fn open(limit: usize) -> bool {
    if !membarrier::register_plain() {
        return false;
    }
    PROCESS.set(os::process_id());
    LIMIT.set(limit.clamp(1, LOANS_MAX));
    // Ordering: Relaxed, a hint: what matters is read under the lock.
    OPEN.store(true, Ordering::Relaxed);
    // The one thread of most programs asks for nothing later, when a filter may be in place.
    sit();
    true
}

/// The calling thread's seat, if it ever got one.
#[inline]
pub fn mine() -> Option<&'static Seat> {
    // Ordering: Relaxed, the thread's own word.
    let seat = asm::seat().load(Ordering::Relaxed) as *const Seat;
    // SAFETY: null, or one of SEATS by `sit`.
    unsafe { seat.as_ref() }
}

/// Whether the calling thread can use its seat now; asks for one now and then.
#[inline]
pub fn is_seated() -> bool {
    // Hints; each operation looks itself.
    mine().is_some_and(|seat| !is_odd(seat.turn()) && !seat.is_hidden()) || is_due() && sit()
}

/// Whether a thread without a seat should ask for one.
fn is_due() -> bool {
    // Ordering: Relaxed, a hint, and the thread's own word.
    if !OPEN.load(Ordering::Relaxed) {
        return false;
    }
    let calls = asm::seat_countdown();
    // Ordering: Relaxed, as above. A handler in between makes it a few calls more or less.
    let left = match calls.load(Ordering::Relaxed) {
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
    let Some(_guard) = LOCK.try_acquire(Rank::SEATS) else { return false };
    // Under the lock: a handler may have got one since the caller looked. And a handler on top of an operation
    // must leave the seat closed, or not, as it is.
    match mine() {
        Some(seat) if is_odd(seat.turn()) => return false,
        Some(seat) if seat.loan.get() != 0 => return true,
        _ => {}
    }
    let Some(loan) = find_loan() else { return false };
    let Some(seat) = mine().or_else(take_seat) else { return false };
    seat.take(loan);
    // Ordering: Relaxed, the thread's own words.
    asm::seat().store(ptr::from_ref(seat) as usize, Ordering::Relaxed);
    asm::seat_countdown().store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
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
    LOANS[..MADE.get()].iter().position(|loan| loan.holder.get() == 0).map(|index| index + 1)
}

fn make_region() -> Option<usize> {
    let made = MADE.get();
    if made >= LIMIT.get() {
        return None;
    }
    let region = shards::new_region()?;
    // Ordering: Release, for observers without the lock.
    LOANS[made].region.store(ptr::from_ref(region).cast_mut(), Ordering::Release);
    MADE.set(made + 1);
    Some(made + 1)
}

/// A closed seat for the calling thread: a free one, a dead owner's, one more.
fn take_seat() -> Option<&'static Seat> {
    // Not for a child of vfork: what it got in its own name would soon be a dead one's, while the parent,
    // with the same thread pointer, uses it.
    if os::process_id() != PROCESS.get() {
        return None;
    }
    let used = USED.get();
    let found = (0..PROBES.min(used)).find_map(|_| {
        let seat = &SEATS[HAND.get() % used];
        HAND.set(HAND.get() + 1);
        (seat.owner.get() == 0 || seat.is_owner_dead()).then_some(seat)
    });
    let seat = found.or_else(|| {
        let fresh = SEATS.get(used)?;
        USED.set(used + 1);
        Some(fresh)
    })?;
    seat.vacate();
    seat.owner.set(os::thread_id());
    Some(seat)
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
    for seat in holders() {
        let turn = seat.turn();
        if turn == seat.seen.get() && !is_odd(turn) {
            seat.hide();
            idle = true;
        }
        seat.seen.set(turn);
    }
    if !idle {
        return;
    }
    let fenced = membarrier::barrier();
    for seat in holders().filter(|seat| seat.is_hidden()) {
        // Who has begun since is not idle.
        if fenced && !is_odd(seat.turn()) { seat.give_back() } else { seat.show() }
    }
}

/// The seats that have a region.
fn holders() -> impl Iterator<Item = &'static Seat> {
    let holders = LOANS[..MADE.get()].iter().map(|loan| loan.holder.get());
    holders.filter(|&holder| holder != 0).map(|holder| &SEATS[holder - 1])
}

/// Closes all seats and hands all their regions, which nobody else can touch meanwhile, to `f`; but those
/// whose owners stay in the middle of an operation. None if the kernel has no barrier, or a handler came
/// on top of the lock's holder: nothing was closed then.
pub fn while_closed<R>(
    f: impl FnOnce(&mut dyn Iterator<Item = &'static Region>) -> R,
) -> Option<R> {
    let Ok(_guard) = LOCK.acquire(Rank::SEATS) else { return None };
    holders().for_each(Seat::hide);
    let result = (LIMIT.get() == 0 || membarrier::barrier()).then(|| {
        holders().filter(|seat| !seat.becomes_quiet()).for_each(Seat::show);
        let open =
            |loan: &Loan| loan.holder.get() != 0 && !SEATS[loan.holder.get() - 1].is_hidden();
        f(&mut LOANS[..MADE.get()].iter().filter(|loan| !open(loan)).filter_map(Loan::region))
    });
    holders().for_each(Seat::show);
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

/// The lock, for fork.
pub fn raw_lock() -> &'static Lock {
    &LOCK
}

/// To be called in the child of a fork by its only thread, with the lock held: it keeps its seat, the
/// others' are free. What they were about is whole: each operation ends in one store.
pub fn start_anew() {
    // Not if a handler forked on top of the holder: then nobody gets a seat in this process, whose id is not
    // the one that is remembered.
    if !LOCK.is_forgotten_here() || LIMIT.get() == 0 {
        return;
    }
    PROCESS.set(os::process_id());
    for seat in SEATS[..USED.get()].iter().filter(|seat| seat.owner.get() != 0) {
        match mine() {
            Some(mine) if ptr::eq(mine, seat) => seat.owner.set(os::thread_id()),
            _ => seat.vacate(),
        }
    }
}

fn is_odd(turn: u32) -> bool {
    turn % 2 == 1
}

impl Loan {
    fn region(&self) -> Option<&'static Region> {
        // Ordering: Acquire pairs with the Release in `make_region`.
        let region = self.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        unsafe { region.as_ref() }
    }
}

impl Seat {
    const fn new() -> Self {
        Seat {
            turn: AtomicU32::new(0),
            seen: Guarded32::new(0),
            owner: Guarded32::new(0),
            region: AtomicPtr::new(ptr::null_mut()),
            loan: Guarded::new(0),
        }
    }

    /// Runs `f` on the seat's region; [`NO_SHARD`] if it is closed, or if the caller is a handler on top of
    /// this. The caller is the owner.
    #[inline(always)]
    fn operate(&self, f: impl FnOnce(&'static Region) -> isize) -> isize {
        // Ordering: Relaxed, the thread's own stores. A handler between this and the next store is done with
        // the seat when it returns; that turns go back then harms nobody.
        let turn = self.turn.load(Ordering::Relaxed);
        if is_odd(turn) {
            return NO_SHARD;
        }
        // Ordering: Release: who sees a new turn, sees the region as the one before left it. That it comes
        // before the load is the work of the fence and of the other side's barrier.
        self.turn.store(turn.wrapping_add(1), Ordering::Release);
        light_fence();
        // Ordering: Acquire pairs with the Release in `show`: what others did to the region.
        let region = self.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        let result = unsafe { region.as_ref() }.map_or(NO_SHARD, f);
        // Ordering: Release: who sees it, sees the region as it was left.
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
        result
    }

    /// Gets the loan of this number, which is nobody's. The caller is the owner.
    fn take(&self, loan: usize) {
        let number =
            (ptr::from_ref(self) as usize - SEATS.as_ptr() as usize) / size_of::<Seat>() + 1;
        LOANS[loan - 1].holder.set(number);
        self.loan.set(loan);
        self.show();
    }

    /// Shows the owner what it has.
    fn show(&self) {
        let loan = self.loan.get().checked_sub(1).and_then(|loan| LOANS[loan].region());
        let region = loan.map_or(ptr::null_mut(), |region| ptr::from_ref(region).cast_mut());
        // Ordering: Release publishes the region to the owner.
        self.region.store(region, Ordering::Release);
    }

    /// Begins to close the seat; a barrier, and an operation's end if one is under way, complete it.
    fn hide(&self) {
        // Ordering: SeqCst with the barrier: operations that start after it see null.
        self.region.store(ptr::null_mut(), Ordering::SeqCst);
    }

    fn is_hidden(&self) -> bool {
        // Ordering: Relaxed, the lock orders it.
        self.region.load(Ordering::Relaxed).is_null()
    }

    /// Odd while an operation is under way. After a barrier on a hidden seat: an operation that knows the
    /// region is under way as long as this stays what it is, and odd.
    fn turn(&self) -> u32 {
        // Ordering: Acquire pairs with the Release in `operate`: the region as the last operation left it.
        self.turn.load(Ordering::Acquire)
    }

    /// Waits a good while for the end of the operation that may know the region, if it is not below the
    /// caller; whether it is over. The seat is hidden, the barrier passed.
    fn becomes_quiet(&self) -> bool {
        let first = self.turn();
        let over = || !is_odd(first) || self.turn() != first;
        if mine().is_some_and(|mine| ptr::eq(mine, self)) {
            return over();
        }
        let waited = (0..TRY_PATIENCE).any(|_| {
            over() || {
                os::yield_now();
                false
            }
        });
        waited || self.is_owner_dead()
    }

    /// Whether nobody is left who could write to the seat.
    fn is_owner_dead(&self) -> bool {
        let process = PROCESS.get();
        os::process_id() == process && !os::has_thread(process, self.owner.get())
    }

    /// Makes what a closed seat has nobody's.
    fn give_back(&self) {
        if let Some(loan) = self.loan.get().checked_sub(1) {
            self.loan.set(0);
            LOANS[loan].holder.set(0);
        }
    }

    /// Makes the seat nobody's. The owner is dead, or was left behind by fork.
    fn vacate(&self) {
        self.hide();
        self.give_back();
        // Ordering: Relaxed, under the lock, and nobody else is left.
        self.turn.store(0, Ordering::Relaxed);
        self.owner.set(0);
    }
}

// SAFETY, for each block: the seat shows the region, so nobody else works on it until the operation is over
// (I4); handlers on top are turned away.
impl Shard for Seat {
    #[inline(always)]
    fn pop(&self, class: Class) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::pop(region, class) })
    }
    #[inline(always)]
    fn push(&self, class: Class, object: usize) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::push(region, class, object) })
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::pop_batch(region, class, out) })
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> isize {
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::push_batch(region, class, objects) })
    }
    fn set_end(&self, class: Class, region: &Region, expected: usize, end: usize) -> isize {
        self.operate(|own| match ptr::eq(own, region) {
            // SAFETY: see above; the caller computes `end` in the stack of `class`.
            true => unsafe { emulated::set_end(own, class, expected, end) },
            false => CHANGED,
        })
    }
    fn add(&self, counter: Counter, delta: usize) -> isize {
        super::locked::count_operation();
        // SAFETY: see above.
        self.operate(|region| unsafe { emulated::add(region, counter as usize, delta) })
    }
    fn region(&self) -> Option<&'static Region> {
        // Ordering: Acquire, as in `operate`.
        // SAFETY: regions live for ever.
        unsafe { self.region.load(Ordering::Acquire).as_ref() }
    }
}
