//! clone(2) as libc wraps it, around which the engine keeps a child with memory in common away from sections that
//! the kernel does not protect.
//!
//! Promises what libc's does: the child runs `start(argument)` on its own stack and exits with what that returns.
//! A child with a copy of the memory, and any in the atomic mode, is libc's plain clone. libc's own children
//! (`pthread_create`, `posix_spawn`, `fork`) do not come here.
//!
//! The end of a child with memory in common is told by
//!
//! * its parent, which the kernel lets go on when the child has exited or execs (CLONE_VFORK);
//! * else the kernel, which clears a word of the engine's then (CLONE_CHILD_CLEARTID);
//! * else, if the program uses that word itself or too many children live, the child when `start` returns. If it
//!   does not return, the process stays on the atomic path.

use crate::arch::enter;
use crate::errno;
use core::ffi::{c_int, c_void};
use rsalloc_core::internals::engine::init;
use rsalloc_core::internals::rseq::abi::membarrier::expect_uncounted_tasks;
use rsalloc_core::internals::rseq::vfork::{begin, begin_watched, end, end_watched, leave};

/// What a child begins with.
pub type Start = extern "C" fn(*mut c_void) -> c_int;

/// What `clone` and `__clone` do, which are in `arch`.
///
/// # Safety
/// 1. As in clone(2): `stack` is the end of a stack of the child's own; the rest is what `flags` asks for.
pub unsafe extern "C" fn start_child(
    start: Option<Start>,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: *mut c_int,
    tls: *mut c_void,
    child_tid: *mut u32,
) -> c_int {
    let Some(start) = start.filter(|_| !stack.is_null()) else {
        errno::set(libc::EINVAL);
        return -1;
    };
    let make = |flags, child_tid, behind| {
        // SAFETY: the caller's duty.
        unsafe { enter(start, stack, flags, argument, parent_tid, tls, child_tid, behind) }
    };
    // Before it, the child's first object would start the engine, which no parent had told of the child.
    init::ensure();
    let result = if flags & libc::CLONE_VM == 0 {
        make(flags, child_tid, None)
    } else if flags & libc::CLONE_VFORK != 0 {
        begin();
        let result = make(flags, child_tid, None);
        end();
        result
    } else {
        // Before the task starts: libc's count of threads does not have it.
        expect_uncounted_tasks();
        make_beside(flags, child_tid, make)
    };
    if result < 0 {
        errno::set(-result as c_int);
        return -1;
    }
    result as c_int
}

/// Makes a child that runs beside its parent.
fn make_beside(
    flags: c_int,
    child_tid: *mut u32,
    make: impl Fn(c_int, *mut u32, Option<extern "C" fn()>) -> isize,
) -> isize {
    // The word that the kernel clears at a child's end, if the program has none of its own.
    let is_free = flags & (libc::CLONE_CHILD_CLEARTID | libc::CLONE_CHILD_SETTID) == 0;
    if let Some(word) = is_free.then(begin_watched).flatten() {
        let result = make(flags | libc::CLONE_CHILD_CLEARTID, word.as_ptr(), None);
        if result < 0 {
            end_watched(word);
        }
        result
    } else {
        begin();
        let result = make(flags, child_tid, Some(leave_for_c as extern "C" fn()));
        if result < 0 {
            end();
        }
        result
    }
}

/// The child's last act before it exits: nothing may run on top of it that allocates.
extern "C" fn leave_for_c() {
    let all = u64::MAX;
    let arguments =
        [libc::SIG_SETMASK as usize, &raw const all as usize, 0, size_of_val(&all), 0, 0];
    // Not libc's function, for which the child may have no errno.
    // SAFETY: `all` is a signal set of 8 bytes.
    unsafe { rsalloc_core::internals::arch::syscall(libc::SYS_rt_sigprocmask as usize, arguments) };
    leave();
}
