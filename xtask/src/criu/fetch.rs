//! A CRIU that works, from Debian's packages, in a folder of its own.
//!
//! Debian 12's own is too old for newer kernels. The packages and all their libraries are fetched
//! by apt with its own sources, state and cache, unpacked beside the builds, and run through their
//! own loader: the machine's packages and settings stay as they are. Called by the command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::images::Criu;
use crate::tools;

const SOURCE: &str = "\
Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie
Components: main
Targets: Packages
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// CRIU, fetched if it is not there yet, and known to work on this kernel.
pub fn criu() -> Result<Criu> {
    // SAFETY: no duties.
    ensure!(unsafe { libc::geteuid() } == 0, "CRIU dumps and restores as root only: run as root");
    let folder = tools::release_dir()?.with_file_name("criu");
    if !folder.exists() {
        eprintln!("fetching CRIU from Debian trixie into {}", folder.display());
        fetch(&folder).context("CRIU can't be had: it comes from deb.debian.org by apt-get")?;
    }
    let loader = folder.join("usr/lib64/ld-linux-x86-64.so.2");
    let criu =
        Criu::new(loader, folder.join("usr/lib/x86_64-linux-gnu"), folder.join("usr/sbin/criu"));
    criu.check().context("this kernel can't do it (`criu check`)")?;
    Ok(criu)
}

/// Fetches and unpacks into `folder`, which comes into being complete or not at all.
fn fetch(folder: &Path) -> Result<()> {
    let parent = folder.parent().context("a folder of the build")?;
    let room = tempfile::tempdir_in(parent).context("no room beside the builds")?;
    for name in ["state/lists/partial", "cache/archives/partial", "sources"] {
        fs::create_dir_all(room.path().join(name))?;
    }
    fs::write(room.path().join("sources/trixie.sources"), SOURCE)?;
    // Of a machine without any package, so that every library comes along.
    fs::write(room.path().join("status"), "")?;
    tools::output(apt(room.path()).arg("update"))?;
    tools::output(apt(room.path()).args(["install", "--yes", "--download-only", "criu"]))?;
    let root = room.path().join("root");
    for package in packages(&room.path().join("cache/archives"))? {
        tools::output(Command::new("dpkg").arg("--extract").args([&package, &root]))?;
    }
    fs::rename(&root, folder).with_context(|| format!("create {}", folder.display()))
}

fn packages(archives: &Path) -> Result<Vec<PathBuf>> {
    let files: std::io::Result<Vec<_>> =
        fs::read_dir(archives)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = files?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    ensure!(!files.is_empty(), "apt-get fetched nothing");
    Ok(files)
}

fn apt(room: &Path) -> Command {
    let room = room.display();
    let mut apt = Command::new("apt-get");
    apt.arg("-q");
    for setting in [
        format!("Dir::State={room}/state"),
        format!("Dir::State::status={room}/status"),
        format!("Dir::Cache={room}/cache"),
        format!("Dir::Etc::sourceparts={room}/sources"),
        "Dir::Etc::sourcelist=/dev/null".into(),
        "Dir::Etc::preferences=/dev/null".into(),
        "Dir::Etc::preferencesparts=/dev/null".into(),
        "Debug::NoLocking=true".into(),
        // The folder is root's alone.
        "APT::Sandbox::User=root".into(),
        "APT::Install-Recommends=false".into(),
        "APT::Update::Error-Mode=any".into(),
        "Acquire::Languages=none".into(),
        "Acquire::Retries=3".into(),
    ] {
        apt.args(["-o", &setting]);
    }
    apt
}
