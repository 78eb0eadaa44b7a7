//! Symbols that a program may lack: each is null then.

use crate::arch::{DlAddr, DlOpen, FindObject, GetCpu, Sanitizers};
use crate::atomic::{AtomicU8, Ordering};
use core::arch::asm;

/// The address of a symbol, 0 if it is absent. By `.weakref`, which leaves a symbol alone that the same image defines:
/// librsalloc.so has one of these.
macro_rules! weak {
    ($name:literal) => {{
        let address: usize;
        // SAFETY: loads a GOT entry, which is null when the symbol is absent.
        unsafe {
            asm!(concat!(".ifndef rsalloc_weak_", $name),
                concat!(".weakref rsalloc_weak_", $name, ", ", $name),
                ".endif",
                concat!("adrp {0}, :got:rsalloc_weak_", $name),
                concat!("ldr {0}, [{0}, :got_lo12:rsalloc_weak_", $name, "]"),
                out(reg) address, options(nostack, preserves_flags));
        }
        address
    }};
}

pub(super) use weak;

pub fn is_single_threaded() -> bool {
    let word = weak!("__libc_single_threaded") as *const AtomicU8;
    // Ordering: Relaxed: the calling thread is the one that makes others.
    // SAFETY: null, or a byte of libc's (sys/single_threaded.h).
    unsafe { word.as_ref() }.is_some_and(|word| word.load(Ordering::Relaxed) != 0)
}

pub fn libc_dl() -> Option<(DlAddr, DlOpen)> {
    let (dladdr, dlopen) = (weak!("dladdr"), weak!("dlopen"));
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

/// It would be a system call: the vDSO has none here.
pub fn libc_getcpu() -> Option<GetCpu> {
    None
}

pub fn find_object() -> Option<FindObject> {
    let address = weak!("_dl_find_object");
    // SAFETY: not null, so libc's function of this name (dlfcn.h, glibc 2.35).
    (address != 0).then(|| unsafe { core::mem::transmute::<usize, FindObject>(address) })
}

pub fn sanitizers() -> Sanitizers {
    Sanitizers {
        asan: weak!("__asan_init"),
        msan: weak!("__msan_init"),
        tsan: weak!("__tsan_init"),
        lsan: weak!("__lsan_init"),
        add_root: weak!("__lsan_register_root_region"),
        remove_root: weak!("__lsan_unregister_root_region"),
        acquire: weak!("__tsan_acquire"),
        release: weak!("__tsan_release"),
        is_malloc: weak!("rsalloc_check"),
    }
}
