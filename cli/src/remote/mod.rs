//! Commands for a process: one of its threads is stopped, carries out an operation of the allocator, and goes on where it was.
//!
//! Promises: the thread's registers, its signal mask and a system call that it sleeps in are as before; signals that come
//! meanwhile are delivered afterwards; a process that was stopped (SIGSTOP) stays stopped. The thread's stack is not used. A
//! thread inside a restartable sequence, of whichever library, goes on at the sequence's abort handler, as if it had been
//! preempted. If this command ends at any moment, even by SIGKILL, or is held up for some 100 ms, the thread finishes by itself; then the
//! only trace is that a sleep or poll that it was in returns EINTR. Unless it is dead, the command says so.
//!
//! A thread that does not stop (it is in uninterruptible sleep, or waits for its child of vfork) or must not be used (see
//! [`tracee::Tracee::begin`]) is left alone, and another is taken.

mod calls;
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "unknown.rs")]
pub mod registers;
pub mod sequence;
pub mod tracee;

use anyhow::{Result, anyhow, bail};
use rsalloc_core::internals::engine::command::{Operation, Refusal};
use rsalloc_core::internals::engine::settings::WAIT_SECONDS;
use std::time::Duration;
use tracee::{NoTracee, Tracee, Unusable};

/// Where a process runs commands, see `rsalloc_core::internals::engine::command`.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub entry: u64,
    pub entry_bytes: u64,
    pub area: u64,
    pub frame: u64,
    pub frame_bytes: u64,
}

/// Threads that are tried.
const THREADS_MAX: usize = 64;
/// How long a thread may take to stop, and to finish.
const STOP_LIMIT: Duration = Duration::from_millis(100);
/// The same of a thread that could run and has no processor, as on a busy machine.
const RUNNABLE_STOP_LIMIT: Duration = Duration::from_secs(2);
const FINISH_LIMIT: Duration = Duration::from_secs(10);
// Else the command gives up a thread that still waits for another one's change.
const _: () = assert!(2 * WAIT_SECONDS as u64 <= FINISH_LIMIT.as_secs());

/// Has process `pid` carry out `operation`; its answer. Takes a fraction of a millisecond, and what the operation takes.
pub fn command(pid: u32, place: &Place, operation: Operation, argument: usize) -> Result<u64> {
    let place = *place;
    // The kernel detaches what a thread has attached to when the thread ends, on whichever path.
    let worker =
        std::thread::spawn(move || attach_and_run(pid, &place, operation.word(), argument));
    let answer =
        worker.join().map_err(|_| anyhow!("the thread that traces process {pid} panicked"))??;
    match Refusal::of_answer(answer) {
        None => Ok(answer as u64),
        Some(refusal) => bail!(
            "process {pid}: {}",
            match refusal {
                Refusal::Busy => "the allocator was busy for too long; try again",
                Refusal::Unknown =>
                    "it runs another version of rsalloc, which does not know this command",
                Refusal::AtStartOnly => "this takes effect at the start only",
                Refusal::NoMemory => "the system refused the memory that this needs",
                Refusal::LeftOut => "it was built without the feature that this needs",
            }
        ),
    }
}

/// Attaches to a thread and has it run the command. The first thread that can be attached to stays attached until the end:
/// another command for the process finds it traced.
fn attach_and_run(pid: u32, place: &Place, operation: usize, argument: usize) -> Result<isize> {
    let (mut first, mut reasons) = (None, Vec::new());
    for tid in threads(pid)?.into_iter().take(THREADS_MAX) {
        let mut tracee = match Tracee::seize(pid, tid) {
            Ok(tracee) => tracee,
            Err(NoTracee::HasEnded) => continue,
            Err(NoTracee::Denied(why)) if first.is_none() => bail!("{why}"),
            Err(NoTracee::Denied(_)) => continue,
        };
        match tracee.run(place, operation, argument)? {
            Ok(answer) => return Ok(answer),
            Err(Unusable::HasEnded) => continue,
            Err(why) => {
                if !reasons.contains(&why) {
                    reasons.push(why);
                }
            }
        }
        match first {
            None => {
                tracee.let_run();
                first = Some(tracee);
            }
            Some(_) => tracee.detach(),
        }
    }
    match reasons.first() {
        None => bail!("process {pid} ended before it could be commanded"),
        Some(why) => bail!("process {pid}: {why}"),
    }
}

/// The ids of the threads, the first thread first.
fn threads(pid: u32) -> Result<Vec<i32>> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        bail!("there is no process {pid}")
    };
    let ids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    let mut ids: Vec<i32> = ids.collect();
    ids.sort_by_key(|&tid| (tid != pid as i32, tid));
    Ok(ids)
}

/// For tests of the tests: has vector registers forgotten.
#[cfg(test)]
#[allow(dead_code, reason = "`cargo test --test registers` uses it")]
pub mod planted {
    use std::sync::atomic::{AtomicBool, Ordering};

    pub static FORGETS_VECTORS: AtomicBool = AtomicBool::new(false);

    pub fn forgets_vectors() -> bool {
        FORGETS_VECTORS.load(Ordering::Relaxed) // Ordering: Relaxed, a word that stands alone.
    }
}
