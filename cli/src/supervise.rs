//! Running a program as a container's first process does: signals go to the program, its exit status comes back, and other
//! processes' remains are collected.

mod traced;

use anyhow::{Context, Result};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Left to their usual effect: what the kernel raises for an instruction or a limit of this process, what stops it (the
/// terminal stops the program too), and what cannot be had.
const KEPT: [i32; 13] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGKILL,
    libc::SIGSTOP,
];

/// The code of a signal that the kernel sent by itself, for a key or a hang-up of the terminal (asm-generic/siginfo.h).
const SI_KERNEL: i32 = 0x80;

/// Runs `command` to its end; the process's id and how it ended.
pub fn run(command: &mut Command) -> Result<(u32, ExitStatus)> {
    run_beside(command, |_| ())
}

/// As [`run`]. `started` is called with the process's id when the process is there; threads that it starts get no signals.
pub fn run_beside(command: &mut Command, started: impl FnOnce(u32)) -> Result<(u32, ExitStatus)> {
    // From before the program is there: none may be lost. `Command` gives the program an empty mask, without closures.
    let taken = take_signals();
    let child = command.spawn().context("cannot run the program")?.id() as libc::pid_t;
    started(child as u32);
    attend(child, &taken, &mut None)
}

/// The same, and shows `last_look` the process (by the id of a thread) when it ends, by whatever, while its memory is still
/// there; or, if that comes first, `after` so long a time.
pub fn run_and_look(
    command: &mut Command,
    after: Option<Duration>,
    last_look: &mut dyn FnMut(u32),
) -> Result<(u32, ExitStatus)> {
    let taken = take_signals();
    let child = traced::spawn(command)?;
    let due = after.map(|after| Instant::now() + after);
    attend(child, &taken, &mut Some(Look { due, last_look }))
}

/// A look at the program that is still to come.
struct Look<'a> {
    due: Option<Instant>,
    last_look: &'a mut dyn FnMut(u32),
}

fn attend(
    child: libc::pid_t,
    taken: &libc::sigset_t,
    look: &mut Option<Look<'_>>,
) -> Result<(u32, ExitStatus)> {
    loop {
        if let Some(status) = collect(child, look)? {
            return Ok((child as u32, status));
        }
        let due = look.as_ref().and_then(|look| look.due);
        let (signal, info) = wait_for_signal(taken, due);
        // A signal of the terminal comes to the program as well, which is in the same group.
        if signal > 0 && signal != libc::SIGCHLD && info.si_code != SI_KERNEL {
            // SAFETY: the child is not collected, so the id is its own.
            unsafe { libc::kill(child, signal) };
        }
        if due.is_some_and(|due| due <= Instant::now())
            && let Some(look) = look.take()
        {
            (look.last_look)(child as u32);
        }
    }
}

/// A signal of `taken`; none if `due` comes first.
fn wait_for_signal(taken: &libc::sigset_t, due: Option<Instant>) -> (i32, libc::siginfo_t) {
    // SAFETY: all live as long as the call; a null pointer waits without a limit.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let limit = due.map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            let mut limit: libc::timespec = std::mem::zeroed();
            (limit.tv_sec, limit.tv_nsec) = (left.as_secs() as i64, left.subsec_nanos().into());
            limit
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        (libc::sigtimedwait(taken, &raw mut info, limit), info)
    }
}

/// Blocks all signals that are to be passed on, and SIGCHLD.
fn take_signals() -> libc::sigset_t {
    // SAFETY: a live set; those of the kernel's numbers that libc keeps for itself are left out by it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        (1..=libc::SIGRTMAX()).filter(|signal| !KEPT.contains(signal)).for_each(|signal| {
            libc::sigaddset(&raw mut set, signal);
        });
        // A caller may have left it ignored, and ended children would vanish.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

/// Collects all children that have ended; the status of `child` if it is one of them. Lets traced threads that have stopped go
/// on.
fn collect(child: libc::pid_t, look: &mut Option<Look<'_>>) -> Result<Option<ExitStatus>> {
    let mut ended = None;
    loop {
        let mut status = 0;
        // SAFETY: a live word.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            0 => return Ok(ended),
            thread if thread > 0 && libc::WIFSTOPPED(status) => {
                let is_last = traced::is_at_end(status) && traced::is_last(child, thread);
                if is_last && let Some(look) = look.take() {
                    // The first thread may have ended before: then it has no memory any more, but this thread has.
                    (look.last_look)(thread as u32);
                }
                traced::let_go_on(thread, status);
            }
            pid if pid == child => ended = Some(ExitStatus::from_raw(status)),
            pid if pid > 0 => {}
            _ if ended.is_some() => return Ok(ended),
            _ => {
                return Err(std::io::Error::last_os_error()).context("cannot wait for the program");
            }
        }
    }
}
