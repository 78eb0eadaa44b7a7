//! `cargo xtask golden`: what the hot paths execute, held against a committed table and limits.
//!
//! Promises to fail when a function of librsalloc.so with a section executes other instructions than
//! docs/golden.md says, more than its limit, or anything that a hot path must not (a call, a locked
//! instruction, the stack); and when one of the library with the feature `mm_cid` executes more than one instruction more.

mod path;

use crate::code::Code;
use anyhow::{Context, bail};
use path::Cost;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use tools::sections::Section;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rewrite docs/golden.md from this build; the limits hold all the same
    #[arg(long)]
    write: bool,
}

/// The most instructions that the hot path of each function with a section may execute. The sections that the slow
/// paths call are built twice, for `cpu_id` and for `mm_cid`.
const LIMITS: &[(&str, usize)] = &[
    ("malloc", 18),
    ("__libc_malloc", 18),
    ("rsalloc_own_malloc", 18),
    ("_Znwm", 18),
    ("rsalloc_new_nothrow", 18),
    ("rsalloc_core::allocate_aligned", 18),
    ("calloc", 28),
    ("__libc_calloc", 28),
    ("posix_memalign", 28),
    ("free", 20),
    ("__libc_free", 20),
    ("_ZdlPv", 20),
    ("free_sized", 16),
    ("rsalloc_delete_sized", 16),
    ("rsalloc_core::free_sized", 18),
    ("rsalloc_core::malloc_counted", 21),
    ("rsalloc_core::alloc_counted", 23),
    ("rsalloc_core::calloc_counted", 30),
    ("sections::pop_cpu", 14),
    ("sections::pop_cid", 16),
    ("sections::push_cpu", 16),
    ("sections::push_cid", 18),
    ("sections::pop_batch_cpu", 29),
    ("sections::pop_batch_cid", 31),
    ("sections::push_batch_cpu", 28),
    ("sections::push_batch_cid", 30),
    ("sections::set_bounds_cpu", 16),
    ("sections::set_bounds_cid", 18),
    ("sections::add_cpu", 11),
    ("sections::add_cid", 13),
];

/// Runs the command.
pub fn main(arguments: Arguments) -> anyhow::Result<()> {
    tools::build_release(&["rsalloc-preload"])?;
    let plain = Build::read(&tools::library()?)?;
    let by_mm_cid = Build::read(&tools::library_with("mm_cid")?)?;

    let (table, mut faults) = examine(&plain, &by_mm_cid, LIMITS);
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

/// The code of a library, and its functions with a section.
struct Build {
    code: Code,
    functions: HashMap<String, u64>,
}

impl Build {
    fn read(library: &Path) -> anyhow::Result<Build> {
        let code = Code::read(library)?;
        let functions = functions(&code, &tools::sections::read(library)?);
        Ok(Build { code, functions })
    }

    /// What a function costs, or what is wrong.
    fn cost(&self, name: &str) -> Result<Cost, String> {
        let function = self.functions.get(name);
        let &function = function.ok_or("the library has no such function with a section")?;
        path::walk(&self.code, function).map_err(|error| error.to_string())
    }
}

/// The functions with a section, by the names that [`LIMITS`] uses: C's as they are exported, others by their path.
fn functions(code: &Code, sections: &[Section]) -> HashMap<String, u64> {
    let name = |section: &Section| match section.name.ends_with("_cpu")
        || section.name.ends_with("_cid")
    {
        _ if code.exported(&section.name) == Some(section.function) => section.name.clone(),
        // Hidden entries of the C library.
        _ if section.name.starts_with("rsalloc_") => section.name.clone(),
        true => format!("sections::{}", section.name),
        false => format!("rsalloc_core::{}", section.name),
    };
    sections.iter().map(|section| (name(section), section.function)).collect()
}

/// The table of what each function executes, and what is wrong with it.
fn examine(plain: &Build, by_mm_cid: &Build, limits: &[(&str, usize)]) -> (String, Vec<String>) {
    let mut faults = Vec::new();
    let mut table = String::from(
        "| function | instructions | limit | loads | stores | conditional branches | by `mm_cid` |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    let unlisted =
        plain.functions.keys().filter(|name| limits.iter().all(|(listed, _)| listed != name));
    faults.extend(unlisted.map(|name| format!("{name} has a section, and no limit in LIMITS")));
    for (name, limit) in limits {
        let (cost, other) = match (plain.cost(name), by_mm_cid.cost(name)) {
            (Ok(cost), Ok(other)) => (cost, other),
            (cost, other) => {
                let errors = [cost, other].into_iter().filter_map(Result::err);
                faults.extend(errors.map(|error| format!("{name}: {error}")));
                continue;
            }
        };
        let Cost { instructions, loads, stores, branches, forbidden } = cost;
        writeln!(
            table,
            "| `{name}` | {instructions} | {limit} | {loads} | {stores} | {branches} | {} |",
            other.instructions
        )
        .unwrap();
        if instructions > *limit {
            faults.push(format!("{name}: {instructions} instructions, the limit is {limit}"));
        }
        if other.instructions > instructions + 1 {
            faults.push(format!(
                "{name}: {} instructions by mm_cid, {instructions} by cpu_id",
                other.instructions
            ));
        }
        let forbidden = forbidden.into_iter().chain(other.forbidden);
        faults.extend(forbidden.map(|line| format!("{name}: {line}")));
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
         What each function with a restartable section executes on x86-64, from its first instruction to\n\
         its `ret`: conditional branches are not taken, direct jumps are followed, a loop is passed once. No hot path may\n\
         call, lock, or use the stack. The functions are found by the library's section `__rseq_cs`, so\n\
         none is left out. `_Znwm` and `_ZdlPv` are C++'s operators new and delete; the other forms jump\n\
         to these. The last column counts the library with the feature `mm_cid`, one instruction more at most. `cargo xtask golden` fails when the build\n\
         differs from this table or passes a limit; `cargo xtask golden --write` rewrites it.\n\n{table}"
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

    /// The functions that `source` exports, all with a section.
    fn assemble(source: &str) -> Build {
        let (code, _) = crate::code::assemble(source);
        let at = code.exported("malloc").expect("exported");
        Build { code, functions: HashMap::from([("malloc".to_owned(), at)]) }
    }

    fn faults(source: &str, limits: &[(&str, usize)]) -> Vec<String> {
        examine(&assemble(source), &assemble(source), limits).1
    }

    #[test]
    fn a_path_at_its_limit_passes() {
        assert_eq!(faults(GOOD, &[("malloc", 5)]), Vec::<String>::new());
    }

    #[test]
    fn one_instruction_more_than_the_limit_fails() {
        let found = faults(GOOD, &[("malloc", 4)]);
        assert_eq!(found, ["malloc: 5 instructions, the limit is 4"]);
    }

    #[test]
    fn a_missing_function_fails() {
        let found = faults(GOOD, &[("malloc", 5), ("free", 99)]);
        assert_eq!(found, ["free: the library has no such function with a section"; 2]);
    }

    #[test]
    fn a_function_without_a_limit_fails() {
        assert_eq!(faults(GOOD, &[]), ["malloc has a section, and no limit in LIMITS"]);
    }

    #[test]
    fn a_forbidden_instruction_fails() {
        let text = GOOD.replace("cmp rdi, 0x400", "push rbx");
        assert_eq!(faults(&text, &[("malloc", 24)]), ["malloc: uses the stack at 9: push rbx"; 2]);
    }

    #[test]
    fn two_instructions_more_by_mm_cid_fail() {
        let more = |nops: &str| {
            let other = assemble(&GOOD.replacen("ret", &format!("{nops}ret"), 1));
            examine(&assemble(GOOD), &other, &[("malloc", 5)])
        };
        let (table, found) = more("nop\n");
        assert!(found.is_empty() && table.ends_with(" 6 |\n"), "{found:?} {table}");
        assert_eq!(more("nop\nnop\n").1, ["malloc: 7 instructions by mm_cid, 5 by cpu_id"]);
    }

    #[test]
    fn one_instruction_more_than_committed_fails_with_a_difference() {
        let limits = [("malloc", 18)];
        let table = |source: &str| examine(&assemble(source), &assemble(source), &limits).0;
        let old = table(GOOD);
        assert_eq!(difference(&document(&old), &old), None);
        let new = table(&GOOD.replacen("ret", "nop\nret", 1));
        let text = difference(&document(&old), &new).expect("they differ");
        assert!(
            text.contains("\n- | `malloc` | 5 |") && text.contains("\n+ | `malloc` | 6 |"),
            "{text}"
        );
        assert!(difference("", &old).is_some(), "no document is a difference");
    }
}
