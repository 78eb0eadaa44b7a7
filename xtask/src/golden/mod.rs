//! `cargo xtask golden`: what the hot paths execute, held against a committed table and limits.
//!
//! Promises to fail when an entry of librsalloc.so executes other instructions than
//! docs/golden.md says, more than its limit, or anything that a hot path must not (a call, a locked
//! instruction, the stack).

mod path;

use crate::code::Code;
use anyhow::{Context, bail};
use path::Cost;
use std::fmt::Write as _;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rewrite docs/golden.md from this build; the limits hold all the same
    #[arg(long)]
    write: bool,
}

/// An exported function and the most instructions that its hot path may execute.
struct Entry {
    symbol: &'static str,
    limit: usize,
}

const ENTRIES: &[Entry] = &[
    Entry { symbol: "malloc", limit: 18 },
    Entry { symbol: "free", limit: 20 },
    Entry { symbol: "free_sized", limit: 16 },
    Entry { symbol: "posix_memalign", limit: 28 },
];

/// Runs the command.
pub fn main(arguments: Arguments) -> anyhow::Result<()> {
    tools::build_release(&["rsalloc-preload"])?;
    let code = Code::read(&tools::library()?)?;

    let (table, mut faults) = examine(&code, ENTRIES);
    print!("{table}");
    let file = tools::root().join("docs/golden.md");
    if arguments.write {
        std::fs::write(&file, document(&table)).context("write docs/golden.md")?;
    } else {
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        faults.extend(difference(&committed, &table));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// The table of what each entry executes, and what is wrong with it.
fn examine(code: &Code, entries: &[Entry]) -> (String, Vec<String>) {
    let mut faults = Vec::new();
    let mut table = String::from(
        "| entry | instructions | limit | loads | stores | conditional branches |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    for Entry { symbol, limit } in entries {
        let cost = match path::walk(code, symbol) {
            Ok(cost) => cost,
            Err(error) => {
                faults.push(format!("{symbol}: {error}"));
                continue;
            }
        };
        let Cost { instructions, loads, stores, branches, forbidden } = cost;
        writeln!(
            table,
            "| `{symbol}` | {instructions} | {limit} | {loads} | {stores} | {branches} |"
        )
        .unwrap();
        if instructions > *limit {
            faults.push(format!("{symbol}: {instructions} instructions, the limit is {limit}"));
        }
        faults.extend(forbidden.into_iter().map(|line| format!("{symbol}: {line}")));
    }
    (table, faults)
}

/// The lines in which the committed document and the table differ, as a fault; none if they agree.
fn difference(committed: &str, table: &str) -> Option<String> {
    let old: Vec<_> = committed.lines().filter(|line| line.starts_with('|')).collect();
    let new: Vec<_> = table.lines().collect();
    if old == new {
        return None;
    }
    let mut text = String::from("docs/golden.md differs (`cargo xtask golden --write` accepts):");
    for line in old.iter().filter(|line| !new.contains(line)) {
        write!(text, "\n- {line}").unwrap();
    }
    for line in new.iter().filter(|line| !old.contains(line)) {
        write!(text, "\n+ {line}").unwrap();
    }
    Some(text)
}

fn document(table: &str) -> String {
    format!(
        "# Golden table\n\n\
         What the hot path of each exported function executes on x86-64, from its first instruction to\n\
         its `ret`: conditional branches are not taken, direct jumps are followed. No hot path may\n\
         call, lock, or use the stack. `cargo xtask golden` fails when the build differs from this\n\
         table or passes a limit; `cargo xtask golden --write` rewrites it.\n\n{table}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
        .globl malloc
        .type malloc, @function
        malloc:
        mov rax, fs:0
        cmp rdi, 0x400
        ja slow
        mov [rax+0x8], rdi
        ret
        slow: ret";

    fn assemble(source: &str) -> Code {
        crate::code::assemble(source).0
    }

    fn faults(source: &str, limit: usize) -> Vec<String> {
        examine(&assemble(source), &[Entry { symbol: "malloc", limit }]).1
    }

    #[test]
    fn a_path_at_its_limit_passes() {
        assert_eq!(faults(GOOD, 5), Vec::<String>::new());
    }

    #[test]
    fn one_instruction_more_than_the_limit_fails() {
        assert_eq!(faults(GOOD, 4), ["malloc: 5 instructions, the limit is 4"]);
    }

    #[test]
    fn a_missing_entry_fails() {
        let (_, faults) = examine(&assemble(GOOD), &[Entry { symbol: "free", limit: 99 }]);
        assert_eq!(faults, ["free: the library does not export it"]);
    }

    #[test]
    fn a_forbidden_instruction_fails() {
        let text = GOOD.replace("cmp rdi, 0x400", "push rbx");
        assert_eq!(faults(&text, 24), ["malloc: uses the stack at 9: push rbx"]);
    }

    #[test]
    fn one_instruction_more_than_committed_fails_with_a_difference() {
        let entries = [Entry { symbol: "malloc", limit: 18 }];
        let (table, _) = examine(&assemble(GOOD), &entries);
        assert_eq!(difference(&document(&table), &table), None);
        let more = GOOD.replacen("ret", "nop\nret", 1);
        let (new, _) = examine(&assemble(&more), &entries);
        let text = difference(&document(&table), &new).expect("they differ");
        assert!(
            text.contains("\n- | `malloc` | 5 |") && text.contains("\n+ | `malloc` | 6 |"),
            "{text}"
        );
        assert!(difference("", &table).is_some(), "no document is a difference");
    }
}
