//! Mappings: made, grown, moved, removed, and what the kernel is told about them.

use super::{Errno, address_of, faults, outcome, promises};
use crate::arch::syscall;

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// At an address that the kernel chooses.
    Anywhere,
    /// At this address, or nowhere if something is mapped there.
    Exactly(usize),
}

/// Maps `len` bytes of zeroed memory, readable and writable. `len` is a multiple of the OS page.
#[inline(never)]
pub fn map(place: Place, len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Map)?;
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let mut hint = 0;
    if let Place::Exactly(address) = place {
        if !promises::leaves_others_alone() {
            return Err(libc::EOPNOTSUPP);
        }
        hint = address;
        flags |= libc::MAP_FIXED_NOREPLACE;
    }
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new private mapping replaces nothing (no MAP_FIXED).
    let address = address_of(unsafe {
        syscall(libc::SYS_mmap as usize, [hint, len, prot as usize, flags as usize, usize::MAX, 0])
    })?;
    if let Place::Exactly(wanted) = place
        && address != wanted
    {
        // Kernels before 4.17 take the address for a hint.
        // SAFETY: the mapping was made above, and no other code knows it.
        unsafe { unmap(address, len) };
        return Err(libc::EEXIST);
    }
    Ok(address)
}

/// Reserves `len` bytes of address space, inaccessible until [`unseal`].
pub fn map_sealed(len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Map)?;
    // SAFETY: a new private mapping replaces nothing (no MAP_FIXED).
    address_of(unsafe { syscall(libc::SYS_mmap as usize, sealed_at(0, len, 0)) })
}

/// Makes a range inaccessible and gives its memory back.
///
/// # Safety
/// 1. The range is a mapping of the caller's that holds nothing of value.
pub unsafe fn seal(address: usize, len: usize) -> Result<(), Errno> {
    faults::check(faults::Call::Map)?;
    // SAFETY: duty 1. A fresh mapping in its place is both steps in one call.
    let sealed = address_of(unsafe {
        syscall(libc::SYS_mmap as usize, sealed_at(address, len, libc::MAP_FIXED))
    })?;
    if sealed == address { Ok(()) } else { Err(libc::EINVAL) }
}

fn sealed_at(address: usize, len: usize, flags: i32) -> [usize; 6] {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    [address, len, libc::PROT_NONE as usize, flags as usize, usize::MAX, 0]
}

/// Makes a sealed range readable and writable; it reads as zero.
///
/// # Safety
/// 1. The range is the caller's, made by [`map_sealed`] or [`seal`]: no other code relies on its being inaccessible.
#[inline(never)]
pub unsafe fn unseal(address: usize, len: usize) -> Result<(), Errno> {
    faults::check(faults::Call::Protect)?;
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    // SAFETY: duty 1.
    outcome(unsafe { syscall(libc::SYS_mprotect as usize, [address, len, prot, 0, 0, 0]) })
        .map(drop)
}

/// Unmaps `len` bytes at `address`.
///
/// # Safety
/// 1. The range is a mapping of the caller's, and no code touches it again.
#[inline(never)]
pub unsafe fn unmap(address: usize, len: usize) {
    // SAFETY: duty 1. The call fails only when a split would exceed max_map_count; the range then stays mapped, which costs
    // memory and harms nothing.
    unsafe {
        syscall(libc::SYS_munmap as usize, [address, len, 0, 0, 0, 0]);
    }
}

/// Advises against huge pages in a range that will be touched sparsely.
pub fn no_huge_pages(address: usize, len: usize) {
    // SAFETY: changes no contents.
    let _ = unsafe { advise(address, len, libc::MADV_NOHUGEPAGE) };
}

/// Has a forked child find zeroes in a range (Linux 4.14); whether that is so.
pub fn wipe_in_children(address: usize, len: usize) -> bool {
    // SAFETY: this process's contents stay.
    unsafe { advise(address, len, libc::MADV_WIPEONFORK) }.is_ok()
}

/// Asks for huge pages in a range that will be filled, where the system gives them on request.
pub fn want_huge_pages(address: usize, len: usize) {
    // SAFETY: changes no contents.
    let _ = unsafe { advise(address, len, libc::MADV_HUGEPAGE) };
}

/// madvise(2).
///
/// # Safety
/// 1. The range is the caller's and holds nothing of value, or the advice leaves contents alone.
#[inline(never)]
pub(super) unsafe fn advise(address: usize, len: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: duty 1.
    outcome(unsafe {
        syscall(libc::SYS_madvise as usize, [address, len, advice as usize, 0, 0, 0])
    })
    .map(drop)
}

/// Grows or shrinks a mapping, moving it if needed, and returns its new address.
///
/// # Safety
/// 1. `address..address + old_len` is a mapping of the caller's; on success the old address is invalid.
pub unsafe fn remap(address: usize, old_len: usize, len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Remap)?;
    let flags = libc::MREMAP_MAYMOVE as usize;
    // SAFETY: duty 1.
    address_of(unsafe { syscall(libc::SYS_mremap as usize, [address, old_len, len, flags, 0, 0]) })
}

/// Moves the memory behind `len` bytes to a new mapping and returns its address; the range stays mapped, with any contents
/// (MREMAP_DONTUNMAP, Linux 5.7). The kernel chooses the address: up to Linux 6.16 a move to a given address unmaps what is
/// there even if the move is then refused.
///
/// # Safety
/// 1. The range is a mapping of the caller's, readable and writable.
pub unsafe fn move_away(from: usize, len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Remap)?;
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as usize;
    // SAFETY: duty 1.
    let moved =
        address_of(unsafe { syscall(libc::SYS_mremap as usize, [from, len, len, flags, 0, 0]) })?;
    if moved == from {
        // The kernel did not know the flag: a move to the same length is no move.
        return Err(libc::EINVAL);
    }
    // SAFETY: duty 1.
    unsafe { promises::keep_mapped(from, len) };
    Ok(moved)
}
