//! Loads whose objects are freed on another thread than the one that allocated them.
//!
//! The queues are bounded arrays of batches made before the clock starts; a batch travels by value, so passing one on
//! allocates nothing.

use super::Load;
use super::single::free_all;
use crate::client::{Client, Object};
use crate::rng::Rng;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

const BATCH: usize = 32;
/// Batches that a step handles at the most.
const STEP: u64 = 256;

type Batch = [Option<Object>; BATCH];
type Queue = Arc<ArrayQueue<Batch>>;

/// `pairs` threads that allocate objects of up to `max` bytes and `pairs` that free them, around one
/// queue of `capacity` batches. (The pattern of a pipeline, and of the xmalloc test of Lever and Boreham,
/// "malloc() Performance in a Multithreaded Linux Environment", 2000.)
pub fn producers_and_consumers(pairs: usize, max: usize, capacity: usize) -> Vec<Box<dyn Load>> {
    let queue = Arc::new(ArrayQueue::new(capacity));
    let producers = (0..pairs).map(|seed| {
        let rng = Rng::new(seed);
        Box::new(Producer { queue: Arc::clone(&queue), waiting: None, rng, max }) as Box<dyn Load>
    });
    let consumers =
        (0..pairs).map(|_| Box::new(Consumer { queue: Arc::clone(&queue) }) as Box<dyn Load>);
    producers.chain(consumers).collect()
}

struct Producer {
    queue: Queue,
    /// The batch that found the queue full.
    waiting: Option<Batch>,
    rng: Rng,
    max: usize,
}

impl Load for Producer {
    /// Counts nothing: an object is done when the consumer has freed it.
    fn step(&mut self, client: &mut Client) -> u64 {
        for _ in 0..STEP {
            let batch = self.waiting.take().unwrap_or_else(|| {
                std::array::from_fn(|_| Some(client.malloc(1 + self.rng.below(self.max))))
            });
            if let Err(batch) = self.queue.push(batch) {
                self.waiting = Some(batch);
                std::thread::yield_now();
                break;
            }
        }
        0
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.waiting.iter_mut().flatten(), client);
    }
}

struct Consumer {
    queue: Queue,
}

impl Load for Consumer {
    fn step(&mut self, client: &mut Client) -> u64 {
        for done in 0..STEP {
            let Some(mut batch) = self.queue.pop() else {
                std::thread::yield_now();
                return done * BATCH as u64;
            };
            free_all(batch.iter_mut(), client);
        }
        STEP * BATCH as u64
    }
    fn finish(&mut self, client: &mut Client) {
        drain(&self.queue, client);
    }
}

/// `threads` stations in a ring; each takes a batch from its neighbour, replaces every object by one
/// of its own, and passes the batch on.
pub fn ring(threads: usize, max: usize) -> Vec<Box<dyn Load>> {
    /// Batches that each station starts with.
    const BATCHES: usize = 64;
    let capacity = threads * BATCHES; // All batches fit before one station: a push never fails.
    let inboxes: Vec<Queue> = (0..threads).map(|_| Arc::new(ArrayQueue::new(capacity))).collect();
    (0..threads)
        .map(|i| {
            let (inbox, next) = (&inboxes[i], &inboxes[(i + 1) % threads]);
            for _ in 0..BATCHES {
                assert!(inbox.push([const { None }; BATCH]).is_ok(), "the ring holds all");
            }
            Box::new(Station {
                inbox: Arc::clone(inbox),
                next: Arc::clone(next),
                rng: Rng::new(i),
                max,
            }) as Box<dyn Load>
        })
        .collect()
}

struct Station {
    inbox: Queue,
    next: Queue,
    rng: Rng,
    max: usize,
}

impl Load for Station {
    fn step(&mut self, client: &mut Client) -> u64 {
        for done in 0..STEP {
            let Some(mut batch) = self.inbox.pop() else {
                std::thread::yield_now();
                return done * BATCH as u64;
            };
            free_all(batch.iter_mut(), client);
            batch.fill_with(|| Some(client.malloc(1 + self.rng.below(self.max))));
            assert!(self.next.push(batch).is_ok(), "the ring holds all");
        }
        STEP * BATCH as u64
    }
    fn finish(&mut self, client: &mut Client) {
        drain(&self.inbox, client);
    }
}

fn drain(queue: &Queue, client: &mut Client) {
    while let Some(mut batch) = queue.pop() {
        free_all(batch.iter_mut(), client);
    }
}
