//! What happens when the program, or the library that the engine is part of, is loaded.
//!
//! The engine starts, without an entry: so no thread of a program that loads a plugin later can be on
//! its way through one while init runs (docs/adr/0003), and a wrong RSALLOC_CONF is named, `rsalloc
//! check` finds a mode and `stats_at_exit` is obeyed in programs that never allocate too.
//!
//! And the library stays in memory for ever: a thread's rseq area names a descriptor in it until the
//! kernel looks at it, libc keeps the addresses of fork handlers and of a key's destructor, and objects
//! outlive whoever asked for them. So a plugin that was built with this allocator must not be unmapped by
//! `dlclose`. Called by the dynamic linker; calls init, asm and os.

use super::init;
use crate::asm;
use crate::os;

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    init::ensure();
    pin();
}

/// Does nothing in the program itself, which stays anyway, nor where there is no dynamic linker.
fn pin() {
    let Some((dladdr, dlopen)) = asm::libc_dl() else { return };
    // SAFETY: all zeroes is a valid value of pointers.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: the two functions as libc declares them; NOLOAD loads nothing, so no code runs.
    unsafe {
        if dladdr(pin as *const () as *const _, &mut info) == 0 || info.dli_fname.is_null() {
            return;
        }
        let program = os::auxv(libc::AT_PHDR) & !(os::page_bytes() - 1);
        if info.dli_fbase as usize != program {
            let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
            dlopen(info.dli_fname, flags);
        }
    }
}
