//! A request for memory, resolved once: what the program asked for, and the size class that serves it.
//!
//! Promises: `class` is the class of `size` and `align`, 0 if no class serves them; no tier below derives it again.
#![forbid(unsafe_code)]

use crate::arch::ADDRESS_SPACE_BYTES;
use crate::size_class::{Class, class_of_aligned};

/// What is asked for, or what a freed object was asked for as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The class whose objects serve it; 0: a span of its own.
    pub class: Class,
    /// Bytes.
    pub size: usize,
    /// A power of two.
    pub align: usize,
}

impl Request {
    /// Resolves a size and an alignment.
    #[inline]
    pub fn new(size: usize, align: usize) -> Request {
        Request { class: class_of_aligned(size, align), size, align }
    }

    /// As [`Request::new`], where a table may have said the class already: 0 if it did not.
    #[inline]
    pub fn with_class(class: Class, size: usize, align: usize) -> Request {
        match class {
            0 => Request::new(size, align),
            class => Request { class, size, align },
        }
    }

    /// The request for so many bytes behind the object as well.
    pub fn with_tail(self, bytes: usize) -> Request {
        Request::new(self.size + bytes, self.align)
    }

    /// Whether no system could serve it, so that none is asked.
    pub fn is_impossible(self) -> bool {
        self.size.saturating_add(self.align) > ADDRESS_SPACE_BYTES
    }
}
