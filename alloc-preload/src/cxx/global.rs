//! The addresses that the dynamic linker bound the operators' names to, and whose they are.
//!
//! Promises to ask nobody: what is bound stands in this library's own linkage table before any of its code runs, and
//! the linker says where this library begins and ends.

#![allow(non_snake_case)] // the names are C++'s

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
    (start..end).contains(&(address as usize))
}

macro_rules! bound {
    ($($name:ident)*) => { $(
        pub fn $name() -> *mut () {
            let address;
            // SAFETY: reads this library's own GOT entry, bound before any code runs.
            unsafe {
                core::arch::asm!(
                    concat!("mov {}, [rip + ", stringify!($name), "@GOTPCREL]"),
                    out(reg) address,
                    options(nostack, pure, readonly, preserves_flags),
                )
            }
            address
        }
    )* };
}
bound! {
    _Znwm _Znam _ZdlPv _ZdaPv
    _ZnwmSt11align_val_t _ZnamSt11align_val_t _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t
}
