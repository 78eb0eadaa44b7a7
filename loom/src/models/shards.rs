//! The shards: sections in flight while another thread stops, empties or creates them.

use super::heap::{one_of, put};
use super::{Found, Model, on, threads};
use crate::domain::Domain;
use crate::atomic::Ordering;
use crate::config::RequestedMode;
use crate::cpu_cache::shard::{percpu, regions_created};
use crate::cpu_cache::{self, drain, exclusive};
use crate::depot::DEPOT;
use crate::hot::HOT;
use crate::machine::{self, BLOCKS, cid_on};
use crate::object::{Batch, Object};
use crate::region::Region;
use crate::rseq::registration;
use crate::rseq::{Index, Sections};
use crate::slab::{self, SLABS};
use crate::sync::Backoff;
use crate::world::{bytes_of, explore_only};
use crate::{os, size_class};

const CLASS: size_class::Class = 4;
const SECTIONS: Sections = Sections { index: Index::CpuId };
const BY_CID: Sections = Sections { index: Index::MmCid };
const WORD: usize = size_of::<usize>();

/// What init does, without a shard.
fn start(sections: Sections) {
    HOT.page_map_base.store(os::arena(), Ordering::Relaxed);
    registration::adopt(RequestedMode::Auto);
    registration::set_index(sections.index);
    BLOCKS[0].area.mm_cid.store(cid_on(0), Ordering::Relaxed);
    explore_only(bytes_of(&HOT.table[0]));
    explore_only(bytes_of(&HOT.table[1]));
    explore_only(bytes_of(&HOT.other_table[0]));
    explore_only(bytes_of(&HOT.other_table[1]));
    explore_only(bytes_of(percpu::raw_lock()));
}

/// The shard of processor 0, with a capacity of two objects.
fn open(sections: Sections) -> &'static Region {
    assert!(percpu::open_or_create(sections));
    let region = percpu::current(sections).expect("it is open");
    let to = region.bounds(CLASS).with_capacity(CLASS, 2);
    assert_eq!(sections.set_bounds(CLASS, region, region.bounds(CLASS), to), 0);
    // Of the region no more: no thread of the models looks at other classes.
    explore_only(bytes_of(&region.heads[CLASS]));
    region
}

/// The slots of the class. The engine's own drain reads them as plain memory, this one's does not.
pub fn watch_slots(region: &Region, class: size_class::Class) {
    let bottom = region.at(region.bottom(class));
    explore_only(bottom..bottom + 4 * WORD);
}

/// Takes the objects of a stopped region out.
pub fn empty(region: &Region, class: size_class::Class) -> Vec<usize> {
    let bottom = region.at(region.bottom(class));
    let objects = (1..=region.len(class)).map(|slot| {
        // SAFETY: region I1.
        let slot = unsafe { &*((bottom + slot * WORD) as *const crate::atomic::AtomicUsize) };
        slot.load(Ordering::Relaxed)
    });
    let objects = objects.collect();
    region.heads[class].top.store(Region::bottom_offset(class) as u32, Ordering::Relaxed);
    objects
}

fn pop(sections: Sections, found: &Found) {
    let popped = sections.pop(CLASS);
    found.add((popped > 0).then_some(popped as usize));
}

fn push(sections: Sections, object: usize, found: &Found) {
    if sections.push(CLASS, object) != 0 {
        found.add([object]);
    }
}

/// Sections on two threads of one processor, and a stop that takes what is there.
pub const STOP: Model = Model {
    name: "stop",
    preemptions: 2,
    body: || {
        against_sections(SECTIONS, |found| {
            let stopped = exclusive::stop_all(&mut Backoff::usual(), |regions| {
                regions.for_each(|region| found.add(empty(region.region(), CLASS)));
            });
            assert!(stopped.is_some());
        });
    },
};

/// The same, of one shard with a fence of its own.
pub const STOP_EACH: Model =
    Model { name: "stop-each", preemptions: 2, body: || against_sections(SECTIONS, take_each) };

/// The same, where a shard's number is no processor's: the fence has to reach them all.
pub const STOP_CID: Model =
    Model { name: "stop-cid", preemptions: 2, body: || against_sections(BY_CID, take_each) };

fn take_each(found: &Found) {
    let mut take = |stopped: exclusive::Stopped| found.add(empty(stopped.region(), CLASS));
    assert!(exclusive::stop_each(&mut Backoff::usual(), &|_| true, &mut take));
}

fn against_sections(sections: Sections, stop: fn(&Found)) {
    start(sections);
    let region = open(sections);
    watch_slots(region, CLASS);
    assert_eq!(sections.push(CLASS, 1), 0);
    let found = Found::default();
    let (one, two, three) = (found.clone(), found.clone(), found.clone());
    threads(vec![
        on(0, move || {
            pop(sections, &one);
            push(sections, 2, &one);
        }),
        on(0, move || push(sections, 3, &two)),
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
        start(SECTIONS);
        let region = open(SECTIONS);
        let object = || cpu_cache::allocate(CLASS).expect("memory").object.address();
        let objects = [object(), object()];
        drain::drain_all();
        explore_only(bytes_of(&DEPOT));
        let to = region.bounds(CLASS).with_capacity(CLASS, 2);
        assert_eq!(SECTIONS.set_bounds(CLASS, region, region.bounds(CLASS), to), 0);
        let before = SLABS[CLASS].totals().1;
        let found = Found::default();
        let kept = found.clone();
        threads(vec![
            on(0, move || {
                // SAFETY: the model holds it.
                let object = unsafe { Object::from_address(objects[0]) };
                cpu_cache::free(CLASS, object.expect("not null"));
                kept.add([cpu_cache::allocate(CLASS).expect("memory").object.address()]);
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

/// A handler, anywhere on top of a thread that takes an object of a slab, puts it back and pops one, releases everything.
pub const RELEASE_ABOVE: Model = Model {
    name: "release-above",
    preemptions: 1,
    body: || {
        start(SECTIONS);
        let region = open(SECTIONS);
        let mut objects = Batch::new();
        slab::take(CLASS, Domain::FIRST, &mut objects, 2).expect("no handler");
        assert_eq!(objects.len(), 2);
        drain::drain_all();
        let to = region.bounds(CLASS).with_capacity(CLASS, 2);
        assert_eq!(SECTIONS.set_bounds(CLASS, region, region.bounds(CLASS), to), 0);
        for &object in objects.addresses() {
            assert_eq!(SECTIONS.push(CLASS, object), 0);
        }
        objects.forget_all();
        machine::handle(1, || {
            drain::drain_all();
        });
        let found = Found::default();
        let kept = found.clone();
        threads(vec![
            on(0, move || {
                put(one_of(CLASS));
                pop(SECTIONS, &kept);
            }),
            on(1, || machine::signal(1)),
        ]);
        drain::drain_all();
        let held = found.sorted().len();
        assert_eq!(SLABS[CLASS].totals().1, held, "objects of the slabs");
    },
};

/// The first section on a processor, while another thread there creates its shard, and a stop.
pub const CREATION: Model = Model {
    name: "creation",
    preemptions: 2,
    body: || {
        start(SECTIONS);
        // Where the arena's next mapping will lie.
        let next = os::map(os::Place::Anywhere, 0).expect("an address");
        // SAFETY: memory that only the model writes.
        let region = unsafe { &*(next as *const Region) };
        explore_only(bytes_of(&region.heads[CLASS]));
        threads(vec![
            on(0, || {
                percpu::open_or_create(SECTIONS);
            }),
            on(0, || {
                let status = SECTIONS.pop(CLASS);
                assert!([0, crate::rseq::ABORTED].contains(&status), "{status}");
                percpu::open_or_create(SECTIONS);
            }),
            on(1, || {
                exclusive::stop_all(&mut Backoff::usual(), |_| ());
            }),
        ]);
        // Not if both found it being stopped.
        assert!(percpu::open_or_create(SECTIONS), "open");
        assert_eq!(regions_created(), 1, "created once");
    },
};
