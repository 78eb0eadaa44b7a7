//! The bytes of an object, read and written where other threads may do the same: through pointers, never through references.

use crate::atomic::AtomicUsize;
use core::ops::Range;

/// Bytes of an object, or of the page that it lies on. Ranges are in bytes from the start.
#[derive(Clone, Copy)]
pub struct Memory {
    address: usize,
    len: usize,
}

const WORD_BYTES: usize = size_of::<usize>();

impl Memory {
    /// The `len` bytes at `address`.
    ///
    /// # Safety
    /// 1. They are readable and writable as long as the value is used.
    /// 2. No reference leads to them but to atomics; what else the program or another thread writes there is misuse that
    ///    the caller looks for.
    pub const unsafe fn new(address: usize, len: usize) -> Memory {
        Memory { address, len }
    }

    /// Address of the first byte.
    pub const fn address(&self) -> usize {
        self.address
    }

    /// Number of bytes.
    pub const fn len_bytes(&self) -> usize {
        self.len
    }

    /// The aligned word at `at`.
    pub fn word(&self, at: usize) -> &AtomicUsize {
        let address = self.pointer(&(at..at + WORD_BYTES)) as *const AtomicUsize;
        debug_assert!(address.is_aligned());
        // SAFETY: duties of `new`; inside the bytes.
        unsafe { &*address }
    }

    /// Sets each byte of `range`.
    pub fn fill(&self, range: Range<usize>, byte: u8) {
        // SAFETY: duties of `new`; inside the bytes.
        unsafe { self.pointer(&range).write_bytes(byte, range.len()) };
    }

    /// Whether each byte of `range` is `byte`.
    pub fn is_filled(&self, range: Range<usize>, byte: u8) -> bool {
        let start = self.pointer(&range);
        // SAFETY: duties of `new`; inside the bytes. Volatile: another thread may write.
        (0..range.len()).all(|at| unsafe { start.add(at).read_volatile() } == byte)
    }

    /// Sets each word of `range`, which begins and ends at words.
    pub fn fill_words(&self, range: Range<usize>, word: usize) {
        let start = self.pointer(&range) as *mut usize;
        for at in 0..range.len() / WORD_BYTES {
            // SAFETY: duties of `new`; inside the bytes.
            unsafe { start.add(at).write(word) };
        }
    }

    /// Whether each word of `range`, which begins and ends at words, is `word`.
    pub fn is_filled_with_words(&self, range: Range<usize>, word: usize) -> bool {
        let start = self.pointer(&range) as *mut usize;
        // SAFETY: duties of `new`; inside the bytes. Volatile: another thread may write.
        (0..range.len() / WORD_BYTES).all(|at| unsafe { start.add(at).read_volatile() } == word)
    }

    /// Where `range` begins; ends the process if it is not inside the bytes.
    fn pointer(&self, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.len, "a range outside its memory");
        (self.address + range.start) as *mut u8
    }
}
