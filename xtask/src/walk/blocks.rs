//! Blocks of the documents that are marked to run: ` ```sh,run `, and the same for c, ini and dockerfile.
//!
//! Promises that a shell block ends with 0, that a C program compiles without a warning, links the library and ends with
//! 0, and that the environment which a unit or a Dockerfile sets has rsalloc serve a process. The installed name of the
//! library in `LD_PRELOAD` stands for where it is here.

use super::{Ended, Place};
use anyhow::Context;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

/// How documents name the installed library.
const PRELOAD: &str = "LD_PRELOAD=librsalloc.so.0";

/// A block.
#[derive(Debug)]
pub struct Block {
    /// The document, from the root.
    path: String,
    /// Where its text begins, from 1.
    line: usize,
    /// The first word behind its fence.
    language: String,
    text: String,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({})", self.path, self.line, self.language)
    }
}

/// The marked blocks of all documents that git knows.
pub fn all(root: &Path) -> anyhow::Result<Vec<Block>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"]).current_dir(root);
    let mut blocks = Vec::new();
    for path in tools::output(&mut git)?.lines() {
        let whole = root.join(path);
        if whole.is_file() && !whole.is_symlink() {
            let text = fs::read_to_string(&whole).with_context(|| format!("read {path}"))?;
            blocks.extend(of(path, &text));
        }
    }
    Ok(blocks)
}

fn of(path: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(words) = line.trim_start().strip_prefix("```") {
            blocks.extend(open.take());
            is_code = !is_code;
            let mut words = words.trim().split(',');
            let language = words.next().unwrap_or_default().to_owned();
            if is_code && words.any(|word| word == "run") {
                open = Some(Block {
                    path: path.to_owned(),
                    line: index + 2,
                    language,
                    text: String::new(),
                });
            }
        } else if let Some(block) = &mut open {
            block.text += line;
            block.text.push('\n');
        }
    }
    blocks
}

impl Block {
    /// Runs it in a folder `name` of its own.
    pub fn run(&self, place: &Place, name: &str) -> anyhow::Result<Ended> {
        let here = format!("LD_PRELOAD={}", place.installed.join("lib/librsalloc.so.0").display());
        let text = self.text.replace(PRELOAD, &here);
        let mut command = place.command("sh", name)?;
        match self.language.as_str() {
            "sh" => command.args(["-euxc", &text]),
            "c" => {
                let file = place.scratch.join(name).join("example.c");
                fs::write(&file, &text).with_context(|| format!("write {}", file.display()))?;
                command.args(["-euxc", C])
            }
            "ini" => command.envs(assignments(&text, "Environment=")).args(["-euxc", SERVED]),
            "dockerfile" => command.envs(assignments(&text, "ENV ")).args(["-euxc", SERVED]),
            other => {
                let said = format!("blocks of {other} cannot be run");
                return Ok(Ended { is_good: false, said });
            }
        };
        Ok(command.output().context("cannot start sh")?.into())
    }
}

/// Compiles and runs a program that is linked with the library.
const C: &str = "cc -Wall -Wextra -Werror -I\"$REPOSITORY/alloc-preload/include\" -o example example.c -L\"$INSTALLED/lib\" -lrsalloc -Wl,-rpath,\"$INSTALLED/lib\"\n./example";

/// Ends with 0 if rsalloc serves this very shell, per CPU or not.
const SERVED: &str = "rsalloc check $$ || [ $? = 1 ]";

/// The variables that the lines with `mark` set.
fn assignments<'a>(text: &'a str, mark: &str) -> Vec<(&'a str, &'a str)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
    lines.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(text: &str) -> Vec<bool> {
        let folder = tempfile::tempdir().unwrap();
        let place =
            Place { installed: folder.path().join("none"), scratch: folder.path().join("scratch") };
        of("a.md", text).iter().map(|block| block.run(&place, "step").unwrap().is_good).collect()
    }

    #[test]
    fn marked_blocks_are_found_with_their_lines() {
        let text = "```sh\nfalse\n```\n\n```sh,run\ntrue\n```\ntext\n  ```c,run\n  int x;\n  ```\n";
        let found: Vec<_> = of("a.md", text).iter().map(|block| block.to_string()).collect();
        assert_eq!(found, ["a.md:6 (sh)", "a.md:10 (c)"]);
    }

    #[test]
    fn a_line_that_fails_fails_the_block() {
        assert_eq!(ended("```sh,run\ntrue\n```\n"), [true]);
        assert_eq!(ended("```sh,run\nfalse\ntrue\n```\n"), [false]);
        assert_eq!(ended("```sh,run\necho $NO_SUCH_VARIABLE\n```\n"), [false]);
    }

    #[test]
    fn what_cannot_be_run_fails() {
        assert_eq!(ended("```toml,run\na = 1\n```\n"), [false]);
        // Without a library: nothing to link, and nothing that serves.
        assert_eq!(ended("```c,run\nint main(void) { return 0; }\n```\n"), [false]);
        assert_eq!(ended("```ini,run\nEnvironment=A=b\n```\n"), [false]);
    }

    #[test]
    fn units_and_images_set_variables() {
        let unit = "[Service]\nEnvironment=LD_PRELOAD=/x\nEnvironment=A=k:v\n";
        assert_eq!(assignments(unit, "Environment="), [("LD_PRELOAD", "/x"), ("A", "k:v")]);
        assert_eq!(assignments("FROM x\nENV A=1 B=2\n", "ENV "), [("A", "1"), ("B", "2")]);
    }
}
