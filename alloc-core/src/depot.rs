//! The depot: full magazines between the shards, one lock-free stack for each class.
//!
//! Promises: put and take never wait; a magazine is owned by one holder at a time; the depot holds at
//! most `limit(class)` magazines, but for what has no other place (`put_unbounded`). Called by cpu_cache; calls os for
//! magazine memory, which is never unmapped (a stale reader may still look at it).
//!
//! Invariants:
//! I1. A stack's word is `tag << 32 | magazines << 21 | number of the top one` (0: empty); each change raises
//!     the tag, so a head that was taken and put back in between is noticed (ABA).
//! I2. A magazine is in exactly one place: a stack, the free stack, or a holder's hands.
//!
//! Each write to a line that other CPUs write too makes it travel. So a stack has a line of its own, and its count
//! lies in its word; and the sum of all bytes leaves out the first magazine of a class, which comes and goes most.

use crate::arch;
use crate::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, UnsafeCell};
use crate::counters;
use crate::object::Batch;
use crate::os::{self, Place};
use crate::size_class::{CLASS, CLASSES, Class};
use crate::units::MAGAZINE_MAX;

/// A batch of object pointers.
#[repr(C, align(64))]
pub struct Magazine {
    next: AtomicU32,
    count: AtomicU32,
    objects: UnsafeCell<[usize; MAGAZINE_MAX]>,
}

const CHUNK_BYTES: usize = 128 << 10;
const CHUNK_MAGAZINES: usize = CHUNK_BYTES / size_of::<Magazine>();
const CHUNKS: usize = 8192;

/// Bits of a magazine's number in a stack's word.
const NUMBER_BITS: u32 = 21;
const _: () = assert!(CHUNKS * CHUNK_MAGAZINES < 1 << NUMBER_BITS);
/// What a stack counts up to; it may hold more.
const COUNT_MAX: usize = (1 << (32 - NUMBER_BITS)) - 1;

/// In which order the objects of a magazine are taken, by the logarithm of how many of them share a cache line: those
/// stay together, the lines are mixed (their numbers' bits reversed). Objects of a magazine often lie side by side, and
/// who walks over them as the freeing CPU still does is hit by the prefetchers of both, which follow strides and take
/// lines away that the other one is about to write (docs/adr/0014).
static ORDER: [[u8; MAGAZINE_MAX]; LINE_MATES_MAX.ilog2() as usize + 1] = {
    let mut orders = [[0; MAGAZINE_MAX]; LINE_MATES_MAX.ilog2() as usize + 1];
    let mut shared = 0;
    while shared < orders.len() {
        let bits = MAGAZINE_MAX.ilog2() as usize - shared;
        let mut at = 0;
        while at < MAGAZINE_MAX {
            let mixed = (at >> shared).reverse_bits() >> (usize::BITS as usize - bits);
            orders[shared][at] = (mixed << shared | at & ((1 << shared) - 1)) as u8;
            at += 1;
        }
        shared += 1;
    }
    orders
};
const _: () = assert!(MAGAZINE_MAX.is_power_of_two() && MAGAZINE_MAX <= 1 << u8::BITS);

/// Objects of the smallest class in a cache line.
const LINE_MATES_MAX: usize = 64 / 8;

/// How many objects of `class` may share a cache line.
fn line_mates(class: Class) -> usize {
    (64 / CLASS[class].size).max(1)
}

#[repr(align(64))]
struct Stack {
    head: AtomicU64,
}

/// How many magazines a stack had before a change of it, and has after.
type Change = (usize, usize);

/// The depot of the process; all zeroes is valid.
pub struct Depot {
    full: [Stack; CLASSES],
    free: Stack,
    chunks: [AtomicPtr<Magazine>; CHUNKS],
    /// Bytes in objects of the full magazines, as [`Depot::bytes`] says.
    bytes: AtomicUsize,
    /// Magazines ever made.
    made: AtomicUsize,
}

// SAFETY: `objects` is touched by the holder of a magazine only (I2).
unsafe impl Sync for Depot {}

/// The one depot.
pub static DEPOT: Depot = const {
    // SAFETY: zero is a valid value of each field: integers and null pointers.
    unsafe { core::mem::MaybeUninit::<Depot>::zeroed().assume_init() }
};

impl Stack {
    fn push(&self, depot: &Depot, number: u32) -> Change {
        let magazine = depot.magazine(number);
        // Ordering: Relaxed, the exchange below confirms it.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Ordering: Relaxed, published by the exchange.
            magazine.next.store(number_in(head), Ordering::Relaxed);
            let count = (count_in(head) + 1).min(COUNT_MAX);
            let new = raise(head) | word(count, number);
            // Ordering: Release publishes the magazine to the Acquire in `pop`; Relaxed on failure,
            // the value is only tried again.
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return (count_in(head), count),
                Err(seen) => head = seen,
            }
        }
    }

    fn pop(&self, depot: &Depot) -> Option<(u32, Change)> {
        // Ordering: Acquire pairs with the Release in `push`, for `next` below.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let number = number_in(head);
            if number == 0 {
                return None;
            }
            // Ordering: Relaxed; stale if the magazine was taken meanwhile, and then the tag differs.
            let next = depot.magazine(number).next.load(Ordering::Relaxed);
            let count = if next == 0 { 0 } else { count_in(head).max(2) - 1 };
            let new = raise(head) | word(count, next);
            // Ordering: Acquire pairs with the Release in `push`, both ways: the holder reads objects.
            match self.head.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some((number, (count_in(head), count))),
                Err(seen) => head = seen,
            }
        }
    }

    fn count(&self) -> usize {
        // Ordering: Relaxed, a bound and a statistic.
        count_in(self.head.load(Ordering::Relaxed))
    }
}

/// The next tag, with room for a count and a number (I1).
fn raise(head: u64) -> u64 {
    ((head >> 32) + 1) << 32
}

fn word(count: usize, number: u32) -> u64 {
    (count as u64) << NUMBER_BITS | u64::from(number)
}

fn number_in(head: u64) -> u32 {
    head as u32 & ((1 << NUMBER_BITS) - 1)
}

fn count_in(head: u64) -> usize {
    (head as u32 >> NUMBER_BITS) as usize
}

/// The most magazines of `class` that the depot holds.
fn limit(class: Class) -> usize {
    let bytes = CLASS[class].batch * CLASS[class].size;
    ((512 << 10) / bytes).clamp(2, 16)
}

impl Depot {
    /// Asks for what [`Depot::put`] and [`Depot::take`] of `class` begin with: a hint.
    pub fn prefetch(&self, class: Class) {
        arch::prefetch(core::ptr::from_ref(&self.full[class]) as usize);
        arch::prefetch(core::ptr::from_ref(&self.free) as usize);
    }

    /// Puts the objects of `batch` as one magazine; false if the class has enough of them or there is no memory for one,
    /// and the objects stay in the batch.
    pub fn put(&self, class: Class, batch: &mut Batch) -> bool {
        // A bound that may be passed by as many threads as race here.
        self.full[class].count() < limit(class) && self.put_unbounded(class, batch)
    }

    /// As [`Depot::put`], however many there are: where the slab tier can't be entered.
    pub fn put_unbounded(&self, class: Class, batch: &mut Batch) -> bool {
        let free = self.free.pop(self).map(|(number, _)| number);
        let Some(number) = free.or_else(|| self.make()) else { return false };
        let magazine = self.magazine(number);
        let objects = batch.addresses();
        // SAFETY: I2: the magazine is in our hands.
        let slots = unsafe { &mut *magazine.objects.get() };
        slots[..objects.len()].copy_from_slice(objects);
        counters::wrote_all(&slots[..objects.len()]);
        // Ordering: Relaxed, published by the push.
        magazine.count.store(objects.len() as u32, Ordering::Relaxed);
        batch.forget_all();
        self.push(class, number);
        true
    }

    /// Takes a magazine of `class` into `batch`, which is empty; it stays so if there is none.
    pub fn take(&self, class: Class, batch: &mut Batch) {
        let Some(number) = self.pop(class) else { return };
        let magazine = self.magazine(number);
        // Ordering: Relaxed, the pop acquired it.
        let count = magazine.count.load(Ordering::Relaxed) as usize;
        // SAFETY: I2: the magazine is in our hands.
        let objects = unsafe { &*magazine.objects.get() };
        // SAFETY: the objects of the magazine, which is free from here on.
        unsafe {
            batch.receive(count, |out| {
                let mut at = 0;
                for &from in &ORDER[line_mates(class).ilog2() as usize] {
                    if usize::from(from) < count {
                        out[at].write(objects[usize::from(from)]);
                        at += 1;
                    }
                }
                at
            });
        }
        self.free.push(self, number);
    }

    fn push(&self, class: Class, number: u32) {
        let change = self.full[class].push(self, number);
        self.account(class, change);
    }

    fn pop(&self, class: Class) -> Option<u32> {
        let (number, change) = self.full[class].pop(self)?;
        self.account(class, change);
        Some(number)
    }

    fn account(&self, class: Class, (before, after): Change) {
        let info = &CLASS[class];
        let beyond = |magazines: usize| magazines.saturating_sub(usize::from(info.batch > 1));
        let more = beyond(after).wrapping_sub(beyond(before));
        if more != 0 {
            // Ordering: Relaxed, a bound.
            self.bytes.fetch_add(more.wrapping_mul(info.batch * info.size), Ordering::Relaxed);
        }
    }

    /// Shows each magazine of `class` to `f`, for the validator: takes them all, then puts them back in
    /// their order. Others find the depot empty meanwhile.
    pub fn visit(&self, class: Class, mut f: impl FnMut(&[usize])) {
        let mut held = 0;
        while let Some(number) = self.pop(class) {
            let magazine = self.magazine(number);
            // Ordering: Relaxed, the pop acquired the magazine, which is ours now (I2).
            let count = magazine.count.load(Ordering::Relaxed) as usize;
            // SAFETY: I2: the magazine is in our hands.
            f(unsafe { &(&*magazine.objects.get())[..count] });
            // Ordering: Relaxed, ours.
            magazine.next.store(held, Ordering::Relaxed);
            held = number;
        }
        while held != 0 {
            // Ordering: Relaxed, ours.
            let next = self.magazine(held).next.load(Ordering::Relaxed);
            self.push(class, held);
            held = next;
        }
    }

    /// Magazines of `class` in the depot.
    pub fn magazines(&self, class: Class) -> usize {
        self.full[class].count()
    }

    /// Bytes in objects of all magazines but the first of each class of small objects, as one look can tell.
    pub fn bytes(&self) -> usize {
        // Ordering: Relaxed, a bound. Who takes a magazine may have counted before who put it.
        (self.bytes.load(Ordering::Relaxed) as isize).max(0) as usize
    }

    /// Bytes mapped for magazines.
    pub fn metadata_bytes(&self) -> usize {
        // Ordering: Relaxed, a statistic.
        self.made.load(Ordering::Relaxed).div_ceil(CHUNK_MAGAZINES) * CHUNK_BYTES
    }

    fn magazine(&self, number: u32) -> &Magazine {
        let index = number as usize - 1;
        // Ordering: Acquire pairs with the Release in `make`.
        let chunk = self.chunks[index / CHUNK_MAGAZINES].load(Ordering::Acquire);
        // SAFETY: numbers are given out by `make` after their chunk exists; chunks live for ever.
        unsafe { &*chunk.add(index % CHUNK_MAGAZINES) }
    }

    /// A new magazine's number.
    #[cold]
    fn make(&self) -> Option<u32> {
        // Ordering: Relaxed, the confirmed exchange below claims the number.
        let mut made = self.made.load(Ordering::Relaxed);
        loop {
            let chunk = self.chunks.get(made / CHUNK_MAGAZINES)?;
            // Ordering: Acquire pairs with the Release below.
            if chunk.load(Ordering::Acquire).is_null() {
                let fresh = os::map(Place::Anywhere, CHUNK_BYTES).ok()?;
                let pointer = fresh as *mut Magazine;
                // Ordering: Release publishes the zeroed chunk; Acquire on failure for the winner's.
                let set = chunk.compare_exchange(
                    core::ptr::null_mut(),
                    pointer,
                    Ordering::Release,
                    Ordering::Acquire,
                );
                if set.is_err() {
                    // SAFETY: mapped above, known to nobody.
                    unsafe { os::unmap(fresh, CHUNK_BYTES) };
                }
            }
            let next = made + 1;
            // Ordering: Relaxed, the number carries no data.
            match self.made.compare_exchange(made, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(made as u32 + 1),
                Err(seen) => made = seen,
            }
        }
    }
}

#[cfg(feature = "counters")]
impl Depot {
    /// Which part of the depot the cache line at `line` is of, as `sources` names it.
    pub fn part_of(&self, line: usize) -> Option<&'static str> {
        let is_in = |at: usize, bytes: usize| (at & !63..at + bytes).contains(&line);
        let whole = core::ptr::from_ref(self) as usize;
        // Ordering: Acquire, pairs with the Release in `make`.
        let chunks = self.chunks.iter().map(|chunk| chunk.load(Ordering::Acquire) as usize);
        if is_in(whole, size_of::<Self>()) {
            Some("depot")
        } else if chunks.take_while(|&chunk| chunk != 0).any(|chunk| is_in(chunk, CHUNK_BYTES)) {
            Some("magazines")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// I1. Were it only the pushes that raise the tag, or only the pops, a top could not come back unseen either,
    /// since that takes one of each; the other half is there for an operation that may be added.
    #[test]
    fn each_change_raises_the_tag() {
        let depot = &DEPOT;
        let stack = Stack { head: AtomicU64::new(0) };
        let numbers = [(); 3].map(|()| depot.make().unwrap());
        let tag = || stack.head.load(Ordering::Relaxed) >> 32;
        for (changes, number) in numbers.into_iter().enumerate() {
            stack.push(depot, number);
            assert_eq!(tag(), changes as u64 + 1, "a push");
        }
        for changes in 0..numbers.len() {
            assert_eq!(stack.pop(depot).map(|(number, _)| number), Some(numbers[2 - changes]));
            assert_eq!(tag(), (numbers.len() + changes) as u64 + 1, "a pop");
        }
        assert!(stack.pop(depot).is_none());
    }

    #[test]
    fn each_order_has_all_and_no_stride() {
        for (shared, order) in ORDER.iter().enumerate() {
            let mut sorted = *order;
            sorted.sort_unstable();
            assert!(
                sorted.iter().enumerate().all(|(at, &from)| at == usize::from(from)),
                "{shared}"
            );
            let lines: Vec<i32> =
                order.chunks(1 << shared).map(|mates| i32::from(mates[0] >> shared)).collect();
            for (line, mates) in lines.iter().zip(order.chunks(1 << shared)) {
                let together = (0..1 << shared).map(|mate| (line << shared) as u8 + mate);
                assert!(together.eq(mates.iter().copied()), "{shared}: line {line} is torn");
            }
            let steps: Vec<i32> = lines.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(
                steps.windows(2).all(|pair| pair[0] != pair[1]),
                "{shared}: a stride, {steps:?}"
            );
        }
    }
}
