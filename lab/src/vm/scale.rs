//! How the slow paths grow with CPUs: `cargo lab vm --scale`.
//!
//! Promises, for machines of 2 to 240 CPUs and loads with twice as many threads, the numbers of refills, flushes,
//! locks and writes to shared cache lines per million operations, as a library with the feature `counters` counts them
//! between the clock's ends. Machines are held against that of 2 CPUs where their threads do as much each: what a thread and a CPU need
//! to begin counts alike then. Times mean nothing there. The loads are those of the `scale` program of benches.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::cell::{self, Cell, Shape, Step};
use super::plan::{Seen, Task};
use super::{Args, Host};
use crate::compare::{part, tables};

const MACHINES: [usize; 4] = [2, 8, 64, 240];
const LOADS: [&str; 5] = ["churn-512", "churn-8k", "larson", "pipe", "mstress"];
const LIBRARY: &str = "librsalloc-counters.so";
/// For a load on one machine; under translation by one thread a load takes ten minutes on 64 CPUs, and as many on 240.
const SECONDS_MAX: u64 = 3600;
/// Of each thread, behind a tenth more to warm up.
const OPERATIONS_EACH: usize = 250_000;
/// On machines of more than 64 CPUs, where all would take hours.
const OPERATIONS_FEW: usize = 10_000;
/// What shared writes may grow by from the smallest machine to the largest.
const GROWTH_GOAL: f64 = 1.1;

/// What the library said of one load.
#[derive(Deserialize)]
struct Counts {
    refills: u64,
    flushes: u64,
    locked: u64,
    contended: u64,
    untracked: u64,
    /// Writes to shared lines, and those that took the line from another CPU.
    parts: BTreeMap<String, (u64, u64)>,
}

/// What the program said.
#[derive(Deserialize)]
struct Load {
    operations: u64,
    allocator: String,
}

struct Entry {
    load: &'static str,
    cpus: usize,
    counts: Counts,
    operations: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let mut host = Host::new(args)?;
    host.programs.add(LIBRARY, library()?);
    host.programs.add("scale", tools::release_dir()?.join("scale"));
    let mut entries = Vec::new();
    for cpus in MACHINES {
        let cell = Cell { shape: Shape::Cpus(cpus), ..cell::quick() };
        if !args.only.is_empty() && !args.only.iter().any(|part| cell.name().contains(part)) {
            continue;
        }
        let mut steps = vec![cell.facts()];
        steps.extend(LOADS.map(|load| {
            let task = task(load, cpus);
            let conf = args.conf.iter().map(|conf| ("RSALLOC_CONF", conf.as_str()));
            Step::succeeds(task.with(&conf.collect::<Vec<_>>()))
        }));
        let row = host.steps(&cell, &steps).with_context(|| cell.name())?;
        ensure!(row.faults.is_empty(), "{}: {}", cell.name(), row.faults.join("; "));
        for load in LOADS {
            let seen = row.seen.iter().find(|seen| seen.name == load);
            let entry = entry(load, cpus, seen.context("a load without an answer")?)?;
            println!("{}", line(&entry));
            entries.push(entry);
        }
    }
    ensure!(!entries.is_empty(), "--only names none of these machines");
    let text = page(&entries);
    println!("{text}");
    if args.write {
        let path = tools::root().join("docs/scale.md");
        part::SCALE.write(&path, &(tables::origin()? + "\n" + &text))?;
    }
    Ok(())
}

fn task(load: &str, cpus: usize) -> Task {
    let (threads, each) = ((2 * cpus).to_string(), operations_each(cpus).to_string());
    let command = ["/bin/scale", load, "--threads", &threads, "--iters", &each];
    let task = Task::new(load, &command).within(SECONDS_MAX);
    task.with(&[("LD_PRELOAD", &format!("/bin/{LIBRARY}"))])
}

fn operations_each(cpus: usize) -> usize {
    if cpus > 64 { OPERATIONS_FEW } else { OPERATIONS_EACH }
}

/// librsalloc.so with counters, by a name that says so.
fn library() -> Result<PathBuf> {
    let built = tools::library_with("counters")?;
    let library = built.with_file_name(LIBRARY);
    fs::copy(&built, &library).context("keep the library")?;
    Ok(library)
}

fn entry(load: &'static str, cpus: usize, seen: &Seen) -> Result<Entry> {
    let lines = || seen.said.lines().filter(|line| line.starts_with('{'));
    let counts = lines().find_map(|line| serde_json::from_str::<Counts>(line).ok());
    let counts = counts.with_context(|| format!("{load} printed no counters: {}", seen.said))?;
    let said = lines().find_map(|line| serde_json::from_str::<Load>(line).ok());
    let said = said.with_context(|| format!("{load} printed no result: {}", seen.said))?;
    ensure!(said.allocator.ends_with(LIBRARY), "{} served {load}", said.allocator);
    ensure!(counts.untracked == 0, "{} writes of {load} were not tracked", counts.untracked);
    Ok(Entry { load, cpus, counts, operations: said.operations })
}

impl Entry {
    fn per_million(&self, count: u64) -> f64 {
        count as f64 * 1e6 / self.operations as f64
    }

    fn writes(&self) -> f64 {
        self.per_million(self.counts.parts.values().map(|part| part.0).sum())
    }

    fn moves(&self) -> f64 {
        self.per_million(self.counts.parts.values().map(|part| part.1).sum())
    }
}

fn line(entry: &Entry) -> String {
    let Entry { load, cpus, .. } = entry;
    format!("{load} on {cpus} CPUs: {:.0} shared writes per million", entry.writes())
}

fn page(entries: &[Entry]) -> String {
    let mut text = String::from(
        "\nPer million operations (a malloc and its free), threads = 2 x CPUs:\n\n\
         | load | CPUs | operations of a thread | refills | flushes | locks | contended | shared writes | of these moves | shared writes / 2 CPUs |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for entry in entries {
        let counts = &entry.counts;
        let [refills, flushes, locked, contended] =
            [counts.refills, counts.flushes, counts.locked, counts.contended]
                .map(|count| entry.per_million(count));
        let growth = growth(entries, entry).map_or("-".into(), |growth| format!("{growth:.2}"));
        writeln!(
            text,
            "| {} | {} | {} | {refills:.0} | {flushes:.0} | {locked:.0} | {contended:.1} | {:.0} | {:.0} | {growth} |",
            entry.load,
            entry.cpus,
            operations_each(entry.cpus),
            entry.writes(),
            entry.moves(),
        )
        .unwrap();
    }
    let names: Vec<_> = entries[0].counts.parts.keys().collect();
    write!(text, "\nThe shared writes by what is written to:\n\n| load | CPUs |").unwrap();
    names.iter().for_each(|name| write!(text, " {} |", name.replace('_', " ")).unwrap());
    text += &format!("\n|---|--:|{}\n", "--:|".repeat(names.len()));
    for entry in entries {
        write!(text, "| {} | {} |", entry.load, entry.cpus).unwrap();
        for name in &names {
            let writes = entry.counts.parts.get(*name).map_or(0, |part| part.0);
            write!(text, " {:.0} |", entry.per_million(writes)).unwrap();
        }
        text += "\n";
    }
    if entries.iter().all(|entry| growth(entries, entry).is_none()) {
        return text + "\nNo machine to compare with: the goal was not looked at.\n";
    }
    let worst = entries.iter().filter_map(|entry| growth(entries, entry)).fold(0.0, f64::max);
    let verdict = if worst <= GROWTH_GOAL { "met" } else { "not met" };
    text + &format!(
        "\nThe goal, at most {GROWTH_GOAL} times the shared writes of 2 CPUs, is {verdict}: the worst is {worst:.2}.\n"
    )
}

/// Shared writes over those of the same load on the smallest machine, if each thread did as much there.
fn growth(entries: &[Entry], entry: &Entry) -> Option<f64> {
    let least = entries.iter().find(|e| e.load == entry.load && e.cpus == MACHINES[0])?;
    let is_alike = operations_each(entry.cpus) == operations_each(least.cpus);
    (entry.cpus != least.cpus && is_alike).then(|| entry.writes() / least.writes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(said: &str) -> Seen {
        let said = said.to_owned();
        Seen {
            name: "pipe".into(),
            exit: Some(0),
            signal: None,
            seconds: 1.0,
            said,
            fixups: None,
            toggles: 0,
        }
    }

    const COUNTS: &str = "{\"refills\":3,\"flushes\":2,\"locked\":5,\"contended\":1,\"untracked\":0,\
                          \"parts\":{\"other\":[40,20],\"page_heap\":[2,2]}}\n";
    const LOAD: &str = "{\"operations\":2000000,\"allocator\":\"/bin/librsalloc-counters.so\"}\n";

    #[test]
    fn counts_are_per_million_and_held_against_two_cpus() {
        let few = entry("pipe", 2, &seen(&format!("{COUNTS}{LOAD}"))).unwrap();
        assert_eq!((few.writes(), few.moves()), (21.0, 11.0));
        let more = COUNTS.replace("[40,20]", "[82,20]");
        let many = entry("pipe", 64, &seen(&format!("{more}{LOAD}"))).unwrap();
        let text = page(&[few, many]);
        assert!(
            text.contains("| pipe | 64 | 250000 | 2 | 1 | 2 | 0.5 | 42 | 11 | 2.00 |"),
            "{text}"
        );
        assert!(text.contains("is not met: the worst is 2.00"), "{text}");
        let alone = entry("pipe", 64, &seen(&format!("{more}{LOAD}"))).unwrap();
        assert!(page(&[alone]).contains("the goal was not looked at"));
        let few = entry("pipe", 2, &seen(&format!("{COUNTS}{LOAD}"))).unwrap();
        let largest = entry("pipe", 240, &seen(&format!("{more}{LOAD}"))).unwrap();
        assert!(page(&[few, largest]).contains("the goal was not looked at"), "other work each");
    }

    #[test]
    fn a_load_without_counters_is_an_error() {
        assert!(entry("pipe", 2, &seen(LOAD)).is_err());
        assert!(entry("pipe", 2, &seen(COUNTS)).is_err());
        let lost = COUNTS.replace("\"untracked\":0", "\"untracked\":9");
        assert!(entry("pipe", 2, &seen(&format!("{lost}{LOAD}"))).is_err());
        let other = LOAD.replace("-counters", "");
        assert!(entry("pipe", 2, &seen(&format!("{COUNTS}{other}"))).is_err());
    }
}
