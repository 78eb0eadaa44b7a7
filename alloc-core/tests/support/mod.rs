//! A shard whose CPU is a number that the test chooses: migration is a method call.

use rsalloc_core::internals::cpu_cache::shard::{self, Shard};
use rsalloc_core::internals::object::Batch;
use rsalloc_core::internals::region::{Counter, Region};
use rsalloc_core::internals::rseq::reference;
use rsalloc_core::internals::size_class::Class;
use rsalloc_core::internals::slab;
use rsalloc_core::internals::units::MAGAZINE_MAX;
use std::cell::Cell;

/// Shards of the test's own, worked on by the plain twins of the sections.
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

// SAFETY, for each block: the regions are the test's own, and one thread runs.
impl Shard for FakeCpus {
    fn pop(&self, class: Class) -> isize {
        // SAFETY: see above.
        unsafe { reference::pop(self.here(), class) }
    }
    fn push(&self, class: Class, object: usize) -> isize {
        // SAFETY: see above.
        unsafe { reference::push(self.here(), class, object) }
    }
    fn pop_batch(&self, class: Class, out: &mut [usize]) -> isize {
        // SAFETY: see above.
        unsafe { reference::pop_batch(self.here(), class, out) }
    }
    fn push_batch(&self, class: Class, objects: &[usize]) -> isize {
        // SAFETY: see above.
        unsafe { reference::push_batch(self.here(), class, objects) }
    }
    fn set_end(&self, class: Class, _region: &Region, expected: usize, end: usize) -> isize {
        // SAFETY: see above; the policy computes `end`.
        unsafe { reference::set_end(self.here(), class, expected, end) }
    }
    fn add(&self, counter: Counter, delta: usize) -> isize {
        // SAFETY: see above.
        unsafe { reference::add(self.here(), counter as usize, delta) }
    }
    fn region(&self) -> Option<&'static Region> {
        Some(self.here())
    }
}
