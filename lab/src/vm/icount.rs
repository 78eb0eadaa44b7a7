//! The instructions of the hot entries, executed and counted: `cargo lab vm --icount`.
//!
//! Promises that they are those of docs/golden.md, which are read from the code, or an error. The guest's side is
//! `guest::ticks`.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::cell::{self, Cell, Shape, Step};
use super::plan::Task;
use super::qemu::Accelerator;
use super::{Host, judge};

const ENTRIES: [&str; 3] = ["malloc", "free", "free_sized"];

/// Runs the command.
pub fn run(host: &mut Host) -> Result<()> {
    let differing = differing(host, &[])?;
    ensure!(differing == 0, "{differing} entries execute other instructions than the table says");
    Ok(())
}

/// How many entries execute other instructions than the table says, with these variables set.
pub fn differing(host: &mut Host, variables: &[(&str, &str)]) -> Result<usize> {
    let usual = std::mem::replace(&mut host.accelerator, Accelerator::Counting);
    let cell = Cell { shape: Shape::Cpus(1), ..cell::quick() };
    let task = Task::new("ticks", &["/bin/lab", "vm", "ticks"]).with(variables);
    let steps = [cell.facts(), Step::succeeds(task.with(&[("LD_PRELOAD", "/bin/librsalloc.so")]))];
    let row = host.steps(&cell, &steps)?;
    host.accelerator = usual;
    ensure!(row.faults.is_empty(), "{}", row.faults.join("; "));
    let counts = judge::json(row.seen.last().context("no answer")?);
    let golden = fs::read_to_string(tools::root().join("docs/golden.md"))?;
    let mut differing = 0;
    for entry in ENTRIES {
        let counted = counts[entry].as_u64().with_context(|| format!("no count of {entry}"))?;
        let read = instructions(&golden, entry)?;
        differing += usize::from(counted != read);
        println!("{entry:<12}{counted:>4} instructions executed, {read:>4} in docs/golden.md");
    }
    Ok(differing)
}

/// The second column of the entry's line.
fn instructions(golden: &str, entry: &str) -> Result<u64> {
    let line = golden.lines().find(|line| line.starts_with(&format!("| `{entry}` ")));
    let field = line.and_then(|line| line.split('|').nth(2));
    let number = field.and_then(|field| field.trim().parse().ok());
    number.with_context(|| format!("docs/golden.md has no line for {entry}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_found_by_its_name() {
        let golden = "| `free_sized` | 18 | 18 |\n| `free` | 21 | 26 |\n";
        assert_eq!(instructions(golden, "free").unwrap(), 21);
        assert!(instructions(golden, "malloc").is_err());
    }
}
