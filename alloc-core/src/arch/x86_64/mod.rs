//! x86-64: sections, entries, and the two plain instructions.

use core::arch::asm;

pub mod entry;
pub mod sections;
mod text;
mod weak;

pub use weak::{SANITIZED_ADDRESSES, STACK_TOP, Sanitizers, sanitizers};

/// Sections exist on this architecture.
pub const HAS_SECTIONS: bool = true;

/// The thread pointer: differs between any two live threads of a process.
#[inline(always)]
pub fn thread_pointer() -> usize {
    let tp: usize;
    // SAFETY: the x86-64 psABI stores the thread pointer at its own address.
    unsafe {
        asm!("mov {}, fs:[0]", out(reg) tp, options(nostack, preserves_flags, readonly, pure))
    };
    tp
}

/// Asks for the cache line at `address`, which need be neither the caller's nor memory at all.
#[inline(always)]
pub fn prefetch(address: usize) {
    // SAFETY: a hint; it never faults.
    unsafe {
        asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// A system call that leaves errno alone; a negative errno on failure.
///
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

/// Offsets from the thread pointer of libc's rseq area and its size, if this libc has one:
/// `(__rseq_offset, __rseq_size)` (glibc 2.35, sys/rseq.h).
pub fn libc_rseq() -> Option<(isize, u32)> {
    let (size, offset): (*const u32, *const isize);
    // SAFETY: loads two GOT entries, which the dynamic linker leaves null when the symbol is absent.
    unsafe {
        asm!(".weak __rseq_size", ".weak __rseq_offset",
            "mov {0}, qword ptr [rip + __rseq_size@GOTPCREL]",
            "mov {1}, qword ptr [rip + __rseq_offset@GOTPCREL]",
            out(reg) size, out(reg) offset, options(nostack, preserves_flags));
    }
    if size.is_null() || offset.is_null() {
        return None;
    }
    // SAFETY: libc's own constants, written before user code.
    Some(unsafe { (*offset, *size) })
}

/// Whether libc knows of no other thread: `__libc_single_threaded` (glibc 2.32, sys/single_threaded.h). False
/// where libc does not say.
pub fn is_single_threaded() -> bool {
    let word: *const crate::atomic::AtomicU8;
    // SAFETY: loads a GOT entry, which the dynamic linker leaves null when the symbol is absent.
    unsafe {
        asm!(".weak __libc_single_threaded",
            "mov {}, qword ptr [rip + __libc_single_threaded@GOTPCREL]",
            out(reg) word, options(nostack, preserves_flags));
    }
    // Ordering: Relaxed: the calling thread is the one that makes others.
    // SAFETY: null, or a byte of libc's.
    unsafe { word.as_ref() }.is_some_and(|word| word.load(crate::atomic::Ordering::Relaxed) != 0)
}

/// `dladdr(3)`.
pub type DlAddr = unsafe extern "C" fn(*const libc::c_void, *mut libc::Dl_info) -> libc::c_int;
/// `dlopen(3)`.
pub type DlOpen = unsafe extern "C" fn(*const libc::c_char, libc::c_int) -> *mut libc::c_void;

/// The dynamic linker's functions, if the program has them: a static one should not grow by them.
pub fn libc_dl() -> Option<(DlAddr, DlOpen)> {
    let (dladdr, dlopen): (usize, usize);
    // SAFETY: loads two GOT entries, which are null when the symbol is absent.
    unsafe {
        asm!(".weak dladdr", ".weak dlopen",
            "mov {0}, qword ptr [rip + dladdr@GOTPCREL]",
            "mov {1}, qword ptr [rip + dlopen@GOTPCREL]",
            out(reg) dladdr, out(reg) dlopen, options(nostack, preserves_flags));
    }
    if dladdr == 0 || dlopen == 0 {
        return None;
    }
    // SAFETY: not null, so libc's functions of these names.
    Some(unsafe {
        (
            core::mem::transmute::<usize, DlAddr>(dladdr),
            core::mem::transmute::<usize, DlOpen>(dlopen),
        )
    })
}

/// Offset from the thread pointer of this library's own area, see [`sections`].
pub fn own_area_offset() -> isize {
    let offset: isize;
    // SAFETY: loads a GOT entry that the linker fills with the TLS offset.
    unsafe {
        asm!("mov {}, qword ptr [rip + rsalloc_rseq_area@GOTTPOFF]",
            out(reg) offset, options(nostack, preserves_flags, readonly, pure));
    }
    offset
}

/// Offset from the thread pointer of an area like a thread's own that is never registered, behind which lies
/// another one: a section that looks there has no shard.
pub fn never_registered_offset() -> isize {
    own_area_offset() + 64
}

/// The word of the calling thread in which `sync` keeps the rank of the locks it holds; 0 at first.
#[inline]
pub fn held_rank() -> &'static crate::atomic::AtomicU32 {
    let at = thread_pointer().wrapping_add_signed(own_area_offset()) + 36;
    // SAFETY: `sections` reserves 128 bytes for each thread: the area of 32, the word of
    // rseq::registration, this one, more. 'static is as long as the thread runs, and nobody keeps it.
    unsafe { &*(at as *const crate::atomic::AtomicU32) }
}

/// The word of the calling thread in which `guard` counts down to the next guarded object; 0 at first.
#[inline]
pub fn guard_countdown() -> &'static crate::atomic::AtomicU32 {
    let at = thread_pointer().wrapping_add_signed(own_area_offset()) + 40;
    // SAFETY: as in `held_rank`: the next word of the 128 bytes.
    unsafe { &*(at as *const crate::atomic::AtomicU32) }
}

/// The word of the calling thread in which `cpu_cache::shard::leases` counts down to the next request for a lease; 0 at first.
#[inline]
pub fn lease_countdown() -> &'static crate::atomic::AtomicU32 {
    let at = thread_pointer().wrapping_add_signed(own_area_offset()) + 44;
    // SAFETY: as in `held_rank`: the next word of the 128 bytes.
    unsafe { &*(at as *const crate::atomic::AtomicU32) }
}

/// The word of the calling thread that holds the address of its biased shard, see `cpu_cache::shard::leases`; 0 at first.
#[inline]
pub fn biased_shard() -> &'static crate::atomic::AtomicUsize {
    let at = thread_pointer().wrapping_add_signed(own_area_offset()) + 48;
    // SAFETY: as in `held_rank`: the next two words of the 128 bytes, which are aligned to 64.
    unsafe { &*(at as *const crate::atomic::AtomicUsize) }
}

/// Clears what sections that ran before init have written to the unused word of the thread header, see
/// `sections::rsalloc_rseq_offset`.
pub fn forget_early_announcement() {
    // SAFETY: the word is unused on x86-64 and held 0.
    unsafe { asm!("mov qword ptr fs:[0x20], 0", options(nostack, preserves_flags)) };
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
