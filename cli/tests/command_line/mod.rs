//! The `rsalloc` command as tests run it, and programs for it to look into.

#![allow(dead_code, reason = "each test uses a part")]

#[path = "../../../alloc-preload/tests/common/mod.rs"]
pub mod common;

use common::library;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

pub fn rsalloc(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rsalloc"));
    clean(command.args(arguments));
    command
}

/// With the library under test, not the one that cargo built beside the command.
pub fn with_library(subcommand: &str, arguments: &[&str]) -> Command {
    let mut command = rsalloc(&[subcommand, "--lib", library().to_str().unwrap()]);
    command.args(arguments);
    command
}

pub fn clean(command: &mut Command) -> &mut Command {
    for name in ["LD_PRELOAD", "RSALLOC_CONF", "GLIBC_TUNABLES"] {
        command.env_remove(name);
    }
    command
}

/// stdout of a command that succeeds and has nothing to say on stderr.
#[track_caller]
pub fn answer(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The one line on stderr of a command that fails with `code`.
#[track_caller]
pub fn error(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().to_owned()
}

pub fn fresh_folder(name: &str) -> PathBuf {
    let folder = common::scratch().join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A program that answers once and then waits for its stdin to end.
pub struct Running(pub Child);

impl Running {
    /// Starts `cat`, and has it answer.
    pub fn cat(command: &mut Command) -> Self {
        let mut running = Self::start(command);
        running.0.stdin.as_mut().unwrap().write_all(b"!").unwrap();
        running.first_byte()
    }

    /// Starts a program that says something by itself.
    pub fn talker(command: &mut Command) -> Self {
        Self::start(command).first_byte()
    }

    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a program that has not said anything yet.
    pub fn started(command: &mut Command) -> Self {
        Self::start(command)
    }

    /// The next line that it says, without its end.
    pub fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while self.0.stdout.as_mut().unwrap().read_exact(&mut byte).is_ok() && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn first_byte(mut self) -> Self {
        self.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        self
    }

    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
