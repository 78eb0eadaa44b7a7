//! What a snapshot does to threads inside a section: `cargo lab criu --snapshot`.
//!
//! A process without the allocator: its first thread and another spin inside a section of their own, so that every dump
//! catches both. A thread there is protected while its `rseq_cs` names the section; one that goes on in the middle with
//! `rseq_cs` empty is not aborted by anything any more. Looked at before a `--leave-running` dump, after it, and after
//! a restore of its image; and the same with the pre-dumps of a chain and its last dump. The section is in `section`.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::images::{Criu, PRE_DUMPS, Way};
use super::registration;

/// Long enough for both threads to be preempted many times.
const WHILE: Duration = Duration::from_millis(300);
const ATTEMPTS: usize = 5;
/// How long the victim may take to start.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// Where a thread was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// In the section or on its way into it, and the kernel would send it to the abort handler.
    Protected,
    /// In the middle of the section, and the kernel does not know.
    Unprotected,
}

impl Found {
    fn name(self) -> &'static str {
        match self {
            Found::Protected => "protected",
            Found::Unprotected => "UNPROTECTED",
        }
    }
}

/// Takes a snapshot, and dumps a chain if the kernel can, and says what became of the threads; an error if the
/// way there went wrong.
pub fn show(criu: &Criu) -> Result<()> {
    println!("CRIU {}", criu.version()?);
    let mut attempts = 0;
    while !snapshot(criu).context("--leave-running")? {
        attempts += 1;
        ensure!(attempts < ATTEMPTS, "CRIU does not catch both threads in their section");
    }
    match criu.tracks_memory() {
        true => chain(criu).context("a chain"),
        false => {
            println!("NOT RUN: pre-dumps: this kernel has no CONFIG_MEM_SOFT_DIRTY");
            Ok(())
        }
    }
}

/// Returns false if a thread was just outside its section: then there was nothing to see.
fn snapshot(criu: &Criu) -> Result<bool> {
    let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    let victim = Victim::start(scratch.path())?;
    let dump = criu.dump(victim.pid.as_raw(), scratch.path(), Way::LeaveRunning)?;
    if dump.caught != 2 {
        return Ok(false);
    }
    victim.say("after --leave-running")?;
    victim.end();
    criu.restore(&dump.images)?;
    let restored = victim.say("restored from it")?;
    let right = restored == [Found::Protected; 2];
    ensure!(right, "a restored thread goes on in the middle of a section");
    Ok(true)
}

fn chain(criu: &Criu) -> Result<()> {
    let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    let victim = Victim::start(scratch.path())?;
    let pid = victim.pid.as_raw();
    for number in 1..=PRE_DUMPS {
        criu.pre_dump(pid, scratch.path(), number)?;
        victim.say(&format!("after pre-dump {number}"))?;
    }
    let dump = criu.dump(pid, scratch.path(), Way::Chain)?;
    victim.end();
    criu.restore(&dump.images)?;
    let text = format!("restored from the chain, whose last dump caught {}", dump.caught);
    victim.say(&text).map(drop)
}

struct Victim {
    pid: Pid,
    start: u64,
    end: u64,
}

impl Victim {
    fn start(scratch: &Path) -> Result<Victim> {
        let path = scratch.join("section");
        let own = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(own);
        command.args(["criu", "--spin"]).current_dir("/").env_clear();
        command.stdin(Stdio::null()).stdout(File::create(&path)?).stderr(Stdio::null());
        // SAFETY: setsid is a bare system call, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            });
        }
        let pid = Pid::from_raw(command.spawn().context("cannot start the victim")?.id() as i32);
        let mut victim = Victim { pid, start: 0, end: 0 };
        let begin = Instant::now();
        let text = loop {
            let text = fs::read_to_string(&path)?;
            if text.ends_with('\n') {
                break text;
            }
            ensure!(begin.elapsed() < WAIT_LIMIT, "the victim says nothing");
            std::thread::sleep(Duration::from_millis(10));
        };
        let (start, end) = text.trim().split_once(' ').context("the victim says something odd")?;
        (victim.start, victim.end) = (start.parse()?, end.parse()?);
        let right = victim.say("at first")? == [Found::Protected; 2];
        ensure!(right, "the threads are not in their section to begin with");
        Ok(victim)
    }

    /// As `look`; says what was found.
    fn say(&self, when: &str) -> Result<[Found; 2]> {
        let found = self.look().with_context(|| when.to_owned())?;
        println!(
            "first thread {:<11} other thread {:<11} {when}",
            found[0].name(),
            found[1].name()
        );
        Ok(found)
    }

    /// Both threads, the first one first, after they ran for a while.
    fn look(&self) -> Result<[Found; 2]> {
        std::thread::sleep(WHILE);
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            threads.push(entry?.file_name().to_string_lossy().parse::<i32>()?);
        }
        threads.sort_unstable();
        let areas = registration::of(self.pid.as_raw())?;
        let [first, other] = threads[..] else { bail!("{} threads, not 2", threads.len()) };
        let [Some((a, ..)), Some((b, ..))] = areas[..] else { bail!("a thread without rseq") };
        Ok([self.look_at(first, a)?, self.look_at(other, b)?])
    }

    fn look_at(&self, thread: i32, area: u64) -> Result<Found> {
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, ptrace::Options::empty())?;
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        let ip = ptrace::getregs(thread)?.rip;
        let announced = ptrace::read(thread, (area + 8) as ptrace::AddressType)?;
        ptrace::detach(thread, None)?;
        let is_inside = (self.start..self.end).contains(&ip);
        Ok(if is_inside && announced == 0 { Found::Unprotected } else { Found::Protected })
    }

    fn end(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.end();
    }
}
