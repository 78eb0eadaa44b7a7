//! The C++ runtime's own operators, which throw: where they are.
//!
//! Promises that no allocation and no free asks the dynamic linker: `dlopen` holds its lock while a plugin's
//! constructor runs, and that constructor may wait for a thread that allocates. The operators are looked for
//! when this library is loaded. Only a failed allocation looks for what was not there then: a runtime that
//! a plugin brought in later.
//!
//! I1. What is kept lies in a library that is never unloaded. What a failure finds is used once and not kept:
//!     its plugin may take it away.

use core::ffi::CStr;
use core::sync::atomic::{AtomicPtr, Ordering};

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

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = keep_at_load;

/// Keeps what lies behind this library in the global scope.
extern "C" fn keep_at_load() {
    for (slot, name) in KEPT.iter().zip(NAMES) {
        let found = behind_us(name);
        if found.is_null() {
            // A program without a runtime. `dlerror` is the program's to ask: no word of ours is left there.
            // SAFETY: no preconditions.
            unsafe { libc::dlerror() };
            return;
        }
        if alloc_core::keep_loaded(found) {
            // Ordering: Relaxed; the address is all there is, and its code was there before this library's.
            slot.store(found, Ordering::Relaxed);
        }
    }
}

/// The runtime's `operator` as found at load; null if it was not.
pub fn kept(operator: Operator) -> *mut () {
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
    let name = NAMES[operator as usize];
    let mut found = behind_us(name);
    for library in [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"] {
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
