//! Jumps and addresses for the operators of C++.

use core::ops::Range;

// Entries have names that the linker knows. Those of `cxx` that stand for no operator are for this library alone.
core::arch::global_asm!(".hidden rsalloc_delete_sized", ".hidden rsalloc_new_nothrow");

macro_rules! jump_to_symbol {
    ($($name:ident = $other:literal;)*) => { $(
        /// The standard's default for this form: the same as another.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".cfi_startproc",
                concat!("jmp qword ptr [rip + ", $other, "@GOTPCREL]"),
                ".cfi_endproc",
            )
        }
    )* };
}

macro_rules! jump_to_symbol_without_second {
    ($($name:ident = $other:literal;)*) => { $(
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "mov rsi, rdx",
                concat!("jmp qword ptr [rip + ", $other, "@GOTPCREL]"),
                ".cfi_endproc",
            )
        }
    )* };
}

macro_rules! jump_to_found {
    ($($name:ident = $find:expr;)*) => { $(
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            extern "C" fn find() -> *mut () {
                $find
            }

            core::arch::naked_asm!(
                ".cfi_startproc",
                "push rdi", // the arguments; aligns the stack
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "call {find}",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "jmp rax",
                ".cfi_endproc",
                find = sym find,
            )
        }
    )* };
}

macro_rules! jump_to_slot {
    ($($(#[$attr:meta])* $name:ident = $find:expr;)*) => { $(
        #[unsafe(naked)]
        $(#[$attr])*
        unsafe extern "C" fn $name() {
            use core::sync::atomic::{AtomicPtr, Ordering};

            /// At first the finder, for ever after what it found.
            static SLOT: AtomicPtr<()> = AtomicPtr::new(finder as *mut ());

            $crate::arch::jump_to_found! {
                finder = {
                    let found: *mut () = $find;
                    // Ordering: Relaxed; the address is all there is, and every thread finds the same.
                    SLOT.store(found, Ordering::Relaxed);
                    found
                };
            }

            core::arch::naked_asm!(
                ".cfi_startproc",
                "jmp qword ptr [rip + {slot}]",
                ".cfi_endproc",
                slot = sym SLOT,
            )
        }
    )* };
}

macro_rules! call_or_jump {
    ($($(#[$attr:meta])* $name:ident = $call:path, $jump:path;)*) => { $(
        #[unsafe(naked)]
        $(#[$attr])*
        unsafe extern "C" fn $name() -> *mut u8 {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "push rdi", // both kept for the jump
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rax", // aligns the stack
                ".cfi_adjust_cfa_offset 8",
                "call {call}",
                "pop rcx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "test rax, rax",
                "jz {jump}",
                "ret",
                ".cfi_endproc",
                call = sym $call,
                jump = sym $jump,
            )
        }
    )* };
}

macro_rules! address_of {
    ($name:expr) => {{
        let address: *mut ();
        // SAFETY: reads this library's own GOT entry, bound before any code runs.
        unsafe {
            core::arch::asm!(
                concat!("mov {}, [rip + ", $name, "@GOTPCREL]"),
                out(reg) address,
                options(nostack, pure, readonly, preserves_flags),
            )
        }
        address
    }};
}

macro_rules! weak_address_of {
    ($name:expr) => {{
        let address: *mut ();
        // SAFETY: reads this library's own GOT entry, null if nothing defines the name.
        unsafe {
            core::arch::asm!(
                concat!(".weak ", $name),
                concat!("mov {}, [rip + ", $name, "@GOTPCREL]"),
                out(reg) address,
                options(nostack, pure, readonly, preserves_flags),
            )
        }
        address
    }};
}

pub(crate) use {
    address_of, call_or_jump, jump_to_found, jump_to_slot, jump_to_symbol,
    jump_to_symbol_without_second, weak_address_of,
};

/// The addresses of this library's image.
pub fn image() -> Range<usize> {
    let (start, end): (usize, usize);
    // SAFETY: reads two addresses that the linker defines in each image: its first and its last byte's.
    unsafe {
        core::arch::asm!(
            ".hidden __ehdr_start",
            ".hidden _end",
            "lea {}, [rip + __ehdr_start]",
            "lea {}, [rip + _end]",
            out(reg) start,
            out(reg) end,
            options(nostack, pure, nomem, preserves_flags),
        )
    }
    start..end
}
