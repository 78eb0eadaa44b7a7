//! No assembly: the atomic path, on any 64-bit Linux with a libc.
//!
//! What needs an instruction or a weak symbol is done by libc or done without: a system call is libc's with errno put
//! back, nothing is prefetched, libc's count of threads is not asked (so a program of one thread calls membarrier too), and
//! sanitizers are not told of the heap.

use super::{Access, DlAddr, DlOpen, FindObject, GetCpu, Registers, Sanitizers};
use crate::atomic::{AtomicUsize, Ordering};

pub mod counted;
pub mod entry;
pub mod probe;
pub mod sections;
mod threads;

pub use threads::{forget_other_threads, thread_id, thread_words};

pub const HAS_SECTIONS: bool = false;

/// More than any architecture gives a process today (arm64 52 bits, s390x 53, riscv64 and x86-64 56).
pub const ADDRESS_SPACE_BYTES: usize = 1 << 56;

pub const STACK_TOP: usize = usize::MAX;

/// See `sanitizers`.
pub const SANITIZED_ADDRESSES: core::ops::Range<usize> = 0..usize::MAX;

/// # Safety
/// 1. The call's own contract.
#[inline]
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let on_stack = (&raw const args).addr();
    // On s390x the call takes a pointer to its arguments (sys_old_mmap in arch/s390/kernel/syscall.c).
    let is_by_pointer = cfg!(target_arch = "s390x") && number == libc::SYS_mmap as usize;
    let [a, b, c, d, e, f] = if is_by_pointer { [on_stack, 0, 0, 0, 0, 0] } else { args };
    // SAFETY: libc's thread-local, valid in every thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: duty 1.
    let result = unsafe { libc::syscall(number as libc::c_long, a, b, c, d, e, f) };
    if result != -1 {
        return result as isize;
    }
    // SAFETY: as above.
    unsafe { -(core::mem::replace(&mut *errno, before) as isize) }
}

pub fn above_stack() -> usize {
    0
}

#[inline(always)]
pub fn prefetch(_address: usize) {}

#[inline(always)]
pub fn add_here(counter: &AtomicUsize, number: usize) {
    // Ordering: Relaxed, a statistic.
    counter.fetch_add(number, Ordering::Relaxed);
}

pub const COMMAND_ENTRY: *const () = core::ptr::null();
pub const COMMAND_ENTRY_BYTES: usize = 0;

pub fn is_single_threaded() -> bool {
    false
}

pub fn libc_dl() -> Option<(DlAddr, DlOpen)> {
    super::is_there(libc::dlopen as *const ()).then_some((libc::dladdr, libc::dlopen))
}

pub fn libc_getcpu() -> Option<GetCpu> {
    None
}

pub fn find_object() -> Option<FindObject> {
    None
}

pub fn sanitizers() -> Sanitizers {
    Sanitizers::default()
}

/// # Safety
/// None.
pub unsafe fn fault_access(_context: *mut libc::c_void) -> Access {
    Access::Unknown
}

/// No stack is walked.
pub const RETURNS_WITHOUT_TABLE: bool = false;

/// See the contract at [`super::saved_by_signal`].
///
/// # Safety
/// None.
pub unsafe fn saved_by_signal(_: usize, _: usize) -> Option<[usize; Registers::COLUMNS]> {
    None
}
