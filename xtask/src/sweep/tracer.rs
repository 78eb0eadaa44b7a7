//! One run of the victim under ptrace, with a trap at one address of one section.
//!
//! Promises to say of every hit where the thread went on: at `abort_ip` with all registers as they were, at the address
//! after the commit, or neither.
//!
//! The trap is an int3. Its SIGTRAP is itself an event that aborts a section (kernel/rseq.c: signal
//! delivery and preemption set the thread's event mask), so after the instruction is put back and the
//! thread goes on from it, the kernel must move it to `abort_ip` before it executes anything.

use super::victim::{PHASES, VERDICTS};
use super::{Environment, Treatment};
use anyhow::{Context, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use tools::sections::Section;

const INT3: u8 = 0xcc;

/// Hits that are treated in each phase: more than the library's retries, so that it has to take its
/// other way as well.
const HITS_PER_PHASE: usize = 6;

/// One trap and what is done to the thread that runs into it.
pub struct Trap<'a> {
    /// The section.
    pub section: &'a Section,
    /// The address, in the section or right after it.
    pub at: u64,
    /// What happens to the stopped thread.
    pub treatment: Treatment,
    /// In shaken phases the thread is stopped here as well, which aborts the section that starts here.
    pub shake: Option<u64>,
}

/// What a run showed.
#[derive(Default)]
pub struct Outcome {
    /// Times that the thread ran into the trap.
    pub hits: usize,
    /// Hits after which the thread went on at `abort_ip`.
    pub aborted: usize,
    /// Hits after which it went on after the commit.
    pub committed: usize,
    /// How the thread's way differed from what the address demands.
    pub strayed: Vec<String>,
    /// What the victim found wrong with its objects, or how it died.
    pub broken: Option<String>,
}

/// A change of the library in the victim's memory.
pub struct Patch {
    /// Where, as an address of the file.
    pub at: u64,
    /// The word that is written there.
    pub word: Word,
}

/// A word of a descriptor.
pub enum Word {
    /// As it is.
    Plain(u64),
    /// An address of the file, to be relocated.
    Address(u64),
}

/// Runs the victim once.
pub fn run(
    library: &Path,
    environment: &Environment,
    trap: &Trap,
    cpus: &[usize],
    patches: &[Patch],
) -> anyhow::Result<Outcome> {
    let mut victim = Victim::start(library, environment)?;
    let mut outcome = Outcome::default();
    victim.go(None)?; // from exec to the first phase
    let Event::Phase = victim.wait()? else {
        bail!("the victim ended before its first phase: {}", victim.ending());
    };
    victim.find(library)?;
    for patch in patches {
        let word = match patch.word {
            Word::Plain(word) => word,
            Word::Address(address) => victim.base + address,
        };
        victim.write(patch.at, &word.to_le_bytes())?;
    }
    for phase in PHASES {
        let shake = trap.shake.filter(|_| phase.shaken);
        if !victim.phase(trap, shake, cpus, &mut outcome)? {
            outcome.broken = Some(victim.ending());
            return Ok(outcome);
        }
    }
    victim.go(None)?;
    match victim.wait()? {
        Event::Ended if victim.exit == Some(0) => {}
        _ => outcome.broken = Some(victim.ending()),
    }
    Ok(outcome)
}

/// The victim, stopped or on its way.
pub(super) struct Victim {
    pub(super) pid: Pid,
    pub(super) memory: File,
    /// What it, or the library in it, says.
    words: ChildStderr,
    /// Where the library is loaded.
    pub(super) base: u64,
    exit: Option<i32>,
    signal: Option<Signal>,
    moves: usize,
}

/// Why the victim stopped.
pub(super) enum Event {
    /// At the end of a phase, or before the first.
    Phase,
    /// On a trap: the address in the file.
    Trap(u64),
    Ended,
}

impl Victim {
    pub(super) fn start(library: &Path, environment: &Environment) -> anyhow::Result<Victim> {
        let own = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(own);
        command.args(["sweep", "--victim"]).env("LD_PRELOAD", library);
        command.env_remove("RSALLOC_CONF").env_remove("GLIBC_TUNABLES");
        command.envs(environment.variables.iter().copied());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: between fork and exec only one system call is made.
        unsafe {
            command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from));
        }
        let mut child = command.spawn().context("cannot start the victim under ptrace")?;
        let pid = Pid::from_raw(child.id() as i32);
        let stopped = waitpid(pid, None)?;
        if !matches!(stopped, WaitStatus::Stopped(_, Signal::SIGTRAP)) {
            bail!("the victim did not stop at its exec but {stopped:?}");
        }
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
        // Opened after the exec, which replaces the address space.
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let words = child.stderr.take().context("the victim has no stderr")?;
        Ok(Victim { pid, memory, words, base: 0, exit: None, signal: None, moves: 0 })
    }

    /// Lets one phase run into the trap a few times; false if the victim did not reach its end.
    fn phase(
        &mut self,
        trap: &Trap,
        shake: Option<u64>,
        cpus: &[usize],
        outcome: &mut Outcome,
    ) -> anyhow::Result<bool> {
        let places: Vec<_> = shake.into_iter().chain([trap.at]).collect();
        let mut hits = 0;
        while hits < HITS_PER_PHASE {
            let saved = self.arm(&places)?;
            self.go(None)?;
            match self.wait()? {
                Event::Phase => {
                    self.disarm(&saved)?;
                    return Ok(true);
                }
                Event::Ended => return Ok(false),
                Event::Trap(at) if at == trap.at => self.disarm(&saved)?,
                Event::Trap(at) if Some(at) == shake => {
                    // The kernel moves it to the abort handler before it could run into it again.
                    self.disarm(&saved)?;
                    continue;
                }
                Event::Trap(at) => {
                    bail!("the victim ran into a trap at {at:x} that is none of ours")
                }
            }
            hits += 1;
            outcome.hits += 1;
            match self.treat(trap, cpus)? {
                Landing::Aborted(changed) => {
                    outcome.aborted += 1;
                    if !trap.section.span().contains(&trap.at) {
                        outcome.strayed.push("aborted after its commit".to_owned());
                    }
                    if changed {
                        outcome.strayed.push("executed something before it aborted".to_owned());
                    }
                }
                Landing::Committed => {
                    outcome.committed += 1;
                    if trap.section.span().contains(&trap.at) {
                        outcome.strayed.push("not aborted: it went on to the commit".to_owned());
                    }
                }
                Landing::Nowhere => {
                    outcome.strayed.push("not aborted: it left by another way".to_owned());
                    return Ok(true);
                }
                Landing::Ended => {
                    outcome.strayed.push("did not live to see its abort handler".to_owned());
                    return Ok(false);
                }
            }
        }
        self.go(None)?;
        match self.wait()? {
            Event::Phase => Ok(true),
            Event::Ended => Ok(false),
            Event::Trap(at) => bail!("the victim ran into a trap at {at:x} that is none of ours"),
        }
    }

    /// Does what the trap wants to the thread that stands on it and says where it goes on. It stands
    /// there afterwards, with no trap set.
    fn treat(&mut self, trap: &Trap, cpus: &[usize]) -> anyhow::Result<Landing> {
        let before = ptrace::getregs(self.pid)?;
        let mut signal = None;
        match trap.treatment {
            Treatment::Stay => {}
            Treatment::Move => {
                let mut set = CpuSet::new();
                set.set(cpus[self.moves % cpus.len()])?;
                self.moves += 1;
                sched_setaffinity(self.pid, &set)?;
            }
            Treatment::Signal => signal = Some(Signal::SIGUSR1),
        }
        let (abort, post) = (trap.section.abort, trap.section.post);
        loop {
            let saved = self.arm(&[abort, post])?;
            self.go(signal.take())?;
            let event = self.wait()?;
            if matches!(event, Event::Ended) {
                return Ok(Landing::Ended);
            }
            self.disarm(&saved)?;
            let Event::Trap(at) = event else { return Ok(Landing::Nowhere) };
            let after = ptrace::getregs(self.pid)?;
            if after.rsp == before.rsp {
                if at == post {
                    // Outside of the section: a step does no harm, and the trap can be set again.
                    self.step()?;
                    return Ok(Landing::Committed);
                }
                return Ok(Landing::Aborted(general(&before) != general(&after)));
            }
            // The handler's own call, on its own part of the stack, came by.
            self.step()?;
        }
    }

    /// Sets traps; what was there, for `disarm`.
    pub(super) fn arm(&self, places: &[u64]) -> anyhow::Result<Vec<(u64, u8)>> {
        let mut saved = Vec::new();
        for &at in places {
            let mut byte = [0];
            self.memory.read_exact_at(&mut byte, self.base.wrapping_add(at))?;
            self.write(at, &[INT3])?;
            saved.push((at, byte[0]));
        }
        Ok(saved)
    }

    pub(super) fn disarm(&self, saved: &[(u64, u8)]) -> anyhow::Result<()> {
        saved.iter().try_for_each(|&(at, byte)| self.write(at, &[byte]))
    }

    fn write(&self, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let address = self.base.wrapping_add(at);
        self.memory.write_all_at(bytes, address).context("cannot write the victim's memory")
    }

    pub(super) fn go(&self, signal: Option<Signal>) -> anyhow::Result<()> {
        Ok(ptrace::cont(self.pid, signal)?)
    }

    /// Executes one instruction; for places outside of sections.
    pub(super) fn step(&mut self) -> anyhow::Result<()> {
        ptrace::step(self.pid, None)?;
        match waitpid(self.pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(()),
            status => bail!("a step of the victim ended in {status:?}"),
        }
    }

    /// Waits for the next event; a thread on a trap stands at its address, not behind it.
    pub(super) fn wait(&mut self) -> anyhow::Result<Event> {
        match waitpid(self.pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(Event::Phase),
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                let mut registers = ptrace::getregs(self.pid)?;
                registers.rip -= 1;
                ptrace::setregs(self.pid, registers)?;
                Ok(Event::Trap(registers.rip.wrapping_sub(self.base)))
            }
            WaitStatus::Exited(_, code) => {
                self.exit = Some(code);
                Ok(Event::Ended)
            }
            WaitStatus::Signaled(_, signal, _) => {
                self.signal = Some(signal);
                Ok(Event::Ended)
            }
            // A deadly one: it is delivered.
            WaitStatus::Stopped(_, signal) => {
                self.go(Some(signal))?;
                self.wait()
            }
            status => bail!("the victim is in an unexpected state: {status:?}"),
        }
    }

    pub(super) fn find(&mut self, library: &Path) -> anyhow::Result<()> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let name = library.to_str().context("the library's path is not text")?;
        let first = maps.lines().find(|line| line.ends_with(name));
        let first = first.with_context(|| format!("the victim did not load {name}"))?;
        let start = first.split('-').next().unwrap_or_default();
        self.base = u64::from_str_radix(start, 16).context("unreadable /proc/PID/maps")?;
        Ok(())
    }

    /// Whether it came to its end and found nothing wrong.
    pub(super) fn is_done(&self) -> bool {
        self.exit == Some(0)
    }

    /// How it ended and what it said, once it has.
    pub(super) fn ending(&mut self) -> String {
        let ending = match (self.exit, self.signal) {
            (Some(code), _) => VERDICTS
                .iter()
                .find(|(known, _)| *known == code)
                .map_or_else(|| format!("it exited with {code}"), |(_, text)| (*text).to_owned()),
            (_, Some(signal)) => format!("it died of {signal}"),
            _ => return "it did not end when it should have".to_owned(),
        };
        let mut words = String::new();
        match self.words.read_to_string(&mut words) {
            Ok(1..) => format!("{ending}: {}", words.trim()),
            _ => ending,
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.exit.is_none() && self.signal.is_none() {
            // It is stopped by us; both calls can only fail if it is gone already.
            let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Where a treated thread went on.
enum Landing {
    /// At `abort_ip`; whether any register differs from those at the trap.
    Aborted(bool),
    Committed,
    /// At neither, until the end of the phase.
    Nowhere,
    Ended,
}

/// All general registers but the instruction pointer.
fn general(r: &libc::user_regs_struct) -> [u64; 16] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ]
}
