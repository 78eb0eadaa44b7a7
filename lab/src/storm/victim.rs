//! A victim as the harness sees it: a small C program, built once, run in a mode, watched, and heard.
//!
//! Promises that a victim which says nothing for too long counts as hung: where its threads stand is in the error, and
//! the whole process group is dead afterwards.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::hang;
use crate::criu::kind::Kind;

/// A line that the victim prints.
pub enum Line<'a> {
    /// How far it is, and what it says beside that.
    At(u64, &'a str),
    /// The end: what it did.
    Done,
}

/// What can be built in `scratch` and run.
pub struct Victim {
    program: PathBuf,
}

/// How to run it.
pub struct Run<'a> {
    /// The allocator and its mode.
    pub kind: &'a Kind,
    /// Of the row's unit.
    pub amount: u64,
    /// A second argument of the victim's.
    pub extra: Option<&'a str>,
    /// A library that is loaded before the allocator, as a control does.
    pub before: Option<&'a Path>,
    /// The mode and index that the library must report; none for glibc.
    pub published: Option<(&'static str, &'static str)>,
    /// Done in the victim between fork and exec.
    pub setup: Option<Setup>,
    /// A victim that prints nothing for so long counts as hung.
    pub silence: Duration,
}

/// What a child does before it becomes the victim; async-signal-safe.
pub type Setup = fn() -> std::io::Result<()>;

const HEADERS: [(&str, &str); 2] = [
    ("storm.h", include_str!("victims/storm.h")),
    ("workers.h", include_str!("victims/workers.h")),
];

/// Compiles `source` into `scratch`; `arguments` are further ones of cc.
pub fn compile(scratch: &Path, name: &str, source: &str, arguments: &[&str]) -> Result<PathBuf> {
    let (file, program) = (scratch.join(name).with_extension("c"), scratch.join(name));
    std::fs::create_dir_all(scratch).with_context(|| format!("create {}", scratch.display()))?;
    for (name, text) in HEADERS {
        std::fs::write(scratch.join(name), text).with_context(|| format!("write {name}"))?;
    }
    std::fs::write(&file, source).with_context(|| format!("write {}", file.display()))?;
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-pthread"]);
    cc.args(arguments).arg(&file).arg("-o").arg(&program);
    tools::output(&mut cc).with_context(|| format!("{name} does not compile"))?;
    Ok(program)
}

impl Victim {
    /// Builds it.
    pub fn build(scratch: &Path, name: &str, source: &str) -> Result<Victim> {
        Ok(Victim { program: compile(scratch, name, source, &[])? })
    }

    /// Runs the victim to its end; returns what it did. `hear` is called for each line, with the process id.
    pub fn run(&self, run: &Run, mut hear: impl FnMut(i32, &Line) -> Result<()>) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg(run.amount.to_string())
            .args(run.extra)
            .env_clear()
            .envs(run.kind.environment()?);
        if let Some(before) = run.before {
            let library =
                run.kind.environment()?.into_iter().find(|(name, _)| *name == "LD_PRELOAD");
            let library = library.map_or(String::new(), |(_, path)| format!(":{path}"));
            command.env("LD_PRELOAD", format!("{}{library}", before.display()));
        }
        // It waits for the end of its input before it ends, so that it is there when it is asked.
        command.process_group(0).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(setup) = run.setup {
            // SAFETY: `Setup` allows only what may be done there.
            unsafe { command.pre_exec(setup) };
        }
        let child = command.spawn().context("cannot start the victim")?;
        Group(child).listen(run, &mut hear)
    }
}

/// The victim and all that it started.
struct Group(Child);

impl Group {
    fn listen(
        &mut self,
        run: &Run,
        hear: &mut dyn FnMut(i32, &Line) -> Result<()>,
    ) -> Result<String> {
        let pid = self.0.id() as i32;
        let mut input = self.0.stdin.take();
        let lines = lines_of(self.0.stdout.take().context("no output")?);
        let words = lines_of(self.0.stderr.take().context("no errors")?);
        let mut done = None;
        let mut is_asked = false;
        loop {
            let line = match lines.recv_timeout(run.silence) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = run.silence.as_secs();
                    bail!("it hangs: no word for {seconds} s{}", hang::describe(pid))
                }
            };
            if let Some(text) = line.strip_prefix("at ") {
                let (number, rest) = text.split_once(' ').unwrap_or((text, ""));
                if !is_asked {
                    run.published.map(|mode| crate::report::of(pid, mode)).transpose()?;
                    is_asked = true;
                }
                hear(pid, &Line::At(number.parse().unwrap_or(0), rest))?;
            } else if let Some(text) = line.strip_prefix("done: ") {
                hear(pid, &Line::Done)?;
                done = Some(text.to_owned());
                drop(input.take());
            }
        }
        let status = self.0.wait().context("wait for the victim")?;
        // A limit that was set for it may be reached, and the allocator says so (docs/operate.md, "Limits").
        let is_limited = run.setup.is_some();
        let words = words.try_iter().filter(|line| !(is_limited && is_out_of_memory(line)));
        let words = words.collect::<Vec<_>>().join(" | ");
        ensure!(status.success(), "{status}: {words}");
        ensure!(is_asked, "it never said where it is, so its mode is not known");
        ensure!(words.is_empty(), "it succeeds and complains: {words}");
        done.context("it ended without a result")
    }
}

/// Whether a line is of the report on a refused request.
fn is_out_of_memory(line: &str) -> bool {
    line.starts_with("rsalloc: out of memory: ") || line.starts_with("rsalloc:   ")
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the group was made for this child; what is left of it is ours to end.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// The lines of a pipe, read by a thread of their own so that the wait for a line can have a limit.
fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}
