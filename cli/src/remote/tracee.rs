//! A thread of another process, under ptrace(2).

use super::calls::{ptrace, ptrace_get};
use super::registers::{self, Saved};
use super::{FINISH_LIMIT, Place, RUNNABLE_STOP_LIMIT, STOP_LIMIT};
use anyhow::{Result, bail};
use libc::{c_int, c_void};
use rsalloc_core::internals::engine::command::FREE;
use std::io::Error;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// A thread that this thread traces. It is detached when this thread ends.
pub struct Tracee {
    pid: u32,
    pub(super) tid: i32,
    is_stopped: bool,
}

/// Why a thread cannot be attached to.
pub enum NoTracee {
    HasEnded,
    /// A line for the user.
    Denied(String),
}

/// Why a thread is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    HasEnded,
    DoesNotStop,
    IsAtCommand,
    Has32Bits,
    HasNoThreadPointer,
    MayBeInSection,
    #[cfg(target_arch = "aarch64")]
    IsStreaming,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unusable::HasEnded => "the thread has ended",
            Unusable::DoesNotStop => {
                "no thread could be stopped (uninterruptible sleep, or waiting for a child of vfork); try again"
            }
            Unusable::IsAtCommand => "another command is under way there; try again",
            Unusable::Has32Bits => "it runs 32-bit code, which is not supported",
            Unusable::HasNoThreadPointer => {
                "no thread has thread-local storage yet; try again"
            }
            Unusable::MayBeInSection => {
                "no thread is in a system call, and this kernel (before 5.13) does not say where restartable sequences are; try again"
            }
            #[cfg(target_arch = "aarch64")]
            Unusable::IsStreaming => "no thread is outside of streaming mode (SME); try again",
        })
    }
}

/// What a thread was waited for to do.
enum Event {
    /// It stopped as it was told to, or with its process.
    Stopped,
    /// It is about to get this signal.
    Signal(c_int),
    /// It is at the begin or the end of a system call, as it was told to stop.
    AtSystemCall,
    HasEnded,
}

const PTRACE_EVENT_STOP: c_int = 128;
/// PTRACE_O_TRACESYSGOOD.
const SYSTEM_CALL: c_int = libc::SIGTRAP | 0x80;
/// Sent by the thread's own instructions: blocked, they would end the process.
const FAULTS: [c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

impl Tracee {
    /// Attaches to a thread, which runs on.
    pub fn seize(pid: u32, tid: i32) -> Result<Self, NoTracee> {
        if ptrace(libc::PTRACE_SEIZE, tid, 0, libc::PTRACE_O_TRACESYSGOOD as usize).is_ok() {
            return Ok(Tracee { pid, tid, is_stopped: false });
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status"));
        let status = status.map_err(|_| NoTracee::HasEnded)?;
        let field = |name: &str| {
            status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        if field("State:").is_some_and(|state| state.starts_with(['Z', 'X'])) {
            return Err(NoTracee::HasEnded);
        }
        Err(NoTracee::Denied(match field("TracerPid:").as_deref() {
            None | Some("0") => {
                format!("may not change process {pid}: ask as its user or as root (ptrace rules)")
            }
            Some(tracer) => format!(
                "process {pid} is traced by process {tracer} (a debugger, or another command): try again when that has ended"
            ),
        }))
    }

    /// Stops the thread and has it run a command.
    pub fn run(
        &mut self,
        place: &Place,
        operation: usize,
        argument: usize,
    ) -> Result<Result<isize, Unusable>> {
        if let Err(why) = self.stop() {
            return Ok(Err(why));
        }
        let answer = self.run_stopped(place, operation, argument)?;
        if answer.is_ok() {
            self.detach();
        }
        Ok(answer)
    }

    /// As [`Tracee::run`], where the thread is stopped already; it stays so.
    pub fn run_stopped(
        &mut self,
        place: &Place,
        operation: usize,
        argument: usize,
    ) -> Result<Result<isize, Unusable>> {
        match self.begin(place, operation, argument)? {
            Ok(saved) => Ok(Ok(self.finish(place, saved)?)),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Has the stopped thread run one instruction more, and stop again; where it is then. None if it has ended.
    #[cfg(test)]
    #[allow(dead_code, reason = "for the sweep of `cargo test --test remote`")]
    pub fn step(&mut self) -> Option<u64> {
        ptrace(libc::PTRACE_SINGLESTEP, self.tid, 0, 0).ok()?;
        loop {
            match self.wait() {
                Some(Event::HasEnded) => return None,
                Some(_) => return registers::instruction(self.tid).ok(),
                None => std::hint::spin_loop(),
            }
        }
    }

    /// Has the thread begin a command and leaves it alone with it, as a command does that is killed.
    #[cfg(test)]
    #[allow(dead_code, reason = "for `cargo test --test registers`")]
    pub fn begin_and_leave(
        mut self,
        place: &Place,
        operation: usize,
        argument: usize,
    ) -> Result<Result<(), Unusable>> {
        if let Err(why) = self.stop() {
            return Ok(Err(why));
        }
        Ok(self.begin(place, operation, argument)?.map(drop))
    }

    /// Stops the thread, which runs.
    pub fn stop(&mut self) -> Result<(), Unusable> {
        let _ = ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0);
        self.wait_for_stop()
    }

    /// After one PTRACE_INTERRUPT: a second one could stop the thread once more when it goes on.
    fn wait_for_stop(&mut self) -> Result<(), Unusable> {
        let begin = Instant::now();
        loop {
            match self.wait() {
                Some(Event::Stopped) => {
                    self.is_stopped = true;
                    return Ok(());
                }
                Some(Event::Signal(signal)) => self.go_on(signal),
                Some(Event::AtSystemCall) => self.go_on(0),
                Some(Event::HasEnded) => return Err(Unusable::HasEnded),
                None if begin.elapsed() > STOP_LIMIT && begin.elapsed() > self.stop_limit() => {
                    return Err(Unusable::DoesNotStop);
                }
                None => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// How long the thread may take to stop: longer if it only waits for a processor.
    fn stop_limit(&self) -> Duration {
        let stat = std::fs::read(format!("/proc/{}/task/{}/stat", self.pid, self.tid));
        let stat = stat.unwrap_or_default();
        // The name before may hold anything (proc_pid_stat(5)).
        let name_end = stat.iter().rposition(|&byte| byte == b')').unwrap_or(0);
        if stat[name_end..].starts_with(b") R") { RUNNABLE_STOP_LIMIT } else { STOP_LIMIT }
    }

    /// Has the stopped thread begin its next instruction, a system call, and stops it in there.
    #[cfg(target_arch = "aarch64")]
    pub(super) fn enter_system_call(&mut self) -> Result<(), Unusable> {
        self.is_stopped = false;
        let _ = ptrace(libc::PTRACE_SYSCALL, self.tid, 0, 0);
        let begin = Instant::now();
        loop {
            match self.wait() {
                Some(Event::AtSystemCall) => break,
                Some(Event::Stopped) => drop(ptrace(libc::PTRACE_SYSCALL, self.tid, 0, 0)),
                Some(Event::Signal(signal)) => {
                    drop(ptrace(libc::PTRACE_SYSCALL, self.tid, 0, signal as usize));
                }
                Some(Event::HasEnded) => return Err(Unusable::HasEnded),
                None if begin.elapsed() > STOP_LIMIT && begin.elapsed() > self.stop_limit() => {
                    return Err(Unusable::DoesNotStop);
                }
                None => std::thread::sleep(Duration::from_micros(20)),
            }
        }
        let _ = ptrace(libc::PTRACE_INTERRUPT, self.tid, 0, 0);
        self.go_on(0);
        self.wait_for_stop()
    }

    /// Has the stopped thread begin a command; what it was at.
    fn begin(
        &mut self,
        place: &Place,
        operation: usize,
        argument: usize,
    ) -> Result<Result<Saved, Unusable>> {
        let mut saved = match Saved::of(self, place)? {
            Ok(saved) => saved,
            Err(why) => return Ok(Err(why)),
        };
        #[cfg(test)]
        if super::planted::forgets_vectors() {
            saved.forget_vectors();
        }
        let (state, answers) = self.state(place)?;
        if state != FREE {
            return Ok(Err(Unusable::IsAtCommand));
        }
        saved.answers = answers;
        ptrace_get(libc::PTRACE_GETSIGMASK, self.tid, size_of::<u64>(), &mut saved.signal_mask)?;
        self.write(place.frame, &saved.frame(place))?;
        saved.enter(self.tid, place, operation, argument)?;
        // From here on the thread can finish alone, and puts this mask back.
        let faults = FAULTS.iter().fold(0, |mask, signal| mask | 1 << (signal - 1));
        self.set_signal_mask(!faults)?;
        self.go_on(0);
        Ok(Ok(saved))
    }

    /// Waits for the answer and restores the thread.
    fn finish(&mut self, place: &Place, mut saved: Saved) -> Result<isize> {
        let (begin, pid) = (Instant::now(), self.pid);
        let mut pause = Duration::from_micros(20);
        while self.state(place)?.1 == saved.answers {
            match self.wait() {
                None => {}
                Some(Event::HasEnded) => bail!("process {pid} ended meanwhile"),
                Some(Event::Stopped | Event::AtSystemCall) => {
                    self.forget_restart(&mut saved);
                    self.go_on(0);
                }
                Some(Event::Signal(signal)) if self.catches(signal) => {
                    self.forget_restart(&mut saved);
                    self.go_on(signal);
                }
                Some(Event::Signal(signal)) => {
                    self.restore(place, &saved)?;
                    bail!(
                        "process {pid}: the command failed there (signal {signal}); the process goes on as before"
                    );
                }
            }
            if begin.elapsed() > FINISH_LIMIT {
                bail!(
                    "process {pid} has not finished after {} s; it goes on, and ends the command by itself",
                    FINISH_LIMIT.as_secs()
                );
            }
            std::thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_millis(1));
        }
        // Ordering: Acquire, pairs with the entry's release of the count: the answer is read after it.
        fence(Ordering::Acquire);
        let mut answer = [0; 8];
        self.read(place.area + 8, &mut answer)?;
        match self.stop() {
            // Else it has gone on by itself.
            Ok(()) if registers::is_at_command(self.tid, place)? => self.restore(place, &saved)?,
            Ok(()) if saved.is_in_timed_call() => say_ended(pid, "this command was held up"),
            Ok(()) | Err(Unusable::HasEnded) => {}
            Err(why) => bail!("process {pid}: {why}"),
        }
        Ok(isize::from_ne_bytes(answer))
    }

    /// The command's own system calls were interrupted.
    fn forget_restart(&self, saved: &mut Saved) {
        if saved.is_in_timed_call() {
            say_ended(self.pid, "the process was stopped");
        }
        saved.forget_restart();
    }

    /// Has the thread go on where it was: last of all by its registers, without which it finishes alone.
    fn restore(&mut self, place: &Place, saved: &Saved) -> Result<()> {
        self.set_signal_mask(saved.signal_mask)?;
        self.write(place.area, &FREE.to_ne_bytes())?;
        saved.restore(self.tid)
    }

    /// Whether the process has a handler for the signal.
    fn catches(&self, signal: c_int) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> (signal - 1) & 1 != 0)
    }

    fn set_signal_mask(&self, mut mask: u64) -> Result<()> {
        ptrace_get(libc::PTRACE_SETSIGMASK, self.tid, size_of::<u64>(), &mut mask)
    }

    /// The state, and how many commands were answered.
    fn state(&self, place: &Place) -> Result<(u32, u32)> {
        let mut words = [0; 8];
        self.read(place.area, &mut words)?;
        let [a, b, c, d, e, f, g, h] = words;
        Ok((u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])))
    }

    /// Lets the thread run, still attached.
    pub fn let_run(&mut self) {
        if self.is_stopped {
            self.go_on(0);
        }
    }

    fn go_on(&mut self, signal: c_int) {
        self.is_stopped = false;
        let _ = ptrace(libc::PTRACE_CONT, self.tid, 0, signal as usize);
    }

    /// Ends the tracing. A process that was stopped by a signal is stopped again.
    pub fn detach(&mut self) {
        if self.is_stopped {
            self.is_stopped = false;
            let _ = ptrace(libc::PTRACE_DETACH, self.tid, 0, 0);
        }
    }

    /// What the thread has done since, if anything.
    fn wait(&self) -> Option<Event> {
        let mut status = 0;
        // SAFETY: a live word.
        let tid = unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
        if tid == 0 {
            return None;
        }
        if tid < 0 || !libc::WIFSTOPPED(status) {
            return Some(Event::HasEnded);
        }
        Some(match status >> 16 {
            PTRACE_EVENT_STOP => Event::Stopped,
            _ if libc::WSTOPSIG(status) == SYSTEM_CALL => Event::AtSystemCall,
            _ => Event::Signal(libc::WSTOPSIG(status)),
        })
    }

    /// Reads the process's memory.
    pub(super) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
        // SAFETY: one range each; the local one is live.
        let done = unsafe {
            libc::process_vm_readv(self.tid, &raw const local, 1, &raw const remote, 1, 0)
        };
        self.check(done, bytes.len())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let local =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
        // SAFETY: one range each; the local one is live, and only read.
        let done = unsafe {
            libc::process_vm_writev(self.tid, &raw const local, 1, &raw const remote, 1, 0)
        };
        self.check(done, bytes.len())
    }

    fn check(&self, done: isize, wanted: usize) -> Result<()> {
        if done == wanted as isize {
            return Ok(());
        }
        match Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => {
                bail!("process {} ended meanwhile", self.pid)
            }
            error => bail!("cannot reach the memory of process {}: {error}", self.pid),
        }
    }
}

/// A sleep cannot go on where it was: the thread waited as long as it does for a command that may be dead, or the kernel has forgotten.
fn say_ended(pid: u32, why: &str) {
    eprintln!("rsalloc: {why}: a sleep of a thread of process {pid} ends with EINTR");
}
