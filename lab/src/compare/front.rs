//! The peers of the Rust front: benches/front, built once for each allocator.
//!
//! Installs what the crates' C and C++ is built with. A program says by itself which allocator serves it.

use super::figures::Row;
use super::peers::{Caches, Peer};
use super::sample;
use anyhow::{Context, bail};
use benches::named::{FRONT, Named};
use std::path::{Path, PathBuf};

/// Names, and the crates they come from; the feature has the name.
const ALL: &[(&str, &str)] = &[
    ("rsalloc", ""),
    ("system", ""),
    ("mimalloc", "mimalloc"),
    ("jemalloc", "tikv-jemallocator"),
    ("snmalloc", "snmalloc-rs"),
    ("rpmalloc", "rpmalloc"),
    ("tcmalloc", "tcmalloc-better"),
];

/// It registers rseq by itself; where libc has registered before, its caches are per thread.
const TCMALLOC: &[(&str, &str)] = &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")];

/// The rows of these names.
pub fn rows(names: &[String]) -> Vec<Row> {
    let chosen = FRONT.iter().filter(|row| names.iter().any(|name| name == row.name));
    let row = |row: &Named| Row {
        name: row.name.to_owned(),
        unit: row.unit.to_owned(),
        what: row.what.to_owned(),
    };
    chosen.map(row).collect()
}

/// The peers of these names, all if there are none, built.
pub fn select(names: &[String]) -> anyhow::Result<Vec<Peer>> {
    for name in names {
        if !ALL.iter().any(|(known, _)| known == name) {
            let known: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
            bail!("no allocator {name}; there are: {}", known.join(", "));
        }
    }
    let wanted = ALL.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name));
    wanted.map(|&(name, package)| peer(name, package)).collect()
}

fn peer(name: &'static str, package: &str) -> anyhow::Result<Peer> {
    if !package.is_empty() {
        tools::apt_install(&["cmake", "g++", "make"])?;
    }
    let peer = Peer {
        name,
        version: version(package)?,
        ours: name == "rsalloc",
        preload: None,
        environment: if name == "tcmalloc" { TCMALLOC } else { &[] },
        caches: if name == "tcmalloc" { Caches::PerCpu } else { Caches::Any },
        program: build(name)?,
        says: Some(name),
    };
    sample::check_caches(&peer)?;
    Ok(peer)
}

/// Builds `front` on `name`, and keeps it under a name of its own.
fn build(name: &str) -> anyhow::Result<PathBuf> {
    let folder = tools::release_dir()?.with_file_name("front");
    eprintln!("building front on {name}");
    let mut cargo = tools::cargo(&["build", "--release", "--locked", "--quiet"]);
    cargo.arg("--manifest-path").arg(manifest()).arg("--target-dir").arg(&folder);
    if name != "system" {
        cargo.args(["--features", name]);
    }
    tools::output(&mut cargo)?;
    let own = folder.join(format!("front-{name}"));
    std::fs::copy(folder.join("release/front"), &own)
        .with_context(|| format!("write {}", own.display()))?;
    Ok(own)
}

/// The version that the lock file pins; ours is the tree's.
fn version(package: &str) -> anyhow::Result<String> {
    if package.is_empty() {
        return Ok("this build".to_owned());
    }
    let lock = manifest().with_file_name("Cargo.lock");
    let text =
        std::fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    let head = format!("name = \"{package}\"\nversion = \"");
    let rest = text.split_once(&head).map(|(_, rest)| rest);
    let version = rest.and_then(|rest| rest.split('"').next());
    Ok(format!("{package} {}", version.context("the lock file does not name it")?))
}

fn manifest() -> PathBuf {
    Path::new(&tools::root()).join("benches/front/Cargo.toml")
}
