//! The validator names each kind of damage: a heap is damaged on purpose, in a process of its own, and looked at.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{MODES, in_modes};
use rsalloc_core::internals::cpu_cache;
use rsalloc_core::internals::depot::DEPOT;
use rsalloc_core::internals::domain::Domain;
use rsalloc_core::internals::object::{Batch, Contents};
use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::internals::page_heap::entry::{Kind, PageEntry};
use rsalloc_core::internals::page_heap::huge::HUGE;
use rsalloc_core::internals::page_heap::segment::{HEADER_PAGES, PageRun, Segment};
use rsalloc_core::internals::page_map;
use rsalloc_core::internals::region::Region;
use rsalloc_core::internals::size_class::{CLASS, Class, class_of};
use rsalloc_core::internals::slab::SLABS;
use rsalloc_core::internals::units::{PAGE_BYTES, SEGMENT_PAGES};
use rsalloc_core::{Defect, DefectKind, allocate, check, free};
use std::sync::atomic::Ordering;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const WORD: usize = size_of::<usize>();
/// 42 objects in a slab of one page.
const SIZE: usize = 1500;
const LARGE: usize = 300_000;
const HUGE_SIZE: usize = 40 << 20;

fn main() {
    let cases = MODES.into_iter().filter(|case| ["libc", "atomic"].contains(&case.name));
    in_modes(&cases.collect::<Vec<_>>(), LIMIT, |_| {
        let (mut heaps, mut wrong) = (0, 0);
        for &kind in DefectKind::ALL {
            for (number, damage) in damages(kind).iter().enumerate() {
                let verdict = in_a_child(|| {
                    let heap = Heap::new();
                    assert_eq!(check(), Ok(()), "before");
                    damage(&heap);
                    check()
                });
                heaps += 1;
                if verdict != Some(kind) {
                    eprintln!("{kind:?}, damage {number}: the validator says {verdict:?}");
                    wrong += 1;
                }
            }
        }
        assert_eq!(wrong, 0, "of the damaged heaps are called something else");
        assert_eq!(check(), Ok(()));
        println!("{heaps} damaged heaps, {} kinds", DefectKind::ALL.len());
    });
}

/// What the validator finds in a child of fork.
fn in_a_child(f: impl FnOnce() -> Result<(), Defect>) -> Option<DefectKind> {
    let number = |kind| DefectKind::ALL.iter().position(|&other| other == kind);
    // SAFETY: one thread runs; the child ends without its parent's destructors.
    unsafe {
        match libc::fork() {
            0 => {
                std::panic::set_hook(Box::new(|info| {
                    eprintln!("{info}");
                    libc::_exit(255);
                }));
                let found = f().err().and_then(|defect| number(defect.what));
                libc::_exit(found.map_or(254, |number| number as i32))
            }
            child => {
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                assert!(libc::WIFEXITED(status), "{status:#x}");
                DefectKind::ALL.get(libc::WEXITSTATUS(status) as usize).copied()
            }
        }
    }
}

/// A sound heap with one slab of the class in use, a large and a huge span, and empty caches.
struct Heap {
    class: Class,
    objects: Vec<usize>,
    slab: &'static PageEntry,
    large: usize,
    huge: usize,
    region: &'static Region,
}

impl Heap {
    fn new() -> Heap {
        let class = class_of(SIZE);
        assert_eq!((CLASS[class].objects, CLASS[class].pages), (42, 1));
        let objects: Vec<_> = (0..4).map(|_| allocate(SIZE) as usize).collect();
        let (large, huge) = (allocate(LARGE) as usize, allocate(HUGE_SIZE) as usize);
        rsalloc_core::release();
        let slab = PAGE_HEAP.entry_at(objects[0]).expect("an object");
        assert_eq!((slab.free.get(), SLABS[class].totals()), (38, (1, 4)));
        let region = cpu_cache::regions().next().expect("of the shard that served the objects");
        Heap { class, objects, slab, large, huge, region }
    }

    fn large(&self) -> &'static PageEntry {
        PAGE_HEAP.entry_at(self.large).expect("a span")
    }

    /// The segment of the large span, and the number of its first page.
    fn large_page(&self) -> (&'static Segment, usize) {
        let segment = PAGE_HEAP.segment_at(self.large).expect("a span");
        (segment, (self.large - segment.base()) / PAGE_BYTES)
    }

    fn free_bits(&self) -> u64 {
        self.slab.bitmap()[0].get()
    }

    /// An object that the slab has.
    fn free_object(&self) -> usize {
        self.slab.page() + self.free_bits().trailing_zeros() as usize * CLASS[self.class].size
    }

    /// Takes `count` objects out of the slab, behind the back of its class.
    fn steal(&self, count: u32) {
        for _ in 0..count {
            self.slab.bitmap()[0].set(self.free_bits() & (self.free_bits() - 1));
        }
        self.slab.free.set(self.slab.free.get() - count);
    }

    /// Puts a word on top of a class's stack.
    fn cache(&self, class: Class, word: usize) {
        let top = &self.region.heads[class].top;
        let slot = top.load(Ordering::Relaxed) as usize + WORD;
        // SAFETY: a slot of the region, which no other thread uses.
        unsafe { (self.region.at(slot) as *mut usize).write(word) };
        top.store(slot as u32, Ordering::Relaxed);
    }

    /// Puts a magazine into the depot.
    fn store(&self, objects: &[usize]) {
        // SAFETY: for the validator, which only looks; the process ends.
        let mut batch = unsafe { Batch::from_slots(objects) };
        assert!(DEPOT.put_unbounded(self.class, Domain::FIRST, &mut batch));
    }

    fn set_top(&self, slots: isize, bytes: isize) {
        let top = Region::bottom_offset(self.class) as isize + slots * WORD as isize + bytes;
        self.region.heads[self.class].top.store(top as u32, Ordering::Relaxed);
    }

    fn set_end(&self, slots: isize, bytes: isize) {
        let end = Region::bottom_offset(self.class) as isize + slots * WORD as isize + bytes;
        self.region.heads[self.class].end.store(end as u32, Ordering::Relaxed);
    }

    fn slots_short(&self) -> isize {
        CLASS[self.class].slots_short as isize
    }

    /// The words of the huge span's entry: address and length.
    fn huge_entry(&self) -> *mut usize {
        let mut word = HUGE.table() as *mut usize;
        // SAFETY: the table has the span.
        unsafe {
            while word.read() != self.huge {
                word = word.add(1);
            }
        }
        word
    }
}

/// A page that is free.
fn free_page() -> usize {
    let segment = PAGE_HEAP.segments().next().expect("a segment");
    let index = (HEADER_PAGES..SEGMENT_PAGES).find(|&index| segment.is_free(index));
    segment.base() + index.expect("a free page") * PAGE_BYTES
}

/// Has a segment say that it has no longer run of free pages than this.
fn set_longest(segment: &Segment, pages: u32) {
    // The header is the lock's word, the number of mapped pages, this.
    let word = (segment.base() + WORD + size_of::<u32>()) as *mut u32;
    // SAFETY: the header is mapped, and no other thread uses it.
    unsafe { word.write(pages) };
    assert_eq!(segment.longest(), pages as usize);
}

type Damage = fn(&Heap);

/// How heaps come by each kind of defect: at least one way.
fn damages(kind: DefectKind) -> &'static [Damage] {
    match kind {
        DefectKind::Busy => &[|_| {
            let segment = PAGE_HEAP.segments().next().expect("a segment");
            std::mem::forget(segment.lock());
        }],
        DefectKind::NoMemory => &[|_| {
            let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
            // SAFETY: a live struct.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
        }],
        DefectKind::FreePageWithClass => &[|_| page_map::set_class_at(free_page(), 3)],
        DefectKind::ClassMismatch => &[
            |heap| page_map::set_class_at(heap.slab.page(), heap.class + 1),
            |heap| page_map::set_class_at(heap.slab.page(), 0),
            |heap| heap.slab.class.set(heap.class as u32 - 1),
        ],
        DefectKind::LargeWithClass => &[|heap| page_map::set_class_at(heap.large, 3)],
        DefectKind::PageWithoutSpan => &[
            |heap| heap.large().set_kind(Kind::None),
            |heap| heap.slab.set_kind(Kind::None),
            |heap| heap.large().pages.set(heap.large().pages.get() - 1),
        ],
        DefectKind::SpanMiscounted => &[|heap| heap.slab.pages.set(2)],
        DefectKind::SpanBeyondSegment => {
            &[|heap| heap.large().pages.set(SEGMENT_PAGES as u32), |heap| heap.large().pages.set(0)]
        }
        DefectKind::FreePageInSpan => &[
            |heap| {
                let (segment, first) = heap.large_page();
                segment.put(PageRun { first: first + 1, pages: 1, dirty: 0 }, Contents::Any);
            },
            |heap| heap.large().pages.set(heap.large().pages.get() + 1),
        ],
        DefectKind::InnerPageWithClass => {
            &[|heap| page_map::set_class_at(heap.large + PAGE_BYTES, 3)]
        }
        DefectKind::LongestTooShort => &[|heap| set_longest(heap.large_page().0, 1)],
        DefectKind::BitBeyondEnd => &[|heap| heap.slab.bitmap()[0].set(heap.free_bits() | 1 << 42)],
        DefectKind::FreeMiscounted => &[
            |heap| heap.slab.free.set(37),
            |heap| heap.slab.bitmap()[0].set(heap.free_bits() & (heap.free_bits() - 1)),
        ],
        DefectKind::ListingMismatch => &[|heap| heap.slab.set_bin(0)],
        DefectKind::ForeignInList => &[|heap| {
            let other = allocate(3000) as usize;
            rsalloc_core::release();
            let other = PAGE_HEAP.entry_at(other).expect("an object");
            heap.slab.next.set(Some(other));
        }],
        DefectKind::WrongList => &[
            |heap| heap.steal(20),
            |heap| {
                let bin = heap.slab.bin();
                heap.slab.set_domain(Domain::of_index(heap.slab.domain().index() + 1));
                heap.slab.set_bin(bin);
            },
        ],
        DefectKind::ListTooLong => &[|heap| heap.slab.next.set(Some(heap.slab))],
        DefectKind::LostFromList => &[|heap| {
            // Two slabs that lack as many objects.
            let more: Vec<_> = (0..80).map(|_| allocate(SIZE) as usize).collect();
            rsalloc_core::release();
            let is_first = |object: &usize| object / PAGE_BYTES == heap.objects[0] / PAGE_BYTES;
            let (first, second): (Vec<usize>, Vec<usize>) = more.into_iter().partition(is_first);
            for &object in first[..5].iter().chain(&second[..5]) {
                // SAFETY: live, each once.
                unsafe { free(object as *mut u8) };
            }
            rsalloc_core::release();
            assert_eq!(check(), Ok(()), "before");
            let listed: Vec<_> = SLABS[heap.class].partial(heap.class).collect();
            assert!(listed.len() == 2 && listed[0].1 == listed[1].1, "one list");
            listed[0].2.next.set(None);
        }],
        DefectKind::ClassMiscounted => &[|heap| heap.steal(1)],
        DefectKind::TopOutOfBounds => &[
            |heap| heap.set_top(heap.slots_short() + 1, 0),
            |heap| heap.set_top(-1, 0),
            |heap| heap.set_top(1, 4),
        ],
        DefectKind::EndOutOfBounds => &[
            |heap| heap.set_end(heap.slots_short() + 1, 0),
            |heap| heap.set_end(-1, 0),
            |heap| heap.set_end(1, 4),
        ],
        DefectKind::SentinelOverwritten => &[|heap| {
            // SAFETY: a word of the region, which no other thread uses.
            unsafe { heap.region.slot(heap.region.bottom(heap.class)) }
                .store(heap.objects[0], Ordering::Relaxed);
        }],
        DefectKind::CachedOutside => &[
            |heap| heap.cache(heap.class, 0x1000),
            |heap| {
                heap.store(&[0x1000]);
            },
        ],
        DefectKind::CachedInner => &[
            |heap| heap.cache(heap.class, heap.objects[0] + 8),
            // Too small for what it would be handed out as.
            |heap| heap.cache(heap.class + 1, heap.objects[0]),
            |heap| heap.store(&[heap.objects[0] + 8]),
            |heap| heap.cache(heap.class, heap.large),
        ],
        DefectKind::CachedAndFree => &[
            |heap| heap.cache(heap.class, heap.free_object()),
            |heap| heap.store(&[heap.free_object()]),
        ],
        DefectKind::CachedTwice => &[
            |heap| (0..2).for_each(|_| heap.cache(heap.class, heap.objects[0])),
            |heap| {
                heap.cache(heap.class, heap.objects[0]);
                heap.cache(heap.class, heap.objects[1]);
                heap.cache(heap.class - 1, heap.objects[0]);
            },
            |heap| {
                heap.cache(heap.class, heap.objects[0]);
                heap.store(&[heap.objects[1], heap.objects[0]]);
            },
            |heap| heap.store(&[heap.objects[0]; 2]),
            |heap| {
                (0..2).for_each(|_| heap.store(&heap.objects[..1]));
            },
        ],
        DefectKind::HugeMiscounted => &[
            // SAFETY: words of the table's memory; no other thread runs.
            |heap| unsafe { *heap.huge_entry().add(1) += PAGE_BYTES },
            // SAFETY: as above.
            |heap| unsafe { heap.huge_entry().write(1) },
            |heap| {
                let more: Vec<_> = (0..5).map(|_| allocate(HUGE_SIZE) as usize).collect();
                assert!(!more.contains(&0));
                // SAFETY: as above.
                unsafe { *heap.huge_entry() += PAGE_BYTES };
            },
        ],
        _ => panic!("no damage makes this kind: {kind:?}"),
    }
}
