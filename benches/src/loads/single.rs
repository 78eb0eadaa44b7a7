//! Loads of one thread on its own: one object, batches, random churn, growth, alignment.

use super::Load;
use crate::client::{Client, Object};
use crate::rng::Rng;
use crate::slots::Slots;

const STEP: u64 = 10_000;

/// One object of `size` bytes, allocated and freed over and over.
pub struct Same {
    /// Bytes of the object.
    pub size: usize,
}

impl Load for Same {
    fn step(&mut self, client: &mut Client) -> u64 {
        for _ in 0..STEP {
            let object = client.malloc(self.size);
            client.free(object);
        }
        STEP
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// As [`Same`], by `calloc`.
pub struct Cleared {
    /// Bytes of the object.
    pub size: usize,
}

impl Load for Cleared {
    fn step(&mut self, client: &mut Client) -> u64 {
        for _ in 0..STEP {
            let object = client.calloc(self.size);
            client.free(object);
        }
        STEP
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// In which order a batch is freed.
#[derive(Clone, Copy)]
pub enum Order {
    /// As allocated.
    Fifo,
    /// The last one first.
    Lifo,
}

/// A batch of objects of 64 bytes, all allocated, then all freed.
pub struct Batch {
    slots: Slots,
    order: Order,
}

impl Batch {
    /// A batch of `len` objects.
    pub fn new(len: usize, order: Order) -> Self {
        Batch { slots: Slots::new(len), order }
    }
}

impl Load for Batch {
    fn step(&mut self, client: &mut Client) -> u64 {
        let rounds = STEP.div_ceil(self.slots.len() as u64);
        for _ in 0..rounds {
            for slot in self.slots.iter_mut() {
                *slot = Some(client.malloc(64));
            }
            match self.order {
                Order::Fifo => free_all(self.slots.iter_mut(), client),
                Order::Lifo => free_all(self.slots.iter_mut().rev(), client),
            }
        }
        rounds * self.slots.len() as u64
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// A batch of 100 objects with alignments of 64 B to 4 KiB and random sizes, then all freed.
pub struct Aligned {
    slots: Slots,
    rng: Rng,
}

impl Aligned {
    /// The load, its sizes drawn from `seed`.
    pub fn new(seed: usize) -> Self {
        Aligned { slots: Slots::new(100), rng: Rng::new(seed) }
    }
}

impl Load for Aligned {
    fn step(&mut self, client: &mut Client) -> u64 {
        for _ in 0..STEP / 100 {
            for (i, slot) in self.slots.iter_mut().enumerate() {
                *slot = Some(client.aligned(64 << (i % 7), 1 + self.rng.below(2048)));
            }
            free_all(self.slots.iter_mut(), client);
        }
        STEP
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// A table of live objects of random sizes, of which a random one is replaced at a time.
pub struct Churn {
    slots: Slots,
    rng: Rng,
    max: usize,
}

impl Churn {
    /// `live` objects of 1 to `max` bytes, drawn from `seed`.
    pub fn new(live: usize, max: usize, seed: usize) -> Self {
        Churn { slots: Slots::new(live), rng: Rng::new(seed), max }
    }
}

impl Load for Churn {
    fn start(&mut self, client: &mut Client) {
        for slot in self.slots.iter_mut() {
            *slot = Some(client.malloc(1 + self.rng.below(self.max)));
        }
    }
    fn step(&mut self, client: &mut Client) -> u64 {
        for _ in 0..STEP {
            let slot = self.rng.below(self.slots.len());
            replace(&mut self.slots[slot], 1 + self.rng.below(self.max), client);
        }
        STEP
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.slots.iter_mut(), client);
    }
}

/// A buffer that `realloc` grows by 16 bytes at a time, 16 B to 64 KiB, touched as it grows.
pub struct Growth;

impl Load for Growth {
    fn step(&mut self, client: &mut Client) -> u64 {
        const LAST: usize = 64 << 10;
        for _ in 0..4 {
            let mut buffer = client.malloc(16);
            for size in (32..=LAST).step_by(16) {
                buffer = client.realloc(buffer, size);
                touch(&mut buffer, size - 16, size, 16);
            }
            client.free(buffer);
        }
        4 * (LAST as u64 / 16 - 1)
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// A vector that doubles from 64 B to 1 GiB, one byte of each 4 KiB written as it grows.
pub struct Doubling;

/// Bytes of the last size of [`Doubling`], and of [`Touch`].
const GIB: usize = 1 << 30;

impl Load for Doubling {
    fn step(&mut self, client: &mut Client) -> u64 {
        let mut size = 64;
        let mut vector = client.malloc(size);
        while size < GIB {
            vector = client.realloc(vector, size * 2);
            touch(&mut vector, size, size * 2, 4096);
            size *= 2;
        }
        client.free(vector);
        (GIB / 4096) as u64
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// The floor under [`Doubling`]: 1 GiB mapped, one byte of each 4 KiB written once, unmapped. No
/// allocator takes part.
pub struct Touch;

impl Load for Touch {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let mut memory = memmap2::MmapMut::map_anon(GIB).expect("1 GiB of address space");
        for byte in memory.iter_mut().step_by(4096) {
            *byte = 1;
        }
        std::hint::black_box(&memory);
        (GIB / 4096) as u64
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// Frees the object in `slot`, if any, and puts a new one there.
#[inline(always)]
pub fn replace(slot: &mut Option<Object>, size: usize, client: &mut Client) {
    if let Some(old) = slot.take() {
        client.free(old);
    }
    *slot = Some(client.malloc(size));
}

/// Frees the objects of `slots` in turn.
pub fn free_all<'a>(slots: impl Iterator<Item = &'a mut Option<Object>>, client: &mut Client) {
    for object in slots.filter_map(Option::take) {
        client.free(object);
    }
}

#[allow(unsafe_code)]
#[inline(always)]
fn touch(object: &mut Object, from: usize, to: usize, step: usize) {
    // SAFETY: both callers have just grown the object to `to` bytes, and `from` is at least 16.
    unsafe { object.touch(from, to, step) }
}
