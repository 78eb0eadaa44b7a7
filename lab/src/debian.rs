//! Packages of Debian's suites, unpacked into folders of their own.
//!
//! Fetched by apt with its own sources, state and cache, so the machine's packages and settings stay as they are, and
//! no root is needed. A folder comes into being complete or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What is to be fetched of a suite.
pub enum Wanted<'a> {
    /// A package and all that it depends on.
    Complete(&'a str),
    /// These packages.
    Only(&'a [&'a str]),
    /// Of a package and all that it depends on, those whose names begin so.
    Parts(&'a str, &'a [&'a str]),
}

/// Makes sure that `folder` holds what is `wanted` of `suite`.
pub fn provide(suite: &str, wanted: &Wanted, folder: &Path) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    eprintln!("fetching {name} from Debian {suite}");
    fetch(suite, wanted, folder)
        .with_context(|| format!("{name} can't be had: it comes from deb.debian.org by apt-get"))
}

fn fetch(suite: &str, wanted: &Wanted, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("a folder of the build")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let scratch = tempfile::tempdir_in(parent).context("no space beside the builds")?;
    let archives = scratch.path().join("cache/archives");
    for name in ["state/lists/partial", "cache/archives/partial", "sources"] {
        fs::create_dir_all(scratch.path().join(name))?;
    }
    fs::write(scratch.path().join("sources/debian.sources"), source(suite))?;
    // Of a machine without any package, so that every library comes along.
    fs::write(scratch.path().join("status"), "")?;
    let get = || apt(scratch.path(), "apt-get");
    tools::output(get().arg("update"))?;
    match *wanted {
        Wanted::Complete(package) => {
            tools::output(get().args(["install", "--yes", "--download-only", package]))?;
        }
        Wanted::Only(packages) => {
            tools::output(get().current_dir(&archives).arg("download").args(packages))?;
        }
        Wanted::Parts(package, beginnings) => {
            let mut depends = apt(scratch.path(), "apt-cache");
            let all =
                tools::output(depends.args(["depends", "--recurse", "--important", package]))?;
            let parts = all.lines().filter(|name| beginnings.iter().any(|b| name.starts_with(b)));
            tools::output(get().current_dir(&archives).arg("download").args(parts))?;
        }
    }
    let root = scratch.path().join("root");
    for package in packages(&archives)? {
        tools::output(Command::new("dpkg").arg("--extract").args([&package, &root]))?;
    }
    fs::rename(&root, folder).with_context(|| format!("create {}", folder.display()))
}

fn source(suite: &str) -> String {
    // An index that is renewed no more is still signed.
    format!(
        "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {suite}\nComponents: main\n\
         Targets: Packages\nCheck-Valid-Until: no\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
}

fn packages(archives: &Path) -> Result<Vec<PathBuf>> {
    let files: std::io::Result<Vec<_>> =
        fs::read_dir(archives)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = files?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    ensure!(!files.is_empty(), "apt-get fetched nothing");
    Ok(files)
}

fn apt(scratch: &Path, program: &str) -> Command {
    let scratch = scratch.display();
    let mut apt = Command::new(program);
    apt.arg("-q");
    for setting in [
        format!("Dir::State={scratch}/state"),
        format!("Dir::State::status={scratch}/status"),
        format!("Dir::Cache={scratch}/cache"),
        format!("Dir::Etc::sourceparts={scratch}/sources"),
        "Dir::Etc::sourcelist=/dev/null".into(),
        "Dir::Etc::preferences=/dev/null".into(),
        "Dir::Etc::preferencesparts=/dev/null".into(),
        "Debug::NoLocking=true".into(),
        // The folder is its maker's alone.
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
