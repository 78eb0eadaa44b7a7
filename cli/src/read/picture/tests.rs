use super::super::{Mapped, Range, Resident};
use super::*;
use std::path::Path;

const LOW: u64 = 1 << 16;
const SEGMENTS_AT: u64 = 1 << 44;
const SEGMENT_BYTES: u64 = 64 << 20;
const PAGE_BYTES: u64 = 64 << 10;
const PAGES: u64 = 1024;
const ENTRY: u64 = 64;
/// Where words and tables lie, from `LOW` on.
const MAPPED: u64 = LOW;
const USED: u64 = LOW + 8;
const HUGE: u64 = LOW + 16;
const ROWS: u64 = LOW + 64;
const TABLE: u64 = LOW + 4096;
const ADDRESSES: u64 = LOW + 8192;

/// The memory of a process whose segments all look the same.
struct Fake {
    low: Vec<u8>,
    metadata: Vec<u8>,
    segments: u64,
}

impl Fake {
    /// So many segments, of which `mapped` pages are mapped; all are free and clean.
    fn new(segments: u64, mapped: u64) -> Fake {
        let low = vec![0; (8192 + 8 * segments).next_multiple_of(4096) as usize];
        let metadata = vec![0; (PAGES * ENTRY) as usize];
        let mut fake = Fake { low, metadata, segments };
        fake.word(MAPPED, segments * (mapped - 9) * PAGE_BYTES);
        fake.word(USED, segments);
        for index in 0..segments {
            fake.word(ADDRESSES + 8 * index, SEGMENTS_AT + index * SEGMENT_BYTES);
        }
        // Class 1: 100 B, 655 in a slab; class 2: 40 KiB, one in a slab.
        for (class, (size, objects)) in [(0, 0), (100, 655), (40 << 10, 1)].into_iter().enumerate()
        {
            let at = (ROWS - LOW) as usize + 20 * class;
            self::put(&mut fake.low, at, size);
            self::put(&mut fake.low, at + 4, objects);
        }
        self::put(&mut fake.metadata, 8, mapped as u32);
        (9..mapped).for_each(|page| fake.set(64, page));
        fake
    }

    fn word(&mut self, at: u64, value: u64) {
        let at = (at - LOW) as usize;
        self.low[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    /// Changes `page` in the set at `at`.
    fn set(&mut self, at: u64, page: u64) {
        self.metadata[(at + page / 8) as usize] ^= 1 << (page % 8);
    }

    /// Has the pages from `first` on held by a span.
    fn hold(&mut self, first: u64, pages: u64, kind: u32, class: u32, free: u32) {
        (first..first + pages).for_each(|page| self.set(64, page));
        for (at, value) in [(0, kind), (4, class), (8, pages as u32), (12, free)] {
            put(&mut self.metadata, (first * ENTRY) as usize + at, value);
        }
    }

    fn map(&self) -> HeapMap<u64> {
        let mut map = HeapMap::from_words(std::iter::empty());
        (map.rows, map.row_bytes, map.classes) = (ROWS, 20, 3);
        (map.page_bytes, map.mapped_bytes) = (PAGE_BYTES, MAPPED);
        (map.segments_used, map.segments, map.segments_stride, map.segments_places) =
            (USED, ADDRESSES, 8, 1 << 14);
        (map.segment_bytes, map.first_page, map.segment_mapped) = (SEGMENT_BYTES, 9, 8);
        (map.segment_free, map.segment_dirty, map.segment_purging) = (64, 192, 320);
        (map.entry_bytes, map.entry_kind, map.entry_class, map.entry_pages, map.entry_free) =
            (ENTRY, 0, 4, 8, 12);
        (map.kind_slab, map.kind_large, map.kind_deferred) = (1, 2, 3);
        (
            map.huge_table,
            map.huge_slot_bytes,
            map.huge_slot_address,
            map.huge_slot_len,
            map.huge_marks,
        ) = (HUGE, 16, 0, 8, 1);
        map
    }

    fn picture(&self) -> Picture {
        Picture::read(&self.map(), self).unwrap()
    }
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

impl Source for Fake {
    fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        let (from, offset) = match address.checked_sub(SEGMENTS_AT) {
            Some(offset) if offset / SEGMENT_BYTES < self.segments => {
                (&self.metadata, offset % SEGMENT_BYTES)
            }
            Some(_) => return 0,
            None => (&self.low, address.wrapping_sub(LOW)),
        };
        let found = from.get(offset as usize..).unwrap_or_default();
        let len = found.len().min(bytes.len());
        bytes[..len].copy_from_slice(&found[..len]);
        len
    }

    fn ranges(&self) -> &[Range] {
        &[]
    }

    fn program(&self) -> (Option<u32>, String) {
        (None, String::new())
    }

    fn executable(&self) -> Option<&Path> {
        None
    }

    fn resident(&self) -> Option<Resident> {
        None
    }

    fn mapped(&self) -> Vec<Mapped> {
        Vec::new()
    }

    fn time_ns(&self) -> u64 {
        0
    }

    fn why_unreadable(&self) -> String {
        String::new()
    }
}

/// A heap with a page of everything.
fn mixed(segments: u64, mapped: u64) -> Fake {
    let mut fake = Fake::new(segments, mapped);
    fake.hold(9, 1, 1, 1, 600);
    fake.hold(10, 1, 1, 2, 0);
    fake.hold(11, 3, 2, 0, 0);
    fake.hold(14, 2, 3, 0, 0);
    fake.hold(16, 1, 0, 0, 0);
    fake.set(320, 16);
    fake.set(192, 17);
    fake
}

#[test]
fn each_page_is_what_its_entry_and_the_sets_say() {
    let picture = mixed(1, 40).picture();
    let expected = [
        (Part::To512, 5500),
        (Part::FreeInSlabs, 60_000),
        (Part::To256K, 40 << 10),
        (Part::Tail, 65_536 - 65_500 + (24 << 10)),
        (Part::Large, 3 * PAGE_BYTES),
        (Part::Unsettled, 3 * PAGE_BYTES),
        (Part::Dirty, PAGE_BYTES),
        (Part::Clean, 22 * PAGE_BYTES),
    ];
    for (part, bytes) in expected {
        assert_eq!(picture.total.of(part), bytes, "{part:?}");
    }
    assert_eq!(picture.total.total(), 31 * PAGE_BYTES);
    assert_eq!(
        (picture.cell_bytes, picture.cells.len(), picture.segments.len()),
        (PAGE_BYTES, 31, 1)
    );
    let first = &picture.cells[0];
    assert_eq!(first.address, SEGMENTS_AT + 9 * PAGE_BYTES);
    assert_eq!(first.slab, Some(Slab { size: 100, objects: 655, handed_out: 55 }));
    assert_eq!(picture.cells[2].contents.of(Part::Large), PAGE_BYTES);
    let occupancy = &picture.occupancy[1];
    assert_eq!(
        (occupancy.tenths[1], occupancy.sparse_slabs, occupancy.sparse_used_bytes),
        (1, 1, 5500)
    );
    assert_eq!(picture.occupancy[2].tenths[10], 1, "its one object is handed out");
}

#[test]
fn huge_spans_are_those_above_the_marks() {
    let mut fake = Fake::new(1, 40);
    fake.word(HUGE, TABLE);
    for (slot, (address, len)) in
        [(0, 3), (7 << 40, 1 << 30), (1, 5 << 20), (6 << 40, 2 << 30)].into_iter().enumerate()
    {
        fake.word(TABLE + 16 * slot as u64, address);
        fake.word(TABLE + 16 * slot as u64 + 8, len);
    }
    let spans: Vec<_> = fake.picture().huge.iter().map(|span| (span.address, span.len)).collect();
    assert_eq!(spans, [(6 << 40, 2 << 30), (7 << 40, 1 << 30)]);
}

/// 100 GiB: cells hold several pages or segments, and nothing is lost.
#[test]
fn large_heaps_have_few_cells() {
    for segments in [3, 40, 1600, 16_384] {
        let picture = mixed(segments, PAGES).picture();
        let cells = picture.cells.len() as u64;
        assert!(
            cells <= CELLS_MAX + segments.min(CELLS_MAX) && cells > CELLS_MAX / 3,
            "{segments}: {cells}"
        );
        let mut sum = Contents::default();
        for part in (0..PARTS).map(|part| PARTS_IN_ORDER[part]) {
            picture.cells.iter().for_each(|cell| sum.add(part, cell.contents.of(part)));
        }
        assert_eq!(sum, picture.total);
        assert_eq!(sum.of(Part::Large), segments * 3 * PAGE_BYTES);
        assert!(
            picture.cells.iter().all(|cell| cell.contents.total() <= picture.cell_bytes),
            "{segments}"
        );
        assert!(picture.cells.is_sorted_by_key(|cell| cell.address));
    }
}

const PARTS_IN_ORDER: [Part; PARTS] = [
    Part::To64,
    Part::To512,
    Part::To4K,
    Part::To32K,
    Part::To256K,
    Part::Large,
    Part::FreeInSlabs,
    Part::Tail,
    Part::Dirty,
    Part::Clean,
    Part::Unsettled,
];

#[test]
fn an_older_map_has_no_picture() {
    let fake = mixed(1, 40);
    let mut map = fake.map();
    map.huge_marks = 0;
    assert!(Picture::read(&map, &fake).is_none());
}

/// Words of a damaged process lead to wrong pictures or to none, and to no panic.
#[test]
fn damaged_heaps_are_survived() {
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 11
    };
    let mut drawn = 0;
    for _ in 0..3000 {
        let mut fake = mixed(2, 40);
        let words: Vec<u64> = {
            let mut words = Vec::new();
            fake.map().map(|word| words.push(*word));
            words
        };
        let hit = random() as usize % words.len();
        let value = [random(), u64::MAX, 0, random() % 4096][random() as usize % 4];
        let damaged =
            words.iter().enumerate().map(|(index, word)| if index == hit { value } else { *word });
        let map = HeapMap::from_words(damaged.collect::<Vec<_>>().into_iter());
        let at = random() as usize % fake.metadata.len();
        fake.metadata[at] = random() as u8;
        let at = (random() % 160) as usize;
        fake.low[at] = random() as u8;
        drawn += usize::from(Picture::read(&map, &fake).is_some());
    }
    assert!(drawn > 500, "{drawn}");
}
