//! The handler of SIGSEGV that names a fault in the guarded pool.
//!
//! Promises: installed only with the pool; writes one line and lets the fault happen again without a
//! handler, so the process dies of SIGSEGV at the instruction that did it. Any other fault goes to the
//! handler that was there before, or does what it did. Async-signal-safe: a line on the stack, system calls.
//!
//! I1. `PREVIOUS` is written before the handler is installed and never again, nor is it the handler itself.

use super::{LIVE, POOL, SLOTS, UNUSED, owns, page_of, slot_at};
use crate::arch::{Access, fault_access};
use crate::atomic::Ordering;
use crate::fail::{Line, Misuse};
use crate::os;
use crate::profile::{self, layout::FRAMES_MAX};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use libc::{c_int, c_void, siginfo_t};

struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: I1.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::zeroed()));

type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Installs the handler in front of the one that is there. Does nothing the second time, in the child of a fork that came before
/// the pool was known.
pub fn install() {
    // SAFETY: zero is a valid sigaction; I1; the handler lives for ever.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(libc::SIGSEGV, core::ptr::null(), &mut action) != 0
            || action.sa_sigaction == on_fault as Handler as usize
        {
            return;
        }
        (*PREVIOUS.0.get()).write(action);
        action.sa_sigaction = on_fault as Handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
    }
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over a valid siginfo; the address is meaningful if the kernel made the signal.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code > 0 && owns(address) {
        // SAFETY: the kernel hands over the interrupted context, of a fault by its code.
        let access = unsafe { access(context) };
        describe(address, access).write_to_stderr();
        show_stacks(address);
        die_by_default();
    } else {
        pass_on(signal, info, context, code);
    }
}

/// The line for a fault at `address`, which the pool owns.
fn describe(address: usize, access: &str) -> Line {
    let (slot, what) = classify(address);
    let slot = &POOL[slot];
    // Ordering: Relaxed, a report about a program that has lost its way.
    let (object, size) = (slot.object.load(Ordering::Relaxed), slot.size.load(Ordering::Relaxed));
    let mut line = Line::new();
    line.text("rsalloc: ");
    match what {
        Misuse::UseAfterFree => line.text(what.text()).text(" (").text(access).text(")"),
        _ => line.text(access).text(match what {
            Misuse::PastEnd => " past the end of an object",
            _ => " before the start of an object",
        }),
    };
    line.text(": 0x").hex(address).text(", object of ").decimal(size);
    line.text(" bytes at 0x").hex(object).text("\n");
    line
}

/// The stacks of the object's allocation and of its free, a line for each frame: its module, and the place in that.
fn show_stacks(address: usize) {
    let slot = &POOL[classify(address).0];
    // Ordering: Relaxed, as in `describe`.
    let numbers = [&slot.allocated_by, &slot.freed_by].map(|stack| stack.load(Ordering::Relaxed));
    for (what, number) in ["allocated by", "freed by"].into_iter().zip(numbers) {
        let mut frames = [0; FRAMES_MAX];
        let count = profile::frames_of(number, &mut frames);
        for &frame in &frames[..count] {
            profile::unwind::describe(what, frame).write_to_stderr();
        }
    }
}

/// The slot that a fault belongs to, and what was done.
fn classify(address: usize) -> (usize, Misuse) {
    if let Some(slot) = slot_at(address) {
        return (slot, Misuse::UseAfterFree);
    }
    // A sealed page: the nearest live object is meant, or the nearest freed one.
    let right = (address + os::page_bytes() - page_of(0)) / (2 * os::page_bytes());
    let candidates = [(right.wrapping_sub(1), Misuse::PastEnd), (right, Misuse::BeforeStart)];
    let known = candidates.into_iter().filter(|&(slot, _)| slot < SLOTS);
    let distance = |slot: usize, what: Misuse| {
        let slot = &POOL[slot];
        // Ordering: Relaxed, as in `describe`.
        let state = slot.state.load(Ordering::Relaxed);
        let object = slot.object.load(Ordering::Relaxed); // Ordering: Relaxed, as above.
        let size = slot.size.load(Ordering::Relaxed); // Ordering: Relaxed, as above.
        let bytes = match what {
            Misuse::PastEnd => address.wrapping_sub(object + size),
            _ => object.wrapping_sub(address),
        };
        (state == UNUSED, state != LIVE, bytes)
    };
    known.min_by_key(|&(slot, what)| distance(slot, what)).unwrap_or((0, Misuse::BeforeStart))
}

/// The word for what the program did.
///
/// # Safety
/// 1. `context` is the third argument of the running SA_SIGINFO handler, for a page fault.
unsafe fn access(context: *mut c_void) -> &'static str {
    // SAFETY: duty 1.
    match unsafe { fault_access(context) } {
        Access::Read => "read",
        Access::Write => "write",
        Access::Unknown => "access",
    }
}

/// After the return the fault happens again, with no handler.
fn die_by_default() {
    // SAFETY: zero is a valid sigaction: SIG_DFL.
    unsafe {
        let action: libc::sigaction = core::mem::zeroed();
        libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
    }
}

/// What would have happened without us.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void, code: c_int) {
    // SAFETY: I1.
    let previous = unsafe { (*PREVIOUS.0.get()).assume_init_ref() };
    match previous.sa_sigaction {
        libc::SIG_IGN if code <= 0 => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            die_by_default();
            if code <= 0 {
                // Sent, not a fault: it does not come again by itself. Blocked until the return.
                // SAFETY: no preconditions.
                unsafe { libc::raise(signal) };
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: installed by the program as such a handler.
            unsafe { core::mem::transmute::<usize, Handler>(handler)(signal, info, context) };
        }
        handler => {
            // SAFETY: as above.
            unsafe { core::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a fault that is none of ours is passed on to ourselves, for ever.
    #[test]
    fn a_handler_that_is_installed_twice_is_not_its_own_predecessor() {
        // SAFETY: plain calls; the child ends here.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                install();
                install();
                let previous = (*PREVIOUS.0.get()).assume_init_ref().sa_sigaction;
                libc::_exit(i32::from(previous == on_fault as Handler as usize));
            }
            let mut status = 0;
            assert_eq!((libc::waitpid(child, &raw mut status, 0), status), (child, 0));
        }
    }
}
