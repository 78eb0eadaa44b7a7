//! The two system calls that return in a child on its parent's memory.

use crate::clone::{self, Start};
use crate::vfork;
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};

/// See vfork(2).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn vfork() -> c_int {
    naked_asm!(".cfi_startproc", "jmp {share}", ".cfi_endproc", share = sym share)
}

/// See vfork(2); glibc's other name.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn __vfork() -> c_int {
    naked_asm!(".cfi_startproc", "jmp {share}", ".cfi_endproc", share = sym share)
}

#[unsafe(naked)]
extern "C" fn share() -> c_int {
    naked_asm!(
        ".cfi_startproc",
        "push rax", // the stack's alignment
        ".cfi_adjust_cfa_offset 8",
        "call {begin}",
        "pop rax",
        ".cfi_adjust_cfa_offset -8",
        "pop rdx", // the return address; the system call keeps rdx
        ".cfi_adjust_cfa_offset -8",
        ".cfi_register rip, rdx",
        "mov eax, {vfork}",
        "syscall",
        "push rdx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_offset rip, -8",
        "test eax, eax",
        "jz 20f", // the child
        "push rax",
        ".cfi_adjust_cfa_offset 8",
        "call {end}",
        "pop rax",
        ".cfi_adjust_cfa_offset -8",
        "test eax, eax",
        "jns 20f",
        "mov edi, eax",
        "jmp {failed}",
        "20: ret",
        ".cfi_endproc",
        begin = sym vfork::begin_for_c,
        end = sym vfork::end_for_c,
        failed = sym vfork::failed,
        vfork = const libc::SYS_vfork,
    )
}

/// See clone(2).
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn clone() -> c_int {
    naked_asm!(".cfi_startproc", "jmp {start_child}", ".cfi_endproc", start_child = sym clone::start_child)
}

/// See clone(2); glibc's other name.
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub extern "C" fn __clone() -> c_int {
    naked_asm!(".cfi_startproc", "jmp {start_child}", ".cfi_endproc", start_child = sym clone::start_child)
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
        "and rsi, -16",
        "sub rsi, 32", // the child's: start, argument, behind
        "mov [rsi], rdi",
        "mov [rsi + 8], rcx",
        "mov rax, [rsp + 16]",
        "mov [rsi + 16], rax",
        "movsxd rdi, edx", // flags
        "mov rdx, r8",     // parent_tid
        "mov r10, [rsp + 8]", // child_tid
        "mov r8, r9",      // tls
        "mov eax, {clone}",
        "syscall",
        "test rax, rax",
        "jz 20f",
        "ret",
        "20:",
        ".cfi_undefined rip",
        "xor ebp, ebp", // the end for those that follow frames
        "pop rax",
        "pop rdi",
        "mov rbx, [rsp]",
        "call rax",
        "mov r12d, eax",
        "test rbx, rbx",
        "jz 21f",
        "call rbx",
        "21: mov edi, r12d",
        "mov eax, {exit}",
        "syscall",
        "ud2",
        ".cfi_endproc",
        clone = const libc::SYS_clone,
        exit = const libc::SYS_exit,
    )
}
