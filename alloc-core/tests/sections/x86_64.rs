//! What sections of x86-64 look like.

use std::sync::atomic::AtomicUsize;

/// `mov qword ptr fs:[r9 + 8], r10`, the store into `rseq_cs`.
pub const ANNOUNCE: &[u8] = &[0x64, 0x4D, 0x89, 0x51, 0x08];
/// The stores that commit: to a head's `top` or `end`, or to a counter.
pub const COMMITS: [&[u8]; 8] = [
    &[0x42, 0x83, 0x2C, 0xC1, 0x08], // sub dword ptr [rcx + r8*8], 8
    &[0x42, 0x83, 0x04, 0xC1, 0x08], // add dword ptr [rcx + r8*8], 8
    &[0x41, 0x83, 0x2C, 0xFB, 0x08], // sub dword ptr [r11 + rdi*8], 8
    &[0x41, 0x83, 0x04, 0xFB, 0x08], // add dword ptr [r11 + rdi*8], 8
    &[0x45, 0x89, 0x04, 0xFB],       // mov [r11 + rdi*8], r8d
    &[0x49, 0x89, 0x0C, 0xFB],       // mov [r11 + rdi*8], rcx
    &[0x49, 0x01, 0x34, 0x3B],       // add [r11 + rdi], rsi
    &[0x48, 0x89, 0x37],             // mov [rdi], rsi, in the section of this file
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
        "12: sub rdx, 1",
        "jnz 12b",
        "mov [rdi], rsi", // COMMIT
        "20: xor eax, eax",
        "ret",
        rsalloc_core::__rsalloc_text!(abort),
        "mov rax, -1",
        "ret",
        ".cfi_endproc",
    )
}
