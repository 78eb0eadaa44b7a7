//! No profile: no object is a sample.
//!
//! Stands in for the engine's module of this name.

use crate::fail::Misuse;

pub fn owns(_address: usize) -> bool {
    false
}

pub fn forget(_address: usize) {}

pub fn size_of(_address: usize, _of_freed: Misuse) -> usize {
    unreachable!("no address belongs to a sample")
}

/// # Safety
/// 1. None here.
pub unsafe fn free(_address: usize) {
    unreachable!("no address belongs to a sample")
}
