//! A long load whose sizes and live bytes change by phases, and what memory it takes at each step: what
//! the survivors of one phase keep resident in the next.
//!
//! The steps are counted in operations, so every allocator is looked at with the same objects live.
#![allow(unsafe_code)]

use crate::client::{Client, Object};
use crate::process;
use crate::rng::Rng;
use crate::slots::Slots;
use memmap2::MmapMut;
use serde::Serialize;
use std::time::Duration;

/// One phase: fill up to `live_bytes` with objects of `sizes`, make half as many more in place
/// of random ones, drop most.
struct Phase {
    /// The logarithms of the least and the greatest size.
    sizes: (u32, u32),
    live_bytes: usize,
    /// Of a thousand objects, how many are left.
    kept: usize,
}

const MIB: usize = 1 << 20;

const PHASES: [Phase; 8] = [
    Phase { sizes: (4, 8), live_bytes: 64 * MIB, kept: 100 },
    Phase { sizes: (8, 12), live_bytes: 96 * MIB, kept: 100 },
    Phase { sizes: (12, 16), live_bytes: 128 * MIB, kept: 100 },
    Phase { sizes: (4, 16), live_bytes: 96 * MIB, kept: 50 },
    Phase { sizes: (16, 22), live_bytes: 160 * MIB, kept: 100 },
    Phase { sizes: (5, 7), live_bytes: 64 * MIB, kept: 20 },
    Phase { sizes: (10, 14), live_bytes: 96 * MIB, kept: 50 },
    Phase { sizes: (4, 18), live_bytes: 128 * MIB, kept: 0 },
];

/// Objects that may be live at once.
const OBJECTS_MAX: usize = 1 << 21;
/// Looks at the memory while a phase fills, replaces, and drops, each.
const LOOKS: usize = 8;

/// One look.
#[derive(Clone, Copy, Serialize)]
pub struct Look {
    /// Bytes that were asked for and are live.
    pub live_bytes: u64,
    /// Resident bytes, without this program's tables.
    pub rss_bytes: u64,
}

/// What a run showed.
#[derive(Serialize)]
pub struct Course {
    /// The allocator that served it.
    pub allocator: String,
    /// Whether its caches are per CPU, where it says so.
    pub per_cpu: Option<bool>,
    /// Resident bytes before the first object, as in a look.
    pub start_rss_bytes: u64,
    /// All looks up to the last free.
    pub looks: Vec<Look>,
    /// Resident bytes when the process had been idle for some seconds.
    pub idle_rss_bytes: u64,
    /// The same after the program has woken up and made a few allocations.
    pub woken_rss_bytes: u64,
}

struct Heap {
    client: Client,
    slots: Slots,
    sizes: MmapMut,
    len: usize,
    live_bytes: usize,
    made: u64,
    rng: Rng,
    looks: Vec<Look>,
}

/// Runs all phases, at `scale` hundredths of their size, and is idle for `rest` at the end.
pub fn run(scale: usize, rest: Duration) -> anyhow::Result<Course> {
    let mut sizes = MmapMut::map_anon(4 * OBJECTS_MAX)?;
    sizes.fill(0);
    let mut heap = Heap {
        client: Client::default(),
        slots: Slots::new(OBJECTS_MAX),
        sizes,
        len: 0,
        live_bytes: 0,
        made: 0,
        rng: Rng::new(1),
        looks: Vec::with_capacity(PHASES.len() * 3 * (LOOKS + 1)),
    };
    let start_rss_bytes = heap.rss_bytes();
    for phase in &PHASES {
        heap.phase(phase, scale);
    }
    std::thread::sleep(rest);
    let idle_rss_bytes = heap.rss_bytes();
    heap.client.wake();
    let woken_rss_bytes = heap.rss_bytes();
    anyhow::ensure!(
        heap.len == 0 && heap.client.checksum().is_some(),
        "what was read back is not what was written: the allocator damaged an object"
    );
    Ok(Course {
        allocator: process::allocator(),
        per_cpu: process::per_cpu(),
        start_rss_bytes,
        looks: heap.looks,
        idle_rss_bytes,
        woken_rss_bytes,
    })
}

impl Heap {
    fn phase(&mut self, phase: &Phase, scale: usize) {
        let target = phase.live_bytes * scale / 100;
        let (from, before) = (self.live_bytes, self.made);
        for look in 1..=LOOKS {
            let until = from + (target.saturating_sub(from)) * look / LOOKS;
            while self.live_bytes < until && self.len < OBJECTS_MAX {
                self.make(phase);
            }
            self.look();
        }
        let replaced = (self.made - before) / 2;
        for _ in 0..LOOKS {
            for _ in 0..replaced / LOOKS as u64 {
                self.make(phase);
                while self.live_bytes > target || self.len == OBJECTS_MAX {
                    self.drop_one();
                }
            }
            self.look();
        }
        let (all, kept) = (self.len, self.len * phase.kept / 1000);
        for look in 1..=LOOKS {
            let until = all - (all - kept) * look / LOOKS;
            while self.len > until {
                self.drop_one();
            }
            self.look();
        }
    }

    fn make(&mut self, phase: &Phase) {
        // As many in each doubling.
        let (least, greatest) = phase.sizes;
        let octave = least + self.rng.below((greatest - least) as usize) as u32;
        let size = (1 << octave) + self.rng.below(1 << octave);
        let mut object = self.client.malloc(size);
        // SAFETY: the object has `size` bytes, at least 16; the first one is left.
        unsafe { object.touch(4096, size, 4096) };
        // SAFETY: as above.
        unsafe { object.touch(size - 1, size, 1) };
        self.put(self.len, Some(object), size);
        self.len += 1;
        self.live_bytes += size;
        self.made += 1;
    }

    /// Frees a random object; the last one takes its place.
    fn drop_one(&mut self) {
        let (index, last) = (self.rng.below(self.len), self.len - 1);
        let (object, size) = (self.slots[index].take(), self.size(index));
        if index != last {
            let moved = self.slots[last].take();
            self.put(index, moved, self.size(last));
        }
        self.len = last;
        self.live_bytes -= size;
        object.into_iter().for_each(|object| self.client.free(object));
    }

    fn put(&mut self, index: usize, object: Option<Object>, size: usize) {
        self.slots[index] = object;
        self.sizes[4 * index..4 * index + 4].copy_from_slice(&(size as u32).to_ne_bytes());
    }

    fn size(&self, index: usize) -> usize {
        u32::from_ne_bytes(std::array::from_fn(|byte| self.sizes[4 * index + byte])) as usize
    }

    fn look(&mut self) {
        let live_bytes = self.live_bytes as u64;
        let rss_bytes = self.rss_bytes();
        self.looks.push(Look { live_bytes, rss_bytes });
    }

    fn rss_bytes(&self) -> u64 {
        process::rss_bytes() - (12 * OBJECTS_MAX) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_come_and_go_and_close_their_ledger() {
        let course = run(2, Duration::ZERO).unwrap();
        assert_eq!(course.looks.len(), PHASES.len() * 3 * LOOKS);
        let live: Vec<_> = course.looks.iter().map(|look| look.live_bytes as usize).collect();
        // 2 % of the third phase, and all gone at the end.
        assert!(live.iter().any(|&live| live > 128 * MIB / 50), "{live:?}");
        assert_eq!(live.last(), Some(&0));
        assert!(course.looks.iter().all(|look| look.rss_bytes > 0));
    }
}
