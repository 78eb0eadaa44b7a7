//! vfork(2), around which the engine keeps the child away from sections that nobody protects.
//!
//! Promises what libc's does: one return in the child, on the parent's stack, and one in the parent when
//! the child has ended or runs another program. The child overwrites the stack below its caller's frame,
//! so the return address waits in a register. Called by programs; calls the engine and the kernel.

use core::arch::naked_asm;
use core::ffi::c_int;
use rsalloc_core::internals::engine::init;
use rsalloc_core::internals::rseq::vfork::{begin, end};

use crate::errno;

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
        begin = sym begin_for_c,
        end = sym end_for_c,
        failed = sym failed,
        vfork = const libc::SYS_vfork,
    )
}

extern "C" fn begin_for_c() {
    // Before it, the child's first object would start the engine, which no parent had told of the child.
    init::ensure();
    begin();
}

extern "C" fn end_for_c() {
    end();
}

extern "C" fn failed(negative: c_int) -> c_int {
    errno::set(-negative);
    -1
}
