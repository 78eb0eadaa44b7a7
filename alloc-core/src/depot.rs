//! The depot: full magazines between the shards, one lock-free stack for each class.
//!
//! Promises: put and take never wait; a magazine is owned by one holder at a time; the depot holds at
//! most `limit(class)` magazines, so what lies here is bounded. Called by cpu_cache; calls os for
//! magazine memory, which is never unmapped (a stale reader may still look at it).
//!
//! Invariants:
//! I1. A stack's word is `tag << 32 | number of the top magazine` (0: empty); each change raises the
//!     tag, so a head that was taken and put back in between is noticed (ABA).
//! I2. A magazine is in exactly one place: a stack, the free stack, or a holder's hands.

use crate::asm;
use crate::atomic::UnsafeCell;
use crate::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
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

#[repr(align(16))]
struct Stack {
    head: AtomicU64,
    count: AtomicU32,
}

/// The depot of the process; all zeroes is valid.
pub struct Depot {
    full: [Stack; CLASSES],
    free: Stack,
    chunks: [AtomicPtr<Magazine>; CHUNKS],
    /// Bytes in objects of the full magazines.
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
    fn push(&self, depot: &Depot, number: u32) {
        let magazine = depot.magazine(number);
        // Ordering: Relaxed, the exchange below confirms it.
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // Ordering: Relaxed, published by the exchange.
            magazine.next.store(head as u32, Ordering::Relaxed);
            let new = raise(head) | u64::from(number);
            // Ordering: Release publishes the magazine to the Acquire in `pop`; Relaxed on failure,
            // the value is only tried again.
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    fn pop(&self, depot: &Depot) -> Option<u32> {
        // Ordering: Acquire pairs with the Release in `push`, for `next` below.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let number = head as u32;
            if number == 0 {
                return None;
            }
            // Ordering: Relaxed; stale if the magazine was taken meanwhile, and then the tag differs.
            let next = depot.magazine(number).next.load(Ordering::Relaxed);
            let new = raise(head) | u64::from(next);
            // Ordering: Acquire pairs with the Release in `push`, both ways: the holder reads objects.
            match self.head.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(number),
                Err(seen) => head = seen,
            }
        }
    }
}

/// The next tag, with room for a number (I1).
fn raise(head: u64) -> u64 {
    ((head >> 32) + 1) << 32
}

/// The most magazines of `class` that the depot holds.
fn limit(class: Class) -> u32 {
    let bytes = CLASS[class].batch * CLASS[class].size;
    ((512 << 10) / bytes).clamp(2, 16) as u32
}

impl Depot {
    /// Asks for what [`Depot::put`] and [`Depot::take`] of `class` begin with: a hint.
    pub fn prefetch(&self, class: Class) {
        asm::prefetch(core::ptr::from_ref(&self.full[class]) as usize);
    }

    /// Puts `objects` (at most `MAGAZINE_MAX`) as one magazine; false if the class has enough of them
    /// or there is no memory for one, and the objects stay with the caller.
    pub fn put(&self, class: Class, objects: &[usize]) -> bool {
        let stack = &self.full[class];
        // Ordering: Relaxed, a bound that may be passed by as many threads as race here.
        if stack.count.load(Ordering::Relaxed) >= limit(class) {
            return false;
        }
        self.put_unbounded(class, objects)
    }

    /// As [`Depot::put`], however many there are: where the slab tier can't be entered.
    pub fn put_unbounded(&self, class: Class, objects: &[usize]) -> bool {
        let stack = &self.full[class];
        let Some(number) = self.free.pop(self).or_else(|| self.make()) else { return false };
        let magazine = self.magazine(number);
        // SAFETY: I2: the magazine is in our hands.
        let slots = unsafe { &mut *magazine.objects.get() };
        let mut count = 0;
        // A sized free of null leaves a null in a cache.
        for &object in objects.iter().filter(|&&object| object != 0) {
            slots[count] = object;
            count += 1;
        }
        #[cfg(feature = "counters")]
        crate::counters::wrote_all(slots.as_ptr() as usize, 8 * count);
        // Ordering: Relaxed, published by the push.
        magazine.count.store(count as u32, Ordering::Relaxed);
        // Ordering: Relaxed, a bound and a statistic.
        stack.count.fetch_add(1, Ordering::Relaxed);
        // Ordering: Relaxed, as above.
        self.bytes.fetch_add(count * CLASS[class].size, Ordering::Relaxed);
        stack.push(self, number);
        true
    }

    /// Takes a magazine of `class` into `out` (at least `MAGAZINE_MAX` long): how many objects, 0 if
    /// there is none.
    pub fn take(&self, class: Class, out: &mut [usize; MAGAZINE_MAX]) -> usize {
        let stack = &self.full[class];
        let Some(number) = stack.pop(self) else { return 0 };
        // Ordering: Relaxed, a bound and a statistic.
        stack.count.fetch_sub(1, Ordering::Relaxed);
        let magazine = self.magazine(number);
        // Ordering: Relaxed, the pop acquired it.
        let count = magazine.count.load(Ordering::Relaxed) as usize;
        // Ordering: Relaxed, a bound and a statistic.
        self.bytes.fetch_sub(count * CLASS[class].size, Ordering::Relaxed);
        // SAFETY: I2: the magazine is in our hands.
        let objects = unsafe { &*magazine.objects.get() };
        out[..count].copy_from_slice(&objects[..count]);
        self.free.push(self, number);
        count
    }

    /// Shows each magazine of `class` to `f`, for the validator: takes them all, then puts them back in
    /// their order. Others find the depot empty meanwhile.
    pub fn visit(&self, class: Class, mut f: impl FnMut(&[usize])) {
        let stack = &self.full[class];
        let mut held = 0;
        while let Some(number) = stack.pop(self) {
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
            stack.push(self, held);
            held = next;
        }
    }

    /// Magazines of `class` in the depot.
    pub fn magazines(&self, class: Class) -> usize {
        // Ordering: Relaxed, a statistic.
        self.full[class].count.load(Ordering::Relaxed) as usize
    }

    /// Bytes in objects of all magazines, as one look can tell.
    pub fn bytes(&self) -> usize {
        // Ordering: Relaxed, a bound and a statistic.
        self.bytes.load(Ordering::Relaxed)
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
