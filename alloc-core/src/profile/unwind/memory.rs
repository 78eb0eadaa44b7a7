//! Reading words of a stack that may end anywhere, without a fault.
//!
//! Promises: a word is read only from an OS page that was found readable before: pages next to each other one by one, as the
//! walk comes to them. The pages are those of the calling thread's stack, or of the stack that a handler interrupted, which stay
//! mapped while their thread stands on them.
//!
//! A page is readable if the kernel can copy a signal set from it: rt_sigprocmask(2) with no valid operation changes nothing, and
//! says EINVAL then, else EFAULT. libc uses the call itself, so filters allow it.

use crate::arch::syscall;
use crate::atomic::{AtomicU8, Ordering};
use crate::os;

/// Pages that are known to be readable.
pub struct StackMemory {
    start: usize,
    end: usize,
}

/// Whether the probe tells pages apart here: 0 unknown, 1 yes, 2 no (an emulator may look at the operation first).
static PROBE: AtomicU8 = AtomicU8::new(0);

/// Finds out whether the probe works. For the start of a profile.
pub fn try_probe() -> bool {
    let local = [0usize; 1];
    let works = can_read(&raw const local as usize) && !can_read(os::page_bytes() - 8);
    // Ordering: Relaxed, a word that stands alone.
    PROBE.store(if works { 1 } else { 2 }, Ordering::Relaxed);
    works
}

impl StackMemory {
    /// Knows the page of `near`, an address on the calling thread's stack.
    pub fn new(near: usize) -> Self {
        let start = near & !(os::page_bytes() - 1);
        StackMemory { start, end: start + os::page_bytes() }
    }

    /// The word at `address`; none if it is not aligned or cannot be read.
    pub fn word(&mut self, address: usize) -> Option<usize> {
        if !address.is_multiple_of(size_of::<usize>()) || !self.has(address) {
            return None;
        }
        // SAFETY: aligned, so inside one page, which is readable. Volatile: the stack is not this code's.
        Some(unsafe { (address as *const usize).read_volatile() })
    }

    fn has(&mut self, address: usize) -> bool {
        if (self.start..self.end).contains(&address) {
            return true;
        }
        let page_bytes = os::page_bytes();
        let page = address & !(page_bytes - 1);
        // Ordering: Relaxed, a word that stands alone.
        if PROBE.load(Ordering::Relaxed) != 1 || !can_read(page) {
            return false;
        }
        if page == self.end {
            self.end += page_bytes;
        } else {
            (self.start, self.end) = (page, page + page_bytes);
        }
        true
    }
}

fn can_read(address: usize) -> bool {
    const NO_OPERATION: usize = 0xff;
    let args = [NO_OPERATION, address, 0, size_of::<u64>(), 0, 0];
    // SAFETY: the operation is none, so nothing changes; the kernel reads 8 bytes, or finds that it cannot.
    unsafe { syscall(libc::SYS_rt_sigprocmask as usize, args) == -(libc::EINVAL as isize) }
}
