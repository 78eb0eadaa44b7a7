//! The two system calls that return in a child on its parent's memory.

use crate::clone::{self, Start};
use crate::vfork;
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

/// See vfork(2).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn vfork() -> c_int {
    naked_asm!(".cfi_startproc", "hint #34", "b {share}", ".cfi_endproc", share = sym share)
}

/// See vfork(2); glibc's other name.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn __vfork() -> c_int {
    naked_asm!(".cfi_startproc", "hint #34", "b {share}", ".cfi_endproc", share = sym share)
}

/// CLONE_VM | CLONE_VFORK | SIGCHLD: there is no system call vfork.
const VFORK_FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;

#[unsafe(naked)]
extern "C" fn share() -> c_int {
    naked_asm!(
        ".cfi_startproc",
        "str x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x30, -16",
        "bl {begin}",
        "ldr x30, [sp], #16", // the return address; the system call keeps x30
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x30",
        "mov w0, {flags}",
        "mov x1, xzr", // the parent's stack
        "mov x2, xzr",
        "mov x3, xzr",
        "mov x4, xzr",
        "mov x8, {clone}",
        "svc #0",
        "cbz w0, 20f", // the child
        "stp x0, x30, [sp, #-16]!",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset x30, -8",
        "bl {end}",
        "ldp x0, x30, [sp], #16",
        ".cfi_def_cfa_offset 0",
        ".cfi_restore x30",
        "tbz w0, #31, 20f",
        "b {failed}",
        "20: ret",
        ".cfi_endproc",
        begin = sym vfork::begin_for_c,
        end = sym vfork::end_for_c,
        failed = sym vfork::failed,
        flags = const VFORK_FLAGS,
        clone = const libc::SYS_clone,
    )
}

/// See clone(2).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn clone() -> c_int {
    naked_asm!(
        ".cfi_startproc", "hint #34", "b {start_child}", ".cfi_endproc",
        start_child = sym clone::start_child
    )
}

/// See clone(2); glibc's other name.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn __clone() -> c_int {
    naked_asm!(
        ".cfi_startproc", "hint #34", "b {start_child}", ".cfi_endproc",
        start_child = sym clone::start_child
    )
}

/// clone(2), the system call, and what the child does on its `stack`: `start(argument)`, `behind()` if there is one, exit with
/// what `start` returned. To the parent: the child's id, or a negative errno.
///
/// # Safety
/// 1. `stack` is the end of a stack of the child's own; the rest is what `flags` asks for.
#[unsafe(naked)]
pub unsafe extern "C" fn enter(
    start: Start,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: *mut c_int,
    tls: *mut c_void,
    child_tid: *mut u32,
    behind: Option<extern "C" fn()>,
) -> isize {
    naked_asm!(
        ".cfi_startproc",
        "hint #34",
        "and x1, x1, #-16",
        "stp x0, x3, [x1, #-32]!", // the child's: start, argument, behind
        "str x7, [x1, #16]",
        "sxtw x0, w2", // flags
        "mov x2, x4",  // parent_tid
        "mov x3, x5",  // tls
        "mov x4, x6",  // child_tid
        "mov x8, {clone}",
        "svc #0",
        "cbz x0, 20f",
        "ret",
        "20:",
        ".cfi_undefined x30",
        "mov x29, xzr", // the end for those that follow frames
        "mov x30, xzr",
        "ldp x1, x0, [sp]",
        "ldr x19, [sp, #16]",
        "blr x1",
        "mov w20, w0",
        "cbz x19, 21f",
        "blr x19",
        "21: mov w0, w20",
        "mov x8, {exit}",
        "svc #0",
        "udf #0",
        ".cfi_endproc",
        clone = const libc::SYS_clone,
        exit = const libc::SYS_exit,
    )
}
