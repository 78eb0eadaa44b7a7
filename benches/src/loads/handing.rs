//! Batches of objects that other threads free, large ones among them.
//!
//! After the published descriptions of rpmalloc's rptest and of xmalloc-test (Lever and Boreham, "malloc() Performance
//! in a Multithreaded Linux Environment", 2000), at their sizes. Written from the descriptions, not from the code.
//! A batch is a table outside the measured heap; emptied ones go back to be filled again.

use super::Load;
use super::single::free_all;
use crate::client::Client;
use crate::rng::Rng;
use crate::slots::Slots;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

type Queue = Arc<ArrayQueue<Slots>>;

/// A thread of rptest: of its 1,000 objects of 8 to 16,000 B, small ones more often, it replaces 100 at a time. Every
/// second time it fills 100 more and hands them to the next thread, which frees them. All memory is written.
pub struct Neighbour {
    own: Slots,
    /// Where the replacement goes on.
    next: usize,
    turn: u64,
    /// Full batches that this thread frees.
    inbox: Queue,
    outbox: Queue,
    empty: Queue,
    rng: Rng,
}

impl Neighbour {
    const OWN: usize = 1000;
    const BATCH: usize = 100;
    const CROSS_RATE: u64 = 2;

    /// So many threads in a ring.
    pub fn group(threads: usize) -> Vec<Box<dyn Load>> {
        let batches = 4 * threads;
        let queue = || Arc::new(ArrayQueue::new(batches));
        let (empty, inboxes) = (queue(), (0..threads).map(|_| queue()).collect::<Vec<_>>());
        for _ in 0..batches {
            put(&empty, Slots::new(Self::BATCH));
        }
        (0..threads)
            .map(|i| {
                Box::new(Neighbour {
                    own: Slots::new(Self::OWN),
                    next: 0,
                    turn: 0,
                    inbox: Arc::clone(&inboxes[i]),
                    outbox: Arc::clone(&inboxes[(i + 1) % threads]),
                    empty: Arc::clone(&empty),
                    rng: Rng::new(i),
                }) as Box<dyn Load>
            })
            .collect()
    }

    /// Up to 16,000 B; the share of a size falls linearly to none.
    fn size(&mut self) -> usize {
        8 + self.rng.below(15_992).min(self.rng.below(15_992))
    }

    fn free_what_came(&mut self, client: &mut Client) {
        while let Some(mut batch) = self.inbox.pop() {
            free_all(batch.iter_mut(), client);
            put(&self.empty, batch);
        }
    }

    fn hand_on(&mut self, client: &mut Client) -> u64 {
        // The neighbour has not run for a while: this thread does without.
        let Some(mut batch) = self.empty.pop() else { return 0 };
        for slot in batch.iter_mut() {
            *slot = Some(client.malloc_filled(self.size()));
        }
        put(&self.outbox, batch);
        Self::BATCH as u64
    }
}

impl Load for Neighbour {
    fn step(&mut self, client: &mut Client) -> u64 {
        const TURNS: u64 = 32;
        let mut done = 0;
        for _ in 0..TURNS {
            self.free_what_came(client);
            self.turn += 1;
            if self.turn.is_multiple_of(Self::CROSS_RATE) {
                done += self.hand_on(client);
            }
            for _ in 0..Self::BATCH {
                // A stride without a common divisor: neighbours in the table are not of one time.
                self.next = (self.next + 37) % Self::OWN;
                if let Some(old) = self.own[self.next].take() {
                    client.free(old);
                }
                self.own[self.next] = Some(client.malloc_filled(self.size()));
            }
            done += Self::BATCH as u64;
        }
        done
    }
    fn finish(&mut self, client: &mut Client) {
        free_all(self.own.iter_mut(), client);
        self.free_what_came(client);
    }
}

/// `pairs` threads that allocate batches of 4,096 objects of `size` bytes, and `pairs` that free them.
pub fn allocating_and_freeing(pairs: usize, size: usize) -> Vec<Box<dyn Load>> {
    const BATCH: usize = 4096;
    let batches = 4 * pairs;
    let [full, empty] = [(); 2].map(|()| Arc::new(ArrayQueue::new(batches)));
    for _ in 0..batches {
        put(&empty, Slots::new(BATCH));
    }
    let queues = || (Arc::clone(&full), Arc::clone(&empty));
    let allocating = (0..pairs).map(|_| {
        let (full, empty) = queues();
        Box::new(Allocating { full, empty, size }) as Box<dyn Load>
    });
    let freeing = (0..pairs).map(|_| {
        let (full, empty) = queues();
        Box::new(Freeing { full, empty }) as Box<dyn Load>
    });
    allocating.chain(freeing).collect()
}

struct Allocating {
    full: Queue,
    empty: Queue,
    size: usize,
}

impl Load for Allocating {
    /// Counts nothing: an object is done when it is freed.
    fn step(&mut self, client: &mut Client) -> u64 {
        match self.empty.pop() {
            Some(mut batch) => {
                batch.iter_mut().for_each(|slot| *slot = Some(client.malloc(self.size)));
                put(&self.full, batch);
            }
            None => std::thread::yield_now(),
        }
        0
    }
    fn finish(&mut self, _client: &mut Client) {}
}

struct Freeing {
    full: Queue,
    empty: Queue,
}

impl Load for Freeing {
    fn step(&mut self, client: &mut Client) -> u64 {
        let Some(mut batch) = self.full.pop() else {
            std::thread::yield_now();
            return 0;
        };
        free_all(batch.iter_mut(), client);
        let done = batch.len() as u64;
        put(&self.empty, batch);
        done
    }
    fn finish(&mut self, client: &mut Client) {
        while let Some(mut batch) = self.full.pop() {
            free_all(batch.iter_mut(), client);
        }
    }
}

fn put(queue: &Queue, batch: Slots) {
    assert!(queue.push(batch).is_ok(), "a queue holds all batches");
}
