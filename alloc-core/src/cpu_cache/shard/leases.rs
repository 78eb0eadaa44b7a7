//! Leases: which thread owns which biased shard, and which region it may use.
//!
//! Promises: memory grows with processors, not with threads: a biased shard comes back when its owner ends, a
//! region when its owner is idle and another thread wants one. At any instant all regions can be revoked from
//! outside, and then they are the revoking thread's alone. No thread waits for a lease: one without takes a lock.
//! No system call but the barrier: an owner says itself that it ends, by a destructor of thread-specific data,
//! where asking the kernel (tgkill) would be what filters kill for. A thread that ends without its
//! destructors (a raw `exit`) keeps its biased shard, 128 bytes, for ever; its region is idle.
//!
//! Invariants:
//! I1. A biased shard has one owner until that thread has ended or, after a fork, is in another process: a thread that
//!     was held up between finding its shard and writing to it never writes to another thread's. The owner is a thread by
//!     its thread-local words: a child of vfork, which has its parent's, has its parent's shard.
//! I2. A region is leased to one biased shard or to none. That shard has it granted, or none.
//! I3. All but what the owners do (biased I1) changes under LOCK.

use super::biased::{BiasedShard, is_odd};
use super::{cpus, create_region};
use crate::arch;
use crate::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use crate::os;
use crate::region::Region;
use crate::rseq::abi::membarrier;
use crate::sums::Column;
use crate::sync::{Backoff, Guarded, Guarded32, Lock, Rank};
use core::ptr;

/// Threads that can own a biased shard at once.
const RECORDS_MAX: usize = 1024;
/// The most regions that are leased.
const LEASES_MAX: usize = 192;

/// Slow calls of a thread without a region before it asks for one, so that a short life costs nothing; and
/// before it asks again if it got none.
const FIRST_CALLS: u32 = 32;
const AGAIN_CALLS: u32 = 256;
/// Of a thread whose destructor has run: it asks no more.
const NO_MORE_CALLS: u32 = u32::MAX;
/// Records that are probed for a free or retired one before one more is used.
const PROBES: usize = 4;
/// Microseconds between two searches for idle owners: a small part of a time slice, and many times a barrier.
const IDLE_US: usize = 200;

/// A biased shard and what is known of its owner.
#[repr(align(128))] // As in `locked`.
struct Record {
    shard: BiasedShard,
    /// Its sequence count at the last search for idle owners.
    last_sequence: Guarded32,
    /// FREE, OWNED or RETIRED.
    owner: AtomicU32,
    /// Number of the lease, from 1, that the owner has; 0 if none.
    lease: Guarded,
}

/// The states of a record: free, set under the lock; owned; retired, which its owner says without the lock.
const FREE: u32 = 0;
const OWNED: u32 = 1;
const RETIRED: u32 = 2;

static RECORDS: [Record; RECORDS_MAX] = [const { Record::new() }; RECORDS_MAX];
/// Records that ever had an owner: the first ones.
static RECORDS_USED: Guarded = Guarded::new(0);
/// The record that is probed next.
static NEXT_PROBED: Guarded = Guarded::new(0);

/// A region, and the number from 1 of the record that has it leased; 0: none.
struct Lease {
    region: AtomicPtr<Region>,
    holder: Guarded,
}

static LEASES: [Lease; LEASES_MAX] =
    [const { Lease { region: AtomicPtr::new(ptr::null_mut()), holder: Guarded::new(0) } };
        LEASES_MAX];
/// Leases that were created, and that may be for each CPU: with a limit of 0 no thread gets one.
static CREATED: Guarded = Guarded::new(0);
static LIMIT: Guarded = Guarded::new(0);
static ENABLED: AtomicBool = AtomicBool::new(false);

/// The key of thread-specific data whose destructor says that the owner ends.
static KEY: Guarded32 = Guarded32::new(0);
/// When idle owners were last searched for, in microseconds.
static SEARCHED_AT: Guarded = Guarded::new(0);

static LOCK: Lock = Lock::new();

/// The calling thread's biased shard, if it ever got one.
#[inline]
pub fn own_shard() -> Option<&'static BiasedShard> {
    own_record().map(|record| &record.shard)
}

#[inline]
fn own_record() -> Option<&'static Record> {
    // Ordering: Relaxed, the thread's own word.
    let record = arch::biased_shard().load(Ordering::Relaxed) as *const Record;
    // SAFETY: null, or one of RECORDS by `acquire`.
    unsafe { record.as_ref() }
}

/// Whether the calling thread has a region to work on; now and then, a thread without one asks for a lease.
#[inline]
pub fn ensure_lease() -> bool {
    // Both are hints; each operation looks itself.
    own_shard().is_some_and(|shard| !is_odd(shard.sequence()) && !shard.is_revoked())
        || tick() && acquire()
}

/// Counts a call of a thread without a lease; whether it is one that should ask for a lease.
fn tick() -> bool {
    // Ordering: Acquire pairs with the Release in `enable`.
    if !ENABLED.load(Ordering::Acquire) {
        return false;
    }
    let calls = arch::lease_countdown();
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

/// Lets threads have leases, with at most `each_cpu` regions for each CPU, if the kernel has the barrier; whether
/// it has. For init.
pub fn enable(each_cpu: usize) -> bool {
    if !membarrier::register_plain() {
        return false;
    }
    let Some(key) = os::make_thread_end_key(owner_ends) else { return false };
    KEY.set(key);
    LIMIT.set(each_cpu);
    // Ordering: Release publishes the key and the limit to a thread that comes to the lock before this one.
    ENABLED.store(true, Ordering::Release);
    // The one thread of most programs asks for nothing later, when a filter may be in place.
    acquire();
    true
}

/// Whether threads may have leases in this process.
pub(in crate::cpu_cache) fn is_enabled() -> bool {
    LIMIT.get() != 0
}

/// Gives the calling thread a biased shard and the lease of a region, if that can be done without waiting.
#[cold]
pub(crate) fn acquire() -> bool {
    let had_record = own_record().is_some();
    let has_lease = acquire_under_lock();
    // Without the lock: libc may allocate for it.
    if let Some(record) = own_record().filter(|_| !had_record)
        && !os::call_at_thread_end(KEY.get(), ptr::from_ref(record) as usize)
    {
        retire(record);
        return false;
    }
    has_lease
}

fn acquire_under_lock() -> bool {
    let Some(_guard) = LOCK.try_acquire(Rank::LEASES) else { return false };
    // Under the lock: a handler may have got one since the caller looked. And a handler on top of an operation
    // must leave the shard as it is, with or without a region.
    match own_record() {
        Some(record) if is_odd(record.shard.sequence()) => return false,
        Some(record) if record.lease.get() != 0 => return true,
        _ => {}
    }
    let Some(record) = own_record().or_else(take_record) else { return false };
    // Ordering: Relaxed, the thread's own words.
    arch::biased_shard().store(ptr::from_ref(record) as usize, Ordering::Relaxed);
    let Some(lease) = obtain_lease() else { return false };
    record.take(lease);
    arch::lease_countdown().store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
    true
}

/// The number, from 1, of a lease that no thread has: a returned one, a new one, an idle thread's.
fn obtain_lease() -> Option<usize> {
    reclaim_lease().or_else(create_lease).or_else(|| {
        revoke_idle();
        reclaim_lease()
    })
}

/// A lease that was returned, or whose holder has retired.
fn reclaim_lease() -> Option<usize> {
    holders().filter(|record| record.is_retired()).for_each(Record::reclaim);
    LEASES[..CREATED.get()].iter().position(|lease| lease.holder.get() == 0).map(|index| index + 1)
}

fn create_lease() -> Option<usize> {
    let created = CREATED.get();
    if created >= (LIMIT.get() * cpus::record_current()).min(LEASES_MAX) {
        return None;
    }
    let region = create_region()?;
    // Ordering: Release, for observers without the lock.
    LEASES[created].region.store(ptr::from_ref(region).cast_mut(), Ordering::Release);
    CREATED.set(created + 1);
    Some(created + 1)
}

/// A record without a region for the calling thread: a free one, a retired one, one more.
fn take_record() -> Option<&'static Record> {
    let used = RECORDS_USED.get();
    let found = (0..PROBES.min(used)).find_map(|_| {
        let record = &RECORDS[NEXT_PROBED.get() % used];
        NEXT_PROBED.set(NEXT_PROBED.get() + 1);
        (!record.is_owned()).then_some(record)
    });
    let record = found.or_else(|| {
        let fresh = RECORDS.get(used)?;
        RECORDS_USED.set(used + 1);
        Some(fresh)
    })?;
    record.reclaim();
    record.set_owned();
    Some(record)
}

/// At the end of a thread: its record is free for others, and the thread gets none any more.
unsafe extern "C" fn owner_ends(record: *mut libc::c_void) {
    // SAFETY: one of RECORDS by `acquire`.
    retire(unsafe { &*record.cast::<Record>() });
}

/// The calling thread, the owner, has no biased shard from now on.
fn retire(record: &Record) {
    // Ordering: Relaxed, the thread's own words; a handler in between finds no shard, or this one whole.
    arch::lease_countdown().store(NO_MORE_CALLS, Ordering::Relaxed);
    arch::biased_shard().store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
    // Ordering: Release: a thread that sees it sees the shard and the region as the owner left them.
    record.owner.store(RETIRED, Ordering::Release);
}

/// Takes the regions of owners that did nothing since the last search. Also a thread that waits for a
/// processor is idle, unless it has to wait in the middle of an operation.
fn revoke_idle() {
    let now = os::microseconds();
    if now.wrapping_sub(SEARCHED_AT.get()) < IDLE_US {
        return;
    }
    SEARCHED_AT.set(now);
    let mut found_idle = false;
    for record in holders() {
        let sequence = record.shard.sequence();
        if sequence == record.last_sequence.get() && !is_odd(sequence) {
            record.shard.begin_revoke();
            found_idle = true;
        }
        record.last_sequence.set(sequence);
    }
    if !found_idle {
        return;
    }
    let fenced = membarrier::barrier();
    for record in holders().filter(|record| record.shard.is_revoked()) {
        // An owner that has begun an operation since is not idle.
        let is_idle = fenced && !is_odd(record.shard.sequence());
        if is_idle { record.return_lease() } else { record.grant() }
    }
}

/// The records that have a lease.
fn holders() -> impl Iterator<Item = &'static Record> {
    let holders = LEASES[..CREATED.get()].iter().map(|lease| lease.holder.get());
    holders.filter(|&holder| holder != 0).map(|holder| &RECORDS[holder - 1])
}

/// Begins to take all regions from their owners; a barrier and [`wait_for_operations`] complete it. The lock is held.
pub(in crate::cpu_cache) fn begin_revoke_all() {
    holders().for_each(|record| record.shard.begin_revoke());
}

/// Waits with `backoff` for the operations that may know a revoked region, and grants those again that stay under way.
/// The lock is held, the barrier passed.
pub(in crate::cpu_cache) fn wait_for_operations(backoff: &mut Backoff) {
    holders().filter(|record| !record.wait_for_operation(backoff)).for_each(Record::grant);
}

/// The regions that no thread works on: revoked, or leased to none. The lock is held.
pub(in crate::cpu_cache) fn revoked_regions() -> impl Iterator<Item = &'static Region> {
    LEASES[..CREATED.get()].iter().filter(|lease| !lease.is_granted()).filter_map(Lease::region)
}

/// Gives all owners their regions again. The lock is held.
pub(in crate::cpu_cache) fn grant_all() {
    holders().for_each(Record::grant);
}

/// All regions of leases, for statistics: they may change while the caller reads.
pub fn regions() -> impl Iterator<Item = &'static Region> {
    LEASES.iter().map_while(Lease::region)
}

/// Where the regions' addresses lie, for `publish`.
pub const fn table() -> Column<AtomicPtr<Region>> {
    Column { first: &LEASES[0].region, stride: size_of::<Lease>(), count: LEASES_MAX }
}

/// Biased shards that ever had an owner, for tests.
#[doc(hidden)]
pub fn shards_used() -> usize {
    RECORDS_USED.get()
}

/// The lock, for fork and `exclusive`.
pub fn raw_lock() -> &'static Lock {
    &LOCK
}

/// To be called in the child of a fork by its only thread, with the lock held: it keeps its biased shard, the
/// others are free. Their last operations are whole: each ends in one store.
pub fn reset_in_child() {
    if !is_enabled() {
        return;
    }
    let is_whole = LOCK.is_forgotten_here();
    // Ordering: Relaxed, there is no other thread. Not whole if a handler forked on top of the holder: then
    // no thread gets a lease in this process.
    ENABLED.store(is_whole, Ordering::Relaxed);
    let used = if is_whole { RECORDS_USED.get() } else { 0 };
    for record in RECORDS[..used].iter().filter(|record| record.is_owned() || record.is_retired()) {
        if own_record().is_none_or(|own| !ptr::eq(own, record)) {
            record.reclaim();
        }
    }
}

impl Lease {
    fn region(&self) -> Option<&'static Region> {
        // Ordering: Acquire pairs with the Release in `create_lease`.
        let region = self.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        unsafe { region.as_ref() }
    }

    fn is_granted(&self) -> bool {
        let holder = self.holder.get().checked_sub(1);
        holder.is_some_and(|holder| !RECORDS[holder].shard.is_revoked())
    }
}

impl Record {
    const fn new() -> Self {
        Record {
            shard: BiasedShard::new(),
            last_sequence: Guarded32::new(0),
            owner: AtomicU32::new(FREE),
            lease: Guarded::new(0),
        }
    }

    /// Takes the lease of this number, which no record has. The caller is the owner.
    fn take(&self, lease: usize) {
        let number =
            (ptr::from_ref(self) as usize - RECORDS.as_ptr() as usize) / size_of::<Record>() + 1;
        LEASES[lease - 1].holder.set(number);
        self.lease.set(lease);
        self.grant();
    }

    /// Lets the owner work on the region of its lease, if it has one.
    fn grant(&self) {
        self.shard.grant(self.lease.get().checked_sub(1).and_then(|lease| LEASES[lease].region()));
    }

    /// Waits with `backoff` for the end of the operation that may know the region, unless it lies below the
    /// calling handler; whether it has ended. The region is revoked, the barrier passed.
    fn wait_for_operation(&self, backoff: &mut Backoff) -> bool {
        let first = self.shard.sequence();
        let has_ended = || !is_odd(first) || self.shard.sequence() != first;
        if own_record().is_some_and(|own| ptr::eq(own, self)) {
            return has_ended();
        }
        while !has_ended() {
            if self.is_retired() {
                return true;
            }
            if !backoff.spend() {
                return false;
            }
        }
        true
    }

    /// Whether the owner has said that it ends: no thread is left that could write to the shard.
    fn is_retired(&self) -> bool {
        // Ordering: Acquire pairs with the Release in `retire`.
        self.owner.load(Ordering::Acquire) == RETIRED
    }

    fn is_owned(&self) -> bool {
        // Ordering: Acquire, as above, for what follows if it is not.
        self.owner.load(Ordering::Acquire) == OWNED
    }

    /// Makes the calling thread the owner.
    fn set_owned(&self) {
        // Ordering: Relaxed, the lock orders it.
        self.owner.store(OWNED, Ordering::Relaxed);
    }

    /// Returns the lease of a shard whose region is revoked.
    fn return_lease(&self) {
        if let Some(lease) = self.lease.get().checked_sub(1) {
            self.lease.set(0);
            LEASES[lease].holder.set(0);
        }
    }

    /// Makes the record free. The owner has retired, or was left behind by fork.
    fn reclaim(&self) {
        self.shard.begin_revoke();
        self.return_lease();
        self.shard.reset();
        // Ordering: Relaxed, the lock orders it.
        self.owner.store(FREE, Ordering::Relaxed);
    }
}
