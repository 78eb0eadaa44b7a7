//! Programs in small: a server whose threads hand their state on, a mixed stress, threads that come
//! and go. Written from the descriptions of the published loads named below, not from their code.

use super::Load;
use super::single::{free_all, replace};
use crate::client::Client;
use crate::rng::Rng;
use crate::slots::{Exchange, Slots};
use std::sync::Arc;

/// A server connection after Larson and Krishnan ("Memory Allocation for Long-Running Server
/// Applications", ISMM 1998): a thread replaces random objects of its table, then ends and leaves the
/// table to a new thread, which frees what the old one allocated.
pub struct Server {
    slots: Slots,
    /// Objects that a thread replaces before it ends.
    generation: u64,
    rng: Rng,
}

impl Server {
    /// A table of 1,000 objects and short-lived threads, drawn from `seed`.
    pub fn new(seed: usize) -> Self {
        Server { slots: Slots::new(1000), generation: 20_000, rng: Rng::new(seed) }
    }

    /// 5,000 objects, each replaced about 100 times before the thread ends: what the test is usually run with.
    pub fn original(seed: usize) -> Self {
        Server { slots: Slots::new(5000), generation: 500_000, rng: Rng::new(seed) }
    }
}

impl Load for Server {
    fn step(&mut self, client: &mut Client) -> u64 {
        // The waiting thread does nothing meanwhile: one of the pair runs at a time.
        on_new_thread(|| {
            for _ in 0..self.generation {
                let slot = self.rng.below(self.slots.len());
                replace(&mut self.slots[slot], 8 + self.rng.below(1016), client);
            }
        });
        self.generation
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.slots.iter_mut(), client);
    }
}

/// A thread of the mixed stress after mimalloc's mstress: sizes mostly small and now and then large,
/// lives of very different lengths, and now and then an object handed to another thread. Each step
/// runs on a new thread.
pub struct Stress {
    kept: Slots,
    shared: Arc<Exchange>,
    rng: Rng,
}

impl Stress {
    /// `threads` loads around one exchange.
    pub fn group(threads: usize) -> Vec<Box<dyn Load>> {
        let shared = Arc::new(Exchange::new(1000));
        (0..threads)
            .map(|seed| {
                let (kept, shared) = (Slots::new(5000), Arc::clone(&shared));
                Box::new(Stress { kept, shared, rng: Rng::new(seed) }) as Box<dyn Load>
            })
            .collect()
    }

    fn work(&mut self, client: &mut Client) -> u64 {
        const OBJECTS: u64 = 20_000;
        for _ in 0..OBJECTS {
            let size = mixed_size(&mut self.rng);
            match self.rng.below(8) {
                // Lives long: stays in the table until its slot is drawn again.
                0..=2 => {
                    let slot = self.rng.below(self.kept.len());
                    replace(&mut self.kept[slot], size, client);
                }
                // Moves to another thread, and one from there is freed here.
                3 => {
                    let slot = self.rng.below(self.shared.len());
                    let object = Some(client.malloc(size));
                    if let Some(foreign) = self.shared.swap(slot, object) {
                        client.free(foreign);
                    }
                }
                // Dies at once.
                _ => {
                    let object = client.malloc(size);
                    client.free(object);
                }
            }
        }
        OBJECTS
    }
}

impl Load for Stress {
    fn step(&mut self, client: &mut Client) -> u64 {
        on_new_thread(|| self.work(client))
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.kept.iter_mut(), client);
        for slot in 0..self.shared.len() {
            if let Some(object) = self.shared.swap(slot, None) {
                client.free(object);
            }
        }
    }
}

/// Mostly 8 to 256 B; one in 64 up to 8 KiB; one in 4096 up to 256 KiB.
pub fn mixed_size(rng: &mut Rng) -> usize {
    let max = match rng.below(4096) {
        0 => 256 << 10,
        draw if draw % 64 == 0 => 8 << 10,
        _ => 248,
    };
    8 + rng.below(max)
}

/// A thread that allocates 64 objects, frees every other one and ends; the rest is freed by the
/// thread that started it.
pub struct ShortLived {
    slots: Slots,
    rng: Rng,
}

impl ShortLived {
    /// The load, its sizes drawn from `seed`.
    pub fn new(seed: usize) -> Self {
        ShortLived { slots: Slots::new(64), rng: Rng::new(seed) }
    }
}

impl Load for ShortLived {
    fn step(&mut self, client: &mut Client) -> u64 {
        const THREADS: u64 = 16;
        for _ in 0..THREADS {
            on_new_thread(|| {
                for slot in self.slots.iter_mut() {
                    *slot = Some(client.malloc(1 + self.rng.below(512)));
                }
                free_all(self.slots.iter_mut().step_by(2), client);
            });
            free_all(self.slots.iter_mut(), client);
        }
        THREADS
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// Runs `work` on a thread of its own and waits for it.
fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().expect("a load panicked"))
}
