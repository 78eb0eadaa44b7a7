//! `cargo xtask package`: the crates that are published, as cargo packs them.
//!
//! Promises that a package holds the tracked sources of its crate, the README and the licences and nothing else, that it
//! compiles on its own, and that every other crate of the repository says `publish = false`.

use anyhow::{Context, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use tools::{cargo, output, release_dir, root, run};

/// Each published crate and its folder.
const PUBLISHED: [(&str, &str); 5] = [
    ("rsalloc-core", "alloc-core"),
    ("rsalloc-pprof", "pprof"),
    ("rsalloc", "alloc-global"),
    ("rsalloc-preload", "alloc-preload"),
    ("rsalloc-cli", "cli"),
];

/// What each package holds beside its sources.
const EVERYWHERE: [&str; 7] = [
    ".cargo_vcs_info.json",
    "Cargo.lock",
    "Cargo.toml",
    "Cargo.toml.orig",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
];

/// Runs the command.
pub fn main() -> anyhow::Result<()> {
    others_stay_here()?;
    let mut package = cargo(&["package", "--quiet", "--allow-dirty", "--no-verify"]);
    for (name, folder) in PUBLISHED {
        let listed =
            output(&mut cargo(&["package", "--list", "--allow-dirty", "--package", name]))?;
        compare(&listed, &sources(folder)?).with_context(|| format!("the package {name}"))?;
        package.args(["--package", name]);
    }
    run(&mut package)?;
    check_unpacked()?;
    println!("{} packages hold what they should and compile on their own", PUBLISHED.len());
    Ok(())
}

/// Compiles what is in the packages, as a workspace of its own in which they find each other. `cargo package` does the
/// same, but takes a package of this name and version that it unpacked earlier for the new one.
fn check_unpacked() -> anyhow::Result<()> {
    let packed = release_dir()?.with_file_name("package");
    let folder = packed.join("unpacked");
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    let version = env!("CARGO_PKG_VERSION");
    let mut manifest = String::from(
        "[workspace]\nresolver = \"3\"\nmembers = [\"*-[0-9]*\"]\n[patch.crates-io]\n",
    );
    for (name, _) in PUBLISHED {
        let archive = packed.join(format!("{name}-{version}.crate"));
        // With the time of now: cargo compiles again what is newer than its result.
        run(Command::new("tar").arg("-xmzf").arg(archive).arg("-C").arg(&folder))?;
        manifest += &format!("{name} = {{ path = \"{name}-{version}\" }}\n");
    }
    let root = folder.join("Cargo.toml");
    fs::write(&root, manifest).with_context(|| format!("cannot write {}", root.display()))?;
    let mut check = cargo(&["check", "--quiet", "--manifest-path"]);
    run(check.arg(root).arg("--target-dir").arg(packed.join("checked")))
}

/// Fails unless the files of a package, a line each, are `sources` and [`EVERYWHERE`].
fn compare(listed: &str, sources: &str) -> anyhow::Result<()> {
    let listed: BTreeSet<_> = listed.lines().collect();
    let wanted: BTreeSet<_> = sources.lines().chain(EVERYWHERE).collect();
    if let Some(extra) = listed.difference(&wanted).next() {
        bail!(
            "{extra} is in it and is no tracked source: delete it, or see `include` in Cargo.toml"
        );
    }
    if let Some(missing) = wanted.difference(&listed).next() {
        bail!("{missing} is not in it: see `include` in Cargo.toml");
    }
    Ok(())
}

/// The tracked sources of a crate, named from its folder.
fn sources(folder: &str) -> anyhow::Result<String> {
    let mut git = Command::new("git");
    output(git.args(["ls-files", "src", "build.rs"]).current_dir(root().join(folder)))
}

/// Fails for a crate that could be published by mistake.
fn others_stay_here() -> anyhow::Result<()> {
    let mut git = Command::new("git");
    let manifests = output(git.args(["ls-files", "*/Cargo.toml"]).current_dir(root()))?;
    for manifest in manifests.lines() {
        let folder = manifest.trim_end_matches("/Cargo.toml");
        let text = std::fs::read_to_string(root().join(manifest))
            .with_context(|| format!("cannot read {manifest}"))?;
        let is_published = PUBLISHED.iter().any(|(_, published)| *published == folder);
        ensure!(
            is_published || text.lines().any(|line| line == "publish = false"),
            "{manifest} lacks `publish = false`; a crate to publish is listed in xtask/src/package.rs"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(more: &[&str]) -> String {
        [&EVERYWHERE, more].concat().join("\n")
    }

    #[test]
    fn a_package_of_its_sources_passes() {
        compare(&listed(&["src/lib.rs"]), "src/lib.rs\n").unwrap();
    }

    #[test]
    fn scratch_and_missing_sources_are_named() {
        let extra = compare(&listed(&["src/lib.rs", "tests/scratch"]), "src/lib.rs").unwrap_err();
        assert!(extra.to_string().contains("tests/scratch is in it"), "{extra}");
        let missing = compare(&listed(&["src/lib.rs"]), "src/lib.rs\nbuild.rs").unwrap_err();
        assert!(missing.to_string().contains("build.rs is not in it"), "{missing}");
    }

    #[test]
    fn each_crate_is_published_or_says_that_it_is_not() {
        others_stay_here().unwrap();
    }
}
