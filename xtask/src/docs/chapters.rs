//! The book's list of chapters, the length of the front page, and pictures for light and dark pages.

use super::Fault;
use super::links::plain;
use super::markdown::links;
use super::tree::{File, Tree};

/// The list.
pub const PATH: &str = "docs/SUMMARY.md";

/// What fits a front page.
const README_LINES: usize = 200;

/// Pages that are in no chapter, or in two, a README that is too long, and pictures for one colour scheme only.
pub fn faults(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    let listed: Vec<_> = match tree.get(PATH) {
        Some(file) => {
            links(&file.text).iter().map(|link| plain(&format!("docs/{}", link.text))).collect()
        }
        None => return vec![format!("{PATH} is gone: it lists the chapters of the book")],
    };
    for file in tree.documents().filter(|file| is_page(file)) {
        match listed.iter().filter(|path| **path == file.path).count() {
            1 => {}
            0 => faults.push(format!("{}: {PATH} has no chapter for it", file.path)),
            _ => faults.push(format!("{}: {PATH} has two chapters for it", file.path)),
        }
    }
    let lines = tree.get("README.md").map_or(0, |file| file.text.lines().count());
    if lines > README_LINES {
        faults
            .push(format!("README.md: {lines} lines, at most {README_LINES}: docs/ has the rest"));
    }
    let pictures =
        tree.files().filter(|file| file.path.starts_with("docs/") && file.path.ends_with(".svg"));
    for file in pictures.filter(|file| !file.text.contains("prefers-color-scheme")) {
        faults.push(format!("{}: drawn for one colour scheme only", file.path));
    }
    faults
}

/// Decisions and notes are chapters by themselves (`cargo xtask book`).
fn is_page(file: &File) -> bool {
    let name = file.path.strip_prefix("docs/").unwrap_or("/");
    !name.contains('/') && file.path != PATH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(summary: &str, readme: &str) -> Vec<Fault> {
        let pages =
            [("docs/a.md", ""), ("docs/b.md", ""), ("docs/adr/0001-c.md", ""), ("d.md", "")];
        let mut files = pages.to_vec();
        files.extend([(PATH, summary), ("README.md", readme)]);
        faults(&Tree::of(&files))
    }

    #[test]
    fn each_page_is_one_chapter() {
        assert_eq!(found("- [A](a.md)\n- [B](b.md)\n", "# x\n"), Vec::<Fault>::new());
        assert_eq!(
            found("- [A](a.md)\n", ""),
            ["docs/b.md: docs/SUMMARY.md has no chapter for it"]
        );
        assert_eq!(found("- [A](a.md)\n- [A](a.md)\n- [B](b.md)\n", "").len(), 1);
        assert_eq!(faults(&Tree::of(&[("docs/a.md", "")])).len(), 1);
    }

    #[test]
    fn a_picture_without_a_dark_scheme_fails() {
        let dark = "<svg><style>@media (prefers-color-scheme: dark) {}</style></svg>";
        let of = |picture| {
            faults(&Tree::of(&[(PATH, ""), ("docs/a.svg", picture), ("b/c.svg", "<svg/>")]))
        };
        assert!(of(dark).is_empty());
        assert_eq!(of("<svg/>").len(), 1);
    }

    #[test]
    fn a_readme_of_201_lines_fails() {
        let both = "- [A](a.md)\n- [B](b.md)\n";
        assert!(found(both, &"x\n".repeat(README_LINES)).is_empty());
        assert_eq!(found(both, &"x\n".repeat(README_LINES + 1)).len(), 1);
    }
}
