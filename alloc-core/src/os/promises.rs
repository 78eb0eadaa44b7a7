//! What the kernel promises about memory, checked where it is used (docs/promises.md).
//!
//! Invariants:
//! I1. [`purge`] says that a range reads as zero only after one word of it was seen to.
//! I2. A way of giving memory back that was seen to do nothing is not used again.

use super::faults::{self, Call, is_lied_to};
use super::{Errno, Place, map, outcome, unmap};
use crate::arch::syscall;
use crate::atomic::{AtomicU32, AtomicUsize, Ordering};

/// How memory is given back so that it reads as zero afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Zeroing {
    /// By madvise(MADV_DONTNEED).
    Advice = 1,
    /// By a new mapping in the place of the old one, since madvise was seen to succeed and to do nothing.
    Mapping = 2,
    /// Not at all, since both were. Free memory stays resident, and is cleared where zeroes are needed.
    Nothing = 3,
}

/// What [`probe`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// It behaves, or there is a way around.
    Usable,
    /// A new mapping did not read as zero, on which the whole allocator relies.
    NotZeroed,
}

/// What is written to a range before the kernel takes its memory.
const MARK: usize = 0x7261_6c6c_6f63_2130;

static ZEROING: AtomicU32 = AtomicU32::new(Zeroing::Advice as u32);
/// 1 if the kernel was seen to put a mapping in the place of another one that it should leave alone.
static REPLACES: AtomicU32 = AtomicU32::new(0);

/// How memory is given back now.
pub fn zeroing() -> Zeroing {
    // Ordering: Relaxed, a fact that stands alone.
    match ZEROING.load(Ordering::Relaxed) {
        1 => Zeroing::Advice,
        2 => Zeroing::Mapping,
        _ => Zeroing::Nothing,
    }
}

/// The half word that holds the number of [`zeroing`], for `publish`.
pub const fn zeroing_word() -> &'static AtomicU32 {
    &ZEROING
}

/// Whether a mapping at a given address may be requested: the kernel does not replace what is there.
pub(super) fn leaves_others_alone() -> bool {
    // Ordering: Relaxed, a fact that stands alone.
    REPLACES.load(Ordering::Relaxed) == 0
}

/// Gives the memory behind a range back. After `Ok` it reads as zero, as one word of it was seen to: each time, since a
/// seccomp filter, a restore or an emulator may change what the call does, or where it works. After `Err` it holds anything.
///
/// # Safety
/// 1. The range is the caller's alone, readable and writable, and holds nothing of value.
pub unsafe fn purge(address: usize, len: usize) -> Result<(), Errno> {
    faults::check(Call::Advise)?;
    let way = zeroing();
    if way == Zeroing::Nothing {
        return Err(libc::EOPNOTSUPP);
    }
    // SAFETY: duty 1; a range begins at a page, so it is aligned.
    let word = unsafe { &*(address as *const AtomicUsize) };
    // Ordering: Relaxed throughout, the range is the caller's alone; a compiler moves no stores or loads across a system call.
    word.store(MARK, Ordering::Relaxed);
    let is_gone = || word.load(Ordering::Relaxed) == 0; // Ordering: Relaxed, as above.
    if way == Zeroing::Advice {
        // SAFETY: duty 1.
        unsafe { give_back_unchecked(address, len)? };
        if is_gone() {
            unmap_zero_page(address, len);
            return Ok(());
        }
        settle(Zeroing::Mapping);
    }
    // SAFETY: duty 1.
    unsafe { map_over(address, len)? };
    if is_gone() {
        return Ok(());
    }
    settle(Zeroing::Nothing);
    Err(libc::EOPNOTSUPP)
}

/// Undoes what the check of a long range has done. Where the system gives huge pages, the read mapped the huge zero page, which
/// the first write splits up to Linux 6.12; the next holder would have small pages there.
fn unmap_zero_page(address: usize, len: usize) {
    let huge = super::huge_page_bytes();
    if len >= huge {
        // SAFETY: it reads as zero, before and afterwards.
        let _ = unsafe { give_back_unchecked(address, huge) };
    }
}

/// Gives the memory behind a range back if the kernel takes it: each OS page of the range reads as before or as zero afterwards,
/// and nothing may depend on which.
///
/// # Safety
/// 1. The range is the caller's, and zero is as good as what it holds, also for threads that read it meanwhile.
pub unsafe fn give_back(address: usize, len: usize) {
    if faults::check(Call::Advise).is_ok() {
        // SAFETY: duty 1.
        let _ = unsafe { give_back_unchecked(address, len) };
    }
}

/// # Safety
/// 1. As for [`give_back`].
unsafe fn give_back_unchecked(address: usize, len: usize) -> Result<(), Errno> {
    if is_lied_to(Call::Advise) {
        return Ok(());
    }
    // SAFETY: duty 1.
    unsafe { super::mapping::advise(address, len, libc::MADV_DONTNEED) }
}

/// Puts a new mapping in the place of a range.
///
/// # Safety
/// 1. The range is the caller's and holds nothing of value.
unsafe fn map_over(address: usize, len: usize) -> Result<(), Errno> {
    if is_lied_to(Call::MapOver) {
        return Ok(());
    }
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: duty 1.
    outcome(unsafe {
        syscall(libc::SYS_mmap as usize, [address, len, prot, flags as usize, usize::MAX, 0])
    })
    .map(drop)
}

/// After a move with MREMAP_DONTUNMAP: makes sure that the range is still mapped, for the kernel and for an emulator with
/// tables of its own (qemu-user 7.2 takes the range for unmapped, and refuses it as a buffer of system calls).
///
/// # Safety
/// 1. The range is the caller's, and its memory has moved.
pub(super) unsafe fn keep_mapped(from: usize, len: usize) {
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    // SAFETY: gives rights, takes none; fails with ENOMEM if something in the range is not mapped.
    let rights = unsafe { syscall(libc::SYS_mprotect as usize, [from, len, prot, 0, 0, 0]) };
    if rights == 0 {
        return;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let flags = (flags | libc::MAP_FIXED_NOREPLACE) as usize;
    // SAFETY: replaces nothing.
    let again = outcome(unsafe {
        syscall(libc::SYS_mmap as usize, [from, len, prot, flags, usize::MAX, 0])
    });
    match again {
        Ok(address) if address == from => {}
        // Something is mapped there: the range itself, with other rights.
        Err(libc::EEXIST) => {}
        // A part of the heap is missing.
        _ => {
            super::write_stderr(b"rsalloc: mremap unmapped what it should leave mapped\n");
            super::abort()
        }
    }
}

fn settle(way: Zeroing) {
    // Ordering: Relaxed; the maximum never goes back to a way that was seen to do nothing.
    ZEROING.fetch_max(way as u32, Ordering::Relaxed);
}

/// Tries on one fresh page what can be tried there: whether new memory reads as zero, whether MAP_FIXED_NOREPLACE replaces
/// nothing, and which way of giving memory back works. For init. Without memory nothing is tried; [`purge`] checks itself.
pub fn probe() -> Memory {
    let len = super::page_bytes();
    let Ok(page) = map(Place::Anywhere, len) else { return Memory::Usable };
    // SAFETY: mapped above, known to no other code, as long as a page.
    let words = unsafe { core::slice::from_raw_parts(page as *const AtomicUsize, len / 8) };
    // Ordering: Relaxed throughout, the page is this thread's alone.
    let is_zero = words.iter().all(|word| word.load(Ordering::Relaxed) == 0);
    words[0].store(MARK, Ordering::Relaxed); // Ordering: Relaxed, as above.
    let replaced = match map(Place::Exactly(page), len) {
        Ok(_) => true,
        Err(_) => words[0].load(Ordering::Relaxed) != MARK, // Ordering: Relaxed, as above.
    };
    if replaced {
        // Ordering: Relaxed, a fact that stands alone.
        REPLACES.store(1, Ordering::Relaxed);
    }
    // SAFETY: the page is this thread's alone. The outcome is kept in ZEROING.
    unsafe {
        let _ = purge(page, len);
        unmap(page, len);
    }
    if is_zero && !is_lied_to(Call::Map) { Memory::Usable } else { Memory::NotZeroed }
}
