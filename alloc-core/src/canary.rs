//! The canary: one word at the end of each object that says, in hardened mode, what state the object is in.
//!
//! Promises: a word that anybody but this room wrote is told from a valid one; of two frees of an object,
//! at whatever instant, one sees that it is the second. Called by the engine's hardened side (objects) and
//! by slab (fresh ones); calls nobody. Not used at all in the default mode.
//!
//! ```text
//! | what the program asked for | slack: PATTERN | word |     live: word = secret(address) ^ size
//! | POISON ................................... | word |     free: word = secret(address) ^ FREE
//! ```
//!
//! Invariants:
//! I1. While hardened, the word of each object of a slab is fresh, live or free from the birth of the slab on.
//! I2. A free object's memory is poison, see [`Canary::poison`], until it is handed out again.

use crate::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::secret::{Purpose, derive};

/// Bytes of the word.
pub const WORD_BYTES: usize = size_of::<usize>();
/// The most bytes of slack that are filled: one that passes all of them hits the word.
const SLACK_MAX: usize = 1024;
/// Objects up to twice this size are poisoned whole, larger ones at both ends.
const POISON_END: usize = 2048;
const PATTERN: u8 = 0xAB;
/// As an address not canonical, so whoever follows a pointer out of freed memory faults.
const POISON: usize = 0xDFDF_DFDF_DFDF_DFDF;
const FREE: usize = usize::MAX;
const FRESH: usize = usize::MAX - 1;

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
    // libc makes its own secrets of the bytes: neither shall be read off a canary.
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
    /// It was freed.
    Free,
    /// It was never handed out.
    Fresh,
    /// Something else overwrote the word.
    Broken,
}

/// An object together with its word.
#[derive(Clone, Copy)]
pub struct Canary {
    address: usize,
    /// Bytes in front of the word.
    room: usize,
}

impl Canary {
    /// That of the object at `address` with `bytes`, word included.
    ///
    /// # Safety
    /// 1. The bytes are mapped, and an object of this allocator as long as the result is used.
    pub unsafe fn new(address: usize, bytes: usize) -> Canary {
        Canary { address, room: bytes - WORD_BYTES }
    }

    /// Bytes in front of the word.
    pub fn room(&self) -> usize {
        self.room
    }

    fn word(&self) -> &AtomicUsize {
        // SAFETY: duty of `new`; sizes of objects are multiples of 8.
        unsafe { &*((self.address + self.room) as *const AtomicUsize) }
    }

    fn secret(&self) -> usize {
        // Ordering: Relaxed, a constant by now.
        let mixed =
            (self.address ^ KEY.load(Ordering::Relaxed)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        mixed ^ mixed >> 32
    }

    fn read(&self, word: usize) -> State {
        match word ^ self.secret() {
            FREE => State::Free,
            FRESH => State::Fresh,
            size if size <= self.room => State::Live(size),
            _ => State::Broken,
        }
    }

    /// The state now.
    pub fn state(&self) -> State {
        // Ordering: Acquire pairs with the Release of `seal`, for the slack.
        self.read(self.word().load(Ordering::Acquire))
    }

    /// Nothing was ever written to the word's page: an object that was made before canaries were.
    pub fn is_unsealed(&self) -> bool {
        // Ordering: Relaxed, the value is all there is.
        self.word().load(Ordering::Relaxed) == 0
    }

    /// Says that the object was never handed out.
    pub fn mark_fresh(&self) {
        // Ordering: Relaxed, the slab's lock publishes it.
        self.word().store(self.secret() ^ FRESH, Ordering::Relaxed);
    }

    /// Hands the object out: `size` bytes are the program's, the rest is slack.
    pub fn seal(&self, size: usize) {
        self.fill_slack(size);
        // Ordering: Release, the slack before the word.
        self.word().store(self.secret() ^ size, Ordering::Release);
    }

    /// Changes the size of a live object from `old`; false if somebody else was at it meanwhile.
    pub fn reseal(&self, old: usize, size: usize) -> bool {
        self.fill_slack(size);
        let (from, to) = (self.secret() ^ old, self.secret() ^ size);
        // Ordering: Release as in `seal`; Relaxed on failure reads nothing.
        self.word().compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Marks the object free: what it was before. One step, so of two frees only one sees it live.
    pub fn retire(&self) -> State {
        // Ordering: AcqRel: the slack of `seal` before, the poison after.
        self.read(self.word().swap(self.secret() ^ FREE, Ordering::AcqRel))
    }

    fn slack(&self, size: usize) -> &'static mut [u8] {
        let len = (self.room - size).min(SLACK_MAX);
        // SAFETY: duty of `new`: inside the object, behind what the program asked for.
        unsafe { core::slice::from_raw_parts_mut((self.address + size) as *mut u8, len) }
    }

    fn fill_slack(&self, size: usize) {
        self.slack(size).fill(PATTERN);
    }

    /// Whether nobody wrote behind the `size` bytes of the program.
    pub fn is_slack_whole(&self, size: usize) -> bool {
        self.slack(size).iter().all(|&byte| byte == PATTERN)
    }

    /// The ends of the object, which are one if it is small.
    fn ends(&self) -> [&'static mut [usize]; 2] {
        let words = self.room / WORD_BYTES;
        let end = words.min(POISON_END / WORD_BYTES);
        let (first, last) = (end, end.min(words - end));
        let at = self.address as *mut usize;
        // SAFETY: duty of `new`: inside the object and apart; the object is nobody's now.
        unsafe {
            [
                core::slice::from_raw_parts_mut(at, first),
                core::slice::from_raw_parts_mut(at.add(words - last), last),
            ]
        }
    }

    /// Overwrites a free object (I2).
    pub fn poison(&self) {
        self.ends().into_iter().for_each(|end| end.fill(POISON));
    }

    /// Whether a free object is as [`Canary::poison`] left it.
    pub fn is_poisoned(&self) -> bool {
        self.ends().iter().all(|end| end.iter().all(|&word| word == POISON))
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
        // SAFETY: the vector's memory, which the slice below names as well: a program that misuses it.
        let canary = unsafe { Canary::new(address as usize, bytes) };
        // SAFETY: as above.
        f(&canary, unsafe { core::slice::from_raw_parts_mut(address.cast(), bytes) });
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
                let threads = [(); 4].map(|()| {
                    let (address, bytes) = (canary.address, canary.room + WORD_BYTES);
                    // SAFETY: the same object.
                    scope.spawn(move || unsafe { Canary::new(address, bytes) }.retire())
                });
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
