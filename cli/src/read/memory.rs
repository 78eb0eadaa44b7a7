//! [`Paged`]: a target's memory, read page by page.

use super::Source;
use rsalloc_core::internals::sums::Memory;
use std::cell::RefCell;
use std::collections::HashMap;

const PAGE_BYTES: usize = 4096;

/// The pages that were read; each page as it was when its first word was wanted.
pub struct Paged<'a> {
    source: &'a dyn Source,
    pages: RefCell<HashMap<u64, Option<Box<[u8; PAGE_BYTES]>>>>,
}

impl<'a> Paged<'a> {
    /// None read yet.
    pub fn new(source: &'a dyn Source) -> Self {
        Self { source, pages: RefCell::default() }
    }

    /// The `N` bytes at `address`; none if they cannot be read, or are not aligned.
    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let at = address as usize % PAGE_BYTES;
        let page = address - at as u64;
        let mut pages = self.pages.borrow_mut();
        let bytes = pages.entry(page).or_insert_with(|| {
            let mut bytes = Box::new([0; PAGE_BYTES]);
            (self.source.read(page, &mut *bytes) == PAGE_BYTES).then_some(bytes)
        });
        bytes.as_ref()?.get(at..)?.first_chunk().copied().filter(|_| at.is_multiple_of(N))
    }
}

impl Memory for Paged<'_> {
    fn word(&self, address: u64) -> Option<u64> {
        self.bytes(address).map(u64::from_ne_bytes)
    }

    fn half(&self, address: u64) -> Option<u32> {
        self.bytes(address).map(u32::from_ne_bytes)
    }
}
