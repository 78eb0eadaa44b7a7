//! Threads without a thread pointer: their identity and their words.
//!
//! The address of a thread's errno tells it from all others: libc keeps it in the thread's static storage (glibc) or its
//! descriptor (musl), and C's `errno` is async-signal-safe by definition. The words lie in a table, hashed by that identity.
//! There is no better place in stable Rust without std: `#[thread_local]` is unstable, and a value of
//! `pthread_setspecific` alone would have to be set before the thread's first allocation, which itself allocates in glibc.
//!
//! Promises: a look-up is loads only; a claim is one exchange. The first table is static; where all slots that a thread may
//! have are taken, a further one is mapped, and stays.
//!
//! Invariants:
//! I1. A slot's owner is 0 or the identity of a thread, live or dead. Only that thread, a later one with the same identity,
//!     or the only thread of a forked child changes the words or sets the owner back to 0.
//! I2. A slot of a thread lies within [`PROBES`] slots of its hash, in one of the tables. If a handler on top of a claim
//!     claims one too, the first of them is the thread's: each look-up finds that one.
//! I3. A dead thread's slot may stay (a thread that ends by a raw exit, or allocates in its last destructor). A later thread
//!     with its identity finds the words as they were left, which is as if it had come before: it holds no
//!     lock, and a biased shard that was left so has no other user.
//!
//! A thread gives its slot back when it ends, by a destructor of thread-specific data, in libc's last round of
//! destructors: until then others may allocate, and what the words say of them must last (that a thread which has left its
//! biased shard asks for no other).

use crate::arch::ThreadWords;
use crate::arch::is_there;
use crate::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use core::ptr;
use libc::{c_void, pthread_key_t};

/// Rounds that libc makes over the destructors (PTHREAD_DESTRUCTOR_ITERATIONS of glibc and musl). Below 8: a round's number
/// stands in the low bits of an identity.
const ROUNDS: usize = 4;
/// Slots of a table.
const SLOTS: usize = 4096;
/// Slots of each table in which a thread's may lie.
const PROBES: usize = 32;

/// A line of its own: other threads write to the next one.
#[repr(C, align(64))]
struct Slot {
    owner: AtomicUsize,
    words: ThreadWords,
}

/// All zeroes is a table without owners.
#[repr(C)]
struct Table {
    slots: [Slot; SLOTS],
    /// The table for the threads that find no slot here; null until one is needed.
    next: AtomicPtr<Table>,
}

static FIRST: Table = Table {
    slots: [const { Slot { owner: AtomicUsize::new(0), words: ThreadWords::zeroed() } }; SLOTS],
    next: AtomicPtr::new(ptr::null_mut()),
};

/// Words of the threads that find no slot while no memory is left for a further table. What they say of held locks may be
/// wrong, so that an operation may fail that would have waited. None of these threads asks for a biased shard.
static SHARED: ThreadWords =
    ThreadWords { lease_countdown: AtomicU32::new(u32::MAX), ..ThreadWords::zeroed() };

#[inline]
pub fn thread_id() -> usize {
    // SAFETY: no arguments.
    let errno = unsafe { libc::__errno_location() };
    // An int is aligned to 4, an identity to 8; user addresses leave the top bits free.
    (errno as usize) << 1
}

#[inline]
pub fn thread_words() -> &'static ThreadWords {
    let id = thread_id();
    let first = &FIRST.slots[hash(id)];
    // Ordering: Relaxed: only this thread stores its own identity.
    if first.owner.load(Ordering::Relaxed) == id { &first.words } else { words_of(id) }
}

fn hash(id: usize) -> usize {
    id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (usize::BITS - SLOTS.ilog2())
}

fn tables() -> impl Iterator<Item = &'static Table> {
    core::iter::successors(Some(&FIRST), |table| {
        // Ordering: Acquire pairs with the Release in `add_table`.
        let next = table.next.load(Ordering::Acquire);
        // SAFETY: null, or a table from `add_table`, which stays mapped.
        unsafe { next.as_ref() }
    })
}

/// The slots in which that of `id` may lie.
fn probes(id: usize) -> impl Iterator<Item = &'static Slot> {
    let start = hash(id);
    tables().flat_map(move |table| (start..start + PROBES).map(|index| &table.slots[index % SLOTS]))
}

fn find(id: usize) -> Option<&'static Slot> {
    // Ordering: Relaxed, as in `thread_words`.
    probes(id).find(|slot| slot.owner.load(Ordering::Relaxed) == id)
}

#[cold]
#[inline(never)]
fn words_of(id: usize) -> &'static ThreadWords {
    find(id).or_else(|| claim(id)).map_or(&SHARED, |slot| &slot.words)
}

/// Claims a slot for the calling thread; none if all that it may have are taken, and there is no memory for more.
fn claim(id: usize) -> Option<&'static Slot> {
    // Ordering: Acquire pairs with the Release in `free`: the words are 0.
    let try_claim = |slot: &&Slot| {
        slot.owner.compare_exchange(0, id, Ordering::Acquire, Ordering::Relaxed).is_ok()
    };
    while probes(id).find(try_claim).is_none() {
        add_table()?;
    }
    run_at_end(id);
    // Not the slot above: a handler may have claimed an earlier one (I2).
    find(id)
}

/// Maps a table behind the last one, unless another thread does at the same time. None if there is no memory.
fn add_table() -> Option<()> {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let arguments = [0, size_of::<Table>(), access as usize, kind as usize, usize::MAX, 0];
    // SAFETY: a fresh mapping of memory that reads as zero, at an address of the kernel's choice.
    let address = unsafe { super::syscall(libc::SYS_mmap as usize, arguments) };
    let table = ptr::with_exposed_provenance_mut::<Table>(usize::try_from(address).ok()?);
    let last = &tables().last()?.next;
    // Ordering: Release pairs with the Acquire in `tables`: the table is mapped.
    if last.compare_exchange(ptr::null_mut(), table, Ordering::Release, Ordering::Relaxed).is_err()
    {
        // SAFETY: the mapping from above, which no other thread knows.
        unsafe {
            super::syscall(
                libc::SYS_munmap as usize,
                [table as usize, size_of::<Table>(), 0, 0, 0, 0],
            );
        }
    }
    Some(())
}

/// Has [`end`] called with `value` when the calling thread ends, or in the next round of its destructors. libc may call
/// malloc for it, which finds the slot claimed.
fn run_at_end(value: usize) {
    // SAFETY: libc's thread-local, valid in every thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    if let Some(key) = key() {
        // SAFETY: the key exists. Failure leaves the slot to the next thread with this identity (I3).
        unsafe { libc::pthread_setspecific(key, value as *const c_void) };
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// The key, plus 1; 0 until it is made.
static KEY: AtomicU32 = AtomicU32::new(0);

/// The key whose destructor gives slots back, made at the first call; none if libc has none left.
fn key() -> Option<pthread_key_t> {
    // Ordering: Relaxed, the number is all there is.
    if let Some(key) = KEY.load(Ordering::Relaxed).checked_sub(1) {
        return Some(key);
    }
    if !is_there(libc::pthread_key_create as *const ()) {
        return None;
    }
    let mut made = 0;
    // SAFETY: a live word, and a function of this library, which is never unloaded.
    if unsafe { libc::pthread_key_create(&raw mut made, Some(end)) } != 0 {
        return None;
    }
    // Ordering: Relaxed, as above.
    match KEY.compare_exchange(0, made + 1, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Some(made),
        Err(others) => {
            // SAFETY: made above, and no thread has given it a value.
            unsafe { libc::pthread_key_delete(made) };
            Some(others - 1)
        }
    }
}

/// The calling thread ends. `value`: its identity plus the number of the round.
unsafe extern "C" fn end(value: *mut c_void) {
    let round = value as usize % 8;
    if round + 1 < ROUNDS {
        return run_at_end(value as usize + 1);
    }
    let id = value as usize - round;
    // Ordering: Relaxed, this thread's own slots.
    probes(id).filter(|slot| slot.owner.load(Ordering::Relaxed) == id).for_each(Slot::free);
}

/// The child's only thread keeps its slot; the others' are those of no thread.
pub fn forget_other_threads() {
    let id = thread_id();
    // Ordering: Relaxed, there is no other thread.
    let is_others = |slot: &&Slot| ![0, id].contains(&slot.owner.load(Ordering::Relaxed));
    tables().flat_map(|table| &table.slots).filter(is_others).for_each(Slot::free);
}

impl Slot {
    /// Leaves the slot to any thread.
    fn free(&self) {
        let ThreadWords {
            biased_shard,
            lease_countdown,
            held_rank,
            guard_countdown,
            registration,
            sample_countdown,
        } = &self.words;
        // Ordering: Relaxed, published by the store below.
        biased_shard.store(0, Ordering::Relaxed);
        sample_countdown.store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
        for word in [lease_countdown, held_rank, guard_countdown, registration] {
            word.store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
        // Ordering: Release pairs with the Acquire in `claim`.
        self.owner.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::sync::Barrier;
    use std::vec::Vec;

    fn address() -> usize {
        core::ptr::from_ref(thread_words()) as usize
    }

    #[test]
    fn threads_have_words_of_their_own_and_give_them_back() {
        const THREADS: usize = 200;
        let slots = || tables().flat_map(|table| &table.slots);
        let used = || slots().filter(|slot| slot.owner.load(Ordering::Relaxed) != 0).count();
        let before = used();
        let all_live = Barrier::new(THREADS);
        let live = || {
            let words = thread_words();
            words.guard_countdown.store(7, Ordering::Relaxed);
            all_live.wait();
            assert_eq!(address(), core::ptr::from_ref(words) as usize);
            assert_eq!(words.guard_countdown.load(Ordering::Relaxed), 7);
            (address(), thread_id())
        };
        let (mut words, mut ids): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(live)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).unzip()
        });
        for list in [&mut words, &mut ids] {
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), THREADS);
        }
        assert!(ids.iter().all(|id| id % 8 == 0 && *id != 0));
        // A joined thread's destructors have run. Other tests' threads may come and go.
        assert!(used() < before + THREADS / 2, "{} slots before, {} after", before, used());
    }

    #[test]
    fn a_thread_that_finds_no_slot_gets_one_in_a_further_table() {
        // Identities of no threads: errno is not there.
        let (id, other) = (16, 8);
        let take = |slot: &&Slot| {
            let owner = &slot.owner;
            owner.compare_exchange(0, other, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        let taken: Vec<_> = probes(id).filter(take).collect();
        let found = [(); 2].map(|()| core::ptr::from_ref(words_of(id)));
        assert_eq!(found[0], found[1], "the same words each time");
        assert!(!core::ptr::eq(found[0], &SHARED));
        let slot = find(id).expect("its slot");
        assert!(!FIRST.slots.iter().any(|first| core::ptr::eq(first, slot)), "in a further table");
        slot.free();
        taken.into_iter().for_each(Slot::free);
        assert!(find(id).is_none());
    }
}
