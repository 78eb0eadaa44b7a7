//! What sanitizers are told of the heap is enough, and no more than that.
//!
//! `reachable`: objects of libc's malloc that only objects of rsalloc point to. `leak`: as many that nothing points to.
//! `threads`: objects that pass from thread to thread. `race`: two threads write to one object at once.

use rsalloc::RsAlloc;
use std::hint::black_box;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::thread;

#[global_allocator]
static GLOBAL: RsAlloc = RsAlloc;

const FOREIGN: usize = 100;
/// A small object, one of a page or more, a large one, and one in a mapping of its own.
const SIZES: [usize; 4] = [64, 60_000, 400_000, 40 << 20];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("reachable") => SIZES.into_iter().for_each(keep_foreign),
        Some("leak") => (0..FOREIGN).for_each(|_| {
            black_box(foreign());
        }),
        Some("threads") => threads(),
        Some("race") => race(),
        other => panic!("{other:?} is no part of this program"),
    }
}

/// The address of an object that the leak checker knows.
fn foreign() -> usize {
    // SAFETY: any size will do.
    unsafe { libc::malloc(100) as usize }
}

/// Keeps foreign objects in ones of `size` bytes, which are known to a static of this program, and grow once.
fn keep_foreign(size: usize) {
    static KEEPERS: [AtomicPtr<Vec<Vec<usize>>>; SIZES.len()] =
        [const { AtomicPtr::new(null_mut()) }; SIZES.len()];
    let slots = size / size_of::<usize>();
    let mut keepers: Vec<Vec<usize>> = Vec::new();
    for number in 0..FOREIGN {
        if number % slots == 0 {
            keepers.push(vec![0; slots]);
        }
        // From the end, which is not where other memory begins.
        keepers.last_mut().unwrap()[slots - 1 - number % slots] = foreign();
    }
    keepers.iter_mut().for_each(|keeper| keeper.reserve_exact(slots));
    let place = SIZES.iter().position(|&other| other == size).unwrap();
    KEEPERS[place].store(Box::into_raw(Box::new(keepers)), Ordering::Release);
}

/// The standard library is not compiled with the sanitizer, so its channels look like races: a slot of our own.
static SLOTS: [AtomicPtr<Vec<u8>>; 16] = [const { AtomicPtr::new(null_mut()) }; 16];

fn threads() {
    let workers = [1, 2, 3, 4].map(|id| thread::spawn(move || churn(id)));
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

/// Makes objects, writes to them, and puts each into a slot; what another thread left there is freed.
fn churn(id: u8) {
    for n in 0..8000 {
        let size = match n % 1000 {
            0 => 34 << 20,
            1..20 => 300_000 + n,
            _ => 16 + n * 37 % 5000,
        };
        // Of a large object the first bytes, so that the program is quick.
        let mut object = Vec::with_capacity(size);
        object.resize(size.min(6000), id);
        if n % 7 == 0 {
            object.extend_from_slice(&[id; 9000]);
        }
        let fresh = Box::into_raw(Box::new(object));
        let old = SLOTS[n % SLOTS.len()].swap(fresh, Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: put there by `into_raw`, and taken out once.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}

static STARTED: AtomicUsize = AtomicUsize::new(0);

fn race() {
    let address = Box::into_raw(Box::new(0u64)).expose_provenance();
    let write = move || {
        // Both at once, without an order of anything.
        STARTED.fetch_add(1, Ordering::Relaxed);
        while STARTED.load(Ordering::Relaxed) < 2 {
            thread::yield_now();
        }
        for n in 0..1000 {
            // SAFETY: none: it is what the sanitizer shall report.
            unsafe { *black_box(with_exposed_provenance_mut::<u64>(address)) = n };
        }
    };
    let threads = [thread::spawn(write), thread::spawn(write)];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
