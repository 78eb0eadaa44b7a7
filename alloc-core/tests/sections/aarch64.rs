//! What sections of aarch64 look like.

use rsalloc_core::internals::hot::{HOT, Hot};
use std::mem::offset_of;
use std::sync::atomic::AtomicUsize;

/// `str x11, [x12, #8]`, the store into `rseq_cs`.
pub const ANNOUNCE: &[u8] = &0xf900_058b_u32.to_le_bytes();
/// The stores that commit: to a head, or to a counter.
pub const COMMITS: [&[u8]; 6] = [
    &0xf82a_79cd_u32.to_le_bytes(), // str x13, [x14, x10, lsl #3]
    &0xf820_79cd_u32.to_le_bytes(), // str x13, [x14, x0, lsl #3]
    &0xb900_014d_u32.to_le_bytes(), // str w13, [x10]
    &0xf820_79c3_u32.to_le_bytes(), // str x3, [x14, x0, lsl #3]
    &0xf820_69cd_u32.to_le_bytes(), // str x13, [x14, x0]
    &0xf900_0001_u32.to_le_bytes(), // str x1, [x0], in the section of this file
];

/// Stores `value` to `word` by a section that takes its time; 0, or -1 if it was aborted.
#[unsafe(naked)]
pub unsafe extern "C" fn store_slowly(
    word: *const AtomicUsize,
    value: usize,
    turns: usize,
) -> isize {
    std::arch::naked_asm!(
        rsalloc_core::__rsalloc_text!(descriptor),
        rsalloc_core::__rsalloc_text!(store_rseq_cs),
        "12: subs x2, x2, #1",
        "b.ne 12b",
        "str x1, [x0]", // COMMIT
        "20: mov x0, xzr",
        "ret",
        rsalloc_core::__rsalloc_text!(abort),
        "mov x0, #-1",
        "ret",
        ".cfi_endproc",
        hot = sym HOT,
        area_offset = const offset_of!(Hot, area_offset),
    )
}
