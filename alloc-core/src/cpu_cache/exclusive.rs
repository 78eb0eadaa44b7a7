//! Stopping shards: exclusive access, for a while, to regions that threads work on without a lock.
//!
//! Promises: while `f` runs no other thread touches the regions that it is given. Threads whose shards are *stopped*
//! take another way meanwhile and wait for nothing; afterwards the shards are as before. Locked shards are not stopped
//! here: their locks are taken.
//!
//! ```text
//!                  per-CPU shards (rseq)                    biased shards (atomic path)
//! begin            the table entry is 0                     the region is revoked
//! fence            membarrier, on the CPU or on all:        membarrier, on all
//!                  aborts sections that know the region
//! wait             -                                        for the operation that is under way
//! f                runs on the regions                      runs on the regions
//! end              the table entry leads to the region      the region is granted again
//! ```
//!
//! A CPU that lost the fence's interrupt (Linux before 6.12.54) still sees the entry of 0 at its next section, which costs
//! the fast path nothing; a second fence covers a section that was in flight.

use super::shard::locked::Locked;
use super::shard::{leases, percpu};
use crate::object::Batch;
use crate::os;
use crate::region::{Moved, Region};
use crate::rseq::Index;
use crate::rseq::abi::membarrier;
use crate::rseq::registration;
use crate::size_class::{CLASSES, Class};
use crate::sync::{Backoff, Rank};
use crate::units::MAGAZINE_MAX;
use core::marker::PhantomData;

/// A region that no thread but the caller's touches for as long as `'a`: its shard is stopped, or its lock is held.
#[derive(Clone, Copy)]
pub struct Stopped<'a> {
    region: &'static Region,
    while_stopped: PhantomData<&'a ()>,
}

/// Stops all shards of this process' mode at once and hands their regions to `f`. None, with nothing stopped, if the
/// kernel has no fence, a handler came on top of the thread that has shards stopped, or another thread has and `backoff`
/// is none. Biased shards whose owners stay in an operation for longer than `backoff` are left out.
pub fn stop_all<R>(
    backoff: &mut Backoff,
    f: impl FnOnce(&mut dyn Iterator<Item = Stopped<'_>>) -> R,
) -> Option<R> {
    match registration::sections() {
        Some(_) => {
            let _guard = percpu::raw_lock().acquire_or_try(Rank::SHARDS, backoff)?;
            let mut regions = percpu::regions().map(Stopped::of);
            stop_percpu(percpu::created(), None, || f(&mut regions))
        }
        None => stop_biased(backoff, f),
    }
}

/// As [`stop_all`], of those shards that are `wanted`, and one after the other where that can be, so that threads on other
/// CPUs keep their caches even if this thread is held up. False if one was left out.
#[inline(never)]
pub fn stop_each(
    backoff: &mut Backoff,
    // Neither generic nor inlined: one copy serves all callers.
    wanted: &dyn Fn(&Region) -> bool,
    f: &mut dyn FnMut(Stopped<'_>),
) -> bool {
    if registration::sections().is_none() {
        return stop_biased(backoff, |regions| {
            regions.filter(|region| wanted(region.region())).for_each(&mut *f);
        })
        .is_some();
    }
    let Some(_guard) = percpu::raw_lock().acquire_or_try(Rank::SHARDS, backoff) else {
        return false;
    };
    // Sections that know the region run on the CPU of that number, if it is one.
    let cpu = |shard| (registration::index() == Index::CpuId).then_some(shard as u32);
    percpu::created().filter(|(_, region)| wanted(region)).fold(true, |all, (shard, region)| {
        let one = core::iter::once((shard, region));
        stop_percpu(one, cpu(shard), || f(Stopped::of(region))).is_some() && all
    })
}

/// Whether a thread has shards stopped at this moment, or is about to.
pub(super) fn is_stopping() -> bool {
    match registration::sections() {
        Some(_) => percpu::raw_lock().is_held(),
        None => leases::raw_lock().is_held(),
    }
}

/// Calls `f` while the `chosen` shards are stopped. Fences `cpu`, or all. The lock is held.
fn stop_percpu<R>(
    chosen: impl Iterator<Item = (usize, &'static Region)> + Clone,
    cpu: Option<u32>,
    f: impl FnOnce() -> R,
) -> Option<R> {
    let index = registration::index();
    chosen.clone().for_each(|(shard, _)| percpu::begin_stop(index, shard));
    // Twice: a section whose abort the first one lost (Linux before 6.12.54) is over, or meets the second.
    let fenced = membarrier::fence(cpu) && membarrier::fence(cpu);
    let result = fenced.then(f);
    chosen.for_each(|(shard, region)| percpu::start(index, shard, region));
    result
}

/// [`stop_all`] on the atomic path.
fn stop_biased<R>(
    backoff: &mut Backoff,
    f: impl FnOnce(&mut dyn Iterator<Item = Stopped<'_>>) -> R,
) -> Option<R> {
    let _guard = leases::raw_lock().acquire_or_try(Rank::LEASES, backoff)?;
    leases::begin_revoke_all();
    let fenced = !leases::is_enabled() || membarrier::barrier();
    let result = fenced.then(|| {
        leases::wait_for_operations(backoff);
        f(&mut leases::revoked_regions().map(Stopped::of))
    });
    leases::grant_all();
    result
}

impl<'a> Stopped<'a> {
    /// The caller has stopped the shard, for as long as `'a`.
    fn of(region: &'static Region) -> Self {
        Stopped { region, while_stopped: PhantomData }
    }

    /// The region of a shard whose lock is held.
    pub(super) fn of_locked(locked: &'a Locked) -> Self {
        Stopped::of(locked.region)
    }

    /// The region, which may be read at any time.
    pub fn region(self) -> &'static Region {
        self.region
    }

    /// Takes the objects of `class` out, a magazine at a time, and its capacity away. `place` takes a batch and says
    /// whether it has placed all of it: if not, what is left in the batch and all others stay in the region.
    pub(super) fn take_objects(self, class: Class, place: impl Fn(&mut Batch) -> bool) {
        let bottom = self.region.at(self.region.bottom(class)) as *const usize;
        // SAFETY: region I1: the slots above the sentinel hold objects or nulls; no other thread writes to them.
        let objects = unsafe { core::slice::from_raw_parts(bottom.add(1), self.region.len(class)) };
        for (index, slots) in objects.chunks(MAGAZINE_MAX).enumerate() {
            // Not `from_slots`, which takes the stack of two batches.
            let mut batch = Batch::new();
            // SAFETY: the objects are the region's, which forgets them below.
            unsafe { batch.add_slots(slots) };
            let taken = batch.len();
            let is_placed = place(&mut batch);
            self.region.transfers[class].add(Moved::Flushed, taken - batch.len());
            if !is_placed {
                let first = batch.addresses()[0];
                let placed = slots.iter().take_while(|&&slot| slot != first).count();
                batch.forget_all();
                let left = objects.len() - index * MAGAZINE_MAX - placed;
                return self.region.keep_last(class, left);
            }
        }
        self.region.reset_class(class);
    }

    /// Gives the pages of the stacks back to the OS, if all are empty: one or more for each class.
    pub(super) fn forget_slots(self) {
        if (1..CLASSES).all(|class| self.region.len(class) == 0) {
            let short = self.region.slot_pages(os::page_bytes());
            let long = (1..CLASSES).map(|class| self.region.long_mapped(class));
            for (address, len) in core::iter::once(short).chain(long).filter(|&(_, len)| len > 0) {
                // SAFETY: region I1: no slot holds an object, so what lies there is as good as zero; a sentinel is zero.
                unsafe { os::give_back(address, len) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Ordering;
    use crate::cpu_cache::policy::capacity;
    use crate::cpu_cache::shard::{Shard, create_region, lengthen};
    use crate::cpu_cache::supply::give_back;
    use crate::object::Object;
    use crate::region::{Bounds, Counter};
    use crate::rseq::outcome::{Failure, Pop, Push, number};
    use crate::rseq::reference;
    use crate::size_class::CLASS;
    use core::cell::Cell;

    /// Callers have emptied the region before; what they missed must not be lost.
    #[test]
    fn slots_that_hold_an_object_are_kept() {
        let region = create_region().unwrap();
        for (class, info) in CLASS.iter().enumerate().skip(1) {
            let short = region.bounds(class).with_capacity(class, info.slots_short);
            for (bounds, slots) in
                [(short, info.slots_short), (Bounds::long(class, info.slots_max), info.slots_max)]
            {
                assert!(lengthen(region, class, slots));
                // SAFETY: the region is the test's own; these are the slots of the class.
                unsafe {
                    let seen = region.bounds(class);
                    assert_eq!(reference::set_bounds(region, class, seen, bounds), 0);
                    for object in 1..=slots {
                        assert_eq!(reference::push(region, class, object), 0);
                    }
                    Stopped::of(region).forget_slots();
                    for object in (1..=slots).rev() {
                        assert_eq!(reference::pop(region, class), object as isize, "class {class}");
                    }
                }
            }
            region.reset_class(class);
        }
    }

    #[test]
    fn slots_without_objects_read_as_zero() {
        let region = create_region().unwrap();
        let last = CLASSES - 1;
        assert!(lengthen(region, last, 1));
        for bounds in [region.bounds(last).with_capacity(last, 1), Bounds::long(last, 1)] {
            // SAFETY: as above; the slot above the sentinel lies in the region.
            unsafe {
                let seen = region.bounds(last);
                assert_eq!(reference::set_bounds(region, last, seen, bounds), 0);
                assert_eq!(reference::push(region, last, 16), 0);
                assert_eq!(reference::pop(region, last), 16);
                Stopped::of(region).forget_slots();
                let slot = region.slot(bounds.end as usize).load(Ordering::Relaxed);
                assert_eq!(slot, 0, "the page is still there");
            }
        }
    }

    /// A shard that another thread empties just before the first change of its bounds.
    struct Emptied {
        region: &'static Region,
        is_emptied: Cell<bool>,
    }

    impl Shard for Emptied {
        fn pop(&self, _: Class) -> Pop {
            Pop::Empty
        }
        fn push(&self, _: Class, object: Object) -> Push {
            Push::Full(object)
        }
        fn pop_batch(&self, _: Class, _: &mut [usize]) -> Result<usize, Failure> {
            Ok(0)
        }
        fn push_batch(&self, _: Class, _: &[usize]) -> Result<usize, Failure> {
            Ok(0)
        }
        fn set_bounds(
            &self,
            class: Class,
            region: &Region,
            from: Bounds,
            to: Bounds,
        ) -> Result<(), Failure> {
            if !self.is_emptied.replace(true) {
                region.reset_class(class);
            }
            // SAFETY: the region is the test's own, and `to` are bounds of one of its stacks.
            number(unsafe { reference::set_bounds(region, class, from, to) }).map(drop)
        }
        fn add(&self, _: Counter, _: usize) -> Result<(), Failure> {
            Ok(())
        }
        fn region(&self) -> Option<&'static Region> {
            Some(self.region)
        }
    }

    /// Else the short stack would run into that of the next class, and objects would be handed out twice.
    #[test]
    fn a_capacity_that_was_meant_for_the_long_stack_ends_with_the_short_one() {
        for (class, info) in CLASS.iter().enumerate().skip(1) {
            let region = create_region().expect("memory");
            assert!(lengthen(region, class, info.slots_max));
            let long = Bounds::long(class, info.slots_max);
            // SAFETY: as above.
            let status =
                unsafe { reference::set_bounds(region, class, region.bounds(class), long) };
            assert_eq!(status, 0);
            let shard = Emptied { region, is_emptied: Cell::new(false) };
            assert!(capacity::shrink(&shard, region, class, info.slots_max / 2, give_back));
            assert_eq!(region.bottom(class), Region::bottom_offset(class), "class {class}");
            assert!(region.capacity(class) <= info.slots_short, "class {class}");
        }
    }
}
