//! The addresses that the dynamic linker bound the operators' names to, and whose they are.
//!
//! Promises to ask nothing at run time: what is bound stands in this library's own linkage table before any of its code runs, and
//! the linker says where this library begins and ends.

#![allow(non_snake_case)] // the names are C++'s

use crate::arch::{address_of, image};

/// True if no operator that makes or frees objects is replaced: the program sees ours.
pub fn all_ours() -> bool {
    let seen = [
        _Znwm(),
        _Znam(),
        _ZdlPv(),
        _ZdaPv(),
        _ZnwmSt11align_val_t(),
        _ZnamSt11align_val_t(),
        _ZdlPvSt11align_val_t(),
        _ZdaPvSt11align_val_t(),
    ];
    seen.into_iter().all(is_ours)
}

/// Whether an address lies in this library.
pub fn is_ours(address: *mut ()) -> bool {
    image().contains(&(address as usize))
}

macro_rules! bound {
    ($($name:ident)*) => { $(
        pub fn $name() -> *mut () {
            address_of!(stringify!($name))
        }
    )* };
}
bound! {
    _Znwm _Znam _ZdlPv _ZdaPv
    _ZnwmSt11align_val_t _ZnamSt11align_val_t _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t
}
