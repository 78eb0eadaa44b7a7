//! Links that lead somewhere, commits that exist, and a date or a commit beside each measurement.

use super::Fault;
use super::markdown::{anchors, links};
use super::tree::{File, Tree};
use super::voice::Words;
use regex_lite::Regex;
use std::path::Path;
use std::process::Command;

/// Tables of numbers that are no measurements: file formats, instructions counted from the build.
const NOT_MEASURED: &[&str] = &["docs/golden.md", "docs/trace.md"];

/// Links into nothing, and measurements without a date.
pub fn faults(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in tree.documents() {
        for link in links(&file.text) {
            let is_broken = !link.text.contains("://") && !leads_somewhere(tree, file, &link.text);
            if is_broken {
                faults.push(format!(
                    "{}:{}: the link {} leads nowhere",
                    file.path, link.line, link.text
                ));
            }
        }
        if !NOT_MEASURED.contains(&file.path.as_str()) {
            faults.extend(undated(file));
        }
    }
    faults
}

fn leads_somewhere(tree: &Tree, file: &File, target: &str) -> bool {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let whole = match path {
        "" => file.path.clone(),
        path => plain(&format!("{}{path}", file.folder())),
    };
    let has_anchor = |file: &File| anchors(&file.text).iter().any(|name| name == anchor);
    tree.has(&whole) && (anchor.is_empty() || tree.get(&whole).is_some_and(has_anchor))
}

/// The path without its `..`.
pub fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Tables with numbers, in a file without any date or commit before their end.
fn undated(file: &File) -> Option<Fault> {
    let dated = Regex::new(r"\b20\d\d-\d\d-\d\d\b").expect("a pattern");
    let mut lines = file.text.lines().enumerate();
    let (table, _) = lines.find(|(_, line)| line.starts_with("|--") && line.contains("-:"))?;
    let has_date = dated.is_match(&file.text) || !hashes(&file.text).is_empty();
    (!has_date)
        .then(|| format!("{}:{}: a measurement without a date or a commit", file.path, table + 1))
}

/// The commits of the history at `root`; none in a shallow clone, where some are missing.
pub fn commits_of(root: &Path) -> Option<Vec<String>> {
    let git = |arguments: &[&str]| {
        tools::output(Command::new("git").args(arguments).current_dir(root)).ok()
    };
    let is_shallow = git(&["rev-parse", "--is-shallow-repository"])?.trim() == "true";
    let commits = git(&["log", "--all", "--format=%H"])?;
    (!is_shallow).then(|| commits.lines().map(str::to_owned).collect())
}

/// Commits that no history knows.
pub fn faults_of_commits(tree: &Tree, commits: &[String]) -> Vec<Fault> {
    let external = Words::of(tree).external;
    let is_known = |hash: &str| external.iter().any(|name| name == hash);
    let mut faults = Vec::new();
    for file in tree.documents() {
        for (line, hash) in hashes(&file.text).into_iter().filter(|(_, hash)| !is_known(hash)) {
            if !commits.iter().any(|commit| commit.starts_with(hash)) {
                faults.push(format!("{}:{line}: there is no commit {hash}", file.path));
            }
        }
    }
    faults
}

/// Words that read as commits, and their lines.
fn hashes(text: &str) -> Vec<(usize, &str)> {
    let hash = Regex::new(r"\b[0-9a-f]{7}\b").expect("a pattern");
    let is_hash =
        |word: &str| word.contains(char::is_numeric) && word.contains(char::is_alphabetic);
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(index, line)| hash.find_iter(line).map(move |word| (index + 1, word.as_str())))
        .filter(|(_, word)| is_hash(word))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_into_nothing_fails() {
        let found = |text| faults(&Tree::of(&[("docs/a.md", text), ("docs/b.md", "# B c\n")]));
        assert_eq!(
            found("[b](b.md), [c](b.md#b-c), [self](../docs/a.md), [web](https://x.y)"),
            Vec::<Fault>::new()
        );
        assert_eq!(found("[b](c.md)").len(), 1);
        assert_eq!(found("[b](b.md#d)").len(), 1);
        assert_eq!(found("![b](b.svg)").len(), 1);
    }

    #[test]
    fn a_measurement_without_a_date_fails() {
        let found = |text: &str| faults(&Tree::of(&[("docs/a.md", text)]));
        let table = "| a | ns |\n|---|--:|\n| x | 1 |\n";
        assert_eq!(found(table).len(), 1);
        assert!(found(&format!("2026-01-01\n\n{table}")).is_empty());
        assert!(found(&format!("at 45aa9db\n\n{table}")).is_empty());
    }

    #[test]
    fn a_commit_that_no_history_knows_fails() {
        let tree = Tree::of(&[("docs/a.md", "at 45aa9db and 1234567 and 0dead00")]);
        let faults = faults_of_commits(&tree, &["45aa9db0".to_owned()]);
        assert_eq!(faults, ["docs/a.md:1: there is no commit 0dead00"]);
    }
}
