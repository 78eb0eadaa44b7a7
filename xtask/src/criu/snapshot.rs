//! What a snapshot does to threads inside a section: `cargo xtask criu --snapshot`.
//!
//! A process without the allocator: its first thread and another spin inside a section of their own, so
//! that every dump catches both. A thread there is protected while its `rseq_cs` names the section; one
//! that goes on in the middle with `rseq_cs` empty is not aborted by anything any more. Looked at before
//! a `--leave-running` dump, after it, and after a restore of its image. Called by the command; the
//! section is in `section`.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::images::{Criu, Way};
use super::registration;

/// Long enough for both threads to be preempted many times.
const WHILE: Duration = Duration::from_millis(300);

/// Where a thread was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// In the section or on its way into it, and the kernel would send it to the abort handler.
    Protected,
    /// In the middle of the section, and the kernel does not know.
    Unprotected,
}

/// Makes the snapshot and says what became of the threads; an error if the way there went wrong.
pub fn show(criu: &Criu) -> Result<()> {
    let room = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    let victim = Victim::start(room.path())?;
    let before = victim.look()?;
    println!("before the dump        first thread {:?}, other thread {:?}", before[0], before[1]);
    ensure!(before == [Found::Protected; 2], "the threads are not in their section to begin with");
    let dump = criu.dump(victim.pid.as_raw(), room.path(), Way::LeaveRunning)?;
    ensure!(dump.caught == 2, "CRIU caught {} threads in a section, not 2", dump.caught);
    let after = victim.look()?;
    println!("after --leave-running  first thread {:?}, other thread {:?}", after[0], after[1]);
    victim.end();
    criu.restore(&dump.images)?;
    let restored = victim.look()?;
    println!(
        "restored from it       first thread {:?}, other thread {:?}",
        restored[0], restored[1]
    );
    ensure!(
        restored == [Found::Protected; 2],
        "a restored thread goes on in the middle of a section"
    );
    println!(
        "CRIU {}: {}",
        criu.version()?,
        match after {
            [Found::Protected, Found::Protected] =>
                "a snapshot leaves every thread protected: the limit in docs/proof.md is gone",
            [Found::Protected, Found::Unprotected] =>
                "a snapshot leaves a thread other than the first in the middle of its section, unprotected",
            _ => "a snapshot leaves the first thread in the middle of its section, unprotected",
        }
    );
    Ok(())
}

struct Victim {
    pid: Pid,
    start: u64,
    end: u64,
}

impl Victim {
    fn start(room: &Path) -> Result<Victim> {
        let path = room.join("section");
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
        std::thread::sleep(WHILE);
        let mut text = String::new();
        File::open(&path)?.read_to_string(&mut text)?;
        let (start, end) = text.trim().split_once(' ').context("the victim says nothing")?;
        (victim.start, victim.end) = (start.parse()?, end.parse()?);
        Ok(victim)
    }

    /// Both threads, the first one first, after they ran for a while.
    fn look(&self) -> Result<[Found; 2]> {
        std::thread::sleep(WHILE);
        let mut threads = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
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
