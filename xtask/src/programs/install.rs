//! What the programs need from Debian, installed by apt.
//!
//! Called by the command before anything runs. Installs only what is missing, and starts none of
//! the services that the packages bring.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::rows::Program;

/// A file that must be there, and the Debian package that brings it.
pub struct Need {
    /// A command searched in PATH, or an absolute path.
    pub file: &'static str,
    /// Its package.
    pub package: &'static str,
}

/// Installs what the programs lack; one clear line if that cannot be done.
pub fn install(programs: &[&Program]) -> Result<()> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing by apt-get: {}", missing.join(" "));
    let advice = || format!("cannot install; as root run: apt-get install {}", missing.join(" "));
    apt(&["update", "-q"]).with_context(advice)?;
    let install = ["install", "-q", "-y", "--no-install-recommends"];
    apt(&[&install[..], &missing[..]].concat()).with_context(advice)?;
    let left = self::missing(programs);
    ensure!(left.is_empty(), "apt-get installed {} but its files are not there", left.join(" "));
    Ok(())
}

fn missing(programs: &[&Program]) -> Vec<&'static str> {
    let needs = programs.iter().flat_map(|program| program.needs);
    let mut missing: Vec<_> =
        needs.filter(|need| find(need.file).is_none()).map(|need| need.package).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// Where a command is, in the PATH that the programs get.
pub fn find(file: &str) -> Option<PathBuf> {
    search_path().split(':').map(|folder| Path::new(folder).join(file)).find(|path| path.exists())
}

/// Debian's folders first: the rows name Debian's programs, not what else a machine has.
pub fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    format!("/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin:{own}")
}

fn apt(args: &[&str]) -> Result<()> {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        command.args(["-n", "--preserve-env=DEBIAN_FRONTEND,RUNLEVEL", "apt-get"]);
    }
    // With RUNLEVEL=1 invoke-rc.d starts no service.
    command.args(args).envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")]);
    let output = command.stdin(Stdio::null()).output().context("apt-get did not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().find(|line| line.starts_with("E:")).unwrap_or("no reason given");
    ensure!(output.status.success(), "apt-get {}: {why}", args[0]);
    Ok(())
}
