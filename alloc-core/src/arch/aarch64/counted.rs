//! Allocations that count their bytes down, while a heap profile runs: what the slow functions call then.
//!
//! Each is the entry of its name with a countdown of the thread in front of the section. The countdown is an exclusive load and
//! store of the thread's own word, which any exception between the two undoes, so neither a signal nor an abort disturbs it.
//! Whatever is due, or has no byte in the tables of classes, leaves with the registers of the caller, from which its stack is
//! unwound.
//!
//! Registers: as in `entry`.

use crate::arch::Registers;
use crate::arch::words::{ThreadBlock, ThreadWords};
use core::arch::naked_asm;
use core::mem::offset_of;

/// DWARF numbers of the registers (DWARF for the Arm 64-bit Architecture, table 4). The return address is in x30: of a place
/// behind a call, where a walk begins, x30 is of no more use, so its column has the place itself.
pub const COLUMNS: usize = 32;
pub const PC: usize = 30;
pub const SP: usize = 31;
pub const FP: usize = 29;
/// Of x19 to x29 only the frame pointer: the cache of unwind rules has no space for all, and leaves out frames that save others.
pub const PRESERVED: [usize; 1] = [FP];

const SAMPLE_COUNTDOWN: usize =
    offset_of!(ThreadBlock, words) + offset_of!(ThreadWords, sample_countdown);

/// The registers of the caller, by column, on the stack; then `call`, with the first two arguments as they came and the
/// registers as the third.
macro_rules! call_with_registers {
    ($call:literal) => {
        concat!(
            "sub sp, sp, #256\n",
            ".cfi_def_cfa_offset 256\n",
            "stp x19, x20, [sp, #152]\n",
            "stp x21, x22, [sp, #168]\n",
            "stp x23, x24, [sp, #184]\n",
            "stp x25, x26, [sp, #200]\n",
            "stp x27, x28, [sp, #216]\n",
            "stp x29, x30, [sp, #232]\n",
            ".cfi_offset x30, -16\n",
            "add x10, sp, #256\n",
            "str x10, [sp, #248]\n",
            "mov x2, sp\n",
            $call,
            "\n",
            "ldr x30, [sp, #240]\n",
            ".cfi_restore x30\n",
            "add sp, sp, #256\n",
            ".cfi_def_cfa_offset 0\n",
            "ret\n",
        )
    };
}

macro_rules! counted {
    ($(#[$meta:meta])* $name:ident ($($arg:ident),*), $check:literal, $slow:path, $sampled:path) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub extern "C" fn $name($($arg: usize),*) -> *mut u8 {
            naked_asm!(
                crate::__rsalloc_text!(descriptor),
                $check,
                "cmp x0, {tiny_max}",
                "b.hi 60f",
                crate::__rsalloc_text!(tiny "x0"),
                "50:",
                "adrp x11, :gottprel:rsalloc_thread_block",
                "ldr x11, [x11, :gottprel_lo12:rsalloc_thread_block]",
                "mrs x12, tpidr_el0",
                "add x11, x11, {countdown}",
                "add x11, x11, x12",
                "67: ldxr x12, [x11]",
                "sub x12, x12, x0",
                "stxr w13, x12, [x11]",
                "cbnz w13, 67b",
                "ldr x13, [x9, {floor}]",
                "cmp x12, x13",
                "b.le 61f",
                crate::__rsalloc_text!(store_rseq_cs),
                crate::__rsalloc_text!(region),
                crate::__rsalloc_text!(pop),
                "mov x0, x15",
                "ret",
                "60:",
                "cmp x0, {medium_max} >> 12, lsl #12",
                "b.hi 61f",
                "add x10, x0, {medium_round}",
                "lsr x10, x10, {medium_shift}",
                "add x10, x9, x10",
                "ldrb w10, [x10, {medium}]",
                "b 50b",
                "61:",
                call_with_registers!("bl {sampled}"),
                crate::__rsalloc_text!(abort),
                crate::__rsalloc_text!(leave),
                hot = sym crate::hot::HOT,
                slow = sym $slow,
                sampled = sym $sampled,
                countdown = const SAMPLE_COUNTDOWN,
                area_offset = const offset_of!(crate::hot::Hot, area_offset),
                aborts = const offset_of!(crate::hot::Hot, aborts),
                floor = const offset_of!(crate::hot::Hot, sample_floor),
                table = const offset_of!(crate::hot::Hot, table),
                tiny = const offset_of!(crate::hot::Hot, kept_tiny),
                medium = const offset_of!(crate::hot::Hot, kept_medium),
                tiny_max = const crate::size_class::TINY_MAX_BYTES,
                medium_max = const crate::size_class::MEDIUM_MAX_BYTES,
                medium_shift = const crate::size_class::MEDIUM_SHIFT,
                medium_round = const (1usize << crate::size_class::MEDIUM_SHIFT) - 1,
            )
        }
    };
}

counted! {
    /// `malloc(size)`.
    malloc_counted(size), "", crate::engine::slow::malloc_uncounted, crate::engine::sampled::malloc
}

counted! {
    /// `alloc(size, align)`.
    alloc_counted(size, align), "cmp x1, #8\nb.hi 61f",
    crate::engine::slow::alloc_uncounted, crate::engine::sampled::alloc
}

/// `calloc(1, size)`, for sizes that `calloc` serves by its hot path.
#[unsafe(naked)]
pub extern "C" fn calloc_counted(size: usize) -> *mut u8 {
    naked_asm!(
        crate::__rsalloc_text!(descriptor),
        "cmp x0, {tiny_max}",
        "b.hi 61f",
        crate::__rsalloc_text!(tiny "x0"),
        "add x2, x9, x10, lsl #2",
        "ldr w2, [x2, {object_bytes}]",
        "adrp x11, :gottprel:rsalloc_thread_block",
        "ldr x11, [x11, :gottprel_lo12:rsalloc_thread_block]",
        "mrs x12, tpidr_el0",
        "add x11, x11, {countdown}",
        "add x11, x11, x12",
        "67: ldxr x12, [x11]",
        "sub x12, x12, x0",
        "stxr w13, x12, [x11]",
        "cbnz w13, 67b",
        "ldr x13, [x9, {floor}]",
        "cmp x12, x13",
        "b.le 61f",
        crate::__rsalloc_text!(store_rseq_cs),
        crate::__rsalloc_text!(region),
        crate::__rsalloc_text!(pop),
        crate::__rsalloc_text!(clear),
        "61:",
        call_with_registers!("bl {sampled}"),
        crate::__rsalloc_text!(abort),
        crate::__rsalloc_text!(leave),
        hot = sym crate::hot::HOT,
        slow = sym crate::engine::slow::calloc_uncounted,
        sampled = sym crate::engine::sampled::calloc,
        countdown = const SAMPLE_COUNTDOWN,
        area_offset = const offset_of!(crate::hot::Hot, area_offset),
        aborts = const offset_of!(crate::hot::Hot, aborts),
        floor = const offset_of!(crate::hot::Hot, sample_floor),
        table = const offset_of!(crate::hot::Hot, table),
        object_bytes = const offset_of!(crate::hot::Hot, object_bytes),
        tiny = const offset_of!(crate::hot::Hot, kept_tiny),
        tiny_max = const crate::size_class::TINY_MAX_BYTES,
    )
}

/// Calls `f` with the two arguments and the caller's registers.
#[unsafe(naked)]
pub extern "C" fn with_registers(
    a: usize,
    b: usize,
    f: extern "C" fn(usize, usize, &Registers) -> usize,
) -> usize {
    naked_asm!(
        ".cfi_startproc",
        "hint #34", // bti c
        "mov x9, x2",
        call_with_registers!("blr x9"),
        ".cfi_endproc"
    )
}
