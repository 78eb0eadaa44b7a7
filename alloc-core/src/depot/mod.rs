//! The depot: full magazines behind the shards, on one lock-free stack for each class of each domain.
//!
//! Putting and taking never wait. The depot holds at most `limit(class)` magazines of a class and domain, and more only of objects that have no
//! other place (`put_unbounded`). The memory of magazines is never unmapped, since a stale reader may still read it.
//!
//! Each write to a cache line that other CPUs write makes the line move between them. So each stack has a line of its own, with its
//! count in the same word; and the sum of bytes leaves out the first magazine of a class, which comes and goes most often.
//!
//! Invariants:
//! I1. A stack's word is `tag << 32 | magazines << 21 | number of the top one` (0: empty). Each change raises the tag, so a top that
//!     was popped and pushed again in between is noticed (ABA).
//! I2. A magazine is in exactly one place: on a stack, on the stack of empty ones, or in a [`Held`]. Only the holder of the [`Held`]
//!     touches its objects.

mod order;

use crate::arch;
use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, UnsafeCell};
use crate::counters;
use crate::domain::{self, DOMAINS_MAX, Domain};
use crate::fail::{Misuse, fail};
use crate::object::{Batch, Link};
use crate::os::{self, Place};
use crate::size_class::{CLASS, CLASSES, Class};
use crate::sums::Column;
use crate::units::MAGAZINE_MAX;

/// Objects that are moved at once.
#[repr(C, align(64))]
struct Magazine {
    /// The number of the next magazine on the stack; 0 at its bottom.
    next: AtomicU32,
    count: AtomicU32,
    /// The thread that put the objects, by `os::thread_descriptor`.
    put_by: AtomicUsize,
    objects: UnsafeCell<[usize; MAGAZINE_MAX]>,
}

// SAFETY: I2.
unsafe impl Sync for Magazine {}

/// Magazines are mapped in chunks of so many bytes.
pub const CHUNK_BYTES: usize = 128 << 10;
/// Magazines of a chunk.
pub const CHUNK_MAGAZINES: usize = CHUNK_BYTES / size_of::<Magazine>();
const CHUNKS: usize = 8192;
/// Magazines that are mapped at once; all zeroes is valid.
struct Chunk([Magazine; CHUNK_MAGAZINES]);

/// The number, from 1 on, of a magazine that the holder of this value alone uses (I2).
#[must_use = "a magazine that is not pushed is lost"]
struct Held(u32);

/// Bits of a magazine's number in a stack's word.
const NUMBER_BITS: u32 = 21;
const _: () = assert!(CHUNKS * CHUNK_MAGAZINES < 1 << NUMBER_BITS);
/// Where the count is in a stack's word.
pub const COUNT_SHIFT: u32 = NUMBER_BITS;
/// The largest count of a stack; it may hold more magazines.
pub const COUNT_MAX: usize = (1 << (32 - NUMBER_BITS)) - 1;

#[repr(align(64))]
struct Stack {
    head: AtomicU64,
}

/// How many magazines a stack had before a change, and has after it.
type Change = (usize, usize);

/// The depot of the process.
#[repr(C)]
pub struct Depot {
    chunks: [Link<Chunk>; CHUNKS],
    /// Bytes in objects of the full magazines, as [`Depot::bytes`] counts them.
    bytes: AtomicUsize,
    /// Magazines created since start.
    created: AtomicUsize,
    empty: Stack,
    /// By domain and class. Those of other domains than the first are the end of the depot, which no other word makes resident.
    full: [[Stack; CLASSES]; DOMAINS_MAX],
}

/// The one depot.
pub static DEPOT: Depot = Depot::new();

impl Stack {
    const fn new() -> Stack {
        Stack { head: AtomicU64::new(0) }
    }

    fn push(&self, depot: &Depot, held: Held) -> Change {
        let magazine = depot.magazine(&held);
        // Ordering: Relaxed, the exchange below confirms it.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Ordering: Relaxed, published by the exchange.
            magazine.next.store(number_in(head), Ordering::Relaxed);
            let count = (count_in(head) + 1).min(COUNT_MAX);
            let new = raise_tag(head) | word(count, held.0);
            // Ordering: Release publishes the magazine to the Acquire in `pop`; Relaxed on failure, the value is only compared again.
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return (count_in(head), count),
                Err(seen) => head = seen,
            }
        }
    }

    fn pop(&self, depot: &Depot) -> Option<(Held, Change)> {
        // Ordering: Acquire pairs with the Release in `push`, for `next` below.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let number = number_in(head);
            if number == 0 {
                return None;
            }
            // Ordering: Relaxed; stale if the magazine was popped meanwhile, and then the tag differs.
            let next = depot.numbered(number).next.load(Ordering::Relaxed);
            let count = if next == 0 { 0 } else { count_in(head).max(2) - 1 };
            let new = raise_tag(head) | word(count, next);
            // Ordering: Acquire pairs with the Release in `push`, both on success, for the objects, and on failure.
            match self.head.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some((Held(number), (count_in(head), count))),
                Err(seen) => head = seen,
            }
        }
    }

    fn count(&self) -> usize {
        // Ordering: Relaxed, a bound and a statistic.
        count_in(self.head.load(Ordering::Relaxed))
    }
}

/// The word of a stack with the next tag, without a count and a number (I1).
fn raise_tag(head: u64) -> u64 {
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
    ((2 << 20) / bytes).clamp(2, 64)
}

impl Depot {
    const fn new() -> Depot {
        Depot {
            chunks: [const { Link::none() }; CHUNKS],
            bytes: AtomicUsize::new(0),
            created: AtomicUsize::new(0),
            empty: Stack::new(),
            full: [const { [const { Stack::new() }; CLASSES] }; DOMAINS_MAX],
        }
    }

    /// Prefetches what [`Depot::put`] and [`Depot::take`] of `class` and `domain` begin with: a hint.
    pub fn prefetch(&self, class: Class, domain: Domain) {
        arch::prefetch(core::ptr::from_ref(self.stack(class, domain)) as usize);
        arch::prefetch(core::ptr::from_ref(&self.empty) as usize);
    }

    /// Puts the objects of `batch`, of slabs of `domain`, as one magazine; false if the class has enough of them or there is no memory for one,
    /// and the objects stay in the batch.
    pub fn put(&self, class: Class, domain: Domain, batch: &mut Batch) -> bool {
        // Threads that race here may exceed the bound by one magazine each.
        self.stack(class, domain).count() < limit(class) && self.put_unbounded(class, domain, batch)
    }

    /// As [`Depot::put`], however many magazines there are: for when the slab tier can't be entered.
    pub fn put_unbounded(&self, class: Class, domain: Domain, batch: &mut Batch) -> bool {
        let empty = self.empty.pop(self).map(|(held, _)| held);
        let Some(held) = empty.or_else(|| self.create()) else { return false };
        let magazine = self.magazine(&held);
        let objects = batch.addresses();
        // SAFETY: I2: held.
        let slots = unsafe { &mut *magazine.objects.get() };
        slots[..objects.len()].copy_from_slice(objects);
        counters::wrote_all(&slots[..objects.len()]);
        // Ordering: Relaxed, both published by the push.
        magazine.count.store(objects.len() as u32, Ordering::Relaxed);
        magazine.put_by.store(os::thread_descriptor(), Ordering::Relaxed);
        batch.forget_all();
        self.push(class, domain, held);
        true
    }

    /// Takes a magazine of `class` of `domain` into `batch`, which is empty; it stays so if there is none. The thread that put the magazine gets
    /// the objects as they were, another thread in the order of [`order::of`].
    pub fn take(&self, class: Class, domain: Domain, batch: &mut Batch) {
        let Some(held) = self.pop(class, domain) else { return };
        let magazine = self.magazine(&held);
        // Ordering: Relaxed, the pop acquired both.
        let count = magazine.count.load(Ordering::Relaxed) as usize;
        let is_own = magazine.put_by.load(Ordering::Relaxed) == os::thread_descriptor();
        // SAFETY: I2: held.
        let objects = unsafe { &*magazine.objects.get() };
        // SAFETY: the objects were the magazine's, which is empty from here on.
        unsafe {
            batch.receive(count, |out| {
                if is_own {
                    let slots = out.iter_mut().zip(&objects[..count]);
                    return slots.map(|(slot, &object)| slot.write(object)).count();
                }
                let mut at = 0;
                for &from in order::of(class) {
                    if usize::from(from) < count {
                        out[at].write(objects[usize::from(from)]);
                        at += 1;
                    }
                }
                at
            });
        }
        self.empty.push(self, held);
    }

    fn stack(&self, class: Class, domain: Domain) -> &Stack {
        &self.full[domain.index()][class]
    }

    fn push(&self, class: Class, domain: Domain, held: Held) {
        let change = self.stack(class, domain).push(self, held);
        self.account(class, change);
    }

    fn pop(&self, class: Class, domain: Domain) -> Option<Held> {
        let (held, change) = self.stack(class, domain).pop(self)?;
        self.account(class, change);
        Some(held)
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

    /// Calls `f` with the objects of each magazine of `class`, for the validator: pops them all, then pushes them again in their
    /// order. Other threads find the stack empty meanwhile.
    pub fn visit(&self, class: Class, mut f: impl FnMut(&[usize])) {
        domain::all().for_each(|domain| self.visit_on(class, domain, &mut f));
    }

    fn visit_on(&self, class: Class, domain: Domain, f: &mut impl FnMut(&[usize])) {
        let mut last = 0;
        while let Some(held) = self.pop(class, domain) {
            let magazine = self.magazine(&held);
            // Ordering: Relaxed, the pop acquired the magazine.
            let count = magazine.count.load(Ordering::Relaxed) as usize;
            // SAFETY: I2: held.
            f(unsafe { &(&*magazine.objects.get())[..count] });
            // Ordering: Relaxed, this thread alone uses the magazine.
            magazine.next.store(last, Ordering::Relaxed);
            last = held.0;
        }
        while last != 0 {
            let held = Held(last);
            // Ordering: Relaxed, as above.
            last = self.magazine(&held).next.load(Ordering::Relaxed);
            self.push(class, domain, held);
        }
    }

    /// Magazines of `class` in the depot.
    pub fn magazines(&self, class: Class) -> usize {
        domain::all().map(|domain| self.magazines_on(class, domain)).sum()
    }

    /// The objects in them, if all are full.
    pub fn objects(&self, class: Class) -> usize {
        self.magazines(class) * CLASS[class].batch
    }

    /// Those of `domain`.
    pub fn magazines_on(&self, class: Class, domain: Domain) -> usize {
        self.stack(class, domain).count()
    }

    /// Bytes in objects of all magazines except the first of each class of small objects; a snapshot.
    pub fn bytes(&self) -> usize {
        // Ordering: Relaxed, a bound. A thread that took a magazine may have counted it before the thread that put it.
        (self.bytes.load(Ordering::Relaxed) as isize).max(0) as usize
    }

    /// The word of class 0 of the first domain that holds the count of full magazines, and the number of magazines ever created, for `publish`.
    pub const fn counters(&'static self) -> (Column<AtomicU64>, &'static AtomicUsize) {
        let first = &self.full[0][0].head;
        (Column { first, stride: size_of::<Stack>(), count: CLASSES }, &self.created)
    }

    fn magazine(&self, held: &Held) -> &'static Magazine {
        self.numbered(held.0)
    }

    /// The magazine with this number, which another thread may hold.
    fn numbered(&self, number: u32) -> &'static Magazine {
        let index = number as usize - 1;
        // Ordering: Acquire pairs with the Release in `create`.
        match self.chunks[index / CHUNK_MAGAZINES].load(Ordering::Acquire) {
            Some(chunk) => &chunk.0[index % CHUNK_MAGAZINES],
            // Numbers come from `create`, when their chunk exists.
            None => fail(Misuse::Corrupt, number as usize),
        }
    }

    /// A new magazine.
    #[cold]
    fn create(&self) -> Option<Held> {
        // Ordering: Relaxed, the exchange below confirms it and claims the number.
        let mut created = self.created.load(Ordering::Relaxed);
        loop {
            let link = self.chunks.get(created / CHUNK_MAGAZINES)?;
            // Ordering: Acquire pairs with the Release below.
            if link.load(Ordering::Acquire).is_none() {
                let fresh = os::map(Place::Anywhere, CHUNK_BYTES).ok()?;
                // SAFETY: fresh zeroed memory of that size; it is unmapped below only if no other code can know it.
                let chunk = unsafe { &*(fresh as *const Chunk) };
                // Ordering: Release publishes the chunk; Acquire on failure for the other thread's.
                let order = (Ordering::Release, Ordering::Acquire);
                if link.compare_exchange(None, Some(chunk), order.0, order.1).is_err() {
                    // SAFETY: mapped above, known to no other code.
                    unsafe { os::unmap(fresh, CHUNK_BYTES) };
                }
            }
            let next = created + 1;
            // Ordering: Relaxed, the number carries no data.
            match self.created.compare_exchange(created, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(Held(created as u32 + 1)),
                Err(seen) => created = seen,
            }
        }
    }
}

#[cfg(feature = "counters")]
impl Depot {
    /// The part of the depot in which the cache line at `line` lies, as `sources` names it.
    pub fn part_of(&self, line: usize) -> Option<&'static str> {
        let is_in = |at: usize, bytes: usize| (at & !63..at + bytes).contains(&line);
        let whole = core::ptr::from_ref(self) as usize;
        // Ordering: Acquire, pairs with the Release in `create`.
        let chunks = self.chunks.iter().map_while(|link| link.load(Ordering::Acquire));
        let mut chunks = chunks.map(|chunk| core::ptr::from_ref(chunk) as usize);
        if is_in(whole, size_of::<Self>()) {
            Some("depot")
        } else if chunks.any(|chunk| is_in(chunk, CHUNK_BYTES)) {
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

    /// I1. To come back unseen, a top must be popped and pushed, so it would suffice that one of the two raises the tag; the other is
    /// there for operations that may be added.
    #[test]
    fn each_change_raises_the_tag() {
        let depot = &DEPOT;
        let stack = Stack::new();
        let magazines = [(); 3].map(|()| depot.create().unwrap());
        let numbers = [0, 1, 2].map(|at| magazines[at].0);
        let tag = || stack.head.load(Ordering::Relaxed) >> 32;
        for (changes, held) in magazines.into_iter().enumerate() {
            stack.push(depot, held);
            assert_eq!(tag(), changes as u64 + 1, "a push");
        }
        for changes in 0..numbers.len() {
            assert_eq!(stack.pop(depot).map(|(held, _)| held.0), Some(numbers[2 - changes]));
            assert_eq!(tag(), (numbers.len() + changes) as u64 + 1, "a pop");
        }
        assert!(stack.pop(depot).is_none());
    }

    #[test]
    fn only_another_thread_gets_the_objects_in_another_order() {
        static OWN: Depot = Depot::new();
        const CLASS_OF_LINES: Class = 8;
        let objects: Vec<usize> = (1..=CLASS[CLASS_OF_LINES].batch).map(|at| at * 64).collect();
        let put = || {
            // SAFETY: numbers that nothing reads or writes.
            let mut batch = unsafe { Batch::from_slots(&objects) };
            assert!(OWN.put(CLASS_OF_LINES, Domain::FIRST, &mut batch));
        };
        let take = || {
            let mut batch = Batch::new();
            OWN.take(CLASS_OF_LINES, Domain::FIRST, &mut batch);
            let taken = batch.addresses().to_vec();
            batch.forget_all();
            taken
        };
        put();
        assert_eq!(take(), objects, "by the thread that put them");
        put();
        let mut taken = std::thread::scope(|scope| scope.spawn(take).join()).unwrap();
        assert_ne!(taken, objects, "by another thread");
        taken.sort_unstable();
        assert_eq!(taken, objects, "all, each once");
    }
}
