//! Words that must not come back, and file heads that list callers.
//!
//! docs/words.txt has the list, one word a line: `ban WORD`, `allow TEXT` (a line with that text may have banned words),
//! `external NAME` (a name of another project, see `names`).

use super::Fault;
use super::tree::Tree;
use anyhow::ensure;

/// The list.
pub const PATH: &str = "docs/words.txt";

/// The list's lines by kind.
#[derive(Default)]
pub struct Words {
    ban: Vec<String>,
    allow: Vec<String>,
    /// Names of other projects.
    pub external: Vec<String>,
}

impl Words {
    /// Reads the list.
    pub fn of(tree: &Tree) -> Words {
        let mut words = Words::default();
        for line in tree.get(PATH).map_or("", |file| &file.text).lines() {
            match line.split_once(' ') {
                Some(("ban", word)) => words.ban.push(word.to_owned()),
                Some(("allow", text)) => words.allow.push(text.to_owned()),
                Some(("external", name)) => words.external.push(name.to_owned()),
                _ => {}
            }
        }
        words
    }

    fn banned<'a>(&self, line: &'a str) -> Option<&'a str> {
        let mut words = line.split(|letter: char| !letter.is_alphabetic());
        let is_banned = |word: &&str| self.ban.iter().any(|ban| word.eq_ignore_ascii_case(ban));
        words.find(is_banned).filter(|_| !self.allow.iter().any(|text| line.contains(text)))
    }
}

/// Banned words, and lists of callers.
pub fn faults(tree: &Tree) -> anyhow::Result<Vec<Fault>> {
    let words = Words::of(tree);
    ensure!(!words.ban.is_empty(), "{PATH} bans nothing: nothing would be checked");
    let mut faults = Vec::new();
    for file in tree.files().filter(|file| file.path != PATH && !file.path.ends_with(".svg")) {
        for (index, line) in file.text.lines().enumerate() {
            let place = || format!("{}:{}", file.path, index + 1);
            if let Some(word) = words.banned(line) {
                faults.push(format!("{}: \"{word}\": name what acts, or what it is", place()));
            }
            let is_head = file.path.ends_with(".rs") && line.trim_start().starts_with("//!");
            if is_head && (line.contains("Called by") || line.contains("; calls ")) {
                faults.push(format!(
                    "{}: a list of callers goes stale: docs/layers.txt says which module may",
                    place()
                ));
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "ban gadget\nban widgets\nallow widgets of a house\n";

    fn found(path: &str, text: &str) -> Vec<Fault> {
        faults(&Tree::of(&[(PATH, LIST), (path, text)])).unwrap()
    }

    #[test]
    fn a_banned_word_fails_unless_its_line_is_allowed() {
        assert_eq!(found("a.rs", "// Gadget comes.").len(), 1);
        assert_eq!(found("a.rs", "fn gadget_comes() {}").len(), 1);
        assert_eq!(found("a.md", "the widgets").len(), 1);
        assert!(found("a.md", "the widgets of a house, wherever").is_empty());
    }

    #[test]
    fn a_list_of_callers_fails() {
        assert_eq!(found("a.rs", "//! Called by b.").len(), 1);
        assert_eq!(found("a.rs", "//! Used by b; calls c.").len(), 1);
        assert!(found("a.rs", "// Called by b.").is_empty());
    }

    #[test]
    fn an_empty_list_is_an_error() {
        assert!(faults(&Tree::of(&[("a.rs", "")])).is_err());
    }
}
