//! Peers that come as crates, made into libraries for `LD_PRELOAD`.
//!
//! Cargo fetches and pins the sources (benches/peers/Cargo.lock); the library is then made as the project's own build
//! makes its shared one, because a Rust cdylib exports no C symbols and would put a jump of its own before each of
//! them.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a crate becomes a library.
pub enum Recipe {
    /// Compile these files of it.
    Compile {
        /// Below the crate's folder.
        sources: &'static [&'static str],
        /// Below the crate's folder.
        include: &'static str,
        /// What the project's build adds.
        flags: &'static [&'static str],
    },
    /// Let its build script make a static library, and export these names from that.
    Archive {
        /// Its file name.
        archive: &'static str,
        /// Exported name, name in the archive.
        exports: &'static [(&'static str, &'static str)],
    },
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
}

/// Makes `peer` from the crate `name` unless it is made; its crate and version, and the library.
pub fn library(peer: &str, name: &str, recipe: &Recipe) -> anyhow::Result<(String, PathBuf)> {
    ensure!(tools::has("c++"), "no C++ compiler; run as root: apt-get install g++");
    let package = package(name)?;
    let folder = tools::release_dir()?.with_file_name("peers");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let library = folder.join(format!("lib{peer}-{}.so", package.version));
    if !library.is_file() {
        eprintln!("building {peer} from {name} {}", package.version);
        // Under another name until it is whole.
        let unfinished = library.with_extension("unfinished");
        let mut compiler = command(recipe, &package, &folder)?;
        compiler.arg("-o").arg(&unfinished).args(["-lpthread", "-latomic", "-lrt"]);
        tools::output(&mut compiler)?;
        std::fs::rename(&unfinished, &library)?;
    }
    Ok((format!("crate {name} {}", package.version), library))
}

fn command(recipe: &Recipe, package: &Package, folder: &Path) -> anyhow::Result<Command> {
    let root = package.manifest_path.parent().context("a manifest lies in a folder")?;
    let all_c = |sources: &[&str]| sources.iter().all(|source| source.ends_with(".c"));
    match recipe {
        Recipe::Compile { sources, include, flags } => {
            let mut compiler = Command::new(if all_c(sources) { "cc" } else { "c++" });
            compiler.args(["-shared", "-fPIC", "-O3", "-DNDEBUG", "-w"]);
            compiler.args(["-ftls-model=initial-exec", "-fno-builtin-malloc"]).args(*flags);
            compiler.arg("-I").arg(root.join(include));
            compiler.args(sources.iter().map(|source| root.join(source)));
            Ok(compiler)
        }
        Recipe::Archive { archive, exports } => {
            let archive = built(&package.name, folder)?.join(archive);
            let mut compiler = Command::new("c++");
            compiler.args(["-shared", "-Wl,--whole-archive"]).arg(archive);
            compiler.arg("-Wl,--no-whole-archive");
            compiler.args(exports.iter().map(|(name, own)| format!("-Wl,--defsym={name}={own}")));
            Ok(compiler)
        }
    }
}

/// Where the crate's sources are, fetched if need be.
fn package(name: &str) -> anyhow::Result<Package> {
    let mut metadata = tools::cargo(&["metadata", "--locked", "--format-version=1"]);
    let text = tools::output(metadata.arg("--manifest-path").arg(manifest()))?;
    let metadata: Metadata = serde_json::from_str(&text).context("what cargo metadata prints")?;
    let found = metadata.packages.into_iter().find(|package| package.name == name);
    found.with_context(|| format!("benches/peers/Cargo.toml does not name {name}"))
}

/// Runs the build script of the crate; the folder it wrote to.
fn built(name: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        package_id: Option<String>,
        out_dir: Option<PathBuf>,
    }
    let mut build = tools::cargo(&["build", "--release", "--locked", "--message-format=json"]);
    build.args(["--package", name, "--manifest-path"]).arg(manifest());
    let text = tools::output(build.arg("--target-dir").arg(folder.join("build")))?;
    for line in text.lines() {
        let message: Message = serde_json::from_str(line).context("what cargo build prints")?;
        let ours = message.package_id.is_some_and(|id| id.contains(&format!("#{name}@")));
        if let Some(out_dir) = message.out_dir.filter(|_| ours) {
            return Ok(out_dir);
        }
    }
    bail!("{name} has no build script that ran")
}

fn manifest() -> PathBuf {
    tools::root().join("benches/peers/Cargo.toml")
}
