//! No guarded pool: processes that do not ask for one have none.
//!
//! Stands in for the engine's module of this name.

use crate::fail::Misuse;

pub fn owns(_address: usize) -> bool {
    false
}

pub fn size_of(_address: usize, _of_freed: Misuse) -> usize {
    unreachable!("the pool owns nothing")
}

/// # Safety
/// 1. None here.
pub unsafe fn free(_address: usize) {
    unreachable!("the pool owns nothing")
}
