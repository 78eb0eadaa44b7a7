//! Waves of small objects: all allocated, then freed, some of them later or on another thread.
//!
//! After the published descriptions of MicroQuill's shbench, sh6bench and sh8bench (sizes of 1 to 1,000 B, mostly
//! small; parts of a wave are freed first one first, others last one first; some objects outlive their wave) and of
//! glibc's bench-malloc-simple. Written from the descriptions, not from the code.

use super::Load;
use super::single::free_all;
use crate::client::Client;
use crate::rng::Rng;
use crate::slots::{Exchange, Slots};
use std::sync::Arc;

/// Objects of a wave.
const WAVE: usize = 10_000;
/// One of so many objects of a wave outlives it.
const KEPT: usize = 16;
/// One of so many objects is freed on another thread, where threads exchange any.
const EXCHANGED: usize = 8;

/// A thread that allocates [`WAVE`] objects and frees them.
pub struct Waves {
    wave: Slots,
    kept: Slots,
    /// What other threads free.
    shared: Option<Arc<Exchange>>,
    rng: Rng,
}

impl Waves {
    /// Sizes drawn from `seed`; all objects are freed on this thread.
    pub fn new(seed: usize) -> Self {
        let (wave, kept) = (Slots::new(WAVE), Slots::new(WAVE / KEPT));
        Waves { wave, kept, shared: None, rng: Rng::new(seed) }
    }

    /// So many threads that free some of each other's objects.
    pub fn group(threads: usize) -> Vec<Box<dyn Load>> {
        let shared = Arc::new(Exchange::new(WAVE / EXCHANGED));
        let thread = |seed| Waves { shared: Some(Arc::clone(&shared)), ..Waves::new(seed) };
        (0..threads).map(|seed| Box::new(thread(seed)) as Box<dyn Load>).collect()
    }
}

impl Load for Waves {
    fn step(&mut self, client: &mut Client) -> u64 {
        for slot in self.wave.iter_mut() {
            *slot = Some(client.malloc(small(&mut self.rng)));
        }
        for (kept, new) in self.kept.iter_mut().zip(self.wave.iter_mut().step_by(KEPT)) {
            std::mem::swap(kept, new);
        }
        if let Some(shared) = &self.shared {
            for (index, slot) in self.wave.iter_mut().step_by(EXCHANGED).enumerate() {
                *slot = shared.swap(index, slot.take());
            }
        }
        let (first, second) = self.wave.split_at_mut(WAVE / 2);
        free_all(second.iter_mut().rev(), client);
        free_all(first.iter_mut(), client);
        WAVE as u64
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.kept.iter_mut(), client);
        for index in 0..self.shared.as_ref().map_or(0, |shared| shared.len()) {
            let object = self.shared.as_ref().and_then(|shared| shared.swap(index, None));
            object.into_iter().for_each(|object| client.free(object));
        }
    }
}

/// Six of seven up to 100 B, the others up to 1,000 B.
fn small(rng: &mut Rng) -> usize {
    let max = if rng.below(7) == 0 { 1000 } else { 100 };
    1 + rng.below(max)
}

/// Blocks of one size at a time, 25 to 1,600 of them, freed in the order in which they were allocated.
pub struct Ladder {
    slots: Slots,
}

impl Ladder {
    const COUNTS: [usize; 4] = [25, 100, 400, 1600];
    const SIZES: [usize; 7] = [8, 16, 32, 64, 128, 256, 512];

    /// The load.
    #[expect(clippy::new_without_default, reason = "loads are built by `new`")]
    pub fn new() -> Self {
        Ladder { slots: Slots::new(Self::COUNTS[3]) }
    }
}

impl Load for Ladder {
    fn step(&mut self, client: &mut Client) -> u64 {
        let mut done = 0;
        for size in Self::SIZES {
            for count in Self::COUNTS {
                let slots = &mut self.slots[..count];
                slots.iter_mut().for_each(|slot| *slot = Some(client.malloc(size)));
                free_all(slots.iter_mut(), client);
                done += count as u64;
            }
        }
        done
    }
    fn finish(&mut self, _client: &mut Client) {}
}
