//! The table of stacks: each distinct one once, with its totals.
//!
//! Promises: an operation waits for nothing and may be interrupted by any other. When the table or the memory for frames is
//! full, a new stack is number 0, which is counted. A stack keeps its number for ever.
//!
//! Invariants:
//! I1. A bucket is 0 or the number of a complete stack.

use super::PROFILE;
use super::layout::Stack;
use crate::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Stacks at most.
pub const STACKS: usize = 1 << 15;
/// Frames of all stacks at most.
pub const FRAMES: usize = 1 << 20;
/// Buckets of the hash table.
pub const BUCKETS: usize = 2 * STACKS;
/// Buckets that are searched for a stack.
const PROBES: usize = 64;

/// The table, in memory that the profile has mapped for it. Zeroes are a valid one.
#[derive(Clone, Copy)]
pub struct Stacks {
    buckets: &'static [AtomicU32; BUCKETS],
    stacks: &'static [Stack<AtomicUsize>; STACKS],
    frames: &'static [AtomicUsize; FRAMES],
}

impl Stacks {
    /// The table in this memory.
    pub const fn new(
        buckets: &'static [AtomicU32; BUCKETS],
        stacks: &'static [Stack<AtomicUsize>; STACKS],
        frames: &'static [AtomicUsize; FRAMES],
    ) -> Self {
        Stacks { buckets, stacks, frames }
    }

    /// The number of the stack with these frames; 0 if there are none, or no place for it.
    pub fn number_of(&self, frames: &[usize]) -> usize {
        if frames.is_empty() {
            return 0;
        }
        let hash = hash_of(frames);
        let mut own = None;
        for probe in 0..PROBES {
            let bucket = &self.buckets[hash.wrapping_add(probe) % BUCKETS];
            // Ordering: Acquire pairs with the Release below (I1).
            let mut number = bucket.load(Ordering::Acquire) as usize;
            if number == 0 {
                let made = own.get_or_insert_with(|| self.make(hash, frames));
                let Some(made) = *made else { break };
                // Ordering: Release publishes the stack; Acquire on failure pairs with it.
                match bucket.compare_exchange(0, made as u32, Ordering::Release, Ordering::Acquire)
                {
                    Ok(_) => return made,
                    Err(other) => number = other as usize,
                }
            }
            if self.is_same(number, hash, frames) {
                return number;
            }
        }
        // Ordering: Relaxed, a statistic.
        PROFILE.dropped_stacks.fetch_add(1, Ordering::Relaxed);
        0
    }

    /// A complete stack that no bucket names.
    fn make(&self, hash: usize, frames: &[usize]) -> Option<usize> {
        let first = take(&PROFILE.frames_used, frames.len(), FRAMES)?;
        let number = take(&PROFILE.stacks_used, 1, STACKS)?;
        for (word, &frame) in self.frames[first..].iter().zip(frames) {
            word.store(frame, Ordering::Relaxed); // Ordering: Relaxed, published by `frame_count`.
        }
        let stack = &self.stacks[number];
        stack.first_frame.store(first, Ordering::Relaxed); // Ordering: Relaxed, as above.
        stack.hash.store(hash, Ordering::Relaxed); // Ordering: Relaxed, as above.
        // Ordering: Release, for readers outside: the frames are there.
        stack.frame_count.store(frames.len(), Ordering::Release);
        Some(number)
    }

    fn is_same(&self, number: usize, hash: usize, frames: &[usize]) -> bool {
        let stack = &self.stacks[number];
        // Ordering: Relaxed throughout, acquired by the bucket (I1).
        let word = |word: &AtomicUsize| word.load(Ordering::Relaxed);
        word(&stack.hash) == hash && word(&stack.frame_count) == frames.len() && {
            let first = word(&stack.first_frame);
            self.frames[first..].iter().zip(frames).all(|(known, &frame)| word(known) == frame)
        }
    }

    /// Copies the frames of a stack to `out`; how many.
    pub fn frames_of(&self, number: usize, out: &mut [usize]) -> usize {
        let Some(stack) = self.stacks.get(number) else { return 0 };
        // Ordering: Acquire pairs with the Release in `make`.
        let count = stack.frame_count.load(Ordering::Acquire).min(out.len());
        let first = stack.first_frame.load(Ordering::Relaxed); // Ordering: Relaxed, acquired above.
        for (out, frame) in out[..count].iter_mut().zip(&self.frames[first..]) {
            *out = frame.load(Ordering::Relaxed); // Ordering: Relaxed, acquired above.
        }
        count
    }

    /// The stacks with the most bytes live, with these, the largest first; number 0, of samples without a stack, as well.
    pub fn largest<const MOST: usize>(&self) -> [(usize, usize); MOST] {
        let mut largest = [(0, 0); MOST];
        // Ordering: Relaxed throughout, statistics.
        let used = PROFILE.stacks_used.load(Ordering::Relaxed).min(STACKS);
        for (number, stack) in self.stacks[..used].iter().enumerate() {
            // Ordering: Relaxed, as above.
            let allocated = stack.allocated_bytes.load(Ordering::Relaxed);
            // Ordering: Relaxed, as above.
            let live = allocated.saturating_sub(stack.freed_bytes.load(Ordering::Relaxed));
            if let Some(place) = largest.iter().position(|&(bytes, _)| live > bytes) {
                largest[place..].rotate_right(1);
                largest[place] = (live, number);
            }
        }
        largest
    }

    /// Adds a sample to the totals.
    pub fn count_allocated(&self, number: usize, weight: u64, bytes: u64) {
        let stack = &self.stacks[number];
        // Ordering: Relaxed throughout, statistics.
        stack.samples.fetch_add(1, Ordering::Relaxed);
        stack.allocated_weight.fetch_add(weight as usize, Ordering::Relaxed);
        stack.allocated_bytes.fetch_add(bytes as usize, Ordering::Relaxed);
    }

    /// Adds a sample to what was freed.
    pub fn count_freed(&self, number: usize, weight: u64, bytes: u64) {
        let stack = &self.stacks[number];
        // Ordering: Relaxed throughout, statistics.
        stack.freed_weight.fetch_add(weight as usize, Ordering::Relaxed);
        stack.freed_bytes.fetch_add(bytes as usize, Ordering::Relaxed);
    }

    /// Sets all totals to 0. For the start of a profile.
    pub fn forget_totals(&self) {
        // Ordering: Relaxed, a number that stands alone.
        let used = PROFILE.stacks_used.load(Ordering::Relaxed).min(STACKS);
        for stack in &self.stacks[..used] {
            for total in [
                &stack.samples,
                &stack.allocated_weight,
                &stack.allocated_bytes,
                &stack.freed_weight,
                &stack.freed_bytes,
            ] {
                total.store(0, Ordering::Relaxed); // Ordering: Relaxed, statistics.
            }
        }
    }
}

/// Takes `count` numbers of `max`; the first.
fn take(used: &AtomicUsize, count: usize, max: usize) -> Option<usize> {
    // Ordering: Relaxed, numbers; what they stand for is published elsewhere.
    let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        used.checked_add(count).filter(|&after| after <= max)
    });
    taken.ok()
}

fn hash_of(frames: &[usize]) -> usize {
    frames.iter().fold(0x243F_6A88_85A3_08D3, |hash: usize, &frame| {
        (hash ^ frame).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    })
}
