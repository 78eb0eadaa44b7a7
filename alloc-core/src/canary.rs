//! The canary: one word at the end of each object that says, in hardened mode, what state the object is in.
//!
//! A word that other code wrote is recognised as invalid. Of two frees of an object, at whatever instant, one sees that it is
//! the second. The default mode has no canaries.
//!
//! ```text
//! | what the program asked for | slack: PATTERN | word |     live: word = secret(address) ^ (size << 8)
//! | POISON ................................... | word |     free: word = secret(address) ^ (FREE << 8)
//! ```
//!
//! The word's first byte in memory is the secret's, which is never 0 there: the 0 behind a string that is too long is always seen.
//!
//! Invariants:
//! I1. While hardened, the word of each object of a slab is fresh, live or free from the slab's creation on.
//! I2. A free object's memory is poison, see [`Canary::poison`], until it is handed out again.

use crate::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::object::Memory;
use crate::secret::{Purpose, derive};
use core::ops::Range;

/// Bytes of the word.
pub const WORD_BYTES: usize = size_of::<usize>();
/// The most bytes of slack that are filled; bytes between the filled part and the word are not checked.
const SLACK_MAX: usize = 1024;
/// Objects up to twice this size are poisoned whole, larger ones at both ends.
const POISON_END: usize = 2048;
const PATTERN: u8 = 0xAB;
/// Not canonical as an address, so a program that follows a pointer out of freed memory faults.
const POISON: usize = 0xDFDF_DFDF_DFDF_DFDF;
/// Bits of the word that hold nothing but the secret.
const TAG_BITS: u32 = 8;
const FREE: usize = usize::MAX >> TAG_BITS;
const FRESH: usize = FREE - 1;

static ON: AtomicBool = AtomicBool::new(false);
static KEY: AtomicUsize = AtomicUsize::new(0);

/// Whether objects have canaries in this process.
#[inline]
pub fn is_on() -> bool {
    // Ordering: Relaxed, set by init before any object exists.
    ON.load(Ordering::Relaxed)
}

/// Gives objects canaries from now on, made with the kernel's random bytes. For init.
pub fn arm(random: [u8; 16]) {
    // libc makes its own secrets of the bytes; a canary must not reveal them.
    let key = derive(random, Purpose::Canary) as usize | 1;
    // Ordering: Relaxed, published by init's READY.
    KEY.store(key, Ordering::Relaxed);
    ON.store(true, Ordering::Relaxed); // Ordering: Relaxed, as above.
}

/// What an object's word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The program has it, and asked for so many bytes.
    Live(usize),
    /// The program freed it.
    Free,
    /// It was never handed out.
    Fresh,
    /// Other code overwrote the word.
    Broken,
}

/// An object together with its word.
#[derive(Clone, Copy)]
pub struct Canary {
    memory: Memory,
    /// Bytes in front of the word, which the program may use.
    usable: usize,
}

impl Canary {
    /// The canary of the object with this memory, which includes the word.
    pub fn of(memory: Memory) -> Canary {
        Canary { memory, usable: memory.len_bytes() - WORD_BYTES }
    }

    /// Bytes in front of the word.
    pub fn usable(&self) -> usize {
        self.usable
    }

    fn word(&self) -> &AtomicUsize {
        self.memory.word(self.usable)
    }

    fn secret(&self) -> usize {
        // Ordering: Relaxed, a constant by now.
        let mixed = (self.memory.address() ^ KEY.load(Ordering::Relaxed))
            .wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed ^ mixed >> 32) | 1
    }

    /// The word for a size, `FREE` or `FRESH`, as it lies in memory.
    fn word_of(&self, value: usize) -> usize {
        (self.secret() ^ value << TAG_BITS).to_le()
    }

    fn read(&self, word: usize) -> State {
        // A tag that is not 0 becomes a value that is none.
        match (usize::from_le(word) ^ self.secret()).rotate_right(TAG_BITS) {
            FREE => State::Free,
            FRESH => State::Fresh,
            size if size <= self.usable => State::Live(size),
            _ => State::Broken,
        }
    }

    /// The state now.
    pub fn state(&self) -> State {
        // Ordering: Acquire pairs with the Release of `seal`, for the slack.
        self.read(self.word().load(Ordering::Acquire))
    }

    /// Whether the word was never written: the object was allocated before canaries were armed.
    pub fn is_unsealed(&self) -> bool {
        // Ordering: Relaxed, the value is all there is.
        self.word().load(Ordering::Relaxed) == 0
    }

    /// Says that the object was never handed out.
    pub fn mark_fresh(&self) {
        // Ordering: Relaxed, the slab's lock publishes it.
        self.word().store(self.word_of(FRESH), Ordering::Relaxed);
    }

    /// Hands the object out: `size` bytes are the program's, the rest is slack.
    pub fn seal(&self, size: usize) {
        self.fill_slack(size);
        // Ordering: Release, the slack before the word.
        self.word().store(self.word_of(size), Ordering::Release);
    }

    /// Changes the size of a live object from `old`; false if another thread changed it meanwhile.
    pub fn reseal(&self, old: usize, size: usize) -> bool {
        self.fill_slack(size);
        let (from, to) = (self.word_of(old), self.word_of(size));
        // Ordering: Release as in `seal`; Relaxed on failure reads nothing.
        self.word().compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Marks the object free and returns its state before: in one step, so of two frees only one sees it live.
    pub fn retire(&self) -> State {
        // Ordering: AcqRel: the slack of `seal` before, the poison after.
        self.read(self.word().swap(self.word_of(FREE), Ordering::AcqRel))
    }

    /// What is filled behind the `size` bytes of the program.
    fn slack(&self, size: usize) -> Range<usize> {
        size..size + (self.usable - size).min(SLACK_MAX)
    }

    fn fill_slack(&self, size: usize) {
        self.memory.fill(self.slack(size), PATTERN);
    }

    /// Whether nothing was written behind the `size` bytes of the program.
    pub fn is_slack_whole(&self, size: usize) -> bool {
        self.memory.is_filled(self.slack(size), PATTERN)
    }

    /// The two ends of the object; of a small object, the first is all of it.
    fn ends(&self) -> [Range<usize>; 2] {
        let end = self.usable.min(POISON_END);
        [0..end, self.usable - end.min(self.usable - end)..self.usable]
    }

    /// Overwrites a free object (I2).
    pub fn poison(&self) {
        self.ends().into_iter().for_each(|end| self.memory.fill_words(end, POISON));
    }

    /// Whether a free object is as [`Canary::poison`] left it.
    pub fn is_poisoned(&self) -> bool {
        self.ends().into_iter().all(|end| self.memory.is_filled_with_words(end, POISON))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    fn with_object(words: usize, f: impl FnOnce(&Canary, &mut [u8])) {
        let mut memory = std::vec![0usize; words];
        let bytes = words * WORD_BYTES;
        let address = memory.as_mut_ptr();
        // SAFETY: the vector's memory, which the slice below leads to as well: a program that misuses it.
        let canary = Canary::of(unsafe { Memory::new(address as usize, bytes) });
        // SAFETY: as above.
        f(&canary, unsafe { core::slice::from_raw_parts_mut(address.cast(), bytes) });
    }

    #[test]
    fn a_zero_right_behind_the_object_is_always_seen() {
        // Objects at 4,096 addresses, each with a secret of its own.
        let mut memory = std::vec![0usize; 4096 * 8];
        let first = memory.as_mut_ptr() as usize;
        for at in (0..memory.len() * WORD_BYTES).step_by(8 * WORD_BYTES) {
            // SAFETY: the vector's memory, and nothing else leads to it.
            let canary = Canary::of(unsafe { Memory::new(first + at, 8 * WORD_BYTES) });
            canary.seal(canary.usable());
            let behind = (first + at + canary.usable()) as *mut u8;
            // SAFETY: as above.
            unsafe { behind.write(0) };
            assert_eq!(canary.retire(), State::Broken);
        }
    }

    #[test]
    fn a_byte_behind_the_object_is_seen_wherever_it_is() {
        for size in 0..=56 {
            for at in size..64 {
                with_object(8, |canary, bytes| {
                    canary.seal(size);
                    assert!(canary.state() == State::Live(size) && canary.is_slack_whole(size));
                    bytes[at] ^= 1;
                    let whole = canary.is_slack_whole(size);
                    let state = canary.retire();
                    assert!(!whole || state != State::Live(size), "byte {at} behind {size}");
                });
            }
        }
    }

    #[test]
    fn one_of_two_frees_is_seen_as_the_second() {
        with_object(4, |canary, _| {
            assert!(canary.is_unsealed());
            canary.mark_fresh();
            assert_eq!(canary.state(), State::Fresh);
            canary.seal(20);
            let seen: std::vec::Vec<State> = std::thread::scope(|scope| {
                let canary = *canary;
                let threads = [(); 4].map(|()| scope.spawn(move || canary.retire()));
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let live = seen.iter().filter(|&&state| state == State::Live(20)).count();
            let free = seen.iter().filter(|&&state| state == State::Free).count();
            assert_eq!((live, free), (1, 3));
            assert!(!canary.reseal(20, 8), "no resize after a free");
        });
    }

    #[test]
    fn a_change_of_free_memory_is_seen() {
        for words in [2, 3, 100, 512, 513, 514, 2000] {
            with_object(words, |canary, bytes| {
                canary.retire();
                canary.poison();
                assert!(canary.is_poisoned());
                for at in [0, 7, (words - 1) * WORD_BYTES - 1] {
                    bytes[at] ^= 1;
                    assert!(!canary.is_poisoned(), "byte {at} of {words} words");
                    bytes[at] ^= 1;
                }
                assert!(canary.is_poisoned() && canary.state() == State::Free);
            });
        }
    }

    #[test]
    fn the_canary_of_another_object_is_refused() {
        with_object(4, |one, from| {
            with_object(4, |other, to| {
                one.seal(5);
                other.seal(5);
                to[24..].copy_from_slice(&from[24..]);
                assert_eq!(other.state(), State::Broken);
            });
        });
    }
}
