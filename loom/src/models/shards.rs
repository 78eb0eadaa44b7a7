//! The shards: sections in flight while somebody stops, empties or gives birth to them.

use super::{Found, Model, on, threads};
use crate::atomic::Ordering;
use crate::cpu_cache::{self, drain, shards};
use crate::depot::DEPOT;
use crate::rseq::registration;
use crate::rseq::{Index, Sections};
use crate::shard::{HOT, Region};
use crate::slab::SLABS;
use crate::sync::Patience;
use crate::world::{bytes_of, explore_only};
use crate::{os, size_class};

const CLASS: size_class::Class = 4;
const SECTIONS: Sections = Sections { index: Index::CpuId };
const WORD: usize = size_of::<usize>();

/// What init does, without a shard.
fn start() {
    HOT.window.store(os::arena(), Ordering::Relaxed);
    registration::adopt(false);
    registration::set_index(Index::CpuId);
    explore_only(bytes_of(&HOT.table[0]));
    explore_only(bytes_of(&HOT.table[1]));
    explore_only(bytes_of(shards::raw_lock()));
}

/// The shard of processor 0, with room for two objects.
fn open() -> &'static Region {
    assert!(shards::is_open(SECTIONS));
    let region = shards::current(SECTIONS).expect("it is open");
    let end = Region::bottom_offset(CLASS) + 2 * WORD;
    assert_eq!(SECTIONS.set_end(CLASS, region, 0, end), 0);
    // Of the region no more: no thread of the models looks at other classes.
    explore_only(bytes_of(&region.heads[CLASS]));
    region
}

/// The slots of the class. The engine's own drain reads them as plain memory, this one's does not.
pub fn watch_slots(region: &Region, class: size_class::Class) {
    let bottom = region.bottom(class);
    explore_only(bottom..bottom + 4 * WORD);
}

/// Takes the objects of a stopped region out.
pub fn empty(region: &Region, class: size_class::Class) -> Vec<usize> {
    let bottom = region.bottom(class);
    let objects = (1..=region.len(class)).map(|slot| {
        // SAFETY: shard I1.
        let slot = unsafe { &*((bottom + slot * WORD) as *const crate::atomic::AtomicUsize) };
        slot.load(Ordering::Relaxed)
    });
    let objects = objects.collect();
    region.heads[class].top.store(Region::bottom_offset(class) as u32, Ordering::Relaxed);
    objects
}

fn pop(found: &Found) {
    let popped = SECTIONS.pop(CLASS);
    found.add((popped > 0).then_some(popped as usize));
}

fn push(object: usize, found: &Found) {
    if SECTIONS.push(CLASS, object) != 0 {
        found.add([object]);
    }
}

/// Sections on two threads of one processor, and a stop that takes what is there.
pub const STOP: Model = Model {
    name: "stop",
    preemptions: 2,
    body: || {
        against_sections(|found| {
            let stopped = shards::while_stopped(&Patience::usual(), |regions| {
                regions.for_each(|region| found.add(empty(region, CLASS)));
            });
            assert!(stopped.is_some());
        });
    },
};

/// The same, of one shard with a fence of its own.
pub const STOP_EACH: Model = Model {
    name: "stop-each",
    preemptions: 2,
    body: || {
        against_sections(|found| {
            let take = |region| found.add(empty(region, CLASS));
            assert!(shards::stop_each(&Patience::usual(), |_| true, take));
        });
    },
};

fn against_sections(stop: fn(&Found)) {
    start();
    let region = open();
    watch_slots(region, CLASS);
    assert_eq!(SECTIONS.push(CLASS, 1), 0);
    let found = Found::default();
    let (one, two, three) = (found.clone(), found.clone(), found.clone());
    threads(vec![
        on(0, move || {
            pop(&one);
            push(2, &one);
        }),
        on(0, move || push(3, &two)),
        on(1, move || stop(&three)),
    ]);
    found.add(empty(region, CLASS));
    assert_eq!(found.sorted(), [1, 2, 3]);
}

/// The engine's own free and allocate against its own release.
pub const RELEASE: Model = Model {
    name: "release",
    preemptions: 2,
    body: || {
        start();
        let region = open();
        let object = || cpu_cache::allocate(CLASS).expect("memory").address;
        let objects = [object(), object()];
        drain::drain_all();
        explore_only(bytes_of(&DEPOT));
        let end = Region::bottom_offset(CLASS) + 2 * WORD;
        assert_eq!(SECTIONS.set_end(CLASS, region, 0, end), 0);
        let before = SLABS[CLASS].totals().1;
        let found = Found::default();
        let kept = found.clone();
        threads(vec![
            on(0, move || {
                cpu_cache::free(CLASS, objects[0]);
                kept.add([cpu_cache::allocate(CLASS).expect("memory").address]);
            }),
            on(1, || {
                drain::drain_all();
            }),
        ]);
        found.add([objects[1]]);
        let held = found.sorted();
        assert!(held[0] != held[1], "given out twice");
        drain::drain_all();
        assert_eq!((before, SLABS[CLASS].totals().1), (2, 2), "objects of the slabs");
    },
};

/// The first section on a processor, while another thread there gives birth to its shard, and a stop.
pub const BIRTH: Model = Model {
    name: "birth",
    preemptions: 2,
    body: || {
        start();
        // Where the arena's next mapping will lie.
        let next = os::map(os::Place::Anywhere, 0).expect("an address");
        // SAFETY: memory that nobody writes but the model.
        let region = unsafe { &*(next as *const Region) };
        explore_only(bytes_of(&region.heads[CLASS]));
        threads(vec![
            on(0, || {
                shards::is_open(SECTIONS);
            }),
            on(0, || {
                let status = SECTIONS.pop(CLASS);
                assert!([0, crate::rseq::ABORTED].contains(&status), "{status}");
                shards::is_open(SECTIONS);
            }),
            on(1, || {
                shards::while_stopped(&Patience::usual(), |_| ());
            }),
        ]);
        assert_eq!(shards::regions_made(), 1, "born once");
        assert!(shards::current(SECTIONS).is_some(), "and open");
    },
};
