//! The shards themselves: birth on first use, and emptying one from outside.
//!
//! Promises: a region is born once for each index and lives for ever; while a shard is stopped no
//! section can commit to its region. Called by cpu_cache and by the observers.
//!
//! Stopping, of all shards together or of one after the other: the table entries lead to the closed region; a fence,
//! on all CPUs or on the shard's, aborts the sections that still know the old ones; from then on the regions belong
//! to the stopper alone. A CPU that lost the fence's interrupt (Linux before 6.12.54) still sees the closed
//! region at its next section, which costs the fast path nothing.

use crate::atomic::{AtomicIsize, AtomicPtr, AtomicUsize, Ordering};
use crate::hot::{HOT, entry_of, region_of};
use crate::os::{self, Place};
use crate::region::Region;
use crate::rseq::abi::membarrier;
use crate::rseq::registration;
use crate::rseq::{Index, Sections};
use crate::sync::{Backoff, Lock, Rank};
use crate::units::SHARDS_MAX;

/// The regions by shard index; null if not born.
static REGIONS: [AtomicPtr<Region>; SHARDS_MAX] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; SHARDS_MAX];

/// The shards up to the highest one that was ever born.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

/// Regions ever made; they live for ever.
static MADE: AtomicUsize = AtomicUsize::new(0);

/// Held by whoever gives birth to a region or stops shards.
static STOP: Lock = Lock::new();

/// The region of the calling thread's shard at this moment, if it is open.
pub fn current(sections: Sections) -> Option<&'static Region> {
    let shard = registration::current_index(sections.index).filter(|&shard| shard < SHARDS_MAX)?;
    // Ordering: Acquire pairs with the Release at birth.
    region_of(entry(sections.index, shard).load(Ordering::Acquire))
}

/// Where sections look for the region of a shard. The entries know `cpu_id` only, so under `mm_cid`, in
/// whose table they do not look, they stay closed.
fn entry(index: Index, shard: usize) -> &'static AtomicIsize {
    match index {
        Index::CpuId => &HOT.table[shard],
        Index::MmCid => &HOT.table_cid[shard],
    }
}

/// Creates the calling thread's shard if it never existed; whether it is open then. Waits for nothing: while another
/// thread creates a shard or has shards stopped, which can take seconds, there is none for this call.
#[cold]
pub fn open_or_create(sections: Sections) -> bool {
    if current(sections).is_some() {
        return true;
    }
    let Some(index) = registration::current_index(sections.index) else { return false };
    // Ordering: Relaxed, whether it is null only.
    if index >= SHARDS_MAX || !REGIONS[index].load(Ordering::Relaxed).is_null() {
        return false;
    }
    let Some(_stop) = STOP.try_acquire(Rank::SHARDS) else { return false };
    // Ordering: Relaxed, the lock orders it.
    if REGIONS[index].load(Ordering::Relaxed).is_null()
        && let Some(region) = new_region()
    {
        // Ordering: Release, for observers without the lock.
        REGIONS[index].store(core::ptr::from_ref(region).cast_mut(), Ordering::Release);
        // Ordering: Relaxed: who needs all shards has the lock, for others they may be one fewer.
        HIGHEST.fetch_max(index + 1, Ordering::Relaxed);
        // Ordering: Release publishes the reset region to the sections.
        entry(sections.index, index).store(entry_of(Some(region)), Ordering::Release);
    }
    current(sections).is_some()
}

/// Regions that exist, of shards and locked ones; at least 1.
pub fn regions_made() -> usize {
    // Ordering: Relaxed, a number that stands alone.
    MADE.load(Ordering::Relaxed).max(1)
}

/// The shards up to the highest one that was ever born.
pub fn highest_born() -> usize {
    // Ordering: Relaxed, see `open_or_create`.
    HIGHEST.load(Ordering::Relaxed)
}

/// A fresh region, empty and without capacity.
pub fn new_region() -> Option<&'static Region> {
    let len = size_of::<Region>().next_multiple_of(os::page_bytes());
    let address = os::map(Place::Anywhere, len).ok()?;
    // SAFETY: fresh zeroed memory of that size, mapped for ever; zero is valid.
    let region = unsafe { &*(address as *const Region) };
    region.reset();
    // Ordering: Relaxed, a number that stands alone.
    MADE.fetch_add(1, Ordering::Relaxed);
    Some(region)
}

/// Stops all shards and hands their regions, which nobody else can touch meanwhile, to `f`. None if the
/// kernel has no fence, a handler came on top of another stop, or another thread's is under way and there is no
/// `backoff`: nothing was stopped then.
pub fn while_stopped<R>(
    backoff: &Backoff,
    f: impl FnOnce(&mut dyn Iterator<Item = &'static Region>) -> R,
) -> Option<R> {
    let _stop = STOP.acquire_or_try(Rank::SHARDS, backoff)?;
    with_closed(born(), None, || f(&mut regions()))
}

/// Stops one shard after the other, of those whose regions are `wanted`, and hands each to `f`: who runs on other CPUs
/// has his cache meanwhile, even if this thread is kept waiting. False as above: not all were stopped then.
pub fn stop_each(
    backoff: &Backoff,
    wanted: impl Fn(&Region) -> bool,
    mut f: impl FnMut(&'static Region),
) -> bool {
    let Some(_stop) = STOP.acquire_or_try(Rank::SHARDS, backoff) else { return false };
    // Whose sections know the region: those that run on the CPU of that number, if it is one.
    let cpu = |shard| (registration::index() == Index::CpuId).then_some(shard as u32);
    born().filter(|(_, region)| wanted(region)).fold(true, |all, (shard, region)| {
        let one = core::iter::once((shard, region));
        with_closed(one, cpu(shard), || f(region)).is_some() && all
    })
}

/// Calls `f` while the `chosen` shards are closed, and the sections aborted that knew their regions: of all of them
/// those on `cpu`, or on any. The lock is held.
fn with_closed<R>(
    chosen: impl Iterator<Item = (usize, &'static Region)> + Clone,
    cpu: Option<u32>,
    f: impl FnOnce() -> R,
) -> Option<R> {
    let index = registration::index();
    for (shard, _) in chosen.clone() {
        // Ordering: SeqCst with the fence: a section that starts after it sees the closed region.
        entry(index, shard).store(entry_of(None), Ordering::SeqCst);
    }
    // Twice: a section whose abort the first one lost (Linux before 6.12.54) is over, or meets the second.
    let fenced = membarrier::fence(cpu) && membarrier::fence(cpu);
    let result = fenced.then(f);
    for (shard, region) in chosen {
        // Ordering: Release publishes what `f` did to the sections.
        entry(index, shard).store(entry_of(Some(region)), Ordering::Release);
    }
    result
}

fn born() -> impl Iterator<Item = (usize, &'static Region)> + Clone {
    REGIONS[..highest_born()].iter().enumerate().filter_map(|(index, slot)| {
        // Ordering: Acquire pairs with the Release at birth.
        let region = slot.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        unsafe { region.as_ref() }.map(|region| (index, region))
    })
}

/// All born regions, for statistics: they may change while one looks.
pub fn regions() -> impl Iterator<Item = &'static Region> {
    born().map(|(_, region)| region)
}

/// The lock that keeps shards from being stopped, for fork and for a look.
pub fn raw_lock() -> &'static Lock {
    &STOP
}
