//! Functions of sanitizers, by weak symbols: present only in programs that were built with one.

use core::arch::asm;

/// The highest address of the user's stack where addresses are not randomised (Linux, 4 and 5 level page tables).
pub const STACK_TOP: usize = 0x7fff_ffff_f000;

/// Addresses below the lowest one of a position-independent program, which AddressSanitizer, MemorySanitizer and
/// ThreadSanitizer all leave to the program.
pub const SANITIZED_ADDRESSES: core::ops::Range<usize> = 0x5500_0000_0000..0x5555_5000_0000;

/// Addresses of functions in the sanitizers' interfaces; 0 if absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sanitizers {
    /// `__asan_init`.
    pub asan: usize,
    /// `__msan_init`.
    pub msan: usize,
    /// `__tsan_init`.
    pub tsan: usize,
    /// `__lsan_init`.
    pub lsan: usize,
    /// `__lsan_register_root_region` (sanitizer/lsan_interface.h).
    pub add_root: usize,
    /// `__lsan_unregister_root_region`.
    pub remove_root: usize,
    /// `__tsan_acquire` (sanitizer/tsan_interface.h).
    pub acquire: usize,
    /// `__tsan_release`.
    pub release: usize,
    /// `rsalloc_check`, which librsalloc.so has: malloc is rsalloc's then, not the sanitizer's.
    pub is_malloc: usize,
}

macro_rules! weak {
    ($name:literal) => {{
        let address: usize;
        // SAFETY: loads a GOT entry, which is null when the symbol is absent.
        unsafe {
            asm!(concat!(".weak ", $name),
                concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                out(reg) address, options(nostack, preserves_flags));
        }
        address
    }};
}

/// What of the sanitizers is part of this process.
#[cold]
pub fn sanitizers() -> Sanitizers {
    Sanitizers {
        asan: weak!("__asan_init"),
        msan: weak!("__msan_init"),
        tsan: weak!("__tsan_init"),
        lsan: weak!("__lsan_init"),
        add_root: weak!("__lsan_register_root_region"),
        remove_root: weak!("__lsan_unregister_root_region"),
        acquire: weak!("__tsan_acquire"),
        release: weak!("__tsan_release"),
        is_malloc: weak!("rsalloc_check"),
    }
}
