//! Words of memory for a short use.

use super::{Errno, Place, map, page_bytes, unmap};
use crate::atomic::AtomicUsize;

/// A mapping that is unmapped when it is dropped.
pub struct Scratch {
    words: &'static [AtomicUsize],
    len: usize,
}

impl Scratch {
    /// Maps at least so many words, which are zero.
    pub fn map(words: usize) -> Result<Scratch, Errno> {
        let len = (words * size_of::<usize>()).next_multiple_of(page_bytes());
        let address = map(Place::Anywhere, len)?;
        // SAFETY: fresh memory of at least that length, unmapped with this value only; zero is valid.
        let words = unsafe { core::slice::from_raw_parts(address as *const AtomicUsize, words) };
        Ok(Scratch { words, len })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicUsize] {
        self.words
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`; `words` lends the memory no longer than this value lives.
        unsafe { unmap(self.words.as_ptr() as usize, self.len) };
    }
}
