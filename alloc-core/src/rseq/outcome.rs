//! What an operation of a shard returns: the object, or why nothing has happened.

use super::{ABORTED, CHANGED, FULL};
use crate::object::Object;

/// What a pop returns.
#[must_use = "a popped object is the caller's"]
#[derive(Debug)]
pub enum Pop {
    /// The object on top.
    Object(Object),
    /// The class has none.
    Empty,
    /// The kernel aborted the section: nothing has happened.
    Aborted,
    /// The thread has no shard, or may not use it now.
    NoShard,
}

/// What a push returns: the object again, unless the shard has it.
#[must_use = "an object that was not pushed is still the caller's"]
#[derive(Debug)]
pub enum Push {
    /// The shard has the object.
    Done,
    /// The class is full.
    Full(Object),
    /// As [`Pop::Aborted`].
    Aborted(Object),
    /// As [`Pop::NoShard`].
    NoShard(Object),
}

/// Why another operation did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// As [`Pop::Aborted`].
    Aborted,
    /// As [`Pop::NoShard`].
    NoShard,
    /// The region or its end are not those that the caller saw.
    Changed,
}

impl Pop {
    /// Reads the status of a pop.
    ///
    /// # Safety
    /// 1. The status is what a pop has just returned: if it is an address, the object is the caller's.
    #[inline(always)]
    pub unsafe fn of(status: isize) -> Pop {
        match status {
            // SAFETY: duty 1.
            1.. => match unsafe { Object::from_address(status as usize) } {
                Some(object) => Pop::Object(object),
                None => Pop::Empty,
            },
            0 => Pop::Empty,
            ABORTED => Pop::Aborted,
            _ => Pop::NoShard,
        }
    }

    /// The object, if there is one.
    #[inline(always)]
    pub fn object(self) -> Option<Object> {
        match self {
            Pop::Object(object) => Some(object),
            _ => None,
        }
    }
}

impl Push {
    /// Runs `push` with the address of the object, and reads its status.
    #[inline(always)]
    pub fn of(object: Object, push: impl FnOnce(usize) -> isize) -> Push {
        match push(object.address()) {
            0 => Push::Done,
            FULL => Push::Full(object),
            ABORTED => Push::Aborted(object),
            _ => Push::NoShard(object),
        }
    }

    /// The object, if it was not pushed.
    #[inline(always)]
    pub fn left(self) -> Option<Object> {
        match self {
            Push::Done => None,
            Push::Full(object) | Push::Aborted(object) | Push::NoShard(object) => Some(object),
        }
    }
}

/// Reads a status that is a number if it is not negative.
#[inline(always)]
pub fn number(status: isize) -> Result<usize, Failure> {
    match status {
        0.. => Ok(status as usize),
        ABORTED => Err(Failure::Aborted),
        CHANGED => Err(Failure::Changed),
        _ => Err(Failure::NoShard),
    }
}
