//! x86-64: sections, and the plain instructions that Rust has no word for.

use super::words::ThreadWords;
use super::{Access, Registers};
use crate::atomic::AtomicUsize;
use core::arch::asm;

mod command;
pub mod counted;
pub mod entry;
pub mod probe;
pub mod sections;
mod text;
mod weak;

pub use weak::{find_object, is_single_threaded, libc_dl, libc_getcpu, sanitizers};

pub const HAS_SECTIONS: bool = true;

/// 47 bits, with page tables of five levels too as long as no hint asks for more
/// (Documentation/arch/x86/x86_64/5level-paging.rst).
pub const ADDRESS_SPACE_BYTES: usize = 1 << 47;

/// Linux, with page tables of four and five levels.
pub const STACK_TOP: usize = 0x7fff_ffff_f000;

pub const COMMAND_ENTRY: *const () = command::command_entry as *const ();
pub const COMMAND_ENTRY_BYTES: usize = 128;

/// Below the lowest address of a position-independent program.
pub const SANITIZED_ADDRESSES: core::ops::Range<usize> = 0x5500_0000_0000..0x5555_5000_0000;

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

/// The thread pointer.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let tp: usize;
    // SAFETY: the x86-64 psABI stores the thread pointer at its own address.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) tp, options(nostack, preserves_flags, readonly, pure))
    };
    tp
}

#[inline(always)]
pub fn prefetch(address: usize) {
    // SAFETY: a hint; it never faults.
    unsafe {
        asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[inline(always)]
pub fn add_here(counter: &AtomicUsize, number: usize) {
    // One instruction, which the kernel does not interrupt half way; without the lock prefix other CPUs may come between.
    // SAFETY: a live, aligned word, which is only written to as a whole.
    unsafe {
        asm!("add qword ptr [{}], {}", in(reg) core::ptr::from_ref(counter), in(reg) number, options(nostack));
    }
}

/// # Safety
/// 1. The call's own contract.
#[inline(always)]
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: duty 1; the kernel clobbers rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// 1. As for [`super::fault_access`].
pub unsafe fn fault_access(context: *mut libc::c_void) -> Access {
    const WRITE: i64 = 2; // Intel SDM, page-fault error code, bit 1.
    // SAFETY: duty 1: the interrupted context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
    if error & WRITE != 0 { Access::Write } else { Access::Read }
}

/// Handlers return to libc's code, which has a table.
pub const RETURNS_WITHOUT_TABLE: bool = false;

/// See the contract at [`super::saved_by_signal`].
///
/// # Safety
/// None.
pub unsafe fn saved_by_signal(_: usize, _: usize) -> Option<[usize; Registers::COLUMNS]> {
    None
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn the_unused_word_is_unused() {
        let read = || {
            let word: usize;
            // SAFETY: reads the thread header.
            unsafe { asm!("mov {}, fs:[0x20]", out(reg) word) };
            word
        };
        assert_eq!(read(), 0, "main thread");
        assert_eq!(std::thread::spawn(read).join().unwrap(), 0, "other threads");
    }
}
