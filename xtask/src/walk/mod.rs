//! `cargo xtask walk`: the first ten minutes of a new user, and every example of the documents that is marked to run.
//!
//! Promises a line for each step with its time, the end of the output of one that fails, and that nothing is left outside
//! of a folder of its own. The release build is laid out as it is installed: `bin/rsalloc`, `lib/librsalloc.so.0` and the
//! link `lib/librsalloc.so`.

mod blocks;

use anyhow::{Context, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tools::{build_release, library, release_dir, root};

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Walk only these ways, by name: examples, pages, rust, service, research
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Each user's way is a script in xtask/walk.
const WAYS: [&str; 4] = ["pages", "rust", "service", "research"];

/// The way through the documents' blocks.
const EXAMPLES: &str = "examples";

/// What the ways need beside what a build needs.
const PACKAGES: [&str; 1] = ["python3"];

/// Lines of a failed step's output that are shown.
const TAIL: usize = 30;

/// What steps find in their environment.
pub struct Place {
    /// Has `bin/rsalloc` and `lib/librsalloc.so.0`.
    installed: PathBuf,
    /// Belongs to one step.
    scratch: PathBuf,
}

impl Place {
    /// `program` in a fresh folder for the step `name`, with the command on its path.
    pub fn command(&self, program: &str, name: &str) -> anyhow::Result<Command> {
        let folder = self.scratch.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let mut path = self.installed.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.current_dir(folder).env("PATH", path);
        command.env("INSTALLED", &self.installed).env("REPOSITORY", root());
        command.env("TARGET", release_dir()?.with_file_name(""));
        for inherited in ["LD_PRELOAD", "RSALLOC_CONF", "CARGO_TARGET_DIR", "RUST_BACKTRACE"] {
            command.env_remove(inherited);
        }
        Ok(command)
    }
}

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    for name in &arguments.only {
        let is_known = name == EXAMPLES || WAYS.contains(&name.as_str());
        ensure!(is_known, "no way {name}; there are: {EXAMPLES}, {}", WAYS.join(", "));
    }
    let is_wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|n| n == name);
    tools::apt_install(&PACKAGES)?;
    build_release(&["rsalloc-cli", "rsalloc-preload"])?;
    // Outside of the repository, as a user's project is, and without spaces, which LD_PRELOAD splits at.
    let folder =
        tempfile::Builder::new().prefix("walk").tempdir().context("no temporary folder")?;
    let place = lay_out(folder.path())?;
    let mut faults = 0;
    if is_wanted(EXAMPLES) {
        let blocks = blocks::all(root())?;
        ensure!(blocks.len() >= 8, "only {} examples are marked to run", blocks.len());
        for (index, block) in blocks.iter().enumerate() {
            faults += step(&block.to_string(), || block.run(&place, &format!("block-{index}")))?;
        }
    }
    for way in WAYS.into_iter().filter(|way| is_wanted(way)) {
        faults += step(way, || {
            let mut bash = place.command("bash", way)?;
            let script = root().join("xtask/walk").join(way).with_extension("sh");
            Ok(bash.args(["-eux", "-o", "pipefail"]).arg(script).output()?.into())
        })?;
    }
    if faults > 0 {
        bail!("{faults} steps failed");
    }
    println!("every step went");
    Ok(())
}

/// The release build under its installed names.
fn lay_out(folder: &Path) -> anyhow::Result<Place> {
    let installed = folder.join("installed");
    for (from, to) in
        [(release_dir()?.join("rsalloc"), "bin/rsalloc"), (library()?, "lib/librsalloc.so.0")]
    {
        let to = installed.join(to);
        fs::create_dir_all(to.parent().context("a file in no folder")?)?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    std::os::unix::fs::symlink("librsalloc.so.0", installed.join("lib/librsalloc.so"))?;
    Ok(Place { installed, scratch: folder.join("scratch") })
}

/// How a step ended, and what it said.
pub struct Ended {
    /// Whether it did what it should.
    pub is_good: bool,
    /// Its output.
    pub said: String,
}

impl From<std::process::Output> for Ended {
    fn from(output: std::process::Output) -> Ended {
        let said = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ended { is_good: output.status.success(), said: said.concat() }
    }
}

/// Runs one step; the number of faults.
fn step(name: &str, run: impl FnOnce() -> anyhow::Result<Ended>) -> anyhow::Result<usize> {
    let begin = Instant::now();
    let ended = run().with_context(|| name.to_owned())?;
    let verdict = if ended.is_good { "ok  " } else { "FAIL" };
    println!("{verdict} {:>5.1} s  {name}", begin.elapsed().as_secs_f64());
    if !ended.is_good {
        let lines: Vec<_> = ended.said.lines().collect();
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            println!("     | {line}");
        }
    }
    Ok(usize::from(!ended.is_good))
}
