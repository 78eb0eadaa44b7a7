//! Whether this kernel aborts sections at all.
//!
//! Linux 6.19 to 7.0.13 does not on arm64: it looks for a section only if the thread came into the kernel by an interrupt from
//! user space, and arm64's entry code never said so (include/linux/rseq.h, `user_irq`; mended in 7.0.14 and 7.2). Then neither
//! preemption on the same CPU nor a signal aborts a section, and two threads would be handed the same object.
//!
//! Since 7.1 a registration of 32 bytes is of another kind than a longer one (include/linux/rseq.h, `rseq_v2`): signals abort its sections on
//! any kernel, preemption only where that is noted. So the trial has a longer one: a thread with one of 32 bytes is registered with an
//! area of the trial's meanwhile.
//!
//! Kernels before that are trusted by their version, if what they fill of the area is as old (a tracer may fake the version). On all
//! others a timer's signal is made to interrupt a section, [`ROUNDS`] times: if one of them is not aborted, or nothing could
//! be tried, there are no sections. Some 0.3 ms, once in each process.

use super::syscall;
use crate::arch::kernel_version;
use crate::arch::sections::{area_at, area_offset};
use crate::rseq::abi::{self, AREA_LEN, Area, RseqError};
use core::arch::naked_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Sections that a signal has to abort, so that no chance is taken for a rule.
const ROUNDS: usize = 4;
/// Sections that are begun for that: where a signal came before its section, the next one comes later.
const ATTEMPTS: usize = 16;
/// A debugger passes this signal on silently, and by default it does nothing. A program that handles it keeps it: nothing is tried
/// then. (Go's runtime preempts threads by it.)
const SIGNAL: i32 = libc::SIGURG;
/// AT_RSEQ_FEATURE_SIZE of the auxiliary vector, and the largest that kernels before 7.0 say.
const FEATURE_SIZE: (libc::c_ulong, libc::c_ulong) = (27, 28);
/// From the timer's start to the signal; doubled where that is too soon.
const DELAY_NS: i64 = 20_000;
/// How long a section waits for the signal, in turns of its loop: 40 ms or more.
const TURNS: usize = 1 << 27;

/// Whether a section of a thread that uses the area in use is aborted by signals and preemption. For init.
pub fn are_aborted() -> bool {
    is_trusted() || is_seen().unwrap_or(false)
}

/// Whether the kernel's version says that sections are aborted, and the area's features do not say otherwise.
fn is_trusted() -> bool {
    let (key, features_max) = FEATURE_SIZE;
    // SAFETY: reads libc's copy of the vector; init restores errno.
    if unsafe { libc::getauxval(key) } > features_max {
        return false;
    }
    kernel_version().is_some_and(is_before_6_19)
}

/// Whether a kernel is of 3 to 6.18.
fn is_before_6_19(version: (u32, u32)) -> bool {
    version < (6, 19)
}

/// `struct sigaction` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

/// `struct sigevent` of the kernel.
#[repr(C)]
struct Event {
    value: usize,
    signal: i32,
    notify: i32,
    thread: i32,
    unused: [i32; 11],
}

/// Whether the section was interrupted.
static INTERRUPTED: AtomicU32 = AtomicU32::new(0);

/// The part of the kernel's `siginfo_t` that a timer's signal has.
#[repr(C)]
struct TimerInfo {
    signal: i32,
    errno: i32,
    code: i32,
    unused: i32,
    timer: i32,
    overrun: i32,
    value: usize,
}

/// `si_code` of a timer's signal (include/uapi/asm-generic/siginfo.h).
const SI_TIMER: i32 = -2;

/// Another thread's or process's signal of this number is ignored, as it would be by default.
unsafe extern "C" fn on_signal(_: i32, info: &TimerInfo) {
    if info.code == SI_TIMER && info.value == (&raw const INTERRUPTED).addr() {
        // Ordering: Relaxed, for the thread that is interrupted.
        INTERRUPTED.store(1, Ordering::Relaxed);
    }
}

/// Has signals interrupt sections: whether all of them were aborted. None if that could not be tried.
fn is_seen() -> Option<bool> {
    let call = |number: libc::c_long, args: [usize; 4]| {
        let [a, b, c, d] = args;
        // SAFETY: each call below is given what it takes, and has no other effects than on this thread's mask, the timer made
        // here, and the signal's action, which is put back.
        let result = unsafe { syscall(number as usize, [a, b, c, d, 0, 0]) };
        (result >= 0).then_some(result as usize)
    };
    const MASK_BYTES: usize = size_of::<u64>();
    // No other signal may abort the section: all are blocked but this one.
    let (mask, mut old_mask) = (!(1u64 << (SIGNAL - 1)), 0u64);
    call(
        libc::SYS_rt_sigprocmask,
        [
            libc::SIG_SETMASK as usize,
            &raw const mask as usize,
            &raw mut old_mask as usize,
            MASK_BYTES,
        ],
    )?;
    let action = Action {
        handler: on_signal as unsafe extern "C" fn(i32, &TimerInfo) as usize,
        // On the alternate stack, which threads with small stacks have for handlers of others.
        flags: (libc::SA_RESTART | libc::SA_ONSTACK | libc::SA_SIGINFO) as u64,
        restorer: 0,
        mask: u64::MAX,
    };
    let mut old_action = action;
    let set = |action: &Action, old: *mut Action| {
        call(
            libc::SYS_rt_sigaction,
            [SIGNAL as usize, core::ptr::from_ref(action) as usize, old as usize, MASK_BYTES],
        )
    };
    let is_seen = set(&action, &raw mut old_action).and_then(|_| {
        let is_free = [libc::SIG_DFL, libc::SIG_IGN].contains(&old_action.handler);
        let try_in = |area| are_rounds_aborted(area, &call);
        let seen = if is_free { with_long_area(try_in) } else { None };
        set(&old_action, core::ptr::null_mut());
        seen
    });
    call(
        libc::SYS_rt_sigprocmask,
        [libc::SIG_SETMASK as usize, &raw const old_mask as usize, 0, MASK_BYTES],
    )?;
    is_seen
}

/// Bytes of the trial's area and its alignment: more than 32, and not less than any kernel fills.
const LONG_BYTES: usize = 256;

#[repr(C, align(256))]
struct LongArea([AtomicU64; LONG_BYTES / 8]);

/// The kernel writes to it while it is registered.
static LONG_AREA: LongArea = LongArea([const { AtomicU64::new(0) }; LONG_BYTES / 8]);

/// Calls `try_in` with an area that is registered for this thread and longer than 32 bytes, if the kernel takes such. Afterwards the thread's
/// own is registered as before; where the kernel refuses that, the process takes the atomic path. None if that cannot be had. All signals but the trial's are blocked.
fn with_long_area(try_in: impl Fn(*mut Area) -> Option<bool>) -> Option<bool> {
    // Ordering: Relaxed, set by this thread, in init.
    let own = area_at(area_offset().load(Ordering::Relaxed));
    // SAFETY: this thread is in no section, and below the area is registered again, or the process has no sections.
    match unsafe { abi::unregister(own, AREA_LEN) } {
        Ok(()) => {}
        // It was registered with another length.
        Err(RseqError::Invalid) => return try_in(own),
        Err(_) => return None,
    }
    let long = (&raw const LONG_AREA).cast_mut().cast::<Area>();
    // SAFETY: a static of that length, of whose kind all fields are atomic.
    let registered = unsafe { abi::register(long, LONG_BYTES as u32) };
    let seen = match registered {
        Ok(()) => try_in(long),
        Err(_) => None,
    };
    if registered.is_ok() {
        // SAFETY: registered above; the section is over. Where it is refused, so is the next call.
        let _ = unsafe { abi::unregister(long, LONG_BYTES as u32) };
    }
    // SAFETY: as it was when it was taken from this thread.
    unsafe { abi::register(own, AREA_LEN) }.ok()?;
    match registered {
        // Before Linux 6.3, which one says that claims to be another, all areas have 32 bytes.
        Err(RseqError::Invalid) => try_in(own),
        _ => seen,
    }
}

fn are_rounds_aborted(
    area: *mut Area,
    call: &impl Fn(libc::c_long, [usize; 4]) -> Option<usize>,
) -> Option<bool> {
    let thread = call(libc::SYS_gettid, [0; 4])? as i32;
    let value = (&raw const INTERRUPTED).addr();
    let notify = libc::SIGEV_THREAD_ID;
    let event = Event { value, signal: SIGNAL, notify, thread, unused: [0; 11] };
    let mut timer = 0i32;
    call(
        libc::SYS_timer_create,
        [libc::CLOCK_MONOTONIC as usize, &raw const event as usize, &raw mut timer as usize, 0],
    )?;
    let (mut delay, mut aborted, mut is_one_left) = (DELAY_NS, 0, false);
    for _ in 0..ATTEMPTS {
        // Ordering: Relaxed, for this thread's handler.
        INTERRUPTED.store(0, Ordering::Relaxed);
        // Interval, then value: seconds and nanoseconds of each.
        let once = [0, 0, 0, delay];
        call(libc::SYS_timer_settime, [timer as usize, 0, once.as_ptr() as usize, 0])?;
        match spin(TURNS, &INTERRUPTED, area) {
            ABORTED => aborted += 1,
            TOO_SOON => delay *= 2,
            _ => is_one_left = true,
        }
        if is_one_left || aborted == ROUNDS {
            break;
        }
    }
    call(libc::SYS_timer_delete, [timer as usize, 0, 0, 0])?;
    Some(!is_one_left && aborted == ROUNDS)
}

/// What [`spin`] returns of a section that was aborted.
const ABORTED: u32 = 1;
/// Of one that the signal came before.
const TOO_SOON: u32 = 2;

/// A section that does nothing but wait, until the word is not 0 or `turns` are over: 0 if it was not aborted. `area` is the one that is
/// registered for this thread. The descriptor is not among those of the operations.
#[unsafe(naked)]
extern "C" fn spin(turns: usize, word: &AtomicU32, area: *mut Area) -> u32 {
    naked_asm!(
        ".cfi_startproc",
        ".pushsection .data.rel.ro.rsalloc_self_test, \"aw\", @progbits",
        ".balign 32",
        "77: .long 0, 0",
        ".quad 10f, 20f - 10f, 30f",
        ".popsection",
        "hint #34",
        "adrp x11, 77b",
        "add x11, x11, :lo12:77b",
        "str x11, [x2, #8]", // area.rseq_cs = descriptor (S1)
        "10:",
        "ldr w13, [x1]",
        "cbnz w13, 14f",
        "12: ldr w13, [x1]",
        "cbnz w13, 13f",
        "subs x0, x0, #1",
        "b.ne 12b",
        "13: mov w0, wzr",
        "20: ret",
        "14: mov w0, {too_soon}",
        "ret",
        crate::__rsalloc_text!(abort),
        "mov w0, {aborted}",
        "ret",
        ".cfi_endproc",
        aborted = const ABORTED,
        too_soon = const TOO_SOON,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_the_fault_are_trusted_and_all_others_are_tried() {
        assert!([(4, 18), (6, 1), (6, 18)].into_iter().all(is_before_6_19));
        assert!(![(6, 19), (6, 20), (7, 0), (7, 2), (10, 1)].into_iter().any(is_before_6_19));
    }
}
