//! The static probes `otel_memory:alloc` and `otel_memory:free`, in the form of SystemTap's sys/sdt.h (version 3 of the note).
//!
//! A probe is a nop, a note that says where the nop is and where the arguments are, and a semaphore: the kernel raises it
//! while a tool is attached (`ref_ctr_offset` of perf_event_open(2)).

use crate::atomic::{AtomicU16, Ordering};
use core::arch::asm;

#[unsafe(link_section = ".probes")]
static ALLOC_SEMAPHORE: AtomicU16 = AtomicU16::new(0);
#[unsafe(link_section = ".probes")]
static FREE_SEMAPHORE: AtomicU16 = AtomicU16::new(0);

pub fn is_wanted() -> bool {
    // Ordering: Relaxed, words that stand alone, which the kernel writes.
    ALLOC_SEMAPHORE.load(Ordering::Relaxed) | FREE_SEMAPHORE.load(Ordering::Relaxed) != 0
}

/// The nop of the probe `$name`, with its note; `$args` says where `$input` are: bytes of each, and its register.
macro_rules! fire {
    ($name:literal, $semaphore:ident, $args:literal, $($input:tt)*) => {
        asm!(
            "990: nop",
            ".pushsection .note.stapsdt, \"\", @note",
            ".balign 4",
            ".4byte 992f - 991f, 994f - 993f, 3",
            "991: .asciz \"stapsdt\"",
            "992: .balign 4",
            "993: .8byte 990b",
            ".8byte _.stapsdt.base",
            ".8byte {semaphore}",
            ".asciz \"otel_memory\"",
            concat!(".asciz \"", $name, "\""),
            concat!(".asciz \"", $args, "\""),
            "994: .balign 4",
            ".popsection",
            // From where this section is, a tool learns how far prelink(8) has moved the nop. R: only the notes refer to it, for
            // which lld keeps nothing.
            ".ifndef _.stapsdt.base",
            ".pushsection .stapsdt.base, \"aGR\", @progbits, .stapsdt.base, comdat",
            ".weak _.stapsdt.base",
            ".hidden _.stapsdt.base",
            "_.stapsdt.base: .space 1",
            ".size _.stapsdt.base, 1",
            ".popsection",
            ".endif",
            semaphore = sym $semaphore,
            $($input)*
            options(nostack, preserves_flags, readonly)
        )
    };
}

// Not inlined: each copy of a nop would have a note of its own.
#[inline(never)]
pub fn alloc(object: usize, size: usize, weight: u64) {
    // SAFETY: a nop. A tool that stops the thread here reads the registers and memory.
    unsafe {
        fire!("alloc", ALLOC_SEMAPHORE, "8@x0 8@x1 8@x2",
            in("x0") object, in("x1") size, in("x2") weight,);
    }
}

#[inline(never)]
pub fn free(object: usize) {
    // SAFETY: as above.
    unsafe { fire!("free", FREE_SEMAPHORE, "8@x0", in("x0") object,) }
}
