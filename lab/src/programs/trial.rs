//! One run of one program of the catalogue, with or without the library.
//!
//! Handed to the program's `run` function, which starts its processes through it. Two kinds: `run` and `serve` start
//! what is under test, with the library, measured and watched; `tool` starts helpers without the library.
//!
//! I1: every process started here is gone when the trial is.
//! I2: a trial with the library fails if a program under test was never seen with it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::active::Witness;
use super::child::{Child, Ended, is_interrupted};
use super::rows::Exercise;
use super::setup::Setup;

/// How large the loads are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// For the table.
    Full,
    /// For CI.
    Quick,
}

impl Scale {
    /// The load that fits.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Scale::Full => full,
            Scale::Quick => quick,
        }
    }
}

/// What one trial gave.
#[derive(Clone)]
pub struct Measured {
    /// What must be equal with and without the library.
    pub output: String,
    /// From the first start to the end of the last check.
    pub wall: Duration,
    /// What the processes under test used.
    pub used: Used,
    /// The processes under test, without those that they started.
    pub processes: Vec<u32>,
}

/// What processes under test used, helpers left out.
#[derive(Clone, Copy, Default)]
pub struct Used {
    /// The largest peak of one of them.
    pub peak_rss_kib: u64,
    /// The sum of the times from their starts to their ends.
    pub lifetime: Duration,
    /// User and system time of all.
    pub cpu: Duration,
    /// Page faults of all that needed no disk.
    pub minor_faults: u64,
}

/// One run; see the head of the file.
pub struct Trial {
    /// The scale of the loads.
    pub scale: Scale,
    /// Files that `prepare` made, not to be written to.
    pub inputs: PathBuf,
    /// Where the programs run.
    pub folder: PathBuf,
    links_ours: bool,
    environment: Vec<(&'static str, String)>,
    deadline: Instant,
    /// None without the library.
    witness: Option<Witness>,
    used: Used,
    started: u32,
    processes: Vec<u32>,
}

/// A server under test.
pub struct Server(Child);

impl Trial {
    /// A trial in a fresh folder of `scratch`.
    pub fn new(
        scratch: &Path,
        inputs: &Path,
        scale: Scale,
        (name, limit): (&str, Duration),
        setup: Setup,
    ) -> Result<Trial> {
        // The same path each time: some programs write it into their output.
        let folder = scratch.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        Ok(Trial {
            scale,
            inputs: inputs.to_owned(),
            folder,
            links_ours: setup.links_ours,
            environment: setup.environment,
            deadline: Instant::now() + limit,
            witness: setup.witness,
            used: Used::default(),
            started: 0,
            processes: Vec::new(),
        })
    }

    /// Runs the exercise and measures it.
    pub fn measure(mut self, exercise: Exercise) -> Result<Measured> {
        let start = Instant::now();
        let output = exercise(&mut self)?;
        let wall = start.elapsed();
        self.witness.map_or(Ok(()), Witness::verdict)?;
        Ok(Measured { output, wall, used: self.used, processes: self.processes })
    }

    /// Runs a program under test to its end and returns what it printed; it must succeed.
    pub fn run(&mut self, command: &mut Command) -> Result<String> {
        let name = file_name(command.get_program());
        self.run_seen(command, &name)
    }

    /// Like `run`, where the library must be seen in a process called `name`, started by it.
    pub fn run_seen(&mut self, command: &mut Command, name: &str) -> Result<String> {
        let mut child = self.start(command, true)?;
        self.want(name);
        let ended = self.wait(&mut child)?;
        self.judge(&child, &ended)
    }

    /// Runs a helper without the library and returns what it printed; it must succeed.
    pub fn tool(&mut self, command: &mut Command) -> Result<String> {
        let mut child = self.start(command, false)?;
        let ended = child.wait(self.deadline, |_| ())?;
        self.judge(&child, &ended)
    }

    /// Starts a server under test and waits until `is_ready` says so.
    pub fn serve(
        &mut self,
        command: &mut Command,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<Server> {
        let mut child = self.start(command, true)?;
        self.want(&file_name(command.get_program()));
        while !is_ready() {
            ensure!(!is_interrupted(), "interrupted");
            ensure!(Instant::now() < self.deadline, "never ready: {}", child.line);
            if child.has_ended(Duration::from_millis(20))? {
                let ended = self.wait(&mut child)?;
                bail!("ended at start, {}: {}{}", ended.status, child.line, child.last_words());
            }
        }
        self.observe(child.pid());
        Ok(Server(child))
    }

    /// Ends a server with `signal`; it must leave by itself, with success.
    pub fn stop(&mut self, server: Server, signal: i32) -> Result<()> {
        let Server(mut child) = server;
        self.observe(child.pid());
        if child.has_ended(Duration::ZERO)? {
            let ended = self.wait(&mut child)?;
            bail!("ended under load, {}: {}{}", ended.status, child.line, child.last_words());
        }
        child.signal(signal);
        let ended = self.wait(&mut child)?;
        self.judge(&child, &ended).map(drop)
    }

    /// Kills a server that has answered all it was asked: its way out is not under test.
    pub fn kill(&mut self, server: Server) -> Result<()> {
        let Server(mut child) = server;
        self.observe(child.pid());
        let is_alive = !child.has_ended(Duration::ZERO)?;
        child.signal(libc::SIGKILL);
        let ended = self.wait(&mut child)?;
        ensure!(
            is_alive,
            "ended under load, {}: {}{}",
            ended.status,
            child.line,
            child.last_words()
        );
        Ok(())
    }

    /// Explains a failed exchange with a server: by its death, where it has died.
    pub fn blame(&self, server: &Server, error: anyhow::Error) -> anyhow::Error {
        match server.0.has_ended(Duration::from_millis(300)) {
            Ok(true) => {
                error.context(format!("server died: {}{}", server.0.line, server.0.last_words()))
            }
            _ => error,
        }
    }

    /// A Rust program of the workspace, as its row has built it: linked with our allocator
    /// when that is under test, else a build on std's, for the library to be preloaded.
    pub fn rust_program(&self) -> Command {
        let build = if self.links_ours { "with" } else { "without" };
        let mut command = Command::new(self.inputs.join(build));
        if self.links_ours {
            command.env("LD_PRELOAD", "");
        }
        command
    }

    /// A path in the trial's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// How long the exercise may still take.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn start(&mut self, command: &mut Command, under_test: bool) -> Result<Child> {
        let none = Vec::new();
        let library = if under_test { &self.environment } else { &none };
        let home = self.folder.display().to_string();
        let common = [
            ("PATH", search_path()),
            ("HOME", home),
            ("LC_ALL", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
        ];
        let own: Vec<_> =
            command.get_envs().map(|(k, v)| (k.to_owned(), v.map(OsStr::to_owned))).collect();
        command.env_clear().envs(common).envs(library.iter().cloned());
        command.envs(own.into_iter().filter_map(|(name, value)| Some((name, value?))));
        if command.get_current_dir().is_none() {
            command.current_dir(&self.folder);
        }
        command.stdin(Stdio::null());
        let line = line(command, library);
        self.started += 1;
        let prefix = self.folder.join(format!("process-{:02}", self.started));
        let child = Child::start(command, line, &prefix)?;
        if under_test {
            self.processes.push(child.pid() as u32);
        }
        Ok(child)
    }

    fn wait(&mut self, child: &mut Child) -> Result<Ended> {
        let ended = child.wait(self.deadline, |pid| {
            if let Some(witness) = &mut self.witness {
                witness.observe(pid);
            }
        })?;
        self.used.peak_rss_kib = self.used.peak_rss_kib.max(ended.peak_rss_kib);
        self.used.lifetime += ended.lifetime;
        self.used.cpu += ended.cpu;
        self.used.minor_faults += ended.minor_faults;
        Ok(ended)
    }

    fn want(&mut self, name: &str) {
        if let Some(witness) = &mut self.witness {
            witness.want(name);
        }
    }

    fn observe(&mut self, pid: i32) {
        if let Some(witness) = &mut self.witness {
            witness.observe(pid);
        }
    }

    fn judge(&self, child: &Child, ended: &Ended) -> Result<String> {
        if !ended.status.success() {
            let how = match (ended.status.signal(), ended.status.code()) {
                (Some(signal), _) => format!("killed by signal {signal}"),
                (_, code) => format!("exit status {}", code.unwrap_or(-1)),
            };
            bail!("{how}: {}{}", child.line, child.last_words());
        }
        let bytes = fs::read(&child.stdout)?;
        String::from_utf8(bytes)
            .with_context(|| format!("printed what is not text: {}", child.line))
    }
}

/// Where two outputs part, for messages.
pub fn first_difference(without: &str, with: &str) -> String {
    let pairs = without.lines().zip(with.lines());
    match pairs.into_iter().find(|(a, b)| a != b) {
        Some((a, b)) => format!("without {a:?}, with {b:?}"),
        None => format!("{} lines without, {} with", without.lines().count(), with.lines().count()),
    }
}

/// Debian's folders first: the rows name Debian's programs, not what else a machine has.
fn search_path() -> String {
    format!("/usr/sbin:/usr/bin:/sbin:/bin:{}", std::env::var("PATH").unwrap_or_default())
}

fn file_name(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

fn line(command: &Command, environment: &[(&str, String)]) -> String {
    let settings = environment.iter().map(|(name, value)| format!("{name}={value}"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    settings.chain(words).collect::<Vec<_>>().join(" ")
}
