//! Ownership of objects on their way through the tiers: one object, a fresh one, a batch of them; the bytes of an object;
//! and links to what lives as long as the process.
//!
//! An object that is neither kept, passed on nor freed is a compiler warning ([`Object`]) or a failed assertion of a
//! debug build ([`Batch`]).
//!
//! Invariants:
//! I1. The memory of an [`Object`] belongs to its holder alone. A tier makes the value when it hands the memory out,
//!     and a holder gives the value up when the memory goes elsewhere: to the program, into a slot, into a bitmap.

mod batch;
mod link;
mod memory;

pub use batch::Batch;
pub use link::Link;
pub use memory::Memory;

use core::ptr::NonNull;

/// Memory that the holder of this value alone may use. A slot for an object, where a sized free of null may have left a
/// null, is an `Option<Object>` of one word.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an object that is not passed on is lost"]
#[repr(transparent)]
pub struct Object(NonNull<u8>);

impl Object {
    /// The object at `address`, or none for a null.
    ///
    /// # Safety
    /// 1. `address` is 0, or the caller holds the object there (I1) and gives up any other name of it.
    #[inline(always)]
    pub unsafe fn from_address(address: usize) -> Option<Object> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).map(Object)
    }

    /// The object at `pointer`.
    ///
    /// # Safety
    /// 1. The caller holds the object there (I1) and gives up any other name of it.
    #[inline(always)]
    pub const unsafe fn from_raw(pointer: NonNull<u8>) -> Object {
        Object(pointer)
    }

    /// Its address.
    #[inline(always)]
    pub fn address(&self) -> usize {
        self.0.as_ptr().expose_provenance()
    }

    /// The memory, which belongs to whatever the caller passes the pointer to.
    #[inline(always)]
    pub const fn into_raw(self) -> *mut u8 {
        self.0.as_ptr()
    }
}

/// What memory holds when it is handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Zeroes.
    Zero,
    /// Whatever its last use left.
    Any,
}

/// An object as an allocation brings it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an object that is not passed on is lost"]
pub struct Fresh {
    /// The object.
    pub object: Object,
    /// What is in it.
    pub contents: Contents,
}

impl Fresh {
    /// An object that was used before.
    #[inline(always)]
    pub const fn used(object: Object) -> Fresh {
        Fresh { object, contents: Contents::Any }
    }

    /// An object of memory that reads as zero.
    #[inline(always)]
    pub const fn zero(object: Object) -> Fresh {
        Fresh { object, contents: Contents::Zero }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_a_word() {
        assert_eq!(size_of::<Option<Object>>(), size_of::<usize>());
        // SAFETY: no object.
        assert_eq!(unsafe { Object::from_address(0) }, None);
    }
}
