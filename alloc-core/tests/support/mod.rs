//! A shard whose CPU is a number that the test chooses: migration is a method call.

use rsalloc_core::internals::cpu_cache::free_on;
use rsalloc_core::internals::cpu_cache::shard::{self, Shard};
use rsalloc_core::internals::object::{Batch, Object};
use rsalloc_core::internals::region::{Bounds, Counter, Region};
use rsalloc_core::internals::rseq::outcome::{Failure, Pop, Push, number};
use rsalloc_core::internals::rseq::reference;
use rsalloc_core::internals::size_class::Class;
use rsalloc_core::internals::slab;
use rsalloc_core::internals::units::MAGAZINE_MAX;
use std::cell::Cell;

/// Shards of the test's own, worked on by the reference implementation of the sections.
pub struct FakeCpus {
    regions: Vec<&'static Region>,
    cpu: Cell<usize>,
}

impl FakeCpus {
    /// `count` CPUs, running on the first.
    pub fn new(count: usize) -> Self {
        assert!(!rsalloc_core::allocate(1).is_null(), "the engine starts");
        let regions = (0..count).map(|_| shard::create_region().expect("memory")).collect();
        FakeCpus { regions, cpu: Cell::new(0) }
    }

    /// Goes on on another CPU.
    pub fn migrate(&self, cpu: usize) {
        self.cpu.set(cpu % self.regions.len());
    }

    /// All regions.
    pub fn regions(&self) -> &[&'static Region] {
        &self.regions
    }

    /// Frees an object of `class`.
    #[allow(dead_code, reason = "not every test frees")]
    pub fn free(&self, class: Class, address: usize) {
        // SAFETY: the tests free what they hold.
        let object = unsafe { Object::from_address(address) }.expect("not null");
        free_on(self, class, object);
    }

    /// Puts the objects of `class` that the CPU's shard has back into their slabs.
    #[allow(dead_code, reason = "not every test has something to put back")]
    pub fn empty(&self, class: Class) {
        let mut batch = Batch::new();
        while self.here().len(class) > 0 {
            // SAFETY: what the shard pops was the shard's.
            unsafe { batch.receive_slots(MAGAZINE_MAX, |out| self.pop_batch(class, out) as usize) };
            slab::put(&mut batch);
            assert!(batch.is_empty(), "no handler here");
        }
    }

    fn here(&self) -> &'static Region {
        self.regions[self.cpu.get()]
    }
}

/// The operations by their status, as `Sections` has them.
// SAFETY, for each block: the regions are the test's own, and one thread runs.
#[allow(dead_code, reason = "not every test compares statuses")]
impl FakeCpus {
    pub fn pop(&self, class: Class) -> isize {
        // SAFETY: see above.
        unsafe { reference::pop(self.here(), class) }
    }
    pub fn push(&self, class: Class, object: usize) -> isize {
        // SAFETY: see above.
        unsafe { reference::push(self.here(), class, object) }
    }
    pub fn pop_batch(&self, class: Class, out: &mut [usize]) -> isize {
        // SAFETY: see above.
        unsafe { reference::pop_batch(self.here(), class, out) }
    }
    pub fn push_batch(&self, class: Class, objects: &[usize]) -> isize {
        // SAFETY: see above.
        unsafe { reference::push_batch(self.here(), class, objects) }
    }
    pub fn set_bounds(&self, class: Class, _region: &Region, from: Bounds, to: Bounds) -> isize {
        // SAFETY: see above; the policy computes the bounds.
        unsafe { reference::set_bounds(self.here(), class, from, to) }
    }
    pub fn add(&self, counter: Counter, delta: usize) -> isize {
        // SAFETY: see above.
        unsafe { reference::add(self.here(), counter as usize, delta) }
    }
}

impl Shard for FakeCpus {
    fn pop(&self, class: Class) -> Pop {
        // SAFETY: just popped.
        unsafe { Pop::of(self.pop(class)) }
    }
    fn push(&self, class: Class, object: Object) -> Push {
        Push::of(object, |address| self.push(class, address))
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> Result<usize, Failure> {
        number(self.pop_batch(class, out))
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> Result<usize, Failure> {
        number(self.push_batch(class, objects))
    }
    fn set_bounds(
        &self,
        class: Class,
        region: &Region,
        from: Bounds,
        to: Bounds,
    ) -> Result<(), Failure> {
        number(self.set_bounds(class, region, from, to)).map(drop)
    }
    fn add(&self, counter: Counter, delta: usize) -> Result<(), Failure> {
        number(self.add(counter, delta)).map(drop)
    }
    fn region(&self) -> Option<&'static Region> {
        Some(self.here())
    }
}
