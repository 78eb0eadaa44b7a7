//! fork: the child gets a complete, working heap.
//!
//! Promises: at the instant of fork no tier is half way, since the forking thread holds every lock, taken in rank order
//! and given up on both sides. A handler that forks on top of a holder takes all locks but those of its own thread, and
//! those whose holders another forking handler lies upon. Cost: one uncontended atomic for each lock.
//!
//! * Sections need nothing: the child sees another thread's section before or after its commit store.
//! * Lost to the child is what other threads hold between two tiers: one magazine each (cpu_cache I3), spans given up in
//!   handlers if a thread was just collecting them, and huge spans that a thread was just mapping or unmapping.
//! * From `prepare` to `release`, on both sides, the forking thread itself allocates and frees as ever, since other
//!   libraries' fork handlers run then: it may take its forgotten locks again, and what it makes is locked as all else.
//! * Other threads wait for a fork for a bounded time only: libc's fork takes locks of its own after `prepare`, under
//!   which other threads call malloc (docs/adr/0019).

use crate::arch;
use crate::atomic::{AtomicU64, Ordering};
use crate::cpu_cache::shard::{leases, locked, percpu};
use crate::page_heap::huge::HUGE;
use crate::page_heap::{PAGE_HEAP, Recount};
use crate::profile;
use crate::rseq::vfork;
use crate::slab;
use crate::sync::{Backoff, Guarded, Guarded32, Lock, Rank, TryLock, WaitBudget, end_late_fork};

/// Registers the handlers.
pub fn install() {
    // SAFETY: the handlers live for ever. Failure (out of memory at start) leaves fork from a
    // multi-threaded program as unprotected as without handlers.
    unsafe {
        libc::pthread_atfork(Some(prepare), Some(release), Some(release_in_child));
    }
}

/// One fork at a time: libc serialises the handlers of one fork, not two forks (glibc 2.36).
static FORK: Lock = Lock::new();

#[inline(never)]
fn for_each_lock(f: &mut dyn FnMut(&Lock, Rank)) {
    f(percpu::raw_lock(), Rank::SHARDS);
    f(vfork::raw_lock(), Rank::VFORK);
    f(leases::raw_lock(), Rank::LEASES);
    slab::for_each_lock(f);
    f(HUGE.raw_lock(), Rank::HUGE);
    PAGE_HEAP.for_each_lock(f);
}

/// The locked shards that `prepare` holds, a bit each, and what the thread held before it. Written and
/// read under `FORK`.
static HELD: AtomicU64 = AtomicU64::new(0);
static BEFORE: Guarded32 = Guarded32::new(0);

/// Forks in handlers that came between `prepare` and `release` of the same thread.
static NESTED: Guarded = Guarded::new(0);

unsafe extern "C" fn prepare() {
    // In a handler on top of an operation, which would wait for less.
    let _budget = WaitBudget::unbounded();
    while !take_all() {
        // This thread holds nothing, so it can wait for any thread that forks on top of a holder.
        for_each_lock(&mut |lock, rank| {
            if lock.is_forking() {
                drop(lock.acquire(rank));
            }
        });
    }
}

/// Takes all locks, or as many as can be had in a handler on top of a holder: its own stay with it, on both
/// sides. False, with none taken, if this thread holds none and another one forks on top of a holder.
fn take_all() -> bool {
    // This thread's own, below a handler.
    if FORK.is_held_here() {
        NESTED.set(NESTED.get() + 1);
        return true;
    }
    let before = Rank::held();
    let mut backoff = Backoff::longer();
    let fork = loop {
        announce();
        match FORK.acquire(Rank::FORK) {
            Ok(fork) => break fork,
            // Another fork, for which this thread may wait.
            Err(_) if !before.is_any() => {}
            // The other fork sees the announcement and gives way, or comes to its end.
            Err(_) if backoff.spend() => {}
            Err(_) => return true,
        }
    };
    Lock::forget(fork);
    // A thread that waited for the fork before this one may have said so after its end.
    end_late_fork();
    BEFORE.set(before.number());
    let mut backoff = Backoff::usual();
    // Ordering: Relaxed, read by this thread or its copy in the child.
    HELD.store(locked::hold_all(&mut backoff, TryLock::forget), Ordering::Relaxed);
    let mut gives_way = false;
    for_each_lock(&mut |lock, rank| {
        while !gives_way {
            match lock.acquire(rank) {
                Ok(guard) => return Lock::forget(guard),
                Err(_) if lock.is_held_here() => return,
                // Its holder waits for FORK and can't give the lock up before. A thread that holds a lock goes without.
                Err(_) if lock.is_forking() && before.is_any() => return,
                Err(_) if lock.is_forking() => gives_way = true,
                // What this thread may wait for, it waits for.
                Err(_) if !before.is_any() || backoff.spend() => {}
                Err(_) => return,
            }
        }
    });
    if gives_way {
        give_back();
    } else if !before.is_any() {
        // This thread holds all locks, and no operation is half way.
        before.restore();
    }
    !gives_way
}

/// In a handler on top of holders: says of each lock that this thread forks.
fn announce() {
    if Rank::is_any_held() {
        for_each_lock(&mut |lock, _| lock.announce_fork());
    }
}

/// Gives up what `take_all` took.
fn give_back() {
    // A handler on top finds some of the locks given up, and must not wait for those.
    Rank::wait_for_none();
    for_each_lock(&mut |lock, _| lock.release_forgotten());
    // Ordering: Relaxed, written by this thread or its original in the parent.
    locked::release_all(HELD.load(Ordering::Relaxed));
    let before = Rank::of_number(BEFORE.get());
    end_late_fork();
    FORK.release_forgotten();
    before.restore();
}

unsafe extern "C" fn release_in_child() {
    if FORK.is_forgotten_here() && NESTED.get() == 0 {
        let is_below = Rank::of_number(BEFORE.get()).is_any();
        PAGE_HEAP.end_purges(if is_below { Recount::No } else { Recount::Yes });
        arch::forget_other_threads();
        vfork::start_anew();
        leases::reset_in_child();
        super::command::forget();
        super::init::note_own_process();
        PAGE_HEAP.forget_admitted();
        profile::reset_in_child();
        super::settings::reset_in_child();
    }
    // SAFETY: called by libc in the place of `release`.
    unsafe { release() };
}

unsafe extern "C" fn release() {
    // The child's thread has the thread pointer of the one that forked, so it owns the locks too.
    if FORK.is_held_here() {
        if NESTED.get() > 0 {
            NESTED.set(NESTED.get() - 1);
            return;
        }
        give_back();
    }
    if Rank::is_any_held() {
        for_each_lock(&mut |lock, _| lock.end_fork());
    }
}
