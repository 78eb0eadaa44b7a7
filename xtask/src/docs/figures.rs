//! `--figures`: how large the code is, so that a document that compares two commits has one command for its numbers.

use super::tree::{File, Tree};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Files with more lines than this are counted as long.
const LONG: usize = 400;

const FOLDERS: &[&str] = &[
    "alloc-core/src",
    "alloc-core/tests",
    "alloc-global",
    "alloc-preload",
    "cli",
    "pprof",
    "benches",
    "xtask",
    "lab",
    "fuzz",
    "loom",
];

/// The numbers as tables.
pub fn table(tree: &Tree) -> String {
    let mut text =
        String::from("| Rust in | lines | files | longer than 400 lines |\n|---|--:|--:|--:|\n");
    let mut all = (0, 0, 0);
    for folder in FOLDERS {
        let below = format!("{folder}/");
        let files: Vec<_> = rust(tree).filter(|file| file.path.starts_with(&below)).collect();
        let lines: usize = files.iter().map(|file| file.text.lines().count()).sum();
        let long = files.iter().filter(|file| file.text.lines().count() > LONG).count();
        all = (all.0 + lines, all.1 + files.len(), all.2 + long);
        writeln!(text, "| `{folder}` | {lines} | {} | {long} |", files.len()).unwrap();
    }
    writeln!(text, "| all | {} | {} | {} |\n", all.0, all.1, all.2).unwrap();

    let engine: Vec<_> =
        rust(tree).filter(|file| file.path.starts_with("alloc-core/src/")).collect();
    let count =
        |word: &str| engine.iter().map(|file| code(file).matches(word).count()).sum::<usize>();
    let modules: BTreeSet<_> = engine
        .iter()
        .filter(|file| words(file).any(|word| word == "unsafe"))
        .map(|file| file.path.split('/').nth(2).unwrap_or_default().trim_end_matches(".rs"))
        .collect();
    let files = engine.iter().filter(|file| words(file).any(|word| word == "unsafe")).count();
    let glossary = tree.get("docs/glossary.md").map_or("", |file| &file.text);
    let rows =
        glossary.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| word |"));
    let rows = rows.filter(|line| !line.starts_with("| where |")).count();
    writeln!(text, "| of the engine | |\n|---|--:|").unwrap();
    let lines_of = |text: &str| text.lines().filter(|line| !line.trim().is_empty()).count();
    let lines: usize = engine.iter().map(|file| lines_of(&code(file))).sum();
    writeln!(text, "| lines without comments and tests | {lines} |").unwrap();
    writeln!(text, "| modules with `unsafe` | {} |", modules.len()).unwrap();
    writeln!(text, "| files with `unsafe` | {files} of {} |", engine.len()).unwrap();
    writeln!(text, "| `unsafe` blocks | {} |", count("unsafe {")).unwrap();
    writeln!(text, "| `unsafe fn` | {} |", count("unsafe fn") + count("unsafe extern \"C\" fn"))
        .unwrap();
    writeln!(text, "| words of the glossary | {} |", glossary.split_whitespace().count()).unwrap();
    writeln!(text, "| entries of the glossary | {rows} |").unwrap();
    text
}

fn rust(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.files().filter(|file| file.path.ends_with(".rs"))
}

/// The text without tests and comments.
fn code(file: &File) -> String {
    let product = file.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = product.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn words(file: &File) -> impl Iterator<Item = String> {
    let code = code(file);
    let words: Vec<_> = code
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .map(str::to_owned)
        .collect();
    words.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_counted_without_comments_and_tests() {
        let text = "unsafe fn a() {} // unsafe {\nfn b() { unsafe { a() } }\n#[cfg(test)]\nmod tests { unsafe {} }\n";
        let table = table(&Tree::of(&[
            ("alloc-core/src/x/y.rs", text),
            ("docs/glossary.md", "| word | means |\n| a | b |\n"),
        ]));
        for line in [
            "| `alloc-core/src` | 4 | 1 | 0 |",
            "| lines without comments and tests | 2 |",
            "| modules with `unsafe` | 1 |",
            "| `unsafe` blocks | 1 |",
            "| `unsafe fn` | 1 |",
            "| entries of the glossary | 1 |",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
    }
}
