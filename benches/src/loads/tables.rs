//! Tables of objects whose sizes follow a power law, and objects that threads write to beside each other.
//!
//! After the published descriptions of OLogN's alloc-test, glibc's bench-malloc-thread, and the cache tests of Hoard
//! (Berger, McKinley, Blumofe, Wilson, "Hoard: A Scalable Memory Allocator for Multithreaded Applications", ASPLOS
//! 2000). Written from the descriptions, not from the code.

use super::Load;
use super::single::{free_all, replace};
use crate::client::{Client, Object};
use crate::rng::Rng;
use crate::slots::Slots;

const STEP: u64 = 10_000;

/// A thread of alloc-test: a place is drawn by Pareto's rule and filled if it is empty, emptied if it is full. Sizes
/// to 1 KiB, each power of two half as often as the one below; all memory is written.
pub struct Pareto {
    slots: Slots,
    rng: Rng,
}

impl Pareto {
    /// Places of the table.
    const LEN: usize = 1 << 16;

    /// The load, drawn from `seed`.
    pub fn new(seed: usize) -> Self {
        Pareto { slots: Slots::new(Self::LEN), rng: Rng::new(seed) }
    }

    fn toggle(&mut self, client: &mut Client) -> u64 {
        let place = eighty_twenty(Self::LEN, &mut self.rng);
        match self.slots[place].take() {
            Some(object) => {
                client.free(object);
                0
            }
            None => {
                self.slots[place] = Some(client.malloc_filled(halving(&mut self.rng)));
                1
            }
        }
    }
}

impl Load for Pareto {
    /// Half of the places are full, as they are after many steps.
    fn start(&mut self, client: &mut Client) {
        for slot in self.slots.iter_mut().step_by(2) {
            *slot = Some(client.malloc_filled(halving(&mut self.rng)));
        }
    }
    fn step(&mut self, client: &mut Client) -> u64 {
        (0..2 * STEP).map(|_| self.toggle(client)).sum()
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.slots.iter_mut(), client);
    }
}

/// Four of five times from the first fifth of `len` places, and so on within it.
fn eighty_twenty(mut len: usize, rng: &mut Rng) -> usize {
    while len > 16 && rng.below(5) != 0 {
        len /= 5;
    }
    rng.below(len)
}

/// From 8 to 1,023 B: 8 to 15 in half of all cases, 16 to 31 in a quarter, ..
fn halving(rng: &mut Rng) -> usize {
    let doublings = (rng.below(1 << 6) | 1 << 6).trailing_zeros();
    let least = 8 << doublings;
    least + rng.below(least)
}

/// A thread of bench-malloc-thread: of 1,024 objects a random one is replaced by one of 4 to 32,768 B. How frequent a
/// size is falls with its square.
pub struct InverseSquare {
    slots: Slots,
    rng: Rng,
}

impl InverseSquare {
    /// The load, drawn from `seed`.
    pub fn new(seed: usize) -> Self {
        InverseSquare { slots: Slots::new(1024), rng: Rng::new(seed) }
    }
}

impl Load for InverseSquare {
    fn step(&mut self, client: &mut Client) -> u64 {
        for _ in 0..STEP {
            let slot = self.rng.below(self.slots.len());
            replace(&mut self.slots[slot], inverse_square(&mut self.rng), client);
        }
        STEP
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.slots.iter_mut(), client);
    }
}

/// From 4 to 32,768: the inverse of the distribution function `(1/4 - 1/x) / (1/4 - 1/32768)`.
fn inverse_square(rng: &mut Rng) -> usize {
    const MAX: usize = 32_768;
    // MAX / size is uniform from 1 to MAX / 4.
    MAX / (1 + rng.below(MAX / 4))
}

/// A thread that allocates 8 B, writes there 1,000 times and frees it. Slow where two threads are given objects of one
/// cache line.
pub struct Scratch {
    /// An object that the main thread allocated beside the others' (cache-scratch); none in cache-thrash.
    first: Option<Object>,
}

impl Scratch {
    const SIZE: usize = 8;
    const WRITES: usize = 1000;

    /// So many threads that each begin by freeing an object of the main thread's.
    pub fn group(threads: usize) -> Vec<Box<dyn Load>> {
        let load = || Scratch { first: Some(Client::malloc_untagged(Self::SIZE)) };
        (0..threads).map(|_| Box::new(load()) as Box<dyn Load>).collect()
    }

    /// A thread that begins with nothing.
    pub fn new(_seed: usize) -> Self {
        Scratch { first: None }
    }
}

impl Load for Scratch {
    fn start(&mut self, client: &mut Client) {
        if let Some(object) = self.first.take() {
            client.free(object);
        }
    }
    fn step(&mut self, client: &mut Client) -> u64 {
        const TURNS: u64 = 100;
        for _ in 0..TURNS {
            let object = client.malloc_written(Self::SIZE, Self::WRITES);
            client.free(object);
        }
        TURNS
    }
    fn finish(&mut self, _client: &mut Client) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(draws: usize, mut hit: impl FnMut() -> bool) -> f64 {
        (0..draws).filter(|_| hit()).count() as f64 / draws as f64
    }

    fn near(share: f64, expected: f64) {
        assert!((share - expected).abs() < 0.01, "{share}, not {expected}");
    }

    #[test]
    fn sizes_follow_their_laws() {
        let mut rng = Rng::new(1);
        near(share(100_000, || halving(&mut rng) < 16), 0.5);
        near(share(100_000, || (16..32).contains(&halving(&mut rng))), 0.25);
        near(share(100_000, || inverse_square(&mut rng) < 8), 0.5);
        near(share(100_000, || inverse_square(&mut rng) >= 32), 0.125);
        let mut sizes = (0..100_000).map(|_| (halving(&mut rng), inverse_square(&mut rng)));
        assert!(sizes.all(|(a, b)| (8..1024).contains(&a) && (4..=32_768).contains(&b)));
    }

    #[test]
    fn four_of_five_draws_are_in_the_first_fifth() {
        let mut rng = Rng::new(1);
        near(share(100_000, || eighty_twenty(10_000, &mut rng) < 2000), 0.8 + 0.2 * 0.2);
    }
}
