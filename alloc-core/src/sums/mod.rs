//! What a heap holds, summed from its counters: the one definition, for a process that asks about itself and for a reader
//! of another process or of a core file.
//!
//! Promises to take no lock, to allocate nothing and to write nothing: the counters are read where they lie, as
//! [`HeapMap`] says. While threads work, each number is right for some instant, their sums nearly.
//!
//! ```text
//! mapped = live (without guarded) + cached + free in slabs + slab tails + dirty + clean + free for samples    in a heap at rest
//! ```

mod map;
mod stats;

pub use map::{
    ABORTS, Column, FLUSHES, HeapMap, REFILLS, ROW, ROW_BATCH, ROW_EMPTY_TOP, ROW_LONG_EMPTY_TOP,
    ROW_OBJECTS, ROW_PAGES, ROW_SIZE,
};
pub use stats::{Kind, Stats};

/// Memory that counters are read from.
pub trait Memory {
    /// The word at `address`; none if it cannot be read.
    fn word(&self, address: u64) -> Option<u64>;
    /// The half word at `address`; none if it cannot be read.
    fn half(&self, address: u64) -> Option<u32>;
}

/// More classes, shards or places than any version has: what a damaged map is cut to.
const COUNT_MAX: u64 = 1 << 16;
/// More domains than any version tells apart: a map that is wrong.
const DOMAINS_COUNT_MAX: u64 = 64;
/// See [`COUNT_MAX`].
pub const CLASSES_MAX: usize = 1 << 10;

/// Objects that moved between caches and the tiers below, since the start of the process: `refilled` and `flushed` of
/// [`Stats`]. Objects that a cache hands out, gets back and hands out again do not move.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Transferred {
    /// Up.
    pub refilled: usize,
    /// Down.
    pub flushed: usize,
}

impl Transferred {
    fn added_to(self, sum: Self) -> Self {
        Transferred {
            refilled: sum.refilled.saturating_add(self.refilled),
            flushed: sum.flushed.saturating_add(self.flushed),
        }
    }
}

/// The objects of one class, in numbers of objects.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ClassCounts {
    /// Bytes of one object.
    pub size: usize,
    /// Slabs.
    pub slabs: usize,
    /// Objects that all slabs together have.
    pub objects: usize,
    /// Bytes of all slabs.
    pub slab_bytes: usize,
    /// Handed out of slabs, to the program or to the caches.
    pub handed_out: usize,
    /// In the caches of shards.
    pub in_shards: usize,
    /// In the depot.
    pub in_depot: usize,
    /// Of all shards together, and past them; none of a process whose version does not count it.
    pub transferred: Option<Transferred>,
}

impl ClassCounts {
    /// Nothing.
    pub const NONE: Self = ClassCounts {
        size: 0,
        slabs: 0,
        objects: 0,
        slab_bytes: 0,
        handed_out: 0,
        in_shards: 0,
        in_depot: 0,
        transferred: None,
    };

    /// In the program.
    pub fn live(&self) -> usize {
        self.handed_out.saturating_sub(self.cached())
    }

    /// In caches.
    pub fn cached(&self) -> usize {
        self.in_shards.saturating_add(self.in_depot)
    }

    /// Free, in slabs.
    pub fn free_in_slabs(&self) -> usize {
        self.objects.saturating_sub(self.handed_out)
    }

    /// Bytes of slabs in which no object fits.
    pub fn tail_bytes(&self) -> usize {
        self.slab_bytes.saturating_sub(self.objects.saturating_mul(self.size))
    }
}

/// The kinds of shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShardKind {
    /// Of a CPU, used by sections.
    PerCpu,
    /// Of a thread with a lease.
    Biased,
    /// Behind a lock.
    Locked,
}

impl ShardKind {
    /// The kind that `kind as usize` is.
    pub fn of_number(number: usize) -> Option<Self> {
        let all = [ShardKind::PerCpu, ShardKind::Biased, ShardKind::Locked];
        all.into_iter().find(|&kind| kind as usize == number)
    }

    /// The kind as a word, as JSON has it.
    pub const fn word(self) -> &'static str {
        match self {
            ShardKind::PerCpu => "per_cpu",
            ShardKind::Biased => "biased",
            ShardKind::Locked => "locked",
        }
    }
}

/// One shard that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardCounts {
    /// Its kind.
    pub kind: ShardKind,
    /// Its number among those of its kind.
    pub index: usize,
    /// Objects in it.
    pub objects: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Pops that found their class empty.
    pub refills: usize,
    /// Pushes that found their class full.
    pub flushes: usize,
    /// Sections that the kernel aborted, as far as the retry paths saw.
    pub aborts: usize,
    /// Of all classes; none of a process whose version does not count it.
    pub transferred: Option<Transferred>,
}

/// Sums what `map` leads to in `memory`. Fills in `classes` (as many as the map names; more are left, fewer are summed), and
/// shows each shard to `each_shard`. None if some counter cannot be read.
pub fn collect(
    map: &HeapMap<u64>,
    memory: &dyn Memory,
    classes: &mut [ClassCounts],
    each_shard: &mut dyn FnMut(&ShardCounts),
) -> Option<Stats> {
    let reader = Reader { map, memory };
    let mut stats = Stats::default();
    for (class, counts) in classes.iter_mut().enumerate().take(map.classes as usize) {
        *counts = reader.class(class as u64)?;
    }
    let mut regions = 0;
    for (kind, index, region) in reader.regions() {
        let region = region?;
        if region == 0 {
            continue;
        }
        let shard = reader.shard(kind, index, region, classes)?;
        regions += 1;
        add(&mut stats.refills, shard.refills, 1);
        add(&mut stats.flushes, shard.flushes, 1);
        add(&mut stats.aborts, shard.aborts, 1);
        each_shard(&shard);
    }
    for class in &*classes {
        add(&mut stats.live_bytes, class.live(), class.size);
        add(&mut stats.cached_bytes, class.cached(), class.size);
        add(&mut stats.shard_cached_bytes, class.in_shards, class.size);
        add(&mut stats.depot_cached_bytes, class.in_depot, class.size);
        add(&mut stats.slab_free_bytes, class.free_in_slabs(), class.size);
        add(&mut stats.slab_tail_bytes, class.tail_bytes(), 1);
        add(&mut stats.slab_bytes, class.slab_bytes, 1);
        let transferred = class.transferred.unwrap_or_default();
        add(&mut stats.refilled_objects, transferred.refilled, 1);
        add(&mut stats.flushed_objects, transferred.flushed, 1);
    }
    reader.add_pages(&mut stats, regions)?;
    reader.add_large(&mut stats)?;
    reader.add_guarded(&mut stats)?;
    reader.add_sampled(&mut stats)?;
    reader.add_limits(&mut stats)?;
    add(&mut stats.aborts, reader.number(map.entry_aborts)?, 1);
    stats.atomic_ops = reader.number(map.atomic_operations)?;
    Some(stats)
}

/// Per-CPU shards up to the highest one that was created.
pub fn percpu_shards(map: &HeapMap<u64>, memory: &dyn Memory) -> Option<usize> {
    Reader { map, memory }.number(map.percpu_used)
}

/// The number of the way in which memory is given back, as in the report; none in a map that does not say.
pub fn purge_method(map: &HeapMap<u64>, memory: &dyn Memory) -> Option<u32> {
    if map.purge_method == 0 { None } else { memory.half(map.purge_method) }
}

struct Reader<'a> {
    map: &'a HeapMap<u64>,
    memory: &'a dyn Memory,
}

impl Reader<'_> {
    /// The counter at `address`; 0 in a map that does not have it.
    fn number(&self, address: u64) -> Option<usize> {
        if address == 0 { Some(0) } else { self.memory.word(address).map(|word| word as usize) }
    }

    fn class(&self, class: u64) -> Option<ClassCounts> {
        let map = self.map;
        if class == 0 {
            return Some(ClassCounts::default());
        }
        let row = |number: usize| self.row(class, number);
        let word = |first: u64, stride: u64| self.number(at(first, stride, class));
        let slabs = word(map.slabs, map.slabs_stride)?;
        Some(ClassCounts {
            size: row(ROW_SIZE)?,
            slabs,
            objects: slabs.saturating_mul(row(ROW_OBJECTS)?),
            slab_bytes: slabs
                .saturating_mul(row(ROW_PAGES)?)
                .saturating_mul(map.page_bytes as usize),
            handed_out: word(map.handed_out, map.slabs_stride)?,
            in_shards: 0,
            in_depot: self.magazines(class)?.saturating_mul(row(ROW_BATCH)?),
            transferred: self.transferred(map.transfers_past_shards, class)?,
        })
    }

    /// Magazines of `class` in the depot, of all domains.
    fn magazines(&self, class: u64) -> Option<usize> {
        let map = self.map;
        let domains = (self.number(map.domains)? as u64).clamp(1, DOMAINS_COUNT_MAX);
        (0..domains).try_fold(0usize, |sum, domain| {
            let index = domain.saturating_mul(map.classes).saturating_add(class);
            let word = self.number(at(map.depot, map.depot_stride, index))?;
            Some(sum.saturating_add(word >> map.depot_shift.min(63) & map.depot_mask as usize))
        })
    }

    /// What moved of `class`, by the words of class 0 at `first`; the inner one is none in a map that does not have them.
    fn transferred(&self, first: u64, class: u64) -> Option<Option<Transferred>> {
        if self.map.transfers_past_shards == 0 {
            return Some(None);
        }
        let [refilled, flushed] = [0, 1].map(|word| self.number(at(first, 8, 2 * class + word)));
        Some(Some(Transferred { refilled: refilled?, flushed: flushed? }))
    }

    fn row(&self, class: u64, number: usize) -> Option<usize> {
        let row = at(self.map.rows, self.map.row_bytes, class);
        self.memory.half(at(row, 4, number as u64)).map(|half| half as usize)
    }

    /// The top of `class` in a region when it is empty and has the stack in which `top` lies.
    fn empty_top(&self, class: u64, top: usize) -> Option<usize> {
        let has_long = self.map.row_bytes >= 4 * ROW as u64;
        let long = if has_long { self.row(class, ROW_LONG_EMPTY_TOP)? } else { usize::MAX };
        if top >= long { Some(long) } else { self.row(class, ROW_EMPTY_TOP) }
    }

    /// The addresses of all regions, 0 for shards that were never created.
    fn regions(&self) -> impl Iterator<Item = (ShardKind, usize, Option<u64>)> {
        let map = self.map;
        let used = self.number(map.percpu_used).map_or(0, |used| used as u64);
        let columns = [
            (ShardKind::PerCpu, map.percpu, map.percpu_stride, map.percpu_count.min(used)),
            (ShardKind::Biased, map.biased, map.biased_stride, map.biased_count),
            (ShardKind::Locked, map.locked, map.locked_stride, map.locked_count),
        ];
        columns.into_iter().flat_map(move |(kind, first, stride, count)| {
            (0..count.min(COUNT_MAX)).map(move |index| {
                (kind, index as usize, self.memory.word(at(first, stride, index)))
            })
        })
    }

    /// The shard of `region`, whose objects are added to `classes`.
    fn shard(
        &self,
        kind: ShardKind,
        index: usize,
        region: u64,
        classes: &mut [ClassCounts],
    ) -> Option<ShardCounts> {
        let map = self.map;
        let counters = region.wrapping_add(map.region_counters);
        let counter = |number: u64| self.number(at(counters, 8, number));
        let mut shard = ShardCounts {
            kind,
            index,
            objects: 0,
            bytes: 0,
            refills: counter(REFILLS)?,
            flushes: counter(FLUSHES)?,
            aborts: counter(ABORTS)?,
            transferred: None,
        };
        let transfers = region.wrapping_add(map.region_transfers);
        let tops = region.wrapping_add(map.region_tops);
        let known = classes.iter_mut().take(map.classes as usize);
        for (class, counts) in known.enumerate().skip(1) {
            let top = self.memory.half(at(tops, map.region_tops_stride, class as u64))? as usize;
            let stack_bytes = top.saturating_sub(self.empty_top(class as u64, top)?);
            let objects = stack_bytes / map.slot_bytes.max(1) as usize;
            add(&mut counts.in_shards, objects, 1);
            add(&mut shard.objects, objects, 1);
            add(&mut shard.bytes, objects, counts.size);
            let transferred = self.transferred(transfers, class as u64)?;
            for sum in [&mut counts.transferred, &mut shard.transferred] {
                *sum = transferred.map(|each| each.added_to(sum.unwrap_or_default()));
            }
        }
        Some(shard)
    }

    fn add_pages(&self, stats: &mut Stats, regions: usize) -> Option<()> {
        let map = self.map;
        let page_bytes = map.page_bytes as usize;
        let mapped = self.number(map.mapped_bytes)?;
        let held_bytes = self.number(map.held_pages)?.saturating_mul(page_bytes);
        stats.mapped_bytes = mapped;
        stats.dirty_bytes = self.number(map.dirty_pages)?.saturating_mul(page_bytes);
        stats.clean_bytes = mapped.saturating_sub(held_bytes).saturating_sub(stats.dirty_bytes);
        stats.purged_bytes_total = self.number(map.purged_bytes)?;
        let held_peak = self.number(map.held_peak)?.saturating_mul(page_bytes);
        let touched_peak = self.number(map.touched_peak)?.saturating_mul(page_bytes);
        stats.held_peak_bytes = held_peak.max(held_bytes);
        stats.touched_peak_bytes = touched_peak.max(held_bytes.saturating_add(stats.dirty_bytes));
        let chunks = self.number(map.magazines_made)?.div_ceil(map.chunk_magazines.max(1) as usize);
        stats.metadata_bytes = self.number(map.metadata_bytes)?;
        add(&mut stats.metadata_bytes, chunks, map.chunk_bytes as usize);
        add(&mut stats.metadata_bytes, regions, map.region_bytes as usize);
        Some(())
    }

    fn add_large(&self, stats: &mut Stats) -> Option<()> {
        let map = self.map;
        let (mut count, mut bytes) = (self.number(map.huge_count)?, self.number(map.huge_bytes)?);
        if self.number(map.deferred_used)? != 0 {
            for place in 0..map.deferred_places.min(COUNT_MAX) {
                let [address, len] = [map.deferred_address, map.deferred_len]
                    .map(|first| self.number(at(first, map.deferred_stride, place)));
                // The lowest bits are marks: a place that is being filled, or whose span is in the table by now.
                if address? & DEFERRED_MARKS == 0 && address? != 0 {
                    add(&mut count, 1, 1);
                    add(&mut bytes, len?, 1);
                }
            }
        }
        (stats.huge_count, stats.huge_bytes) = (count, bytes);
        stats.huge_peak_bytes = self.number(map.huge_peak)?.max(bytes);
        stats.large_count = self.number(map.large_count)?.saturating_add(count);
        stats.large_bytes = self.number(map.large_bytes)?.saturating_add(bytes);
        add(&mut stats.live_bytes, stats.large_bytes, 1);
        add(&mut stats.mapped_bytes, bytes, 1);
        Some(())
    }

    fn add_guarded(&self, stats: &mut Stats) -> Option<()> {
        let map = self.map;
        for slot in 0..map.guarded_slots.min(COUNT_MAX) {
            let state = self.number(at(map.guarded_state, map.guarded_stride, slot))?;
            if state as u64 == map.guarded_live {
                let bytes = self.number(at(map.guarded_size, map.guarded_stride, slot))?;
                add(&mut stats.guarded_count, 1, 1);
                add(&mut stats.guarded_bytes, bytes, 1);
            }
        }
        Some(())
    }

    fn add_limits(&self, stats: &mut Stats) -> Option<()> {
        let map = self.map;
        // Kept as their complements, and 0 for none.
        // A bound of 0 bytes is a bound.
        let bytes = |word: usize| if word == 0 { 0 } else { (!word).max(1) };
        let bound = |address| self.number(address).map(bytes);
        stats.limit_bytes = bound(map.limit)?;
        stats.limit_hard_bytes = bound(map.limit_hard)?;
        stats.container_limit_bytes = bound(map.container_limit)?;
        if map.limit != 0 {
            let held = self.number(map.held_pages)?.saturating_mul(map.page_bytes as usize);
            let metadata = self.number(map.metadata_bytes)?;
            let all = held.saturating_add(self.number(map.huge_bytes)?).saturating_add(metadata);
            stats.limited_bytes = all.saturating_sub(self.number(map.untouched_bytes)?);
        }
        Some(())
    }

    fn add_sampled(&self, stats: &mut Stats) -> Option<()> {
        let map = self.map;
        let (bytes, runs) = (self.number(map.sampled_bytes)?, self.number(map.sampled_runs)?);
        stats.sampled_bytes = bytes;
        stats.sampled_count = self.number(map.sampled_count)?;
        stats.sampled_free_bytes = runs.saturating_sub(bytes);
        add(&mut stats.live_bytes, bytes, 1);
        add(&mut stats.mapped_bytes, runs, 1);
        Some(())
    }
}

/// Marks of a place of the deferred list.
const DEFERRED_MARKS: usize = 3;

/// Adds `count` times `each`. A damaged heap has numbers that no sum holds.
fn add(sum: &mut usize, count: usize, each: usize) {
    *sum = sum.saturating_add(count.saturating_mul(each));
}

fn at(first: u64, stride: u64, index: u64) -> u64 {
    first.wrapping_add(stride.wrapping_mul(index))
}
