//! What mdbook reads: the documents, with chapters and links added.

use anyhow::Context;
use regex_lite::{Captures, Regex};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Documents of the root, which become chapters of the part "Project".
const OF_THE_ROOT: [&str; 3] = ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];

/// Folders whose files become chapters by themselves, and the part's name.
const PARTS: [(&str, &str); 2] = [("adr/", "Decisions"), ("lab/", "Notes of experiments")];

/// Writes the book's source into `to`.
pub fn write(root: &Path, to: &Path) -> anyhow::Result<()> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "docs"]).current_dir(root);
    let listed = tools::output(&mut git)?;
    let mut files: Vec<(String, String)> = listed
        .lines()
        .filter(|path| root.join(path).is_file())
        .map(|path| (path.to_owned(), path.trim_start_matches("docs/").to_owned()))
        .collect();
    files.extend(OF_THE_ROOT.map(|name| (name.to_owned(), name.to_owned())));
    // The list itself is no page.
    let is_page = |name: &&str| name.ends_with(".md") && *name != "SUMMARY.md";
    let pages: BTreeSet<&str> =
        files.iter().map(|(_, name)| name.as_str()).filter(is_page).collect();
    for (from, name) in &files {
        let (from, to) = (root.join(from), to.join(name));
        let context = || format!("copy {} to {}", from.display(), to.display());
        fs::create_dir_all(to.parent().context("a file in no folder")?).with_context(context)?;
        if name == "SUMMARY.md" {
            let text =
                fs::read_to_string(&from).with_context(context)? + &more_chapters(root, &pages)?;
            fs::write(&to, text).with_context(context)?;
        } else if name.ends_with(".md") {
            let text = fs::read_to_string(&from).with_context(context)?;
            fs::write(&to, linked(&text, name, &pages)).with_context(context)?;
        } else {
            fs::copy(&from, &to).with_context(context)?;
        }
    }
    Ok(())
}

/// The chapters that SUMMARY.md does not list.
fn more_chapters(root: &Path, pages: &BTreeSet<&str>) -> anyhow::Result<String> {
    let mut text = String::from("\n# Project\n\n");
    for name in OF_THE_ROOT {
        text += &chapter(&root.join(name), name)?;
    }
    for (folder, title) in PARTS {
        text += &format!("\n# {title}\n\n");
        for page in pages.iter().filter(|page| page.starts_with(folder)) {
            text += &chapter(&root.join("docs").join(page), page)?;
        }
    }
    Ok(text)
}

/// A line of the summary, with the heading of the document.
fn chapter(file: &Path, name: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let heading = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or(name);
    Ok(format!("- [{}]({name})\n", heading.replace(['[', ']', '`'], "")))
}

/// The text of the page `name` in which other pages that stand in backticks are links; links out of docs/ lead to where
/// the book has the page.
fn linked(text: &str, name: &str, pages: &BTreeSet<&str>) -> String {
    let named = Regex::new(
        r"(^|[^\[`])`((?:docs/)?(?:[\w-]+/)*[\w-]+\.md|(?:docs/)?adr/\d{4}(?:-[\w-]+\.md)?)`",
    )
    .expect("a pattern");
    let folder = name.rfind('/').map_or("", |at| &name[..=at]);
    let up = "../".repeat(name.matches('/').count());
    let link = |found: &Captures| {
        let short = found[2].trim_start_matches("docs/");
        let places = [format!("{folder}{short}"), short.to_owned()];
        let page = pages.iter().find(|page| {
            places.iter().any(|place| **page == place)
                || (short.starts_with("adr/") && page.starts_with(&format!("{short}-")))
        });
        match page.filter(|page| **page != name) {
            Some(page) => format!("{}[`{}`]({up}{page})", &found[1], &found[2]),
            None => found[0].to_owned(),
        }
    };
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        // From a page of the root into docs/, and back.
        let line = if OF_THE_ROOT.contains(&name) {
            line.replace("](docs/", "](")
        } else {
            OF_THE_ROOT.iter().fold(line.to_owned(), |line, page| {
                line.replace(&format!("]({up}../{page}"), &format!("]({up}{page}"))
            })
        };
        // A heading's anchor is made of its text, and stays as it is.
        let is_prose = !is_code && !is_fence && !line.starts_with('#');
        lines.push(match is_prose {
            true => named.replace_all(&line, link).into_owned(),
            false => line,
        });
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, name: &str) -> String {
        let pages = ["a.md", "lab/b.md", "lab/c.md", "adr/0005-d.md", "CHANGELOG.md"].into();
        linked(text, name, &pages).trim_end().to_owned()
    }

    #[test]
    fn pages_in_backticks_become_links() {
        assert_eq!(
            of("see `a.md`, `adr/0005`.", "e.md"),
            "see [`a.md`](a.md), [`adr/0005`](adr/0005-d.md)."
        );
        assert_eq!(of("`lab/b.md`", "lab/c.md"), "[`lab/b.md`](../lab/b.md)");
        assert_eq!(
            of("`b.md` `docs/a.md`", "lab/c.md"),
            "[`b.md`](../lab/b.md) [`docs/a.md`](../a.md)"
        );
    }

    #[test]
    fn what_is_no_page_or_a_link_already_stays() {
        for text in ["`x.md`", "[`a.md`](a.md)", "```sh\n`a.md`\n```", "## On `a.md`", "`adr/0006`"]
        {
            assert_eq!(of(text, "e.md"), text);
        }
        assert_eq!(of("`a.md`", "a.md"), "`a.md`");
    }

    #[test]
    fn links_between_the_root_and_docs_follow() {
        assert_eq!(of("[a](docs/a.md)", "CHANGELOG.md"), "[a](a.md)");
        assert_eq!(of("[c](../CHANGELOG.md)", "a.md"), "[c](CHANGELOG.md)");
        assert_eq!(of("[c](../../CHANGELOG.md)", "lab/b.md"), "[c](../CHANGELOG.md)");
        assert_eq!(of("`CHANGELOG.md`", "lab/b.md"), "[`CHANGELOG.md`](../CHANGELOG.md)");
    }
}
