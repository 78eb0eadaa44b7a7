//! Tables of objects that lie outside the measured heap.
//!
//! [`Slots`] belongs to one load; an [`Exchange`] is shared by threads that hand objects to each other. Both map their
//! memory themselves, so that the allocator under test sees the loads' objects only.
#![allow(unsafe_code)]

use crate::client::Object;
use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicPtr, Ordering};

/// A table of objects, empty at first.
pub struct Slots {
    memory: MmapMut,
    len: usize,
}

impl Slots {
    /// A table of `len` empty slots.
    pub fn new(len: usize) -> Self {
        let mut memory = map(len);
        memory.fill(0); // Faults the pages in now, not while the clock runs.
        Slots { memory, len }
    }
}

impl Deref for Slots {
    type Target = [Option<Object>];
    fn deref(&self) -> &Self::Target {
        // SAFETY: the mapping is page-aligned, has `len` words, and a word of zeroes is `None`
        // (`Object` is a transparent `NonNull`).
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as in `deref`; `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

/// A table through which threads swap objects.
pub struct Exchange {
    memory: MmapMut,
    len: usize,
}

impl Exchange {
    /// A table of `len` empty slots.
    pub fn new(len: usize) -> Self {
        Exchange { memory: map(len), len }
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no slot at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts `object` into slot `index` and takes what was there.
    pub fn swap(&self, index: usize, object: Option<Object>) -> Option<Object> {
        let address = object.map_or(std::ptr::null_mut(), Object::into_raw);
        // Ordering: AcqRel, pairs with itself in the thread that put the object: its tag is visible.
        let old = self.slots()[index].swap(address, Ordering::AcqRel);
        // SAFETY: each address in the table came from `into_raw` and the swap takes it out once.
        unsafe { Object::from_raw(old) }
    }

    fn slots(&self) -> &[AtomicPtr<u8>] {
        // SAFETY: the mapping is page-aligned, has `len` words, and zeroes are a null `AtomicPtr`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

fn map(words: usize) -> MmapMut {
    MmapMut::map_anon((words * size_of::<usize>()).max(1)).expect("no memory for a load's table")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    #[test]
    fn slots_start_empty_and_keep_objects() {
        let (mut client, mut slots) = (Client::default(), Slots::new(3));
        assert!(slots.iter().all(Option::is_none));
        slots[2] = Some(client.malloc(8));
        assert_eq!(slots.iter().filter(|slot| slot.is_some()).count(), 1);
        client.free(slots[2].take().unwrap());
        assert!(client.checksum().is_some());
    }

    #[test]
    fn an_exchange_gives_back_what_was_put() {
        let (mut client, exchange) = (Client::default(), Exchange::new(2));
        assert!(exchange.swap(1, Some(client.malloc(8))).is_none());
        let object = exchange.swap(1, None).expect("it was put there");
        assert!(exchange.swap(1, None).is_none());
        client.free(object);
        assert!(client.checksum().is_some());
    }
}
