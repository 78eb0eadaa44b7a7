//! The C++ runtime's own operators, which throw: where they are.
//!
//! Promises that no allocation and no free asks the dynamic linker: `dlopen` holds its lock while a plugin's
//! constructor runs, and that constructor may wait for a thread that allocates. The operators are looked for
//! when this library is loaded. Only a failed allocation looks for what was not there then, a runtime that
//! a plugin brought in later, and a constructor of another library that runs before this one's.
//!
//! I1. What is kept lies in a library that is never unloaded. What a failure finds is used once and not kept:
//!     its plugin may take it away.

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use rsalloc_core::internals::arch::is_there;

/// A form of `operator new` of the runtime.
#[derive(Clone, Copy)]
pub enum Operator {
    /// Throws.
    New,
    /// Throws.
    NewAligned,
    /// Gives null.
    NewNothrow,
    /// Gives null.
    NewArrayNothrow,
    /// Gives null.
    NewAlignedNothrow,
    /// Gives null.
    NewArrayAlignedNothrow,
}

/// Their names, in that order.
const NAMES: [&CStr; 6] = [
    c"_Znwm",
    c"_ZnwmSt11align_val_t",
    c"_ZnwmRKSt9nothrow_t",
    c"_ZnamRKSt9nothrow_t",
    c"_ZnwmSt11align_val_tRKSt9nothrow_t",
    c"_ZnamSt11align_val_tRKSt9nothrow_t",
];

static KEPT: [AtomicPtr<()>; NAMES.len()] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; NAMES.len()];

/// Where C++ runtimes are, if they are libraries.
const LIBRARIES: [&CStr; 3] = [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"];

/// Whether `keep_at_load` is over.
static IS_LOADED: AtomicBool = AtomicBool::new(false);

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = keep_at_load;

/// Keeps what lies behind this library in the global scope. A runtime may lack some of the names: libstdc++ before GCC 7
/// has no aligned forms.
extern "C" fn keep_at_load() {
    if !has_linker() {
        return;
    }
    // A library that is never unloaded. The dynamic linker is slow to tell where an address lies, and quick to tell
    // what a library has under a name.
    let mut library = core::ptr::null_mut();
    for (slot, name) in KEPT.iter().zip(NAMES) {
        let found = behind_us(name);
        if found.is_null() {
            continue;
        }
        if in_library(library, name) != found {
            if !rsalloc_core::keep_loaded(found) {
                continue;
            }
            // It stays open, as it stays loaded.
            library = library_with(name, found);
        }
        // Ordering: Relaxed; the address is all there is, and its code was there before this library's.
        slot.store(found, Ordering::Relaxed);
    }
    // `dlerror` is the program's to ask: no word of ours is left there.
    // SAFETY: no preconditions.
    unsafe { libc::dlerror() };
    // Ordering: Release pairs with the Acquire in `at_load`.
    IS_LOADED.store(true, Ordering::Release);
}

/// The runtime's `operator` as found at load; null if it was not. Before that, where the constructor of another library
/// allocates, what is there at this moment, if it is behind us in the global scope.
pub fn at_load(operator: Operator) -> *mut () {
    // Ordering: Acquire pairs with the Release in `keep_at_load`.
    if IS_LOADED.load(Ordering::Acquire) { kept(operator) } else { look_up_before_load(operator) }
}

/// Asks the dynamic linker, which is about to run this library's constructor.
#[cold]
#[inline(never)]
fn look_up_before_load(operator: Operator) -> *mut () {
    if has_linker() { behind_us(NAMES[operator as usize]) } else { core::ptr::null_mut() }
}

/// Whether the dynamic linker's functions are there, which glibc before 2.34 has in libdl.
fn has_linker() -> bool {
    is_there(libc::dlsym as *const ())
}

/// Null if it was not found at load.
fn kept(operator: Operator) -> *mut () {
    // Ordering: Relaxed, see `keep_at_load`.
    KEPT[operator as usize].load(Ordering::Relaxed)
}

/// The runtime's `operator`, for a thread whose allocation has failed; null if there is none.
pub fn find(operator: Operator) -> *mut () {
    match kept(operator) {
        found if found.is_null() => look_up_after_failure(operator),
        found => found,
    }
}

/// Asks the dynamic linker: what was loaded into the global scope since, and runtimes of plugins.
#[cold]
#[inline(never)]
fn look_up_after_failure(operator: Operator) -> *mut () {
    if !has_linker() {
        return core::ptr::null_mut();
    }
    let name = NAMES[operator as usize];
    let mut found = behind_us(name);
    for library in LIBRARIES {
        if !found.is_null() {
            break;
        }
        // SAFETY: RTLD_NOLOAD loads nothing; the names are zero-terminated; the handle is given back, so
        // that the library may go when its plugin goes.
        unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if !handle.is_null() {
                found = libc::dlsym(handle, name.as_ptr()).cast();
                libc::dlclose(handle);
            }
        }
    }
    found
}

/// The function of this name behind this library in the global scope; null if there is none.
fn behind_us(name: &CStr) -> *mut () {
    // SAFETY: the name is zero-terminated.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()).cast() }
}

/// The one of [`LIBRARIES`] that has `found` under this name, opened; null if none has.
fn library_with(name: &CStr, found: *mut ()) -> *mut libc::c_void {
    for library in LIBRARIES {
        // SAFETY: RTLD_NOLOAD loads nothing; the name is zero-terminated.
        let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if in_library(handle, name) == found {
            return handle;
        }
        if !handle.is_null() {
            // SAFETY: opened above.
            unsafe { libc::dlclose(handle) };
        }
    }
    core::ptr::null_mut()
}

/// The function of this name in an open library; null if there is none, or no library.
fn in_library(library: *mut libc::c_void, name: &CStr) -> *mut () {
    if library.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: the library is open, and the name zero-terminated.
    unsafe { libc::dlsym(library, name.as_ptr()).cast() }
}
