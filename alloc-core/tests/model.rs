//! The tiers against a model: whatever the order of operations and migrations, an object is handed out
//! once, keeps its contents, and nothing is lost; the validator is clean after each run.

#[allow(dead_code)]
#[path = "support/cpus.rs"]
mod cpus;
mod support;

use cpus::Cpus;
use proptest::prelude::*;
use rsalloc_core::internals::cpu_cache::allocate_on;
use rsalloc_core::internals::region::{Bounds, Region};
use rsalloc_core::internals::size_class::{
    CLASS, CLASSES, Class, class_of, class_of_aligned, object_size,
};
use std::collections::BTreeMap;
use std::sync::Mutex;
use support::FakeCpus;

/// The heap is the process's; `check` wants it quiet.
static ALONE: Mutex<()> = Mutex::new(());

#[derive(Clone, Debug)]
enum Op {
    Allocate(usize),
    Free(usize),
    Migrate(usize),
    Burst(usize, usize),
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..=1024usize, 2 => 1025..=32_768usize, 1 => 32_769..=262_144usize]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => size().prop_map(Op::Allocate),
        5 => any::<usize>().prop_map(Op::Free),
        1 => (0..4usize).prop_map(Op::Migrate),
        1 => (size(), 1..200usize).prop_map(|(size, count)| Op::Burst(size, count)),
    ]
}

/// Live objects by address: class and the byte that fills the object's first words.
#[derive(Default)]
struct Model {
    live: BTreeMap<usize, (Class, u8)>,
    next: u8,
}

impl Model {
    fn allocate(&mut self, cpus: &FakeCpus, size: usize) {
        let class = class_of(size);
        let object = allocate_on(cpus, class).expect("memory").object.address();
        let end = object + object_size(class);
        assert!(object.is_multiple_of(if class == 1 { 8 } else { 16 }));
        if let Some((&before, &(class, _))) = self.live.range(..=object).next_back() {
            assert!(before + object_size(class) <= object, "overlaps the object before");
        }
        if let Some((&behind, _)) = self.live.range(object..).next() {
            assert!(end <= behind, "overlaps the object behind");
        }
        self.next = self.next.wrapping_add(1);
        fill(object, size.min(64), self.next);
        assert!(self.live.insert(object, (class, self.next)).is_none(), "given out twice");
    }

    fn free(&mut self, cpus: &FakeCpus, pick: usize) {
        let Some(&object) = self.live.keys().nth(pick % self.live.len().max(1)) else { return };
        let (class, byte) = self.live.remove(&object).unwrap();
        let smallest = if class == 1 { 0 } else { object_size(class - 1) + 1 };
        assert!(holds(object, smallest.min(64), byte), "contents changed");
        cpus.free(class, object);
    }
}

fn fill(object: usize, len: usize, byte: u8) {
    // SAFETY: a live object of at least that size.
    unsafe { (object as *mut u8).write_bytes(byte, len) };
}

fn holds(object: usize, len: usize, byte: u8) -> bool {
    // SAFETY: a live object of at least that size.
    unsafe { std::slice::from_raw_parts(object as *const u8, len) }.iter().all(|&b| b == byte)
}

/// Gives everything back that the test's shards hold, so that the next run starts even.
fn empty(cpus: &FakeCpus, count: usize) {
    for cpu in 0..count {
        cpus.migrate(cpu);
        for class in 1..CLASSES {
            cpus.empty(class);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn objects_are_handed_out_once(ops in prop::collection::vec(op(), 1..400)) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let cpus = FakeCpus::new(4);
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Allocate(size) => model.allocate(&cpus, size),
                Op::Free(pick) => model.free(&cpus, pick),
                Op::Migrate(cpu) => cpus.migrate(cpu),
                Op::Burst(size, count) => {
                    (0..count).for_each(|_| model.allocate(&cpus, size));
                    (0..count).for_each(|i| model.free(&cpus, i * 7));
                }
            }
        }
        prop_assert_eq!(rsalloc_core::check(), Ok(()));
        while !model.live.is_empty() {
            model.free(&cpus, 0);
        }
        empty(&cpus, 4);
        prop_assert_eq!(rsalloc_core::check(), Ok(()));
    }

    #[test]
    fn real_allocations_keep_their_promises(
        requests in prop::collection::vec((size(), 0..22u32, any::<bool>()), 1..60)
    ) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut live = Vec::new();
        for (i, (size, shift, zeroed)) in requests.into_iter().enumerate() {
            let align = 1 << shift;
            let object = match zeroed {
                true => rsalloc_core::allocate_zeroed(size, align),
                false => rsalloc_core::allocate_aligned(size, align),
            } as usize;
            prop_assert!(object != 0 && object.is_multiple_of(align), "{size} at {align}: {object:#x}");
            prop_assert!(!zeroed || holds(object, size, 0));
            // SAFETY: live.
            let usable = unsafe { rsalloc_core::usable_size(object as *const u8) };
            prop_assert!(usable >= size);
            fill(object, size, i as u8);
            live.push((object, size, align, i as u8));
        }
        for (object, size, align, byte) in live {
            prop_assert!(holds(object, size, byte));
            // SAFETY: live, with its layout.
            unsafe { rsalloc_core::free_sized(object as *mut u8, size, align) };
        }
        prop_assert_eq!(rsalloc_core::check(), Ok(()));
    }
}

#[test]
#[cfg_attr(
    not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(feature = "portable"))),
    ignore = "this build has no sections"
)]
fn sections_match_the_reference_implementation() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    assert!(!rsalloc_core::allocate(1).is_null());
    let Some(sections) = rsalloc_core::internals::rseq::registration::sections() else {
        panic!("this test needs rseq; the kernel or a filter denies it");
    };
    let reference = FakeCpus::new(1);
    let class = class_of_aligned(48, 16);
    // Pinned to one CPU the thread has one shard, which the test brings to the reference's state first.
    pin();
    let mut drained = [0; 64];
    while retry(|| sections.pop_batch(class, &mut drained)) != 0 {}
    let region = shards_region(sections);
    set_both(sections, &reference, region, class, 40);
    let mut random = 0x9E37_79B9u64;
    for step in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let n = (random >> 40) as usize % 64 + 1;
        let objects: Vec<usize> = (0..n).map(|i| (step * 64 + i + 1) * 16).collect();
        let (mut a, mut b) = ([0; 64], [0; 64]);
        let (real, plain) = match (random >> 33) % 4 {
            0 => (retry(|| sections.pop(class)), reference.pop(class)),
            1 => (retry(|| sections.push(class, objects[0])), reference.push(class, objects[0])),
            2 => (
                retry(|| sections.pop_batch(class, &mut a[..n])),
                reference.pop_batch(class, &mut b[..n]),
            ),
            _ => (
                retry(|| sections.push_batch(class, &objects)),
                reference.push_batch(class, &objects),
            ),
        };
        assert_eq!(real, plain, "step {step}");
        assert_eq!(a, b, "step {step}");
        assert_eq!(region.len(class), reference.regions()[0].len(class), "step {step}");
    }
    // The objects were made up: none may stay.
    while retry(|| sections.pop(class)) > 0 {}
    assert!(CLASS[class].slots_short >= 40);
}

/// Runs a section until the kernel did not abort it.
fn retry(mut section: impl FnMut() -> isize) -> isize {
    (0..1000)
        .map(|_| section())
        .find(|&status| status != rsalloc_core::internals::rseq::ABORTED)
        .unwrap()
}

fn pin() {
    // SAFETY: no duties.
    Cpus::allowed().move_to_cpu(unsafe { libc::sched_getcpu() } as usize);
}

fn shards_region(sections: rsalloc_core::internals::rseq::Sections) -> &'static Region {
    assert!(rsalloc_core::internals::cpu_cache::shard::percpu::open_or_create(sections));
    rsalloc_core::internals::cpu_cache::shard::percpu::current(sections).expect("pinned and open")
}

fn set_both(
    sections: rsalloc_core::internals::rseq::Sections,
    reference: &FakeCpus,
    region: &Region,
    class: Class,
    capacity: usize,
) {
    let plain = reference.regions()[0];
    for region in [region, plain] {
        assert_eq!(region.len(class), 0);
    }
    let to = plain.bounds(class).with_capacity(class, capacity);
    let seen = region.bounds(class);
    assert_eq!(retry(|| sections.set_bounds(class, region, seen, to)), 0);
    let wrong = Bounds { end: to.end + 8, ..to };
    assert_eq!(
        sections.set_bounds(class, region, wrong, to),
        rsalloc_core::internals::rseq::CHANGED
    );
    assert_eq!(reference.set_bounds(class, plain, plain.bounds(class), to), 0);
}
