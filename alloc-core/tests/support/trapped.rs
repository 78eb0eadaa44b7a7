//! A system call that a filter trapped (SECCOMP_RET_TRAP), as the handler of SIGSYS finds it in the registers.

use libc::ucontext_t;

/// Has the handler do the call: `call` is given its six arguments and gives its result, or a negative errno.
///
/// # Safety
/// 1. `context` is the third argument of the running handler.
pub unsafe fn do_trapped(
    context: *mut libc::c_void,
    call: impl FnOnce([libc::c_long; 6]) -> libc::c_long,
) {
    // SAFETY: duty 1.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    let result = call(arguments(context));
    set_result(context, result);
}

#[cfg(target_arch = "x86_64")]
fn arguments(context: &ucontext_t) -> [libc::c_long; 6] {
    use libc::{REG_R8, REG_R9, REG_R10, REG_RDI, REG_RDX, REG_RSI};
    [REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9]
        .map(|register| context.uc_mcontext.gregs[register as usize])
}

#[cfg(target_arch = "x86_64")]
fn set_result(context: &mut ucontext_t, result: libc::c_long) {
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = result;
}

#[cfg(target_arch = "aarch64")]
fn arguments(context: &ucontext_t) -> [libc::c_long; 6] {
    std::array::from_fn(|register| context.uc_mcontext.regs[register] as libc::c_long)
}

#[cfg(target_arch = "aarch64")]
fn set_result(context: &mut ucontext_t, result: libc::c_long) {
    context.uc_mcontext.regs[0] = result as u64;
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn arguments(_context: &ucontext_t) -> [libc::c_long; 6] {
    panic!("this test needs to know the registers of a system call: add them here");
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn set_result(_context: &mut ucontext_t, _result: libc::c_long) {}
