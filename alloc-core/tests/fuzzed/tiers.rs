//! Sequences of operations of the tiers below the hot path, on CPUs that the sequence chooses.
//!
//! What `check` can't see, the shards of the test, is checked here: their stacks, their budget, and that each object which the slabs have
//! handed out is in the program's hands, in a shard or in the depot.

use crate::heap::{self, Census, Refusals};
use crate::objects::{Defect, Objects, alone};
use crate::support::FakeCpus;
use rsalloc_core::internals::config::{self, Key};
use rsalloc_core::internals::cpu_cache::allocate_on;
use rsalloc_core::internals::depot::DEPOT;
use rsalloc_core::internals::region::Region;
use rsalloc_core::internals::size_class::{CLASS, CLASSES, class_of, object_size};
use rsalloc_core::internals::slab::SLABS;
use std::sync::atomic::Ordering::Relaxed;

/// What a program on changing CPUs may do. `pick` is the number of a live object, modulo how many.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Allocate {
        size: usize,
    },
    Free {
        pick: usize,
    },
    Burst {
        size: usize,
        count: usize,
    },
    FreeMany {
        pick: usize,
        count: usize,
    },
    Migrate {
        cpu: usize,
    },
    /// Empties the shard of this CPU.
    Drain,
    /// Empties depot, slabs and page heap.
    Release,
    /// The budget of a shard.
    Cache {
        bytes: usize,
    },
    /// The OS refuses some calls from the `first` on.
    Refuse {
        first: u64,
        count: u64,
    },
    Check,
}

/// CPUs of the test.
pub const CPUS: usize = 4;
const BYTES_MAX: usize = 16 << 20;
const OBJECTS_MAX: usize = 4096;
const CACHE_MAX: usize = 8 << 20;

thread_local! {
    // Regions live for ever, so they are made once.
    static FAKE: FakeCpus = FakeCpus::new(CPUS);
}

/// Runs the sequence and gives everything back; panics if a promise is broken. How many objects came
/// and went.
pub fn replay(ops: &[Op], defect: Option<Defect>) -> u64 {
    let _alone = alone();
    FAKE.with(|cpus| {
        let before = Census::take();
        let objects = Objects::new(defect);
        let cache = config::number(Key::Cache);
        // A fixed one, so that it can be held against the capacities.
        config::set_number(Key::Cache, CACHE_MAX);
        let refusals = Refusals::default();
        let mut program = Program { cpus, objects, refusals, before, cache_max: CACHE_MAX };
        for &op in ops {
            program.step(op);
        }
        program.step(Op::Check);
        program.free_many(0, usize::MAX);
        for cpu in 0..CPUS {
            program.step(Op::Migrate { cpu });
            program.drain();
            cpus.regions()[cpu].reset();
        }
        assert_eq!(Census::take(), program.before, "not everything came home");
        program.step(Op::Check);
        config::set_number(Key::Cache, cache);
        program.objects.moves
    })
}

struct Program<'a> {
    cpus: &'a FakeCpus,
    objects: Objects,
    refusals: Refusals,
    before: Census,
    /// The largest budget since the start: a smaller one takes nothing away at once.
    cache_max: usize,
}

impl Program<'_> {
    fn step(&mut self, op: Op) {
        match op {
            Op::Allocate { size } => self.allocate(size),
            Op::Free { pick } => self.free_many(pick, 1),
            Op::Burst { size, count } => (0..count).for_each(|_| self.allocate(size)),
            Op::FreeMany { pick, count } => self.free_many(pick, count),
            Op::Migrate { cpu } => self.cpus.migrate(cpu),
            Op::Drain => self.drain(),
            Op::Release => drop(rsalloc_core::release()),
            Op::Cache { bytes } => {
                config::set_number(Key::Cache, bytes);
                self.cache_max = self.cache_max.max(bytes);
            }
            Op::Refuse { first, count } => self.refusals.begin(first, count),
            Op::Check => {
                self.refusals.end();
                heap::check(&self.objects);
                self.cpus.regions().iter().for_each(|region| check_region(region, self.cache_max));
                self.check_sums();
            }
        }
    }

    fn allocate(&mut self, size: usize) {
        if self.objects.bytes + size > BYTES_MAX || self.objects.count() >= OBJECTS_MAX {
            return;
        }
        let class = class_of(size);
        match allocate_on(self.cpus, class) {
            Some(fresh) => {
                let align = if class == 1 { 8 } else { 16 };
                self.objects.add(fresh.object.into_raw() as usize, object_size(class), size, align);
            }
            None => assert!(self.refusals.happened(), "nothing for {size} bytes"),
        }
    }

    fn free_many(&mut self, pick: usize, count: usize) {
        for _ in 0..count.min(self.objects.count()) {
            if let Some(object) = self.objects.remove(pick) {
                self.cpus.free(class_of(object.usable), object.address);
            }
        }
    }

    fn drain(&self) {
        (1..CLASSES).for_each(|class| self.cpus.empty(class));
    }

    /// Each object that the slabs have handed out since the start is in exactly one place.
    fn check_sums(&self) {
        let mut held = [0; CLASSES];
        self.objects.each(|object| held[class_of(object.usable)] += 1);
        for (class, info) in CLASS.iter().enumerate().skip(1) {
            let cached: usize = self.cpus.regions().iter().map(|region| region.len(class)).sum();
            let depot = DEPOT.magazines(class) * info.batch;
            let out = SLABS[class].totals().1 - self.before.objects[class];
            assert_eq!(out, held[class] + cached + depot, "objects of class {class}");
        }
    }
}

fn check_region(region: &Region, cache_max: usize) {
    let mut budget = 0;
    for (class, info) in CLASS.iter().enumerate().skip(1) {
        assert!(region.len(class) <= info.slots_max, "top of class {class} out of its bounds");
        assert!(region.capacity(class) <= info.slots_max, "end of class {class} out of its bounds");
        // SAFETY: the sentinel is a word of the region.
        let sentinel = unsafe { region.slot(region.bottom(class)) }.load(Relaxed);
        assert_eq!(sentinel, 0, "sentinel of class {class}");
        budget += region.capacity(class) * object_size(class);
    }
    assert!(budget <= cache_max, "capacities for {budget} bytes");
}
