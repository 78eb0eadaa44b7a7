//! Loading and exit: the engine starts with the program, or with the library that it is part of, stays in memory, and
//! prints the statistics at the end.
//!
//! Promises: init has run before a program that loads the library as a plugin can be inside an entry (docs/adr/0003);
//! a wrong `RSALLOC_CONF` is named, `rsalloc check` finds a mode and `stats_at_exit` is obeyed also in programs that never
//! allocate. The library is never unmapped by `dlclose`, since a thread's rseq area names a descriptor in it until the
//! kernel clears that, libc keeps the addresses of fork handlers and of a key's destructor, and objects outlive the
//! plugin that allocated them. Where it cannot be kept, a line on standard error says so.

use super::init;
use crate::arch;
use crate::atomic::{AtomicU32, Ordering, UnsafeCell};
use crate::config::Config;
use crate::fail::Line;
use crate::guard;
use crate::hot::HOT;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::huge::HUGE;
use crate::print::{self, Buffers};
use crate::publish::file;
use crate::sanitizer;
use crate::units::PAGE_MAP_BYTES;

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

/// The linker names the ends of a section only if there is one.
#[used]
#[unsafe(link_section = "rsalloc_config")]
static NOTHING: Config = Config::new();

unsafe extern "C" {
    #[link_name = "__start_rsalloc_config"]
    static FIRST: u8;
    #[link_name = "__stop_rsalloc_config"]
    static END: u8;
}

/// What the program declares about its configuration, in its own binary.
///
/// A declaration is a static in the section `rsalloc_config`, whose beginning and end the linker gives names to
/// (a section whose name is a C identifier: ld(1), "Input Section Example"). So it is there before any code of the
/// program runs, and a program without one pays nothing. Each declaration has the symbol `rsalloc_declared_config`, so
/// that two of them do not link.
pub fn declarations() -> &'static [Config] {
    let (first, end) = (&raw const FIRST, &raw const END);
    let count = (end as usize - first as usize) / size_of::<Config>();
    // SAFETY: the section holds nothing but statics of this type, one behind the other, since their size is a multiple
    // of their alignment.
    unsafe { core::slice::from_raw_parts(first.cast::<Config>(), count) }
}

extern "C" fn at_load() {
    if !declarations().iter().all(Config::has_heap) {
        return;
    }
    init::ensure();
    if sanitizer::start() {
        name_roots();
        sanitizer::roots_are_named();
    }
    if !keep_loaded(at_load as *const ()) {
        let mut line = Line::new();
        line.text("rsalloc: the dynamic linker does not keep this library in memory; it must not be unloaded\n");
        line.write_to_stderr();
    }
}

extern "C" fn at_exit() {
    tell_at_end();
}

/// The process that has told what it is to tell at its end.
static HAS_TOLD: AtomicU32 = AtomicU32::new(0);

struct AtEnd(UnsafeCell<Buffers>);

// SAFETY: used by the one thread of a process that sets `HAS_TOLD`.
unsafe impl Sync for AtEnd {}

/// Not on the stack, which may be that of a handler.
static AT_END: AtEnd = AtEnd(UnsafeCell::new(Buffers::new()));

/// Removes the published file, and obeys `stats_at_exit`, which may wait. Once, however the
/// process ends. A child on its parent's memory tells nothing. Async-signal-safe.
pub fn tell_at_end() {
    let Some(pid) = init::process_that_tells() else { return };
    // Ordering: Relaxed, it carries nothing: one call goes on.
    if HAS_TOLD.swap(pid, Ordering::Relaxed) != pid {
        file::end();
        // SAFETY: `AtEnd`; a child on this memory has not come here.
        print::stats_at_exit(unsafe { &mut *AT_END.0.get() });
    }
}

/// Ends the process, with [`tell_at_end`] before. Async-signal-safe.
pub fn end_process(status: i32) -> ! {
    tell_at_end();
    os::end_process(status)
}

/// Names what the heap has so far. The page-map range is one root, whatever is mapped of it.
fn name_roots() {
    // Ordering: Relaxed, written once by init.
    sanitizer::add_root(HOT.page_map_base.load(Ordering::Relaxed), PAGE_MAP_BYTES);
    PAGE_HEAP.name_roots();
    HUGE.name_roots();
    guard::name_root();
}

/// Makes the program or library that `address` lies in one that `dlclose` never unloads; whether it is one now.
/// Asks the dynamic linker, whose lock another thread may hold while it waits: not for allocation paths.
pub fn keep_loaded(address: *const ()) -> bool {
    // A program without a dynamic linker unloads nothing.
    let Some((dladdr, dlopen)) = arch::libc_dl() else { return true };
    // SAFETY: all zeroes is a valid value of pointers.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: the two functions as libc declares them; NOLOAD loads nothing, so no code runs.
    unsafe {
        if dladdr(address.cast(), &mut info) == 0 || info.dli_fname.is_null() {
            // A static program has the functions, which know nothing of it; the kernel loaded no linker.
            return os::auxv(libc::AT_BASE) == 0;
        }
        let program = os::auxv(libc::AT_PHDR) & !(os::page_bytes() - 1);
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        info.dli_fbase as usize == program || !dlopen(info.dli_fname, flags).is_null()
    }
}
