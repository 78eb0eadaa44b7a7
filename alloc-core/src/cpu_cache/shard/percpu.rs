//! Per-CPU shards: one for each index (`cpu_id` or `mm_cid`), worked on by restartable sequences only.
//!
//! Promises: a shard is created once for each index, when a thread there first needs it; nothing here waits.
//!
//! Invariants:
//! I1. A table entry of `HOT` is 0 (*stopped*, or not created), or leads to the region that `REGIONS` has for that
//!     index.
//! I2. Entries of created shards change under `LOCK` only: `exclusive` stops shards and starts them again.

use super::{Shard, create_region};
use crate::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::config::{self, Key};
use crate::domain;
use crate::hot::{HOT, ShardEntry};
use crate::node;
use crate::object::Object;
use crate::parts;
use crate::region::{Bounds, Counter, Region};
use crate::rseq::outcome::{Failure, Pop, Push, number};
use crate::rseq::registration;
use crate::rseq::{Index, Sections};
use crate::size_class::Class;
use crate::sums::Column;
use crate::sync::{Lock, Rank};
use crate::units::SHARDS_MAX;

/// The regions by shard index; null if not created.
static REGIONS: [AtomicPtr<Region>; SHARDS_MAX] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; SHARDS_MAX];

/// The shards up to the highest one that was ever created.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

/// Held while a shard is created, and while shards are stopped.
static LOCK: Lock = Lock::new();

/// The region of the calling thread's shard at this moment, if it is not stopped.
pub fn current(sections: Sections) -> Option<&'static Region> {
    let shard = registration::current_index(sections.index).filter(|&shard| shard < SHARDS_MAX)?;
    // Ordering: Acquire pairs with the Release in `start`.
    entry(sections.index, shard).load(Ordering::Acquire)
}

/// Where sections look for the region of a shard. The entries know one index only: under the other one their table stays 0.
fn entry(index: Index, shard: usize) -> &'static ShardEntry {
    &HOT.table(index == Index::MmCid)[shard]
}

/// Creates the calling thread's shard if it never existed; whether it can be used then. Waits for nothing: while
/// another thread creates a shard or has shards stopped, which can take seconds, there is none for this call.
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
    if parts::NODES && sections.index == Index::CpuId {
        // Before the lock: without a shard the thread allocates as well.
        record_node(index);
    }
    let Some(_guard) = LOCK.try_acquire(Rank::SHARDS) else { return false };
    // Ordering: Relaxed, the lock orders it.
    if REGIONS[index].load(Ordering::Relaxed).is_null()
        && let Some(region) = create_region()
    {
        if sections.index == Index::CpuId {
            domain::join(index);
        }
        // Ordering: Release, for observers without the lock.
        REGIONS[index].store(core::ptr::from_ref(region).cast_mut(), Ordering::Release);
        // Ordering: Relaxed: a stopper has the lock, for others they may be one fewer.
        HIGHEST.fetch_max(index + 1, Ordering::Relaxed);
        start(sections.index, index, region);
    }
    current(sections).is_some()
}

/// Records the node of the CPU on which the calling thread is, which was `cpu` a moment ago. From the second node on no free takes the
/// fast path, which does not look at nodes.
fn record_node(cpu: usize) {
    let node = registration::current_node();
    // Moved meanwhile: the node may be another CPU's.
    if registration::current_index(Index::CpuId) == Some(cpu)
        && let Some(node) = node
    {
        tell_node(cpu, node);
    }
}

/// Says that `cpu` is on the node that the kernel calls `node`; also for tests.
pub fn tell_node(cpu: usize, node: u32) {
    if parts::NODES && config::is_on(Key::Nodes) {
        if node::record(cpu, node) {
            registration::close_frees();
        }
        if node::are_many() {
            domain::cover(cpu);
        }
    }
}

/// Lets sections use the region of the shard. The lock is held.
pub(in crate::cpu_cache) fn start(index: Index, shard: usize, region: &'static Region) {
    // Ordering: Release publishes the region, as it was left, to the sections.
    entry(index, shard).store(Some(region), Ordering::Release);
}

/// Keeps sections that start from now on from using the region of the shard; a fence completes it. The lock is held.
pub(in crate::cpu_cache) fn begin_stop(index: Index, shard: usize) {
    // Ordering: SeqCst with the fence: a section that starts after it sees the closed region.
    entry(index, shard).store(None, Ordering::SeqCst);
}

/// The shards up to the highest one that was ever created.
pub fn highest_created() -> usize {
    // Ordering: Relaxed, see `open_or_create`.
    HIGHEST.load(Ordering::Relaxed)
}

/// The shards that were created, with their numbers.
pub(in crate::cpu_cache) fn created() -> impl Iterator<Item = (usize, &'static Region)> + Clone {
    REGIONS[..highest_created()].iter().enumerate().filter_map(|(index, slot)| {
        // Ordering: Acquire pairs with the Release in `open_or_create`.
        let region = slot.load(Ordering::Acquire);
        // SAFETY: regions live for ever.
        unsafe { region.as_ref() }.map(|region| (index, region))
    })
}

/// All regions that were created, for statistics: they may change while the caller reads.
pub fn regions() -> impl Iterator<Item = &'static Region> {
    created().map(|(_, region)| region)
}

/// Where the regions' addresses lie, and how many shards were ever created, for `publish`.
pub const fn table() -> (Column<AtomicPtr<Region>>, &'static AtomicUsize) {
    let stride = size_of::<AtomicPtr<Region>>();
    (Column { first: &REGIONS[0], stride, count: SHARDS_MAX }, &HIGHEST)
}

/// The lock that keeps shards from being created or stopped, for fork and `exclusive`.
pub fn raw_lock() -> &'static Lock {
    &LOCK
}

impl Shard for Sections {
    fn pop(&self, class: Class) -> Pop {
        // SAFETY: the section has just popped it.
        unsafe { Pop::of(Sections::pop(*self, class)) }
    }
    fn push(&self, class: Class, object: Object) -> Push {
        Push::of(object, |address| Sections::push(*self, class, address))
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> Result<usize, Failure> {
        number(Sections::pop_batch(*self, class, out))
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> Result<usize, Failure> {
        number(Sections::push_batch(*self, class, objects))
    }
    fn set_bounds(
        &self,
        class: Class,
        region: &Region,
        from: Bounds,
        to: Bounds,
    ) -> Result<(), Failure> {
        number(Sections::set_bounds(*self, class, region, from, to)).map(drop)
    }
    fn add(&self, counter: Counter, delta: usize) -> Result<(), Failure> {
        number(Sections::add(*self, counter as usize, delta)).map(drop)
    }
    fn region(&self) -> Option<&'static Region> {
        current(*self)
    }
}
