//! Running a program as a container's first process does: signals go to the program, its exit status comes back, and other
//! processes' remains are collected.

use anyhow::{Context, Result};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

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
    // From before the program is there: none may be lost. `Command` gives the program an empty mask.
    let taken = take_signals();
    let child = command.spawn().context("cannot run the program")?.id() as libc::pid_t;
    started(child as u32);
    loop {
        if let Some(status) = collect(child)? {
            return Ok((child as u32, status));
        }
        // SAFETY: both live as long as the call.
        let (signal, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::sigwaitinfo(&raw const taken, &raw mut info), info)
        };
        // A signal of the terminal comes to the program as well, which is in the same group.
        if signal > 0 && signal != libc::SIGCHLD && info.si_code != SI_KERNEL {
            // SAFETY: the child is not collected, so the id is its own.
            unsafe { libc::kill(child, signal) };
        }
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

/// Collects all children that have ended; the status of `child` if it is one of them.
fn collect(child: libc::pid_t) -> Result<Option<ExitStatus>> {
    let mut ended = None;
    loop {
        let mut status = 0;
        // SAFETY: a live word.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            0 => return Ok(ended),
            pid if pid == child => ended = Some(ExitStatus::from_raw(status)),
            pid if pid > 0 => {}
            _ if ended.is_some() => return Ok(ended),
            _ => {
                return Err(std::io::Error::last_os_error()).context("cannot wait for the program");
            }
        }
    }
}
