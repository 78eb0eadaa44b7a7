//! Allocations that count their bytes down, in plain Rust. No registers are known, so no stack is.

use crate::arch::Registers;
use crate::engine::{api, sampled};

pub const COLUMNS: usize = 1;
pub const PC: usize = 0;
pub const SP: usize = 0;
pub const FP: usize = 0;
pub const PRESERVED: [usize; 0] = [];

/// See the contract at `arch::counted`.
pub extern "C" fn malloc_counted(size: usize) -> *mut u8 {
    sampled::count_and_malloc(size)
}

/// See the contract at `arch::counted`.
pub extern "C" fn calloc_counted(size: usize) -> *mut u8 {
    api::clear_all(sampled::count_and_malloc(size), size)
}

/// See the contract at `arch::counted`.
pub extern "C" fn alloc_counted(size: usize, align: usize) -> *mut u8 {
    sampled::count_and_alloc(size, align)
}

/// See the contract at `arch::counted`.
pub extern "C" fn with_registers(
    a: usize,
    b: usize,
    f: extern "C" fn(usize, usize, &Registers) -> usize,
) -> usize {
    f(a, b, &Registers([0]))
}
