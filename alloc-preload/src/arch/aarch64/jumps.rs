//! Jumps and addresses for the operators of C++. All go by x16, so that a landing pad for calls takes them too.

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
                "hint #34",
                concat!("adrp x16, :got:", $other),
                concat!("ldr x16, [x16, :got_lo12:", $other, "]"),
                "br x16",
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
                "hint #34",
                "mov x1, x2",
                concat!("adrp x16, :got:", $other),
                concat!("ldr x16, [x16, :got_lo12:", $other, "]"),
                "br x16",
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
                "hint #34",
                "stp x0, x1, [sp, #-32]!", // the arguments
                ".cfi_def_cfa_offset 32",
                "stp x2, x30, [sp, #16]",
                ".cfi_offset x30, -8",
                "bl {find}",
                "mov x16, x0",
                "ldp x2, x30, [sp, #16]",
                ".cfi_restore x30",
                "ldp x0, x1, [sp], #32",
                ".cfi_def_cfa_offset 0",
                "br x16",
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
                "hint #34",
                "adrp x16, {slot}",
                "ldr x16, [x16, :lo12:{slot}]",
                "br x16",
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
                "hint #34",
                "stp x0, x1, [sp, #-32]!", // both kept for the jump
                ".cfi_def_cfa_offset 32",
                "str x30, [sp, #16]",
                ".cfi_offset x30, -16",
                "bl {call}",
                "mov x9, x0",
                "ldr x30, [sp, #16]",
                ".cfi_restore x30",
                "ldp x0, x1, [sp], #32",
                ".cfi_def_cfa_offset 0",
                "cbz x9, 20f",
                "mov x0, x9",
                "ret",
                "20: b {jump}",
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
                concat!("adrp {0}, :got:", $name),
                concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
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
                concat!("adrp {0}, :got:", $name),
                concat!("ldr {0}, [{0}, :got_lo12:", $name, "]"),
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
            "adrp {0}, __ehdr_start",
            "add {0}, {0}, :lo12:__ehdr_start",
            "adrp {1}, _end",
            "add {1}, {1}, :lo12:_end",
            out(reg) start,
            out(reg) end,
            options(nostack, pure, nomem, preserves_flags),
        )
    }
    start..end
}
