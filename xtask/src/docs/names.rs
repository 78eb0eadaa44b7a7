//! Names in backticks: files, commands, tests and identifiers must exist.
//!
//! Notes of experiments (`docs/lab`) name the code of their day, so of them only paths and commands are checked.
//! Names of other projects, and documents that are about them, stand in docs/words.txt as `external`.

use super::Fault;
use super::links::plain;
use super::markdown::{Span, code_spans, commands};
use super::tree::{File, Tree};
use super::voice::Words;
use regex_lite::Regex;
use std::collections::HashSet;

/// Folders that a path in a document may be relative to.
const BASES: &[&str] = &[
    "",
    "docs/",
    "alloc-core/",
    "alloc-core/src/",
    "alloc-preload/",
    "alloc-preload/src/",
    "alloc-global/",
    "alloc-global/src/",
    "pprof/src/",
    "xtask/src/",
    "lab/src/",
    "benches/src/",
];

const PACKAGES: &[(&str, &str)] = &[
    ("rsalloc-core", "alloc-core/"),
    ("rsalloc", "alloc-global/"),
    ("rsalloc-preload", "alloc-preload/"),
    ("rsalloc-cli", "cli/"),
    ("rsalloc-pprof", "pprof/"),
    ("benches", "benches/"),
    ("xtask", "xtask/"),
    ("lab", "lab/"),
];

/// What the rules need to know of the code.
struct Code<'a> {
    tree: &'a Tree,
    words: HashSet<&'a str>,
    external: Vec<String>,
}

/// Names that do not exist.
pub fn faults(tree: &Tree) -> Vec<Fault> {
    let code = Code {
        tree,
        words: tree.files().filter(|file| !is_document(file)).flat_map(words_of).collect(),
        external: Words::of(tree).external,
    };
    let mut faults = Vec::new();
    for file in tree.documents() {
        let mut spans = code_spans(file);
        spans.extend(commands(&file.text));
        for span in spans {
            let fault = code.fault_of(file, &span);
            faults.extend(fault.map(|fault| format!("{}:{}: {fault}", file.path, span.line)));
        }
    }
    faults
}

fn is_document(file: &File) -> bool {
    file.path.ends_with(".md") || file.path == super::voice::PATH
}

/// The words of a file, without the comments of a Rust file.
fn words_of(file: &File) -> Vec<&str> {
    let is_rust = file.path.ends_with(".rs");
    file.text
        .lines()
        .map(|line| if is_rust { line.split("//").next().unwrap_or_default() } else { line })
        .flat_map(|line| line.split(|letter: char| !letter.is_alphanumeric() && letter != '_'))
        .collect()
}

impl Code<'_> {
    fn fault_of(&self, file: &File, span: &Span) -> Option<String> {
        let text = span.text.as_str();
        // A place for a name in a recipe.
        if text.contains("NAME") {
            return None;
        }
        if let Some(rest) = text.strip_prefix("cargo ") {
            return self.command(rest);
        }
        if self.external.iter().any(|name| name == text || *name == file.path) {
            return None;
        }
        let text = text.trim_end_matches("()").trim_start_matches('&');
        let matches =
            |pattern: &str| Regex::new(pattern).expect("a pattern of this file").is_match(text);
        if matches(r"^(docs/)?adr/\d{4}$") {
            let start = format!("docs/{}-", text.trim_start_matches("docs/"));
            let found = self.tree.files().any(|file| file.path.starts_with(&start));
            return (!found).then(|| format!("there is no {text}"));
        }
        if matches(r"^[\w.-]+(/[\w.-]+)*\.(rs|md|txt|c|cc|svg)$") || matches(r"^[\w.-]+/[\w./-]+$")
        {
            return self.path(file, text);
        }
        if file.is_note() {
            return None;
        }
        if matches(r"^[A-Za-z_]\w*(::\w+)+$") {
            return self.item(text);
        }
        let is_name =
            matches(r"^[a-zA-Z]\w*_\w+$") || matches(r"^[A-Z][a-z0-9]+([A-Z][a-z0-9]*)+$");
        if is_name && !self.words.contains(text) {
            return Some(format!("`{text}` is not in the code"));
        }
        if matches(r"^[a-z]+[a-z0-9]*(-[a-z0-9]+)+$") && !self.has_text(text) {
            return Some(format!("`{text}` is not in the code"));
        }
        None
    }

    fn has_text(&self, text: &str) -> bool {
        self.tree.files().any(|file| !is_document(file) && file.text.contains(text))
    }

    /// A path: as it stands, from a base, or with an ending left out.
    fn path(&self, from: &File, text: &str) -> Option<String> {
        let has_ending = text.rsplit('/').next().is_some_and(|name| name.contains('.'));
        let folder = text.split('/').next().unwrap_or_default();
        let bases = BASES.iter().copied().chain([from.folder()]);
        let places: Vec<_> = bases.map(|base| plain(&format!("{base}{text}"))).collect();
        let is_there =
            |place: &String| self.tree.has(place) || self.tree.has(&format!("{place}.rs"));
        let is_name = !text.contains('/')
            && self.tree.files().any(|file| file.path.rsplit('/').next() == Some(text));
        // Without an ending it is a path only if its first folder is one of ours.
        let is_ours =
            has_ending || BASES.iter().any(|base| self.tree.has(&format!("{base}{folder}")));
        (is_ours && !is_name && !places.iter().any(is_there))
            .then(|| format!("there is no file {text}"))
    }

    /// `module::item` or `Type::member`.
    fn item(&self, text: &str) -> Option<String> {
        let parts: Vec<_> = text.split("::").collect();
        let [.., owner, name] = parts[..] else { return None };
        if ["std", "core", "libc", "loom", "rsalloc"].contains(&parts[0]) {
            return (!self.words.contains(name))
                .then(|| format!("`{name}` of {text} is not in the code"));
        }
        let below = format!("/{owner}/");
        let is_module = |file: &&File| {
            file.path.ends_with(".rs") && (file.stem() == owner || file.path.contains(&below))
        };
        let modules: Vec<_> = self.tree.files().filter(is_module).collect();
        let has = |file: &&File, word: &str| file.stem() == word || words_of(file).contains(&word);
        let found = match modules.is_empty() {
            false => modules.iter().any(|file| has(file, name)),
            true => self
                .tree
                .files()
                .filter(|file| file.path.ends_with(".rs"))
                .any(|file| has(&file, owner) && has(&file, name)),
        };
        (!found).then(|| format!("`{text}` is not in the code"))
    }

    fn command(&self, text: &str) -> Option<String> {
        let words: Vec<_> = text.split_whitespace().collect();
        match words.first() {
            Some(&("xtask" | "lab")) if words.get(1).is_some_and(|word| word.starts_with('-')) => {
                None
            }
            Some(&"xtask") => self.own("xtask/src/", &words[1..]),
            Some(&"lab") => self.own("lab/src/", &words[1..]),
            Some(&"test") => self.test(&words[1..]),
            _ => None,
        }
    }

    /// A command of a crate of ours: its name and its switches.
    fn own(&self, folder: &str, words: &[&str]) -> Option<String> {
        let (&command, rest) = words.split_first()?;
        let main = self.tree.get(&format!("{folder}main.rs"))?;
        let variant: String = command.split('-').map(capital).collect();
        let is_there = Regex::new(&format!(r"(?m)^    {variant}\b"))
            .is_ok_and(|name| name.is_match(&main.text));
        if !is_there {
            return Some(format!("`cargo {} {command}` is no command", folder.split('/').next()?));
        }
        let sources = || self.tree.files().filter(|file| file.path.starts_with(folder));
        let unknown = rest.iter().filter_map(|word| word.strip_prefix("--")).find(|switch| {
            let field = format!(
                "{}:",
                switch.trim_end_matches(']').split('=').next().unwrap_or(switch).replace('-', "_")
            );
            !sources().any(|file| file.text.contains(&field))
        });
        unknown.map(|switch| {
            format!("`cargo {} {command}` has no --{switch}", folder.trim_end_matches("/src/"))
        })
    }

    fn test(&self, words: &[&str]) -> Option<String> {
        let after = |name: &str| {
            words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1))
        };
        let package = after("-p").or_else(|| after("--package"))?;
        let Some((_, folder)) = PACKAGES.iter().find(|(name, _)| name == package) else {
            return Some(format!("there is no package {package}"));
        };
        let files: Vec<_> =
            words.windows(2).filter(|pair| pair[0] == "--test").map(|pair| pair[1]).collect();
        for name in &files {
            if !self.tree.has(&format!("{folder}tests/{name}.rs")) {
                return Some(format!("there is no test {folder}tests/{name}.rs"));
            }
        }
        // What is left over is a filter: some test's name, or a module's, has it.
        let switches = ["-p", "--package", "--test", "--features"];
        let filter = words.iter().enumerate().find(|(at, word)| {
            !word.starts_with("--")
                && (*at == 0 || !switches.contains(&words[at - 1]))
                && **word != "-p"
        });
        let (_, filter) = filter?;
        let found = self.tree.files().filter(|file| file.path.starts_with(folder)).any(|file| {
            file.stem() == *filter || words_of(file).iter().any(|word| word.contains(filter))
        });
        (!found).then(|| format!("no test of {package} has {filter} in its name"))
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &[(&str, &str)] = &[
        ("alloc-core/src/depot.rs", "pub fn take_one() {} // old_name\nstruct Depot;"),
        ("alloc-core/tests/fork.rs", "fn a_child_has_a_heap() {}"),
        ("docs/adr/0001-stacks.md", ""),
        ("xtask/src/main.rs", "enum Command {\n    /// Runs.\n    Golden(golden::Arguments),\n}"),
        ("xtask/src/golden.rs", "struct Arguments {\n    write: bool,\n}"),
    ];

    fn found(text: &str) -> Vec<Fault> {
        let mut files = CODE.to_vec();
        files.push(("docs/a.md", text));
        faults(&Tree::of(&files))
    }

    #[test]
    fn what_exists_passes() {
        let text = "`depot::take_one`, `Depot`, `take_one()`, `adr/0001`, `depot.rs`, `alloc-core/src/depot.rs`,\n\
                    `cargo xtask golden --write`, `cargo test -p rsalloc-core --test fork child_has`, `a b`, `main`";
        assert_eq!(found(text), Vec::<Fault>::new());
    }

    #[test]
    fn what_is_gone_fails() {
        for text in [
            "`depot::take_two`",
            "`take_two`",
            "`old_name`",
            "`TakeTwo`",
            "`adr/0002`",
            "`depots.rs`",
            "`alloc-core/src/depots.rs`",
            "`alloc-core/source`",
            "`some-model`",
            "`cargo xtask silver`",
            "`cargo xtask golden --read`",
            "`cargo test -p rsalloc-core --test forks`",
            "`cargo test -p rsalloc-core --test fork parent_has`",
            "`cargo test -p rsalloc-cor --test fork`",
        ] {
            assert_eq!(found(text).len(), 1, "{text}");
        }
    }
}
