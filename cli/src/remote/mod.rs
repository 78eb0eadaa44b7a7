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
use std::time::{Duration, Instant};
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
/// For how long a process is asked again whose locks are busy. Many time slices: a holder that was preempted releases meanwhile.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// Between two of these attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Has process `pid` carry out `operation`; its answer. Takes a fraction of a millisecond, and what the operation takes; up to two
/// seconds if the allocator's locks are busy.
pub fn command(pid: u32, place: &Place, operation: Operation, argument: usize) -> Result<u64> {
    let answer = retry_while_busy(BUSY_LIMIT, || attempt(pid, *place, operation.word(), argument))?;
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

/// Repeats `attempt` for up to `limit` while its answer is [`Refusal::Busy`]; the last answer.
fn retry_while_busy(limit: Duration, mut attempt: impl FnMut() -> Result<isize>) -> Result<isize> {
    let begin = Instant::now();
    loop {
        let answer = attempt()?;
        if answer != Refusal::Busy as isize || begin.elapsed() >= limit {
            return Ok(answer);
        }
        std::thread::sleep(BUSY_PAUSE);
    }
}

fn attempt(pid: u32, place: Place, operation: usize, argument: usize) -> Result<isize> {
    // The kernel detaches what a thread has attached to when the thread ends, on whichever path.
    let worker = std::thread::spawn(move || attach_and_run(pid, &place, operation, argument));
    worker.join().map_err(|_| anyhow!("the thread that traces process {pid} panicked"))?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_is_asked_again_for_a_while() {
        const BUSY: isize = Refusal::Busy as isize;
        let mut answers = [BUSY, BUSY, 4096].into_iter();
        let answer = retry_while_busy(BUSY_LIMIT, || Ok(answers.next().unwrap()));
        assert_eq!(answer.unwrap(), 4096);
        let mut attempts = 0;
        let mut count = |answer: isize| {
            attempts += 1;
            Ok(answer)
        };
        assert_eq!(retry_while_busy(3 * BUSY_PAUSE, || count(BUSY)).unwrap(), BUSY);
        assert_eq!(retry_while_busy(BUSY_LIMIT, || count(Refusal::Unknown as isize)).unwrap(), -1);
        assert!((2..=5).contains(&attempts), "{attempts}");
    }
}
