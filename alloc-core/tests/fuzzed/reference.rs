//! The assembly and its reference implementation side by side: the same operations from the same state.
//!
//! Promises that after each operation status, buffer and the class's stack are the same, and at the end
//! all memory of the two regions that sections write. States are set from outside, any that the invariants
//! of `shard` allow.

use crate::cpus::Cpus;
use crate::objects::{Defect, alone};
use crate::support::FakeCpus;
use rsalloc_core::internals::cpu_cache::exclusive;
use rsalloc_core::internals::cpu_cache::shard::{lengthen, percpu};
use rsalloc_core::internals::region::{Bounds, COUNTERS, Counter, Region};
use rsalloc_core::internals::rseq::{ABORTED, CHANGED, FULL, Sections, registration};
use rsalloc_core::internals::size_class::{CLASS, CLASSES};
use rsalloc_core::internals::sync::Backoff;
use std::sync::atomic::Ordering::Relaxed;

/// An operation of a shard, or of the test. Classes and counts are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Pop {
        class: usize,
    },
    Push {
        class: usize,
        object: usize,
    },
    PopBatch {
        class: usize,
        count: usize,
    },
    PushBatch {
        class: usize,
        object: usize,
        count: usize,
    },
    /// `wrong`: not the bounds that the section finds.
    SetBounds {
        class: usize,
        slots: usize,
        wrong: bool,
    },
    Add {
        counter: usize,
        delta: usize,
    },
    /// So many objects on a stack, and room for so many; `slots` chooses the stack as well.
    State {
        class: usize,
        objects: usize,
        slots: usize,
    },
    /// The shard is stopped: every section finds its class empty and full.
    Stopped {
        class: usize,
    },
}

const WORD: usize = size_of::<usize>();
const COUNTS: [Counter; COUNTERS] = [Counter::Refills, Counter::Flushes, Counter::Aborts];

thread_local! {
    // Regions live for ever, so it is made once.
    static PLAIN: FakeCpus = FakeCpus::new(1);
}

/// Runs the sequence on both; panics where they differ. How many operations.
pub fn replay(ops: &[Op], defect: Option<Defect>) -> u64 {
    let _alone = alone();
    assert!(!rsalloc_core::allocate(1).is_null());
    let _pinned = Pinned::here();
    let sections = registration::sections().expect("this needs rseq");
    assert!(percpu::open_or_create(sections));
    PLAIN.with(|plain| {
        let real = percpu::current(sections).expect("pinned and open");
        rsalloc_core::release();
        let pair = Pair { sections, real, plain, model: plain.regions()[0], defect };
        pair.clear();
        ops.iter().for_each(|&op| pair.step(op));
        pair.compare_all();
    });
    ops.len() as u64
}

struct Pair<'a> {
    sections: Sections,
    real: &'static Region,
    plain: &'a FakeCpus,
    model: &'static Region,
    defect: Option<Defect>,
}

impl Drop for Pair<'_> {
    /// The objects were made up: none may stay, also where the two differ.
    fn drop(&mut self) {
        self.clear();
    }
}

impl Pair<'_> {
    fn step(&self, op: Op) {
        let (mut a, mut b) = ([0; 64], [0; 64]);
        let s = self.sections;
        let (class, real, plain) = match op {
            Op::Pop { class } => {
                let class = class_of(class);
                (class, again(|| s.pop(class)), self.plain.pop(class))
            }
            Op::Push { class, object } => {
                let class = class_of(class);
                let other = object ^ usize::from(self.defect.is_some());
                (class, again(|| s.push(class, object)), self.plain.push(class, other))
            }
            Op::PopBatch { class, count } => {
                let (class, n) = (class_of(class), count % 65);
                let real = again(|| s.pop_batch(class, &mut a[..n]));
                (class, real, self.plain.pop_batch(class, &mut b[..n]))
            }
            Op::PushBatch { class, object, count } => {
                let class = class_of(class);
                let objects: Vec<_> = (0..count % 65).map(|i| object.wrapping_add(i)).collect();
                let real = again(|| s.push_batch(class, &objects));
                (class, real, self.plain.push_batch(class, &objects))
            }
            Op::SetBounds { class, slots, wrong } => {
                let class = class_of(class);
                let set = |shard: &dyn Fn(Bounds, Bounds) -> isize, region: &Region| {
                    let seen = region.bounds(class);
                    // An empty class may move from one stack to the other.
                    let to = match region.len(class) {
                        0 => empty(class, slots),
                        len => seen.with_capacity(class, len.max(slots % (most(class, seen) + 1))),
                    };
                    shard(Bounds { end: seen.end + u32::from(wrong), ..seen }, to)
                };
                let own = |seen, to| again(|| s.set_bounds(class, self.real, seen, to));
                let plain = |seen, to| self.plain.set_bounds(class, self.model, seen, to);
                (class, set(&own, self.real), set(&plain, self.model))
            }
            Op::Add { counter, delta } => {
                let counter = COUNTS[counter % COUNTERS];
                let real = again(|| s.add(counter as usize, delta));
                (1, real, self.plain.add(counter, delta))
            }
            Op::State { class, objects, slots } => {
                return self.set(class_of(class), objects, slots);
            }
            Op::Stopped { class } => return self.stopped(class_of(class)),
        };
        assert_eq!(real, plain, "status of {op:?}");
        assert_eq!(a, b, "buffer of {op:?}");
        assert_eq!(stack(self.real, class), stack(self.model, class), "stack after {op:?}");
    }

    /// Only this thread works on the two regions: it is the process's only thread, on one CPU.
    fn set(&self, class: usize, objects: usize, slots: usize) {
        let bounds = empty(class, slots);
        let bottom = bounds.top as usize;
        let slots = (bounds.end as usize).saturating_sub(bottom) / WORD;
        let objects = objects % (slots + 1);
        for region in [self.real, self.model] {
            assert!(lengthen(region, class, SLOTS_TRIED));
            for i in 1..=objects {
                // SAFETY: a slot of a stack of the class, which is mapped.
                unsafe { region.slot(bottom + i * WORD) }.store(i * 16 + class, Relaxed);
            }
            region.heads[class].top.store((bottom + objects * WORD) as u32, Relaxed);
            region.heads[class].end.store(bounds.end, Relaxed);
        }
    }

    fn stopped(&self, class: usize) {
        let s = self.sections;
        let done = exclusive::stop_all(&mut Backoff::usual(), |_| {
            assert_eq!(again(|| s.pop(class)), 0);
            assert_eq!(again(|| s.push(class, 16)), FULL);
            assert_eq!(again(|| s.pop_batch(class, &mut [0; 64])), 0);
            assert_eq!(again(|| s.push_batch(class, &[16; 64])), 0);
            let bounds = self.real.bounds(class);
            assert_eq!(again(|| s.set_bounds(class, self.real, bounds, bounds)), CHANGED);
        });
        assert!(done.is_some(), "the kernel has the fence");
    }

    fn clear(&self) {
        for region in [self.real, self.model] {
            region.reset();
            (1..CLASSES)
                .flat_map(|class| slots(region, class))
                .for_each(|slot| slot.store(0, Relaxed));
            region.counters.iter().for_each(|counter| counter.store(0, Relaxed));
        }
    }

    fn compare_all(&self) {
        for class in 1..CLASSES {
            assert_eq!(stack(self.real, class), stack(self.model, class), "class {class}");
        }
        let words = |region: &Region| -> Vec<usize> {
            region.counters.iter().map(|word| word.load(Relaxed)).collect()
        };
        assert!(words(self.real) == words(self.model), "counters differ");
    }
}

fn class_of(number: usize) -> usize {
    number % (CLASSES - 1) + 1
}

/// Slots of the long stacks that are tried.
const SLOTS_TRIED: usize = 250;

/// Slots of the stack to which `bounds` belong that may be used.
fn most(class: usize, bounds: Bounds) -> usize {
    match Region::long_bottom_if(class, bounds.top as usize) {
        Some(_) => SLOTS_TRIED,
        None => CLASS[class].slots_short,
    }
}

/// Bounds of an empty stack of the class, the short or the long one, by `number`.
fn empty(class: usize, number: usize) -> Bounds {
    let short = Bounds { top: Region::bottom_offset(class) as u32, end: 0 };
    let slots = number / 2;
    match number % 2 {
        0 => short.with_capacity(class, slots % (CLASS[class].slots_short + 1)),
        _ => Bounds::long(class, slots % (SLOTS_TRIED + 1)),
    }
}

/// The slots of both stacks, sentinels included.
fn slots(region: &Region, class: usize) -> impl Iterator<Item = &std::sync::atomic::AtomicUsize> {
    assert!(lengthen(region, class, SLOTS_TRIED));
    let short = (Region::bottom_offset(class), CLASS[class].slots_short);
    let long = (Region::long_bottom_offset(class), SLOTS_TRIED);
    [short, long].into_iter().flat_map(move |(bottom, slots)| {
        // SAFETY: slots of the class, which are mapped.
        (0..=slots).map(move |at| unsafe { region.slot(bottom + at * WORD) })
    })
}

/// Where top and end are, and all slots.
fn stack(region: &Region, class: usize) -> (Bounds, Vec<usize>) {
    let words = slots(region, class).map(|slot| slot.load(Relaxed)).collect();
    (region.bounds(class), words)
}

/// Runs a section until the kernel did not abort it.
fn again(mut section: impl FnMut() -> isize) -> isize {
    (0..1000).map(|_| section()).find(|&status| status != ABORTED).expect("not aborted for ever")
}

/// The thread stays on its CPU while this lives.
struct Pinned(Cpus);

impl Pinned {
    fn here() -> Self {
        let cpus = Cpus::allowed();
        // SAFETY: no preconditions.
        cpus.move_to_cpu(unsafe { libc::sched_getcpu() } as usize);
        Pinned(cpus)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.move_anywhere();
    }
}
