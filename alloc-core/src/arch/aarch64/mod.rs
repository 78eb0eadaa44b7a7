//! aarch64, little-endian: sections, and the plain instructions that Rust has no word for.

use super::words::ThreadWords;
use super::{Access, Registers};
use crate::atomic::{AtomicUsize, Ordering};
use core::arch::asm;

mod command;
pub mod counted;
pub mod entry;
mod fault;
pub mod probe;
pub mod sections;
mod self_test;
mod text;
mod weak;

pub use weak::{find_object, is_single_threaded, libc_dl, libc_getcpu, sanitizers};

pub const HAS_SECTIONS: bool = true;

/// 52 bits are given only to a process that asks by a hint (Documentation/arch/arm64/memory.rst): 48 else.
pub const ADDRESS_SPACE_BYTES: usize = 1 << 48;

/// Not one number: kernels are built for 36 to 52 bits of addresses.
pub const STACK_TOP: usize = usize::MAX;

pub const COMMAND_ENTRY: *const () = command::command_entry as *const ();
pub const COMMAND_ENTRY_BYTES: usize = 128;

/// The part of the middle of a 48-bit address space that ThreadSanitizer leaves to the program (compiler-rt's
/// tsan_platform.h: 0xaaaa_0000_0000 to 0xac00_0000_0000) and in which position-independent programs seldom lie.
/// AddressSanitizer's shadow is at 2^36 and takes an eighth of 48 bits.
pub const SANITIZED_ADDRESSES: core::ops::Range<usize> = 0xab00_0000_0000..0xac00_0000_0000;

#[inline(always)]
pub fn thread_id() -> usize {
    thread_pointer()
}

/// glibc and musl keep a thread's block at the top of its stack, but for the first thread's.
#[inline(always)]
pub fn above_stack() -> usize {
    thread_pointer()
}

#[inline(always)]
pub fn thread_words() -> &'static ThreadWords {
    &sections::thread_block().words
}

/// Thread-local storage: the child has one thread's.
pub fn forget_other_threads() {}

/// The thread pointer: the address of the two words that the ABI keeps for libc, in front of the thread-local storage.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let tp: usize;
    // SAFETY: reads a register that the kernel keeps for each thread.
    unsafe {
        asm!("mrs {}, tpidr_el0", out(reg) tp, options(nostack, preserves_flags, nomem, pure))
    };
    tp
}

#[inline(always)]
pub fn prefetch(address: usize) {
    // SAFETY: a hint; it never faults.
    unsafe {
        asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[inline(always)]
pub fn add_here(counter: &AtomicUsize, number: usize) {
    // Ordering: Relaxed, a statistic.
    counter.fetch_add(number, Ordering::Relaxed);
}

/// # Safety
/// 1. The call's own contract.
#[inline(always)]
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: duty 1; the kernel changes x0 only.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3],
            in("x4") args[4], in("x5") args[5], options(nostack));
    }
    result
}

/// # Safety
/// 1. As for [`super::fault_access`].
pub unsafe fn fault_access(context: *mut libc::c_void) -> Access {
    // SAFETY: duty 1.
    unsafe { fault::access(context) }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn the_unused_word_is_unused() {
        let read = || {
            // SAFETY: the second word at the thread pointer is mapped (ELF for the Arm 64-bit Architecture, TLS).
            unsafe { *((thread_pointer() + 8) as *const usize) }
        };
        assert_eq!(read(), 0, "main thread");
        assert_eq!(std::thread::spawn(read).join().unwrap(), 0, "other threads");
    }
}

/// The vDSO's code, see `fault`.
pub const RETURNS_WITHOUT_TABLE: bool = true;

/// See the contract at [`super::saved_by_signal`].
///
/// # Safety
/// 1. As there.
pub unsafe fn saved_by_signal(place: usize, stack: usize) -> Option<[usize; Registers::COLUMNS]> {
    // SAFETY: duty 1.
    unsafe { fault::saved_by_signal(place, stack) }
}
