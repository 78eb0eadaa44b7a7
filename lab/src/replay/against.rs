//! librsalloc.so of another commit, as a peer.
//!
//! Built once for each commit, in a worktree below the build folder that is gone afterwards.

use super::starts_with_ours;
use crate::compare::peers::{Caches, Peer};
use anyhow::{Context, ensure};
use std::path::Path;
use std::process::Command;

/// The library of `revision`, to stand beside `peers`, of which the first is this build.
pub fn peer(revision: &str, peers: &[Peer]) -> anyhow::Result<Peer> {
    ensure!(starts_with_ours(peers), "--against compares with rsalloc: name it among --peers");
    let mut parse = git(&["rev-parse", "--verify", "--quiet"]);
    let commit = tools::output(parse.arg(format!("{revision}^{{commit}}")))
        .map_err(|_| anyhow::anyhow!("there is no commit {revision}"))?;
    let commit = commit.trim();
    let folder = tools::release_dir()?.with_file_name("against");
    let library = folder.join(format!("librsalloc-{commit}.so"));
    if !library.is_file() {
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        eprintln!("building librsalloc.so of {revision}");
        let tree = folder.join(format!("tree-{commit}"));
        let built = build(commit, &tree, &folder, &library);
        // Also of a failed one: a worktree that stays would be in the way of the next.
        let removed = tools::output(git(&["worktree", "remove", "--force"]).arg(&tree)).map(|_| ());
        built.and(removed).with_context(|| format!("no librsalloc.so of {revision}"))?;
    }
    Ok(Peer {
        name: format!("rsalloc@{revision}").leak(),
        version: commit.chars().take(7).collect(),
        ours: true,
        preload: Some(library),
        environment: &[],
        caches: Caches::Any,
        program: peers[0].program.clone(),
        others: Vec::new(),
        says: None,
    })
}

fn build(commit: &str, tree: &Path, folder: &Path, library: &Path) -> anyhow::Result<()> {
    tools::output(git(&["worktree", "add", "--detach", "--force"]).arg(tree).arg(commit))?;
    let target = folder.join("build");
    let mut cargo = tools::cargo(&["build", "--release", "--quiet", "--locked"]);
    // By the path: the package had another name once, and so had its library.
    cargo.args(["--manifest-path", "alloc-preload/Cargo.toml", "--lib"]).current_dir(tree);
    tools::output(cargo.arg("--target-dir").arg(&target))?;
    let built =
        ["librsalloc_preload.so", "librsalloc.so"].map(|name| target.join("release").join(name));
    let built = built.iter().find(|path| path.is_file()).context("the build left no library")?;
    std::fs::copy(built, library).context("keep the library")?;
    Ok(())
}

fn git(arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.args(arguments).current_dir(tools::root());
    git
}
