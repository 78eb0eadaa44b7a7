//! Locked shards: the atomic path's shards behind a lock each, for threads and handlers without a lease.
//!
//! Promises: complete service without rseq; nothing waits (a busy shard means the next one, and if several
//! are busy the caller goes to the slabs), so signal handlers may come here at any point.
//!
//! Invariants:
//! I1. The region of a shard is touched under its lock only, but for statistics.

use super::{Shard, count_atomic_operation, cpus, create_region};
use crate::arch::thread_id;
use crate::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use crate::object::Object;
use crate::region::{Bounds, Counter, Region};
use crate::rseq::outcome::{Failure, Pop, Push, number};
use crate::rseq::reference;
use crate::size_class::Class;
use crate::sums::Column;
use crate::sync::{Backoff, TryGuard, TryLock};

/// Shards of the atomic path for each CPU, biased ones (`leases`) included.
pub const EACH_CPU: usize = 4;
/// The most locked shards.
pub const LOCKED_MAX: usize = 64;
const ATTEMPTS: usize = 4;

/// One shard behind a lock.
// 128: the stride in which x86-64 fetches lines. Not crossbeam-utils' CachePadded: in a workspace where
// some other crate switches on its `std`, librsalloc.so could not be built without std.
#[repr(align(128))]
pub struct LockedShard {
    lock: TryLock,
    region: AtomicPtr<Region>,
}

static LOCKED: [LockedShard; LOCKED_MAX] = [const { LockedShard::new() }; LOCKED_MAX];

/// Locked shards for each CPU that was seen, and how many that makes: a power of two.
static FOR_EACH_CPU: AtomicUsize = AtomicUsize::new(EACH_CPU);
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// Sets how many locked shards are in use for each CPU; CPUs that are seen later add theirs.
pub fn set_each(each: usize) {
    // Ordering: Relaxed, a tuning value.
    FOR_EACH_CPU.store(each, Ordering::Relaxed);
    widen();
}

/// As many shards as the CPUs seen by now make, that of the calling thread included.
#[cold]
fn widen() {
    // Ordering: Relaxed, tuning values.
    let count = cpus::record_current() * FOR_EACH_CPU.load(Ordering::Relaxed);
    COUNT.store(count.next_power_of_two().clamp(1, LOCKED_MAX), Ordering::Relaxed); // Ordering: as above.
}

/// A locked shard whose lock the caller holds.
pub struct Locked {
    pub(in crate::cpu_cache) region: &'static Region,
    _guard: TryGuard<'static>,
}

impl Locked {
    /// A free shard, the calling thread's usual one first; none if several are busy or memory is out.
    #[inline]
    pub fn take_any() -> Option<Locked> {
        // Ordering: Relaxed, a tuning value.
        let mask = COUNT.load(Ordering::Relaxed) - 1;
        let start = thread_id().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
        for attempt in 0..ATTEMPTS {
            let shard = &LOCKED[(start + attempt) & mask & (LOCKED_MAX - 1)];
            if let Some(guard) = shard.lock.try_acquire() {
                return Some(Locked { region: shard.open_or_create()?, _guard: guard });
            }
            if attempt == 0 {
                // Another CPU, most likely.
                widen();
            }
        }
        None
    }
}

/// The whole process takes the atomic path.
static SERVES_PROCESS: AtomicBool = AtomicBool::new(false);

/// Says that no thread of the process runs sections.
pub fn serve_process() {
    // Ordering: Relaxed, a hint: the long way finds out as well.
    SERVES_PROCESS.store(true, Ordering::Relaxed);
}

/// Whether the whole process takes the atomic path, as far as the calling thread knows.
#[inline]
pub(in crate::cpu_cache) fn serves_process() -> bool {
    // Ordering: Relaxed, a hint.
    SERVES_PROCESS.load(Ordering::Relaxed)
}

impl LockedShard {
    const fn new() -> Self {
        LockedShard { lock: TryLock::new(), region: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// The shard's region, created on first use. The lock is held.
    #[inline]
    fn open_or_create(&self) -> Option<&'static Region> {
        // Ordering: Relaxed, the lock orders it.
        let region = self.region.load(Ordering::Relaxed);
        // SAFETY: regions live for ever.
        unsafe { region.as_ref() }.or_else(|| self.create())
    }

    #[cold]
    fn create(&self) -> Option<&'static Region> {
        let fresh = create_region()?;
        // Ordering: Release, for observers that look without the lock.
        self.region.store(core::ptr::from_ref(fresh).cast_mut(), Ordering::Release);
        Some(fresh)
    }
}

/// Takes the locks of all locked shards, and keeps them taken past the guards by `keep`: a bit for each, to be handed to
/// [`release_all`]. Left out are those that stay busy longer than `backoff`, and those that the calling
/// thread holds already, below a signal handler or for a fork.
pub fn hold_all(backoff: &mut Backoff, keep: fn(TryGuard<'static>)) -> u64 {
    let mut held = 0u64;
    loop {
        let (before, mut waits) = (held, false);
        let missing = LOCKED.iter().enumerate().filter(|(index, _)| before >> index & 1 == 0);
        for (index, LockedShard { lock, .. }) in missing {
            if lock.is_taken_here() {
                continue;
            }
            match lock.try_acquire() {
                Some(guard) => {
                    keep(guard);
                    held |= 1 << index;
                }
                None => waits = true,
            }
        }
        // One attempt each before the next wait: a shard that stays busy must not use up the backoff for the others.
        if !waits || !backoff.spend() {
            return held;
        }
    }
}
const _: () = assert!(LOCKED_MAX <= 64);

/// Undoes [`hold_all`].
pub fn release_all(held: u64) {
    let mine = LOCKED.iter().enumerate().filter(|(index, _)| held >> index & 1 == 1);
    mine.for_each(|(_, shard)| shard.lock.release());
}

/// Runs `f` on each locked shard that exists, holding its lock; skips those that stay busy for longer than
/// `backoff`.
pub fn for_each(backoff: &mut Backoff, f: &mut dyn FnMut(&Locked)) {
    for shard in &LOCKED {
        // Ordering: Acquire pairs with the Release in `create`.
        let region = shard.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        if let Some(region) = unsafe { region.as_ref() }
            && let Some(guard) = shard.lock.acquire_with(backoff)
        {
            f(&Locked { region, _guard: guard });
        }
    }
}

/// The regions of the shards in `held` (see [`hold_all`]) that exist, and of those that the calling thread holds for a
/// fork.
pub fn held_regions(held: u64) -> impl Iterator<Item = &'static Region> {
    let is_mine = move |(index, shard): &(usize, &LockedShard)| {
        held >> index & 1 == 1 || shard.lock.is_forgotten_here()
    };
    let mine = LOCKED.iter().enumerate().filter(is_mine);
    // Ordering: Acquire pairs with the Release in `LockedShard::create`.
    let regions = mine.map(|(_, shard)| shard.region.load(Ordering::Acquire));
    // SAFETY: regions live for ever.
    regions.filter_map(|region| unsafe { region.as_ref() })
}

/// The regions that exist, for statistics.
pub fn regions() -> impl Iterator<Item = &'static Region> {
    LOCKED.iter().filter_map(|shard| {
        // Ordering: Acquire pairs with the Release in `LockedShard::create`.
        let region = shard.region.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        unsafe { region.as_ref() }
    })
}

/// Where the regions' addresses lie, for `publish`.
pub const fn table() -> Column<AtomicPtr<Region>> {
    Column { first: &LOCKED[0].region, stride: size_of::<LockedShard>(), count: LOCKED_MAX }
}

/// The locks, for tests.
#[doc(hidden)]
pub fn locks() -> impl Iterator<Item = &'static TryLock> {
    LOCKED.iter().map(|shard| &shard.lock)
}

// SAFETY, for each block: the lock is held, so no other thread works on the region (I1).
impl Shard for Locked {
    fn pop(&self, class: Class) -> Pop {
        // SAFETY: the lock is held.
        unsafe { Pop::of(reference::pop(self.region, class)) }
    }
    fn push(&self, class: Class, object: Object) -> Push {
        // SAFETY: the lock is held.
        Push::of(object, |address| unsafe { reference::push(self.region, class, address) })
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> Result<usize, Failure> {
        // SAFETY: the lock is held.
        number(unsafe { reference::pop_batch(self.region, class, out) })
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> Result<usize, Failure> {
        // SAFETY: the lock is held.
        number(unsafe { reference::push_batch(self.region, class, objects) })
    }
    fn set_bounds(
        &self,
        class: Class,
        _region: &Region,
        from: Bounds,
        to: Bounds,
    ) -> Result<(), Failure> {
        // SAFETY: the lock is held; the caller computes the bounds of a stack of `class`.
        number(unsafe { reference::set_bounds(self.region, class, from, to) }).map(drop)
    }
    fn add(&self, counter: Counter, delta: usize) -> Result<(), Failure> {
        count_atomic_operation();
        // SAFETY: the lock is held.
        number(unsafe { reference::add(self.region, counter as usize, delta) }).map(drop)
    }
    fn region(&self) -> Option<&'static Region> {
        Some(self.region)
    }
}
