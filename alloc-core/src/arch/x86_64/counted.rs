//! Allocations that count their bytes down, while a heap profile runs: what the slow functions call then.
//!
//! Each is the entry of its name with a countdown of the thread in front of the section. The countdown is one instruction on the
//! thread's own word, so neither a signal nor an abort disturbs it. Whatever is due, or has no byte in the tables of classes,
//! leaves with the registers of the caller, from which its stack is unwound.
//!
//! Registers: as in `entry`.

use crate::arch::Registers;
use crate::arch::words::{ThreadBlock, ThreadWords};
use core::arch::naked_asm;
use core::mem::offset_of;

/// DWARF numbers of the registers (System V psABI for x86-64, figure 3.36); the return address has the last one.
pub const COLUMNS: usize = 17;
pub const PC: usize = 16;
pub const SP: usize = 7;
pub const FP: usize = 6;
/// rbx, rbp, r12 to r15.
pub const PRESERVED: [usize; 6] = [3, FP, 12, 13, 14, 15];

const SAMPLE_COUNTDOWN: usize =
    offset_of!(ThreadBlock, words) + offset_of!(ThreadWords, sample_countdown);

/// The registers of the caller, by column, on the stack; then `call`, with the first two arguments as they came and the
/// registers as the third.
macro_rules! call_with_registers {
    ($call:literal) => {
        concat!(
            "sub rsp, 136\n",
            ".cfi_adjust_cfa_offset 136\n",
            "mov [rsp + 24], rbx\n",
            "mov [rsp + 48], rbp\n",
            "lea rax, [rsp + 144]\n",
            "mov [rsp + 56], rax\n",
            "mov [rsp + 96], r12\n",
            "mov [rsp + 104], r13\n",
            "mov [rsp + 112], r14\n",
            "mov [rsp + 120], r15\n",
            "mov rax, [rsp + 136]\n",
            "mov [rsp + 128], rax\n",
            "mov rdx, rsp\n",
            "call ",
            $call,
            "\n",
            "add rsp, 136\n",
            ".cfi_adjust_cfa_offset -136\n",
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
                "cmp rdi, {tiny_max}",
                "lea r11, [rip + {hot}]",
                "ja 60f",
                "movzx r8d, byte ptr [r11 + rdi + {tiny}]",
                "50:",
                "mov rax, [rip + rsalloc_thread_block@GOTTPOFF]",
                "mov rcx, [r11 + {floor}]",
                "sub qword ptr fs:[rax + {countdown}], rdi",
                "cmp qword ptr fs:[rax + {countdown}], rcx",
                "jle 61f",
                crate::__rsalloc_text!(store_rseq_cs),
                crate::__rsalloc_text!(region),
                crate::__rsalloc_text!(pop),
                "ret",
                "60: cmp rdi, {medium_max}",
                "ja 61f",
                "lea rax, [rdi + {medium_round}]",
                "shr rax, {medium_shift}",
                "movzx r8d, byte ptr [r11 + rax + {medium}]",
                "jmp 50b",
                "61:",
                call_with_registers!("{sampled}"),
                crate::__rsalloc_text!(abort),
                crate::__rsalloc_text!(leave),
                hot = sym crate::hot::HOT,
                slow = sym $slow,
                sampled = sym $sampled,
                countdown = const SAMPLE_COUNTDOWN,
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
    alloc_counted(size, align), "cmp rsi, 8\nja 61f",
    crate::engine::slow::alloc_uncounted, crate::engine::sampled::alloc
}

/// `calloc(1, size)`, for sizes that `calloc` serves by its hot path.
#[unsafe(naked)]
pub extern "C" fn calloc_counted(size: usize) -> *mut u8 {
    naked_asm!(
        crate::__rsalloc_text!(descriptor),
        "cmp rdi, {tiny_max}",
        "lea r11, [rip + {hot}]",
        "ja 61f",
        "movzx r8d, byte ptr [r11 + rdi + {tiny}]",
        "mov edx, [r11 + r8*4 + {object_bytes}]",
        "mov rax, [rip + rsalloc_thread_block@GOTTPOFF]",
        "mov rcx, [r11 + {floor}]",
        "sub qword ptr fs:[rax + {countdown}], rdi",
        "cmp qword ptr fs:[rax + {countdown}], rcx",
        "jle 61f",
        crate::__rsalloc_text!(store_rseq_cs),
        crate::__rsalloc_text!(region),
        crate::__rsalloc_text!(pop),
        crate::__rsalloc_text!(clear),
        "61:",
        call_with_registers!("{sampled}"),
        crate::__rsalloc_text!(abort),
        crate::__rsalloc_text!(leave),
        hot = sym crate::hot::HOT,
        slow = sym crate::engine::slow::calloc_uncounted,
        sampled = sym crate::engine::sampled::calloc,
        countdown = const SAMPLE_COUNTDOWN,
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
    naked_asm!(".cfi_startproc", "mov r11, rdx", call_with_registers!("r11"), ".cfi_endproc")
}
