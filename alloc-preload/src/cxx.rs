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
//! I1. An object of `new(size[, align])` is freed without a look-up only if every operator in use
//!     is ours ([`all_ours`]); else the sized forms call the unsized ones, as the standard says.
//! I2. The verdict of I1 is the same at each time: the dynamic linker binds these names before any code of
//!     this library runs, and a library loaded later cannot replace what is bound. So it needs no look-up,
//!     only a look at what was bound.
//! I3. No path but that of a failed allocation asks the dynamic linker anything (`runtime`).

#![allow(non_snake_case)] // the names are C++'s

mod global;
mod runtime;

use crate::arch::{
    call_or_jump, jump_to_found, jump_to_slot, jump_to_symbol, jump_to_symbol_without_second,
    weak_address_of,
};
use crate::posix;
use core::fmt::Write;
use global::{all_ours, is_ours};
use rsalloc_core::internals::print::to_fd;
use runtime::Operator;

rsalloc_core::c_free!(_ZdlPv);
// The fast way of the sized forms; hidden, in `arch`.
rsalloc_core::c_free_sized!(rsalloc_delete_sized);

rsalloc_core::c_malloc! {
    /// `operator new(size_t)`.
    _Znwm, new_slow
}

call_or_jump! {
    /// The slow counterpart of `operator new(size_t)`.
    new_slow = new, new_failed;
    /// `operator new(size_t, align_val_t)`.
    #[unsafe(no_mangle)]
    _ZnwmSt11align_val_t = new_aligned, new_aligned_failed;
}

/// `operator delete(void*, align_val_t)`: the object knows its alignment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _ZdlPvSt11align_val_t(ptr: *mut u8, _align: usize) {
    // SAFETY: the caller's duty: null or a live object of `new`.
    unsafe { rsalloc_core::free(ptr) }
}

jump_to_symbol! {
    _Znam = "_Znwm";
    _ZnamSt11align_val_t = "_ZnwmSt11align_val_t";
    _ZdaPv = "_ZdlPv";
    _ZdaPvSt11align_val_t = "_ZdlPvSt11align_val_t";
    _ZdlPvRKSt9nothrow_t = "_ZdlPv";
    _ZdaPvRKSt9nothrow_t = "_ZdaPv";
    _ZdlPvSt11align_val_tRKSt9nothrow_t = "_ZdlPvSt11align_val_t";
    _ZdaPvSt11align_val_tRKSt9nothrow_t = "_ZdaPvSt11align_val_t";
}

jump_to_slot! {
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
    // Where the program has an `operator new` of its own, the standard's nothrow forms call that.
    #[unsafe(no_mangle)]
    _ZnwmRKSt9nothrow_t = if is_ours(global::_Znwm()) {
        rsalloc_new_nothrow as *mut ()
    } else {
        new_nothrow_of_program as *mut ()
    };
    #[unsafe(no_mangle)]
    _ZnamRKSt9nothrow_t = if is_ours(global::_Znwm()) && is_ours(global::_Znam()) {
        rsalloc_new_nothrow as *mut ()
    } else {
        new_array_nothrow_of_program as *mut ()
    };
    #[unsafe(no_mangle)]
    _ZnwmSt11align_val_tRKSt9nothrow_t = if is_ours(global::_ZnwmSt11align_val_t()) {
        new_aligned_nothrow as *mut ()
    } else {
        new_aligned_nothrow_of_program as *mut ()
    };
    #[unsafe(no_mangle)]
    _ZnamSt11align_val_tRKSt9nothrow_t = if is_ours(global::_ZnwmSt11align_val_t())
        && is_ours(global::_ZnamSt11align_val_t())
    {
        new_aligned_nothrow as *mut ()
    } else {
        new_array_aligned_nothrow_of_program as *mut ()
    };
}

jump_to_found! {
    // After a failure: the runtime's `new` tries `malloc` again, then the new-handler, then throws.
    new_failed = thrower(Operator::New);
    new_aligned_failed = thrower(Operator::NewAligned);
    // The runtime's nothrow forms call the program's `new` and catch what it throws. Where no runtime was in
    // the global scope at load, what the program's `new` throws passes through.
    new_nothrow_of_program = kept_or(Operator::NewNothrow, global::_Znwm());
    new_array_nothrow_of_program = kept_or(Operator::NewArrayNothrow, global::_Znam());
    new_aligned_nothrow_of_program =
        kept_or(Operator::NewAlignedNothrow, global::_ZnwmSt11align_val_t());
    new_array_aligned_nothrow_of_program =
        kept_or(Operator::NewArrayAlignedNothrow, global::_ZnamSt11align_val_t());
}

rsalloc_core::c_malloc! {
    // `new` that gives null when the new-handler gives up; hidden, in `arch`.
    rsalloc_new_nothrow, new_nothrow_slow
}

/// The slow counterpart of nothrow `new`; `tag` is the `std::nothrow_t`, which passes through.
extern "C" fn new_nothrow_slow(size: usize, tag: *const ()) -> *mut u8 {
    type New = extern "C" fn(usize, *const ()) -> *mut u8;
    match new(size) {
        object if !object.is_null() => object,
        _ => failed_nothrow(Operator::NewNothrow, |new| {
            // SAFETY: the runtime's function of that name has that type, and throws nothing.
            let new = unsafe { core::mem::transmute::<*mut (), New>(new) };
            new(size, tag)
        }),
    }
}

extern "C" fn new_aligned_nothrow(size: usize, align: usize, tag: *const ()) -> *mut u8 {
    type New = extern "C" fn(usize, usize, *const ()) -> *mut u8;
    match new_aligned(size, align) {
        object if !object.is_null() => object,
        _ => failed_nothrow(Operator::NewAlignedNothrow, |new| {
            // SAFETY: as in `new_nothrow_slow`.
            let new = unsafe { core::mem::transmute::<*mut (), New>(new) };
            new(size, align, tag)
        }),
    }
}

/// What a failed nothrow `new` gives: null, unless a new-handler is there to be called, which is the runtime's
/// to do: the handler may throw, and what it throws must be caught.
#[cold]
fn failed_nothrow(operator: Operator, call: impl FnOnce(*mut ()) -> *mut u8) -> *mut u8 {
    if has_no_handler() {
        return core::ptr::null_mut();
    }
    match runtime::find(operator) {
        new if new.is_null() => core::ptr::null_mut(),
        new => call(new),
    }
}

/// Whether the runtime in the global scope has no new-handler; false if there is no such runtime.
fn has_no_handler() -> bool {
    type GetHandler = extern "C" fn() -> *const ();
    let get = weak_address_of!("_ZSt15get_new_handlerv");
    // SAFETY: not null, so the runtime's function of that name and type.
    !get.is_null() && unsafe { core::mem::transmute::<*mut (), GetHandler>(get) }().is_null()
}

/// Where a failed `new` goes on.
fn thrower(operator: Operator) -> *mut () {
    match runtime::find(operator) {
        new if new.is_null() => no_runtime as *mut (),
        new => new,
    }
}

fn kept_or(operator: Operator, programs: *mut ()) -> *mut () {
    match runtime::at_load(operator) {
        new if new.is_null() => programs,
        new => new,
    }
}

extern "C" fn new(size: usize) -> *mut u8 {
    if size > crate::errno::OBJECT_MAX {
        core::ptr::null_mut()
    } else {
        rsalloc_core::allocate(size)
    }
}

extern "C" fn new_aligned(size: usize, align: usize) -> *mut u8 {
    // A bad alignment is for the runtime to throw about.
    if align.is_power_of_two() { posix::allocate(align, size) } else { core::ptr::null_mut() }
}

unsafe extern "C" fn delete_sized_aligned(ptr: *mut u8, size: usize, align: usize) {
    // SAFETY: the caller's duty: null or a live object of `new(size, align)`, and that was ours (I1).
    unsafe { posix::free_aligned(ptr, align, size) }
}

jump_to_symbol_without_second! {
    delete_dropping_size = "_ZdlPvSt11align_val_t";
    delete_array_dropping_size = "_ZdaPvSt11align_val_t";
}

/// Stands in for a runtime that cannot be found, where nothing can be thrown.
extern "C" fn no_runtime() -> ! {
    let _ = writeln!(
        to_fd(libc::STDERR_FILENO),
        "rsalloc: operator new failed, and there is no C++ runtime to throw std::bad_alloc"
    );
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}
