//! What `cargo xtask` and `cargo lab` share: the repository and its builds, other programs, the list
//! of gates, and the restartable sections of a built library.
//!
//! Promises that each function fails with one line that says what to do.

pub mod gates;
pub mod sections;

use anyhow::{Context, anyhow, bail};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this crate is in xtask/tools")
}

/// Where `cargo build --release` leaves its files, also under `CARGO_TARGET_DIR`.
pub fn release_dir() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let target = own.ancestors().nth(2).context("this program was not started from a build")?;
    Ok(target.join("release"))
}

/// librsalloc.so of the release build, by the name that cargo gives it.
pub fn library() -> anyhow::Result<PathBuf> {
    Ok(release_dir()?.join("librsalloc_preload.so"))
}

/// Builds librsalloc.so with a feature of its crate in a folder of its own, so that the build without it stays, and returns its path there.
pub fn library_with(feature: &str) -> anyhow::Result<PathBuf> {
    let folder = release_dir()?.with_file_name(feature);
    let mut build = cargo(&["build", "--release", "--quiet", "--package", "rsalloc-preload"]);
    build.args(["--features", feature, "--target-dir"]).arg(&folder);
    run(&mut build)?;
    Ok(folder.join("release/librsalloc_preload.so"))
}

/// A cargo command in the root, with the cargo that runs this program.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(root());
    cargo
}

/// Builds `packages` in release mode; cargo shows how far it is if a user looks on.
pub fn build_release(packages: &[&str]) -> anyhow::Result<()> {
    let mut build = cargo(&["build", "--release"]);
    if !std::io::stderr().is_terminal() {
        build.arg("--quiet");
    }
    for package in packages {
        build.args(["--package", package]);
    }
    run(&mut build)
}

/// Runs `command` with our own output, stdin closed; an error unless it succeeds.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| missing(command))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// What `command` prints; an error unless it succeeds. Its root cause is how it ended and what it
/// said last; the command line, which holds this machine's paths, is the context.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| missing(command))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let cause = anyhow!("{}: {}", output.status, words.trim());
        return Err(cause.context(format!("{} failed", shown(command))));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no text", shown(command)))
}

/// Whether `program` can be started.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Installs Debian packages that are not there yet.
pub fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<_> =
        packages.iter().copied().filter(|package| version(package).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        // In runlevel 1 the packages' services are not started.
        apt.envs([("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1")]);
        apt.args(["-qq", "-y"]).args(arguments);
        output(&mut apt)
    };
    let names = missing.join(" ");
    apt(&["update"])
        .and_then(|_| apt(&[&["install", "--no-install-recommends"], &missing[..]].concat()))
        .with_context(|| format!("cannot install {names}; run as root: apt-get install {names}"))?;
    Ok(())
}

/// The installed version of a Debian package.
pub fn version(package: &str) -> Option<String> {
    let mut query = Command::new("dpkg-query");
    let text = output(query.args(["-W", "-f", "${db:Status-Abbrev}${Version}", package])).ok()?;
    text.strip_prefix("ii ").map(str::to_owned)
}

fn missing(command: &Command) -> String {
    format!("cannot start {}", shown(command))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Each crate in the release build of `packages`, with its features.
    fn crates(packages: &[&str]) -> BTreeSet<String> {
        let mut tree =
            cargo(&["tree", "--edges", "normal", "--prefix", "none", "--format", "{p} {f}"]);
        tree.args(packages.iter().flat_map(|package| ["--package", package])).current_dir(root());
        let text = output(&mut tree).unwrap();
        let lines = text.lines().map(|line| line.trim_end_matches(" (*)").trim());
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// A feature that another package adds to one of its crates would have the command linked twice, a minute each.
    #[test]
    fn gates_that_build_the_command_with_other_packages_build_the_same_command() {
        let alone = crates(&["rsalloc-cli"]);
        assert!(alone.iter().any(|line| line.starts_with("serde_json v")), "{alone:?}");
        for others in
            [&["benches", "rsalloc-preload"][..], &["benches", "rsalloc-preload", "record"]]
        {
            let together = crates(&[&["rsalloc-cli"], others].concat());
            let changed: Vec<_> = alone.difference(&together).collect();
            assert!(changed.is_empty(), "with {others:?} other features: {changed:?}");
        }
    }
}
