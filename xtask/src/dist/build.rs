//! What a release is made of, as cargo builds it.

use super::sysroot::Tools;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::Command;
use tools::{output, release_dir, root, run};

/// The sources, in a folder that no built file names.
pub struct Source {
    /// The folder.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// The time of the commit, in seconds: that of every file in an archive.
    pub epoch: String,
}

impl Source {
    /// This repository.
    pub fn here() -> anyhow::Result<Self> {
        let target = release_dir()?.with_file_name("dist-build");
        Ok(Source { root: root().to_owned(), target, epoch: epoch()? })
    }
}

/// `SOURCE_DATE_EPOCH`, or the time of the commit.
pub fn epoch() -> anyhow::Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    let time = output(git.args(["log", "-1", "--format=%ct"]).current_dir(root()))
        .context("no SOURCE_DATE_EPOCH, and no commit to take the time of")?;
    Ok(time.trim().to_owned())
}

/// What cargo built.
pub struct Built {
    /// The command, with its debug information. For the machine that builds if `pages` is another.
    pub command: PathBuf,
    /// The library's code as an archive, with its debug information.
    pub archive: PathBuf,
    /// A command that runs here, for the man pages.
    pub pages: PathBuf,
    /// What links the library.
    pub cc: PathBuf,
    /// The prefix of binutils.
    pub objcopy: String,
}

/// From the release build of this machine, as it is or as cargo renews it.
pub fn quick(source: &Source) -> anyhow::Result<Built> {
    tools::build_release(&["rsalloc-cli"])?;
    let mut rustc =
        tools::cargo(&["rustc", "--release", "--quiet", "--package", "rsalloc-preload"]);
    run(rustc.args(["--lib", "--crate-type", "staticlib"]).current_dir(&source.root))?;
    let folder = release_dir()?;
    Ok(Built {
        command: folder.join("rsalloc"),
        archive: folder.join("librsalloc_preload.a"),
        pages: folder.join("rsalloc"),
        cc: "cc".into(),
        objcopy: "objcopy".into(),
    })
}

/// A release build for `tools.platform`.
pub fn release(source: &Source, tools: &Tools) -> anyhow::Result<Built> {
    let platform = tools.platform;
    let cargo = |words: &[&str]| {
        let mut cargo = tools::cargo(words);
        cargo.args(["--release", "--quiet", "--locked", "--target", platform.triple]);
        set_up(&mut cargo, source, tools);
        cargo
    };
    run(&mut cargo(&["build", "--package", "rsalloc-cli"]))?;
    let mut archive = cargo(&["rustc", "--package", "rsalloc-preload", "--lib"]);
    run(archive.args(["--crate-type", "staticlib"]))?;
    let folder = source.target.join(platform.triple).join("release");
    let command = folder.join("rsalloc");
    let pages = if platform.is_here() {
        command.clone()
    } else {
        tools::build_release(&["rsalloc-cli"])?;
        release_dir()?.join("rsalloc")
    };
    Ok(Built {
        command,
        archive: folder.join("librsalloc_preload.a"),
        pages,
        cc: tools.cc.clone(),
        objcopy: platform.tool("objcopy"),
    })
}

/// Has cargo build what does not depend on where it is built.
fn set_up(cargo: &mut Command, source: &Source, tools: &Tools) {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cargo"));
    let remapped = [(&*source.root, "/rsalloc"), (&*home, "/cargo")];
    let flags = remapped.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let variable = |name: &str| {
        format!("CARGO_TARGET_{}_{name}", tools.platform.triple.to_uppercase().replace('-', "_"))
    };
    cargo
        .current_dir(&source.root)
        .env("CARGO_TARGET_DIR", &source.target)
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(variable("LINKER"), &tools.cc)
        .env("RSALLOC_RELEASE", "1")
        .env("SOURCE_DATE_EPOCH", &source.epoch);
    if let Some(rustc) = &tools.rustc {
        cargo.env("RUSTC", rustc);
    }
}
