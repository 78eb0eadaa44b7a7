//! Reading words of a stack that may end anywhere, without a fault.
//!
//! Promises: a word is read only from an OS page that was found readable before. Unwind tables at a call lead to words of frames that
//! are live, whose stack stays mapped while its thread stands on it: there a page counts that an earlier walk has found. Where
//! only a register leads on, or a signal came at any instruction, registers may hold anything: in the rest of such a walk each
//! page is found by that walk itself, and none is read that does not adjoin those below it, down to the stack pointer. What remains: such
//! a register holds an address in another mapping that adjoins the stack, and another thread unmaps it between the
//! check and the read.
//!
//! A page is readable if the kernel can copy a signal set from it: rt_sigprocmask(2) with no valid operation changes nothing, and
//! says EINVAL then, else EFAULT. libc uses the call itself, so filters allow it. Below the thread's block, or on the first
//! thread's stack, all pages up to its top are one stack as a rule: that is checked once, and known for later walks ([`Known`]).

use crate::arch::{self, syscall};
use crate::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::os;

/// Pages that are known to be readable, and how far others may follow them.
pub struct StackMemory<'a> {
    start: usize,
    end: usize,
    /// No stack goes on from here.
    limit: usize,
    /// Whether registers may hold anything, so that this walk checks each page itself.
    is_checking: bool,
    known: &'a Known,
}

/// By the top of a stack, its number of readable pages: a word is `page of the top << COUNT_BITS | pages below its end`. It may be out
/// of date: of an ended thread with a larger stack, or because a coroutine's stack lay below the thread's block, which is
/// unmapped now. The words of live frames are readable nevertheless; others are not asked of it.
pub type Known = [AtomicU64; KNOWN];

/// Stacks that are known at once.
const KNOWN: usize = 128;
const COUNT_BITS: u32 = 24;
/// The top is searched for so far up: further up than that it is another stack's.
const STACK_BYTES_MAX: usize = 64 << 20;
/// Pages that are checked at once, and that a frame pointer may lead over.
const CHECKED_MAX: usize = 256;

/// An address at the top of the first thread's stack; 0 if it is not known.
static FIRST_TOP: AtomicUsize = AtomicUsize::new(0);

/// Whether the probe tells pages apart here: 0 unknown, 1 yes, 2 no (an emulator may look at the operation first).
static PROBE: AtomicU8 = AtomicU8::new(0);

/// Finds out whether the probe works, and where the first stack ends. For the start of a profile.
pub fn try_probe() -> bool {
    let local = [0usize; 1];
    let works = can_read(&raw const local as usize) && !can_read(os::page_bytes() - 8);
    // Ordering: Relaxed, a word that stands alone.
    PROBE.store(if works { 1 } else { 2 }, Ordering::Relaxed);
    // Ordering: Relaxed, as above.
    FIRST_TOP.store(os::auxv(libc::AT_RANDOM), Ordering::Relaxed);
    works
}

impl<'a> StackMemory<'a> {
    /// Knows the page of `near`, an address on a stack of the calling thread, and those up to the stack's top if it is known.
    pub fn new(near: usize, known: &'a Known) -> Self {
        let page_bytes = os::page_bytes();
        let start = near & !(page_bytes - 1);
        let mut memory = StackMemory {
            start,
            end: start + page_bytes,
            limit: usize::MAX,
            is_checking: false,
            known,
        };
        if let Some(top) = top_above(near) {
            let end = (top & !(page_bytes - 1)) + page_bytes;
            if memory.reaches(end) {
                (memory.end, memory.limit) = (end, end);
            }
        }
        memory
    }

    /// Whether all pages up to `end`, that of a stack, are readable. Notes that they are.
    fn reaches(&self, end: usize) -> bool {
        let page_bytes = os::page_bytes();
        let top = (end / page_bytes - 1) as u64;
        let word = &self.known[top as usize % KNOWN];
        // Ordering: Relaxed, a word that stands alone.
        let seen = word.load(Ordering::Relaxed);
        let count = if seen >> COUNT_BITS == top { seen as usize % (1 << COUNT_BITS) } else { 0 };
        let seen_from = end - count * page_bytes;
        if seen_from <= self.start {
            return true;
        }
        let unknown = (seen_from.max(self.end) - self.end) / page_bytes;
        let is_stack = unknown <= CHECKED_MAX
            && is_probing()
            && (0..unknown).all(|page| can_read(self.end + page * page_bytes));
        if is_stack {
            let count = (end - self.start) / page_bytes;
            // Ordering: Relaxed, as above.
            word.store(top << COUNT_BITS | count as u64, Ordering::Relaxed);
        }
        is_stack
    }

    /// The word at `address`; none if it is not aligned or cannot be read.
    #[inline(never)]
    pub fn word(&mut self, address: usize) -> Option<usize> {
        if !address.is_multiple_of(size_of::<usize>()) {
            return None;
        }
        if !(self.start..self.end).contains(&address) && !self.finds(address) {
            return None;
        }
        // SAFETY: aligned, so inside one page, which is readable. Volatile: the stack is not this code's.
        Some(unsafe { (address as *const usize).read_volatile() })
    }

    #[cold]
    #[inline(never)]
    fn finds(&mut self, address: usize) -> bool {
        if self.is_checking {
            return self.adjoins(address, 1);
        }
        let page_bytes = os::page_bytes();
        let page = address & !(page_bytes - 1);
        if !is_probing() || !can_read(page) {
            return false;
        }
        if page == self.end {
            self.end += page_bytes;
        } else {
            // Another stack: that below a handler's.
            *self = StackMemory::new(page, self.known);
        }
        true
    }

    /// From here on registers may hold anything but for the stack pointer, which is `stack`: the walk checks each page itself.
    pub fn check_from(&mut self, stack: usize) {
        let page_bytes = os::page_bytes();
        let (page, first) = (stack & !(page_bytes - 1), self.start..self.end);
        let limit = |top: usize| (top & !(page_bytes - 1)) + page_bytes;
        // The first page is one that this walk has found; where there is no probe, it is the only one.
        let is_found = page == first.start && !first.is_empty();
        self.is_checking = true;
        (self.start, self.end) = (page, if is_found { page + page_bytes } else { page });
        self.limit = top_above(page).map_or(usize::MAX, limit);
    }

    /// Whether the walk goes on from a [`StackMemory::check_from`].
    pub fn is_checking(&self) -> bool {
        self.is_checking
    }

    /// Whether so many words at `address` lie on the same stack as what was read last, as far as that can be told: no page that is
    /// not readable lies between, and none of another stack that is known.
    pub fn adjoins(&mut self, address: usize, words: usize) -> bool {
        let Some(end) = address.checked_add(words * size_of::<usize>()) else { return false };
        let page_bytes = os::page_bytes();
        for _ in 0..CHECKED_MAX {
            if address < self.start || end > self.limit {
                return false;
            }
            if end <= self.end {
                return true;
            }
            if !is_probing() || !can_read(self.end) {
                return false;
            }
            self.end += page_bytes;
        }
        false
    }
}

/// The top of the stack on which `near` lies, if it is the thread's own: libc has the thread's block there, and the first
/// thread has what the kernel leaves to a program.
fn top_above(near: usize) -> Option<usize> {
    // Ordering: Relaxed, a constant by now.
    let tops = [arch::above_stack(), FIRST_TOP.load(Ordering::Relaxed)];
    tops.into_iter().find(|&top| top > near && top - near <= STACK_BYTES_MAX)
}

/// Whether eight bytes at `address` can be read, as far as that can be told.
pub fn is_readable(address: usize) -> bool {
    is_probing() && can_read(address)
}

fn is_probing() -> bool {
    // Ordering: Relaxed, a word that stands alone.
    PROBE.load(Ordering::Relaxed) == 1
}

fn can_read(address: usize) -> bool {
    const NO_OPERATION: usize = 0xff;
    let args = [NO_OPERATION, address, 0, size_of::<u64>(), 0, 0];
    // SAFETY: the operation is none, so nothing changes; the kernel reads 8 bytes, or finds that it cannot.
    unsafe { syscall(libc::SYS_rt_sigprocmask as usize, args) == -(libc::EINVAL as isize) }
}
