//! `cargo xtask dist`: a release, in `target/dist/ARCHITECTURE`; and unpacked in `target/dist`, to be used from there.
//!
//! ```text
//! root/                      what packages are made of, as it lies under / (Debian's folders)
//! rsalloc-VERSION-TRIPLE/    the same as a folder that may stand anywhere
//! debug/                     debug files, by build id
//! packages/                  tarballs, .deb, .rpm, SBOM, SHA256SUMS
//! ```
//!
//! Promises: the library exports what `alloc-preload/exports.txt` lists and needs no newer glibc than [`library::OLDEST`]
//! says (of the gate, no symbol that must be there); a C program compiles and runs against header, library and archive; the command runs programs on the library beside
//! it; all files are the same, bit for bit, whatever folder they are built in. docs/packaging.md is for packagers.

mod archive;
mod build;
mod checks;
mod debian;
mod library;
mod reproduce;
mod rpm;
mod sbom;
mod sysroot;
mod tree;
mod versions;

use anyhow::Context;
use build::Source;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use sysroot::Platform;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// The gate: against this machine's libc, from the release build that is there, and without packages
    #[arg(long, conflicts_with = "reproduce")]
    quick: bool,
    /// Build from two folders and compare all files
    #[arg(long)]
    reproduce: bool,
    /// The architecture: x86_64 or aarch64
    #[arg(long, default_value = "x86_64", value_parser = sysroot::platform)]
    arch: Platform,
}

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    let platform = arguments.arch;
    let target = tools::release_dir()?.with_file_name("dist");
    if arguments.reproduce {
        return reproduce::main(platform, &target.with_file_name("dist-twice"));
    }
    let source = Source::here()?;
    if arguments.quick {
        let (built, out) = (build::quick(&source)?, Out::new(&target, "quick")?);
        return check(platform, &built, &out, None)
            .and_then(|()| unpacked(platform, &out, &target));
    }
    let tools = sysroot::prepare(platform)?;
    let out = Out::new(&target, platform.arch)?;
    release(&source, &tools, &out)?;
    if platform.is_here() {
        unpacked(platform, &out, &target)?;
    }
    println!("{}:", out.packages().display());
    for file in archive::files(&out.packages())? {
        println!("{:>9} {}", fs::metadata(out.packages().join(&file))?.len(), file.display());
    }
    Ok(())
}

/// Lays the release out in `target/dist` itself as well, to be used from there: `bin`, `lib`, `include`, `share`.
fn unpacked(platform: Platform, out: &Out, target: &Path) -> anyhow::Result<()> {
    for name in ["bin", "lib", "include", "share"] {
        let folder = target.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
    }
    archive::relocatable(platform, out, target)
}

/// Builds and packs a release.
fn release(source: &Source, tools: &sysroot::Tools, out: &Out) -> anyhow::Result<()> {
    let platform = tools.platform;
    let built = build::release(source, tools)?;
    check(platform, &built, out, Some(tools))?;
    let context = Release { source, platform, out };
    archive::tarballs(&context)?;
    debian::packages(&context)?;
    rpm::packages(&context)?;
    sbom::write_sbom(&context)?;
    archive::checksums(&context)
}

/// Lays out what was built and tries it.
fn check(
    platform: Platform,
    built: &build::Built,
    out: &Out,
    tools: Option<&sysroot::Tools>,
) -> anyhow::Result<()> {
    tree::lay_out(platform, built, out)?;
    checks::exports(&out.root().join(platform.library_folder()).join(library::FILE))?;
    checks::strong_symbols(platform, out)?;
    if tools.is_some() {
        checks::oldest_glibc(platform, out)?;
    }
    checks::example(platform, out, tools)?;
    checks::command(platform, out)?;
    println!("{}: the library, the header, the archive and the command work", out.folder.display());
    Ok(())
}

/// What all kinds of packages are made from.
struct Release<'a> {
    source: &'a Source,
    platform: Platform,
    out: &'a Out,
}

/// The folder of a release.
struct Out {
    folder: PathBuf,
}

impl Out {
    /// An empty one.
    fn new(target: &Path, name: &str) -> anyhow::Result<Self> {
        let folder = target.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(folder.join("packages"))
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Out { folder })
    }

    fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    fn debug(&self) -> PathBuf {
        self.folder.join("debug")
    }

    fn packages(&self) -> PathBuf {
        self.folder.join("packages")
    }
}

/// The version of the release.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Writes a file and the folders above it.
fn write(path: &Path, text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let folder = path.parent().context("a file in no folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a file to a place whose folders may not be there yet.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let folder = to.parent().context("a file in no folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(from, to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// A command of the shell, for what is a line there.
fn shell(script: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(folder);
    command
}
