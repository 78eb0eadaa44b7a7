//! A program under ptrace(2), so that its memory can be read when it ends: by `exit`, `_exit` or a signal, whatever it has
//! closed, and whatever file system it sees.
//!
//! Only the program's first thread is traced, and it stops for nothing but signals and its end; if it ends before other threads
//! do, those that remain are traced. What the program starts is not. Should this command be killed, the program goes on.

use anyhow::{Context, Result, anyhow, bail};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long threads of a process that ends may take to end; one that takes longer is traced and waited for.
const END_LIMIT: Duration = Duration::from_millis(20);
const PTRACE_EVENT_STOP: i32 = 128;

/// Starts `command`, traced from before its first instruction.
pub fn spawn(command: &mut Command) -> Result<libc::pid_t> {
    let (mut says, mut tells) = std::io::pipe().context("cannot make a pipe")?;
    let (mut hears, mut allows) = std::io::pipe().context("cannot make a pipe")?;
    let mut fails = tells.try_clone().context("cannot make a pipe")?;
    // SAFETY: between fork and exec the child calls getpid, write, read and functions of its mask only, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // `Command` does that where it starts a program without a closure only.
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            tells.write_all(&libc::getpid().to_ne_bytes())?;
            let mut answer = [0];
            hears.read_exact(&mut answer)?;
            if answer == GO { Ok(()) } else { Err(std::io::ErrorKind::PermissionDenied.into()) }
        });
    }
    // The child waits before it becomes the program, so `spawn` does too, on another thread: this one traces it.
    std::thread::scope(|scope| {
        let spawned = scope.spawn(|| {
            let spawned = command.spawn();
            if spawned.is_err() {
                let _ = fails.write_all(&NO_CHILD.to_ne_bytes());
            }
            spawned
        });
        let mut pid = [0; 4];
        says.read_exact(&mut pid).context("cannot run the program")?;
        let seized = match i32::from_ne_bytes(pid) {
            NO_CHILD => Ok(()),
            pid => seize(pid),
        };
        allows
            .write_all(if seized.is_ok() { &GO } else { &STAY })
            .context("cannot run the program")?;
        let child = spawned.join().map_err(|_| anyhow!("cannot run the program"))?;
        if let Err(why) = seized {
            bail!(
                "cannot trace the program to read it at its end ({why}): start it with `run`, and profile it by its PID"
            );
        }
        Ok(child.context("cannot run the program")?.id() as libc::pid_t)
    })
}

/// What the child is told, and what is said instead of its id if there is none.
const GO: [u8; 1] = [1];
const STAY: [u8; 1] = [0];
const NO_CHILD: libc::pid_t = 0;

fn seize(thread: libc::pid_t) -> std::io::Result<()> {
    ptrace(libc::PTRACE_SEIZE, thread, libc::PTRACE_O_TRACEEXIT as usize)
}

/// Whether a thread stopped because it ends.
pub fn is_at_end(status: i32) -> bool {
    status >> 16 == libc::PTRACE_EVENT_EXIT
}

/// Whether `thread`, which ends, is the last one of process `pid`. Traces the others if it is not.
pub fn is_last(pid: libc::pid_t, thread: libc::pid_t) -> bool {
    let begin = Instant::now();
    loop {
        let others = running(pid, thread);
        if others.is_empty() {
            return true;
        }
        if begin.elapsed() > END_LIMIT {
            // One that is traced already cannot be again.
            return others.into_iter().all(|other| {
                seize(other).is_err_and(|why| why.raw_os_error() != Some(libc::EPERM))
            });
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Threads of process `pid`, but for `thread`, that have not ended.
fn running(pid: libc::pid_t, thread: libc::pid_t) -> Vec<libc::pid_t> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let others = tasks.flatten().filter_map(|task| {
        let id = task.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        // The state stands behind the name, which may hold anything.
        let state = stat.rsplit(") ").next()?.chars().next()?;
        (id != thread && !matches!(state, 'Z' | 'X')).then_some(id)
    });
    others.collect()
}

/// Has a thread that stopped go on as without a tracer.
pub fn let_go_on(thread: libc::pid_t, status: i32) {
    let signal = libc::WSTOPSIG(status);
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    // An error means that it was killed meanwhile.
    let _ = match status >> 16 {
        // The process is stopped: it stays so until SIGCONT.
        PTRACE_EVENT_STOP if stops.contains(&signal) => ptrace(libc::PTRACE_LISTEN, thread, 0),
        0 => ptrace(libc::PTRACE_CONT, thread, signal as usize),
        _ => ptrace(libc::PTRACE_CONT, thread, 0),
    };
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t, data: usize) -> std::io::Result<()> {
    // SAFETY: none of the requests used here reads or writes this process's memory.
    let done = unsafe { libc::ptrace(request, thread, std::ptr::null_mut::<u8>(), data) };
    if done == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
