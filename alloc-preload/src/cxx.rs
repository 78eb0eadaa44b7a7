//! C++'s `operator new` and `operator delete`, all forms (Itanium names).
//!
//! Promises the standard's rules for replaceable functions without linking a C++ runtime:
//! * a failed `new` is handed to the C++ runtime's own `new`, which calls the new-handler and
//!   throws; it is entered by a jump, so that no frame of ours is unwound;
//! * the forms that the standard defines by other forms (`new[]`, sized, nothrow) reach a
//!   program's replacement of those. So a program may replace any subset.
//!
//! Why `new` is here and not just `delete`: a plugin that brings its own operators into a C program
//! must get both from us or both from itself. With only `delete` exported it would get a mixture.
//!
//! Called by C++ code; calls `alloc_core`, and the dynamic linker on cold paths. Only where the
//! entries below are written (x86-64): elsewhere the runtime's operators call `malloc` and `free`,
//! which is right too, only slower.
//!
//! I1. An object of `new(size[, align])` is freed without a look-up only if every operator in use
//!     is ours ([`all_ours`]); else the sized forms call the unsized ones, as the standard says.
//! I2. A slot holds an address that may be jumped to at any time: at first the finder, for ever
//!     after what it found.
//! I3. The verdict of I1 falls once: a library loaded later cannot replace what is bound already.

#![allow(non_snake_case)] // the names are C++'s

use crate::{posix, print};
use core::ffi::CStr;
use core::fmt::Write;
use core::sync::atomic::{AtomicPtr, Ordering};

alloc_core::c_free!(_ZdlPv);
// Private in all but name: the fast way of the sized forms.
alloc_core::c_free_sized!(rsalloc_delete_sized);

alloc_core::c_malloc! {
    /// `operator new(size_t)`.
    _Znwm, new_slow
}

/// The slow twin of `operator new(size_t)`.
#[unsafe(naked)]
unsafe extern "C" fn new_slow(size: usize) -> *mut u8 {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rdi", // kept for a failure; aligns the stack
        ".cfi_adjust_cfa_offset 8",
        "call {new}",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "test rax, rax",
        "jz {failed}",
        "ret",
        ".cfi_endproc",
        new = sym new,
        failed = sym new_failed,
    )
}

/// `operator new(size_t, align_val_t)`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _ZnwmSt11align_val_t(size: usize, align: usize) -> *mut u8 {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rdi", // both kept for a failure
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "push rax", // aligns the stack
        ".cfi_adjust_cfa_offset 8",
        "call {new}",
        "pop rcx",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "test rax, rax",
        "jz {failed}",
        "ret",
        ".cfi_endproc",
        new = sym new_aligned,
        failed = sym new_aligned_failed,
    )
}

/// `operator delete(void*, align_val_t)`: the object knows its alignment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _ZdlPvSt11align_val_t(ptr: *mut u8, _align: usize) {
    // SAFETY: the caller's duty: null or a live object of `new`.
    unsafe { alloc_core::free(ptr) }
}

/// Exports a function that jumps to another form, as the whole program sees that form.
macro_rules! same_as {
    ($($name:ident = $other:literal;)*) => { $(
        /// The standard's default for this form: the same as another.
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".cfi_startproc",
                concat!("jmp qword ptr [rip + ", $other, "@GOTPCREL]"),
                ".cfi_endproc",
            )
        }
    )* };
}

same_as! {
    _Znam = "_Znwm";
    _ZnamSt11align_val_t = "_ZnwmSt11align_val_t";
    _ZdaPv = "_ZdlPv";
    _ZdaPvSt11align_val_t = "_ZdlPvSt11align_val_t";
    _ZdlPvRKSt9nothrow_t = "_ZdlPv";
    _ZdaPvRKSt9nothrow_t = "_ZdaPv";
    _ZdlPvSt11align_val_tRKSt9nothrow_t = "_ZdlPvSt11align_val_t";
    _ZdaPvSt11align_val_tRKSt9nothrow_t = "_ZdaPvSt11align_val_t";
}

/// Defines a function that jumps to an address found at its first call (I2). Its arguments, at
/// most three words, pass through.
macro_rules! found_once {
    ($($(#[$attr:meta])* $name:ident = $find:expr;)*) => { $(
        #[unsafe(naked)]
        $(#[$attr])*
        unsafe extern "C" fn $name() {
            static SLOT: AtomicPtr<()> = AtomicPtr::new(finder as *mut ());

            #[unsafe(naked)]
            unsafe extern "C" fn finder() {
                core::arch::naked_asm!(
                    ".cfi_startproc",
                    "push rdi", // the arguments; aligns the stack
                    ".cfi_adjust_cfa_offset 8",
                    "push rsi",
                    ".cfi_adjust_cfa_offset 8",
                    "push rdx",
                    ".cfi_adjust_cfa_offset 8",
                    "call {find}",
                    "pop rdx",
                    ".cfi_adjust_cfa_offset -8",
                    "pop rsi",
                    ".cfi_adjust_cfa_offset -8",
                    "pop rdi",
                    ".cfi_adjust_cfa_offset -8",
                    "jmp rax",
                    ".cfi_endproc",
                    find = sym find,
                )
            }

            extern "C" fn find() -> *mut () {
                let found: *mut () = $find;
                // Ordering: Relaxed; the address is all there is, and every thread finds the same.
                SLOT.store(found, Ordering::Relaxed);
                found
            }

            core::arch::naked_asm!(
                ".cfi_startproc",
                "jmp qword ptr [rip + {slot}]",
                ".cfi_endproc",
                slot = sym SLOT,
            )
        }
    )* };
}

found_once! {
    #[unsafe(no_mangle)]
    _ZdlPvm = if all_ours() { rsalloc_delete_sized as *mut () } else { global::_ZdlPv() };
    #[unsafe(no_mangle)]
    _ZdaPvm = if all_ours() { rsalloc_delete_sized as *mut () } else { global::_ZdaPv() };
    #[unsafe(no_mangle)]
    _ZdlPvmSt11align_val_t = if all_ours() {
        delete_sized_aligned as *mut ()
    } else {
        delete_dropping_size as *mut ()
    };
    #[unsafe(no_mangle)]
    _ZdaPvmSt11align_val_t = if all_ours() {
        delete_sized_aligned as *mut ()
    } else {
        delete_array_dropping_size as *mut ()
    };
    // The runtime's nothrow forms call `new` and catch what it throws.
    #[unsafe(no_mangle)]
    _ZnwmRKSt9nothrow_t = runtimes(c"_ZnwmRKSt9nothrow_t");
    #[unsafe(no_mangle)]
    _ZnamRKSt9nothrow_t = runtimes(c"_ZnamRKSt9nothrow_t");
    #[unsafe(no_mangle)]
    _ZnwmSt11align_val_tRKSt9nothrow_t = runtimes(c"_ZnwmSt11align_val_tRKSt9nothrow_t");
    #[unsafe(no_mangle)]
    _ZnamSt11align_val_tRKSt9nothrow_t = runtimes(c"_ZnamSt11align_val_tRKSt9nothrow_t");
    // After a failure: the runtime's `new` tries `malloc` again, then the new-handler, then throws.
    new_failed = runtimes(c"_Znwm");
    new_aligned_failed = runtimes(c"_ZnwmSt11align_val_t");
}

extern "C" fn new(size: usize) -> *mut u8 {
    if size > crate::errno::OBJECT_MAX { core::ptr::null_mut() } else { alloc_core::allocate(size) }
}

extern "C" fn new_aligned(size: usize, align: usize) -> *mut u8 {
    // A bad alignment is for the runtime to throw about.
    if align.is_power_of_two() { posix::allocate(align, size) } else { core::ptr::null_mut() }
}

unsafe extern "C" fn delete_sized_aligned(ptr: *mut u8, size: usize, align: usize) {
    // SAFETY: the caller's duty: null or a live object of `new(size, align)`, and that was ours (I1).
    unsafe { posix::free_aligned(ptr, align, size) }
}

#[unsafe(naked)]
unsafe extern "C" fn delete_dropping_size() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "mov rsi, rdx",
        "jmp qword ptr [rip + _ZdlPvSt11align_val_t@GOTPCREL]",
        ".cfi_endproc",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn delete_array_dropping_size() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "mov rsi, rdx",
        "jmp qword ptr [rip + _ZdaPvSt11align_val_t@GOTPCREL]",
        ".cfi_endproc",
    )
}

/// True if no operator that makes or frees objects is replaced: the program sees ours.
fn all_ours() -> bool {
    let seen = [
        global::_Znwm(),
        global::_Znam(),
        global::_ZdlPv(),
        global::_ZdaPv(),
        global::_ZnwmSt11align_val_t(),
        global::_ZnamSt11align_val_t(),
        global::_ZdlPvSt11align_val_t(),
        global::_ZdaPvSt11align_val_t(),
    ];
    let home = image_of(all_ours as *const ());
    seen.into_iter().all(|address| image_of(address) == home)
}

/// Start of the program or library that `address` lies in; null if in none.
fn image_of(address: *const ()) -> *const () {
    // SAFETY: a `Dl_info` of zeros is valid, and dladdr takes any address.
    unsafe {
        let mut info: libc::Dl_info = core::mem::zeroed();
        if libc::dladdr(address.cast(), &mut info) == 0 {
            return core::ptr::null();
        }
        info.dli_fbase.cast_const().cast()
    }
}

/// The C++ runtime's own function of this name: behind us in the global scope, or in a runtime
/// that only a plugin loaded.
fn runtimes(name: &CStr) -> *mut () {
    // SAFETY: the names are zero-terminated; RTLD_NOLOAD loads nothing.
    unsafe {
        let mut found = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
        for library in [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"] {
            if found.is_null() {
                let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
                let handle = libc::dlopen(library.as_ptr(), flags);
                if !handle.is_null() {
                    found = libc::dlsym(handle, name.as_ptr());
                }
            }
        }
        if found.is_null() { no_runtime as *mut () } else { found.cast() }
    }
}

/// Stands in for a runtime that cannot be found, where nothing can be thrown.
extern "C" fn no_runtime() -> ! {
    let _ = writeln!(
        print::to_fd(libc::STDERR_FILENO),
        "rsalloc: operator new failed, and there is no C++ runtime to throw std::bad_alloc"
    );
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}

/// The addresses that the dynamic linker bound these names to.
mod global {
    macro_rules! bound {
        ($($name:ident)*) => { $(
            pub fn $name() -> *mut () {
                let address;
                // SAFETY: reads this library's own GOT entry, bound before any code runs.
                unsafe {
                    core::arch::asm!(
                        concat!("mov {}, [rip + ", stringify!($name), "@GOTPCREL]"),
                        out(reg) address,
                        options(nostack, pure, readonly, preserves_flags),
                    )
                }
                address
            }
        )* };
    }
    bound! {
        _Znwm _Znam _ZdlPv _ZdaPv
        _ZnwmSt11align_val_t _ZnamSt11align_val_t _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t
    }
}
