//! [`Picture`]: what each part of a heap's address space holds.
//!
//! Reads the metadata of each segment once, a 1/1024 of what is mapped, and keeps sums and at most about [`CELLS_MAX`] cells:
//! a heap of 100 GiB costs 100 MiB of reading and no more memory than one of 100 MiB.

use super::Source;
use super::memory::Paged;
use rsalloc_core::internals::sums::{CLASSES_MAX, HeapMap, Memory, ROW_OBJECTS, ROW_SIZE};

/// What a byte of the heap is part of. The first ones are objects handed out of slabs, live or cached, by their size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Part {
    /// Objects of up to 64 B.
    To64,
    /// Objects of up to 512 B.
    To512,
    /// Objects of up to 4 KiB.
    To4K,
    /// Objects of up to 32 KiB.
    To32K,
    /// Objects of up to 256 KiB.
    To256K,
    /// Larger objects.
    Large,
    /// Free objects in slabs.
    FreeInSlabs,
    /// Ends of slabs.
    Tail,
    /// Free pages that may be resident.
    Dirty,
    /// Free pages without memory.
    Clean,
    /// Pages that were being given back, or changed while they were read.
    Unsettled,
}

/// Number of parts.
pub const PARTS: usize = Part::Unsettled as usize + 1;

impl Part {
    /// The part that handed out objects of `size` bytes belong to.
    pub fn of_size(size: u64) -> Part {
        match size {
            0..=64 => Part::To64,
            65..=512 => Part::To512,
            513..=4096 => Part::To4K,
            4097..=32_768 => Part::To32K,
            _ => Part::To256K,
        }
    }
}

/// Bytes by part.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Contents([u64; PARTS]);

impl Contents {
    /// Bytes of a part.
    pub fn of(&self, part: Part) -> u64 {
        self.0[part as usize]
    }

    /// Bytes of all parts.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Bytes of objects handed out.
    pub fn used(&self) -> u64 {
        self.0[..=Part::Large as usize].iter().sum()
    }

    fn add(&mut self, part: Part, bytes: u64) {
        self.0[part as usize] += bytes;
    }
}

/// A run of pages, drawn as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Its first address.
    pub address: u64,
    /// Number of its segment.
    pub segment: usize,
    /// What is in it.
    pub contents: Contents,
    /// Of a cell of one page: the slab that the page belongs to.
    pub slab: Option<Slab>,
}

/// A slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slab {
    /// Bytes of an object.
    pub size: u64,
    /// Objects that it has.
    pub objects: u64,
    /// Of these, handed out.
    pub handed_out: u64,
}

/// A segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its address.
    pub address: u64,
    /// What its mapped pages hold.
    pub contents: Contents,
}

/// How full the slabs of a class are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Occupancy {
    /// Slabs by tenths of handed out objects: none, up to a tenth, .., all up to the last tenth.
    pub tenths: [u64; 11],
    /// Slabs with objects handed out, but at most a quarter of what they have.
    pub sparse_slabs: u64,
    /// Bytes of those objects.
    pub sparse_used_bytes: u64,
    /// Bytes of those slabs.
    pub sparse_bytes: u64,
    /// Bytes of slabs without objects handed out.
    pub empty_bytes: u64,
}

/// A huge span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Huge {
    /// Its address.
    pub address: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A heap, by address.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Bytes of a cell.
    pub cell_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// By address within each segment, in order of the segments' creation.
    pub cells: Vec<Cell>,
    /// In order of creation.
    pub segments: Vec<Segment>,
    /// The sum of the segments.
    pub total: Contents,
    /// By class.
    pub occupancy: Vec<Occupancy>,
    /// Huge spans in the table, the largest first.
    pub huge: Vec<Huge>,
}

/// As many cells as a picture may have, but for one more in each segment that is not mapped to its end.
pub const CELLS_MAX: u64 = 2048;
/// More than any version has: what a damaged map is cut to.
const METADATA_MAX_BYTES: u64 = 16 << 20;
/// See [`METADATA_MAX_BYTES`].
const SEGMENT_MAX_BYTES: u64 = 1 << 40;
/// See [`METADATA_MAX_BYTES`].
const COUNT_MAX: u64 = 1 << 16;
/// See [`METADATA_MAX_BYTES`]: a cell more in each segment, and as many again of what was mapped meanwhile.
const CELLS_LIMIT: u64 = 2 * CELLS_MAX + COUNT_MAX;
/// See [`METADATA_MAX_BYTES`].
const HUGE_MAX_BYTES: u64 = 256 << 20;

impl Picture {
    /// The picture of the heap that `map` describes; none if the map is of a version without one, or memory cannot be read.
    pub(super) fn read(map: &HeapMap<u64>, source: &dyn Source) -> Option<Picture> {
        Reader { map, source, memory: Paged::new(source) }.picture()
    }

    /// Bytes in slabs that hold no object.
    pub fn empty_slab_bytes(&self) -> u64 {
        self.occupancy.iter().map(|class| class.empty_bytes).sum()
    }
}

struct Reader<'a> {
    map: &'a HeapMap<u64>,
    source: &'a dyn Source,
    memory: Paged<'a>,
}

/// What the pages of a run have in common.
enum Use {
    Slab { class: usize, free: u64 },
    Span(Part),
}

/// Pages of one span, or free ones of one kind.
struct Run {
    first: u64,
    pages: u64,
    what: Use,
}

/// Object size and number of objects of a class's slabs.
#[derive(Clone, Copy)]
struct Row {
    size: u64,
    objects: u64,
}

impl Reader<'_> {
    fn picture(&self) -> Option<Picture> {
        let map = self.map;
        let metadata_bytes = self.pages_per_segment()?.checked_mul(map.entry_bytes)?;
        if map.huge_marks == 0
            || metadata_bytes > METADATA_MAX_BYTES
            || map.segment_bytes > SEGMENT_MAX_BYTES
        {
            return None;
        }
        let rows = self.rows()?;
        let mapped_bytes = self.memory.word(map.mapped_bytes)?;
        let cell_pages = mapped_bytes.div_ceil(map.page_bytes).div_ceil(CELLS_MAX);
        let mut picture = Picture {
            cell_bytes: cell_pages.next_power_of_two().saturating_mul(map.page_bytes),
            segment_bytes: map.segment_bytes,
            occupancy: vec![Occupancy::default(); rows.len()],
            ..Picture::default()
        };
        let mut metadata = vec![0; metadata_bytes as usize];
        let mut number = None;
        let used = self.memory.word(map.segments_used)?;
        for index in 0..used.min(map.segments_places).min(COUNT_MAX) {
            let address = self
                .memory
                .word(map.segments.wrapping_add(map.segments_stride.wrapping_mul(index)))?;
            picture.segments.push(Segment { address, contents: Contents::default() });
            self.runs(address, &mut metadata, |run| {
                picture.count(&run, &rows, map.page_bytes);
                picture.lay(&run, &rows, map.page_bytes, &mut number);
            })?;
            // More only in a damaged heap.
            if picture.cells.len() as u64 > CELLS_LIMIT {
                return None;
            }
        }
        picture.huge = self.huge()?;
        Some(picture)
    }

    fn pages_per_segment(&self) -> Option<u64> {
        self.map.segment_bytes.checked_div(self.map.page_bytes)
    }

    fn rows(&self) -> Option<Vec<Row>> {
        let map = self.map;
        let row = |class: u64| {
            let half = |number: usize| {
                let at =
                    map.rows.wrapping_add(map.row_bytes.wrapping_mul(class)) + 4 * number as u64;
                self.memory.half(at).map(u64::from)
            };
            Some(Row { size: half(ROW_SIZE)?, objects: half(ROW_OBJECTS)? })
        };
        (0..map.classes.min(CLASSES_MAX as u64)).map(row).collect()
    }

    /// Shows each run of the segment at `address` to `each`, in order.
    fn runs(&self, address: u64, metadata: &mut [u8], mut each: impl FnMut(Run)) -> Option<()> {
        let map = self.map;
        let mapped = u64::from(self.memory.half(address.wrapping_add(map.segment_mapped))?);
        let mapped = mapped.min(self.pages_per_segment()?);
        let metadata = &mut metadata[..(mapped * map.entry_bytes) as usize];
        if self.source.read(address, metadata) < metadata.len() {
            return None;
        }
        let half = |at: u64| {
            let bytes = metadata.get(at as usize..)?.first_chunk()?;
            Some(u64::from(u32::from_ne_bytes(*bytes)))
        };
        let is_in = |set: u64, page: u64| {
            Some(metadata.get(set.wrapping_add(page / 8) as usize)? >> (page % 8) & 1 == 1)
        };
        let mut first = map.first_page;
        while first < mapped {
            let (is_free, is_dirty, is_purging) = (
                is_in(map.segment_free, first)?,
                is_in(map.segment_dirty, first)?,
                is_in(map.segment_purging, first)?,
            );
            let entry = first * map.entry_bytes;
            let kind = half(entry.wrapping_add(map.entry_kind))?;
            let (what, pages) = match (is_free, is_dirty) {
                (true, true) => (Use::Span(Part::Dirty), 1),
                (true, false) => (Use::Span(Part::Clean), 1),
                _ if is_purging => (Use::Span(Part::Unsettled), 1),
                _ => {
                    let pages = half(entry.wrapping_add(map.entry_pages))?;
                    let class = half(entry.wrapping_add(map.entry_class))? as usize;
                    let free = half(entry.wrapping_add(map.entry_free))?;
                    match kind {
                        kind if kind == map.kind_slab => (Use::Slab { class, free }, pages),
                        kind if kind == map.kind_large => (Use::Span(Part::Large), pages),
                        kind if kind == map.kind_deferred => (Use::Span(Part::Unsettled), pages),
                        _ => (Use::Span(Part::Unsettled), 1),
                    }
                }
            };
            let pages = pages.clamp(1, mapped - first);
            each(Run { first, pages, what });
            first += pages;
        }
        Some(())
    }

    /// The spans of the table of huge spans, the largest first.
    fn huge(&self) -> Option<Vec<Huge>> {
        let map = self.map;
        let table = self.memory.word(map.huge_table)?;
        if table == 0 {
            return Some(Vec::new());
        }
        let slots = self.memory.word(table.wrapping_add(map.huge_slot_len))?;
        let bytes = slots.saturating_mul(map.huge_slot_bytes).min(HUGE_MAX_BYTES);
        let mut slots = vec![0; bytes as usize];
        let read = self.source.read(table.wrapping_add(map.huge_slot_bytes), &mut slots);
        let mut spans: Vec<_> = slots[..read]
            .chunks_exact((map.huge_slot_bytes as usize).max(1))
            .filter_map(|slot| {
                let word =
                    |at: u64| Some(u64::from_ne_bytes(*slot.get(at as usize..)?.first_chunk()?));
                let (address, len) = (word(map.huge_slot_address)?, word(map.huge_slot_len)?);
                (address > map.huge_marks).then_some(Huge { address, len })
            })
            .collect();
        spans.sort_by_key(|span| (std::cmp::Reverse(span.len), span.address));
        Some(spans)
    }
}

impl Run {
    /// The parts of the run, from its start on. A slab is drawn as if what is handed out of it came first.
    fn parts(&self, rows: &[Row], page_bytes: u64) -> [(Part, u64); 3] {
        let bytes = self.pages * page_bytes;
        match self.what {
            Use::Span(part) => [(part, bytes), (part, 0), (part, 0)],
            Use::Slab { .. } => {
                let Some(slab) = self.slab(rows) else {
                    return [(Part::Unsettled, bytes), (Part::Unsettled, 0), (Part::Unsettled, 0)];
                };
                // Less than all only in a damaged heap.
                let used = (slab.handed_out * slab.size).min(bytes);
                let free = ((slab.objects - slab.handed_out) * slab.size).min(bytes - used);
                let tail = bytes - used - free;
                [(Part::of_size(slab.size), used), (Part::FreeInSlabs, free), (Part::Tail, tail)]
            }
        }
    }

    /// The slab that the run is; none if it is none, or if its numbers were changed while they were read.
    fn slab(&self, rows: &[Row]) -> Option<Slab> {
        let Use::Slab { class, free } = self.what else { return None };
        let Row { size, objects } = *rows.get(class)?;
        let handed_out = objects.checked_sub(free)?;
        Some(Slab { size, objects, handed_out })
    }
}

impl Picture {
    /// Adds a run to the numbers of its class.
    fn count(&mut self, run: &Run, rows: &[Row], page_bytes: u64) {
        let (Use::Slab { class, .. }, Some(slab)) = (&run.what, run.slab(rows)) else { return };
        let occupancy = &mut self.occupancy[*class];
        let Slab { size, objects, handed_out } = slab;
        let bytes = run.pages * page_bytes;
        occupancy.tenths[(10 * handed_out).div_ceil(objects.max(1)) as usize] += 1;
        if handed_out == 0 {
            occupancy.empty_bytes += bytes;
        } else if 4 * handed_out <= objects {
            occupancy.sparse_slabs += 1;
            occupancy.sparse_used_bytes += handed_out * size;
            occupancy.sparse_bytes += bytes;
        }
    }

    /// Adds a run of the last segment to its cells. `number` is that of the last cell.
    fn lay(&mut self, run: &Run, rows: &[Row], page_bytes: u64, number: &mut Option<u64>) {
        let Some(index) = self.segments.len().checked_sub(1) else { return };
        let base = index as u64 * self.segment_bytes;
        let mut at = run.first * page_bytes;
        for (part, mut bytes) in run.parts(rows, page_bytes) {
            self.total.add(part, bytes);
            self.segments[index].contents.add(part, bytes);
            while bytes > 0 {
                let offset = base + at;
                let wanted = offset / self.cell_bytes;
                if *number != Some(wanted) {
                    *number = Some(wanted);
                    self.cells.push(Cell {
                        address: self.segments[index].address + at,
                        segment: index,
                        contents: Contents::default(),
                        slab: if self.cell_bytes == page_bytes { run.slab(rows) } else { None },
                    });
                }
                let piece = bytes.min(self.cell_bytes - offset % self.cell_bytes);
                if let Some(cell) = self.cells.last_mut() {
                    cell.contents.add(part, piece);
                }
                (at, bytes) = (at + piece, bytes - piece);
            }
        }
    }
}

#[cfg(test)]
mod tests;
