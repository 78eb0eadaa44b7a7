//! The Rust front: its rows, and its peers, which are benches/front built once for each allocator.
//!
//! There are three such programs: one with rows of its own, one with the rows of benches/applications, one with those of
//! benches/queries. Only those that have a wanted row are built.
//!
//! Installs what the crates' C and C++ is built with. A program says by itself which allocator serves it.

use super::figures::Row;
use super::peers::{Caches, Peer};
use super::sample;
use anyhow::{Context, bail};
use benches::named::{APPLICATIONS, FRONT, Named, QUERIES};
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

/// What is built from benches/front, once for each allocator.
struct Program {
    title: &'static str,
    profile: &'static str,
    feature: Option<&'static str>,
    rows: &'static [Named],
}

const PROGRAMS: &[Program] = &[
    Program { title: "front", profile: "release", feature: None, rows: FRONT },
    Program {
        title: "applications",
        profile: "applications",
        feature: Some("applications"),
        rows: APPLICATIONS,
    },
    Program { title: "queries", profile: "applications", feature: Some("queries"), rows: QUERIES },
];

/// All rows: those of the program itself, then those of benches/applications and benches/queries.
pub fn all() -> impl Iterator<Item = &'static Named> + Clone {
    PROGRAMS.iter().flat_map(|program| program.rows)
}

/// The rows that run when none is named: without those whose build takes long.
pub fn usual() -> Vec<String> {
    let is_slow = |row: &&Named| QUERIES.iter().any(|query| query.name == row.name);
    all().filter(|row| !is_slow(row)).map(|row| row.name.to_owned()).collect()
}

/// The rows of these names, each with the version of what it is built on.
pub fn rows(names: &[String]) -> anyhow::Result<Vec<Row>> {
    let chosen = all().filter(|row| names.iter().any(|name| name == row.name));
    let row = |row: &Named| {
        let what = match row.package {
            "" => row.what.to_owned(),
            package => format!("{}: {}", version(package)?, row.what),
        };
        Ok(Row { name: row.name.to_owned(), unit: row.unit.to_owned(), what })
    };
    chosen.map(row).collect()
}

/// The peers of these names, all if there are none, with the programs that `rows` need built.
pub fn select(names: &[String], rows: &[String]) -> anyhow::Result<Vec<Peer>> {
    for name in names {
        if !ALL.iter().any(|(known, _)| known == name) {
            let known: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
            bail!("no allocator {name}; there are: {}", known.join(", "));
        }
    }
    let programs = needed(rows);
    let wanted = ALL.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name));
    wanted.map(|&(name, package)| peer(name, package, &programs)).collect()
}

/// The programs that have `rows`, at least one.
fn needed(rows: &[String]) -> Vec<&'static Program> {
    let has_any = |program: &&Program| {
        program.rows.iter().any(|row| rows.iter().any(|name| name == row.name))
    };
    PROGRAMS.iter().filter(has_any).collect()
}

fn peer(name: &'static str, package: &str, programs: &[&Program]) -> anyhow::Result<Peer> {
    if !package.is_empty() {
        tools::apt_install(&["cmake", "g++", "make"])?;
    }
    let built = programs.iter().map(|program| Ok((build(name, program)?, program.rows)));
    let mut built = built.collect::<anyhow::Result<Vec<_>>>()?.into_iter();
    let (program, _) = built.next().context("no rows")?;
    let peer = Peer {
        name,
        version: version(package)?,
        ours: name == "rsalloc",
        preload: None,
        environment: if name == "tcmalloc" { TCMALLOC } else { &[] },
        caches: if name == "tcmalloc" { Caches::PerCpu } else { Caches::Any },
        program,
        others: built.collect(),
        says: Some(name),
    };
    sample::check_caches(&peer)?;
    Ok(peer)
}

/// Builds `program` on `name`, and keeps it under a name of its own.
fn build(name: &str, program: &Program) -> anyhow::Result<PathBuf> {
    let Program { title, profile, feature, .. } = *program;
    let folder = tools::release_dir()?.with_file_name("front");
    eprintln!("building {title} on {name}");
    let mut cargo = tools::cargo(&["build", "--profile", profile, "--locked", "--quiet"]);
    cargo.arg("--manifest-path").arg(manifest()).arg("--target-dir").arg(&folder);
    let allocator = (name != "system").then_some(name);
    let features: Vec<_> = allocator.into_iter().chain(feature).collect();
    cargo.arg("--features").arg(features.join(","));
    tools::output(&mut cargo)?;
    let own = folder.join(format!("{title}-{name}"));
    std::fs::copy(folder.join(profile).join("front"), &own)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(rows: &[&str]) -> Vec<&'static str> {
        let rows: Vec<_> = rows.iter().map(|&row| row.to_owned()).collect();
        needed(&rows).iter().map(|program| program.title).collect()
    }

    #[test]
    fn a_program_is_built_only_for_its_rows() {
        assert_eq!(titles(&["json", "sort"]), ["front"]);
        assert_eq!(titles(&["syn"]), ["applications"]);
        assert_eq!(titles(&["axum", "json"]), ["front", "applications"]);
        assert_eq!(titles(&["polars"]), ["queries"]);
        assert_eq!(usual().len(), all().count() - QUERIES.len());
    }

    #[test]
    fn names_are_unique_and_descriptions_have_versions() {
        let names: Vec<_> = all().map(|row| row.name.to_owned()).collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len(), "a name stands for two rows");
        let rows = rows(&names).unwrap();
        assert_eq!(rows.len(), names.len());
        let regex = rows.iter().find(|row| row.name == "regex").unwrap();
        assert!(regex.what.starts_with("regex 1."), "{}", regex.what);
        assert!(version("no-such-package").is_err());
    }
}
