//! `cargo xtask sweep`: a thread is stopped at every instruction of every restartable section.
//!
//! Promises that each address of each section of the built library was hit under both registrations
//! with the index that it is for, with the thread left alone, moved to another CPU and interrupted
//! by a handler that allocates; that it went on at `abort_ip` before the commit and after the commit
//! behind it; that no object was lost or handed out twice; and that an unwinder finds the caller from every
//! instruction. Exit 1 for any deviation, and for any
//! address that was not reached. `tools::sections` finds the sections,
//! `lint` reads their code, `frames` and `callers` are about unwinding, `tracer` stops `victim`, `control` shows that each check can fail.

mod callers;
mod control;
mod frames;
mod lint;
mod tracer;
mod victim;

use crate::code::{self, Code};
use anyhow::{Context, bail, ensure};
use clap::builder::PossibleValuesParser;
use frames::Frames;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tools::sections::{self, Section};
use tracer::Trap;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Sweep this library instead of building librsalloc.so
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// Sweep librsalloc.so with a feature of its crate, such as mm_cid
    #[arg(long, value_name = "NAME", conflicts_with = "lib")]
    feature: Option<String>,
    /// Only these registrations and indices
    #[arg(long, value_delimiter = ',', value_parser = names())]
    environment: Vec<String>,
    /// Only each N-th run from the K-th on: K/N
    #[arg(long, value_name = "K/N", value_parser = part)]
    part: Option<(usize, usize)>,
    /// Break the sections of the running library on purpose: each check must see it
    #[arg(long)]
    control: bool,
    /// Be the program that is stopped
    #[arg(long, hide = true)]
    victim: bool,
}

/// How the victim is made to run.
pub struct Environment {
    /// For the table.
    pub name: &'static str,
    /// What is set for it.
    pub variables: &'static [(&'static str, &'static str)],
    mm_cid: bool,
    /// Whether a heap profile runs.
    profiled: bool,
}

const OWN: (&str, &str) = ("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
const CPU_ID: (&str, &str) = ("RSALLOC_CONF", "index:cpu_id");
const MM_CID: (&str, &str) = ("RSALLOC_CONF", "index:mm_cid");

/// A mean interval so long that hardly an object is a sample; by the index that the entries know.
const PROFILED: (&str, &str) = ("RSALLOC_CONF", "index:auto,profile:1g");

/// Both registrations with both indices, and with a heap profile.
const ENVIRONMENTS: &[Environment] = &[
    Environment { name: "libc", variables: &[CPU_ID], mm_cid: false, profiled: false },
    Environment { name: "own", variables: &[OWN, CPU_ID], mm_cid: false, profiled: false },
    Environment { name: "libc-cid", variables: &[MM_CID], mm_cid: true, profiled: false },
    Environment { name: "own-cid", variables: &[OWN, MM_CID], mm_cid: true, profiled: false },
    Environment { name: "libc-profile", variables: &[PROFILED], mm_cid: false, profiled: true },
    Environment { name: "own-profile", variables: &[OWN, PROFILED], mm_cid: false, profiled: true },
];

/// What the functions that count allocations for a heap profile end with; others than they have no class then.
const COUNTED: &str = "_counted";

/// What happens to the thread while it is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Treatment {
    /// Nothing but the stop itself.
    Stay,
    /// It is moved to another CPU.
    Move,
    /// A handler runs on top of it that allocates and frees objects of the same class.
    Signal,
}

const TREATMENTS: &[Treatment] = &[Treatment::Stay, Treatment::Move, Treatment::Signal];

/// Addresses that may stay unreached: function, instruction, why. None today.
const UNREACHABLE: &[(&str, &str, &str)] = &[];

/// Most further runs of the victim in each environment until each instruction of each section was unwound from.
const ROUNDS: usize = 30;

/// Deviations that are printed in full.
const SHOWN: usize = 20;

/// What there is to sweep.
struct Subject {
    library: PathBuf,
    code: Code,
    sections: Vec<Section>,
    cpus: Vec<usize>,
    environments: Vec<&'static Environment>,
    part: (usize, usize),
}

/// What was seen of one section.
#[derive(Default)]
struct Row {
    aborted: usize,
    committed: usize,
    environments: BTreeSet<&'static str>,
}

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.victim {
        victim::main();
    }
    let subject = Subject::find(arguments)?;
    if arguments.control { control::main(&subject) } else { sweep(&subject) }
}

fn sweep(subject: &Subject) -> anyhow::Result<()> {
    let mut faults: Vec<_> =
        subject.sections.iter().flat_map(|section| lint::examine(&subject.code, section)).collect();
    if !faults.is_empty() {
        // Stopping at addresses of a malformed section shows nothing more.
        bail!("{}", faults.join("\n"));
    }
    faults.extend(unwind(subject)?);
    let (mut runs, mut hits) = (0, 0);
    let total = subject.runs().count();
    let mut shown = None;
    let mut rows: Vec<_> = subject.sections.iter().map(|_| Row::default()).collect();
    for (index, environment, at, treatment) in subject.runs() {
        let section = &subject.sections[index];
        let home = subject.is_home(section, environment);
        let place = || subject.place(section, at, environment, treatment);
        if shown.replace(index) != Some(index) {
            eprintln!("{runs} of {total} runs; now {}", section.name);
        }
        let trap = Trap { section, at, treatment, shake: subject.shake(section) };
        let outcome = tracer::run(&subject.library, environment, &trap, &subject.cpus, &[])
            .with_context(place)?;
        let row = &mut rows[index];
        row.aborted += outcome.aborted;
        row.committed += outcome.committed;
        if outcome.hits > 0 {
            row.environments.insert(environment.name);
        }
        runs += 1;
        hits += outcome.hits;
        let unreached = (home && outcome.hits == 0 && !subject.is_unreachable(section, at))
            .then(|| "never reached".to_owned());
        let seen = outcome.strayed.into_iter().chain(outcome.broken).chain(unreached);
        faults.extend(seen.map(|what| format!("{}: {what}", place())));
    }
    print!("{}", subject.table(&rows));
    println!("{runs} runs, {hits} stops, {} deviations", faults.len());
    ensure!(runs > 0, "nothing was run");
    for (name, text, why) in UNREACHABLE {
        println!("not reached: {name}: {text}: {why}");
    }
    if subject.cpus.len() < 2 {
        println!("No thread was moved: this process may run on one CPU only.");
    }
    if faults.is_empty() {
        return Ok(());
    }
    let more = faults.len().saturating_sub(SHOWN);
    faults.truncate(SHOWN);
    let tail = if more > 0 { format!("\nand {more} more") } else { String::new() };
    bail!("{}{tail}", faults.join("\n"))
}

/// Holds what unwinders read against the code, and against the running library.
fn unwind(subject: &Subject) -> anyhow::Result<Vec<String>> {
    let frames = Frames::read(&subject.library)?;
    let (mut faults, walked) = frames.examine(&subject.code, &subject.sections);
    let is_wanted = |section: &Section| {
        subject.environments.iter().any(|environment| subject.is_home(section, environment))
    };
    let wanted = subject.sections.iter().filter(|section| is_wanted(section));
    let wanted: BTreeSet<_> = wanted.flat_map(|section| subject.addresses(section)).collect();
    let mut seen = callers::Seen::default();
    for environment in &subject.environments {
        callers::watch(subject, &frames, environment, callers::Wanted::All, &mut seen)?;
    }
    for _ in 0..ROUNDS {
        let missing: BTreeSet<_> = wanted.difference(&seen.reached).copied().collect();
        if missing.is_empty() {
            break;
        }
        for environment in &subject.environments {
            callers::watch(
                subject,
                &frames,
                environment,
                callers::Wanted::Only(&missing),
                &mut seen,
            )?;
        }
    }
    let callers::Seen { stops, reached, faults: strange } = seen;
    println!(
        "unwinding: {walked} instructions walked, {stops} stops at {} instructions of functions with \
         sections, {} faults",
        reached.len(),
        faults.len() + strange.len()
    );
    faults.extend(wanted.difference(&reached).map(|&at| {
        let name = frames.function(at).map_or("?", |(name, _)| name);
        format!("{name}: at {at:x} ({}) no caller was computed", subject.text(at))
    }));
    faults.extend(strange);
    Ok(faults)
}

/// Reads K/N.
fn part(text: &str) -> anyhow::Result<(usize, usize)> {
    let (first, of) = text.split_once('/').context("K/N is wanted")?;
    let (first, of) = (first.parse()?, of.parse()?);
    ensure!(first < of, "K is less than N");
    Ok((first, of))
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(ENVIRONMENTS.iter().map(|environment| environment.name))
}

impl Subject {
    fn find(arguments: &Arguments) -> anyhow::Result<Subject> {
        let library = match (&arguments.lib, &arguments.feature) {
            (Some(path), _) => path.to_owned(),
            (None, Some(feature)) => tools::library_with(feature)?,
            (None, None) => {
                tools::build_release(&["rsalloc-preload"])?;
                tools::library()?
            }
        };
        let library = library.canonicalize().with_context(|| {
            format!("no {}; build it: cargo build --release", library.display())
        })?;
        let sections = sections::read(&library).with_context(|| library.display().to_string())?;
        let code = Code::read(&library)?;
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu) == Ok(true)).collect();
        ensure!(!sections.is_empty(), "{} has no sections", library.display());
        let wanted = &arguments.environment;
        let named = |e: &&Environment| wanted.is_empty() || wanted.iter().any(|w| w == e.name);
        let environments = ENVIRONMENTS.iter().filter(named).collect();
        let part = arguments.part.unwrap_or((0, 1));
        Ok(Subject { library, code, sections, cpus, environments, part })
    }

    /// Whether the section runs to its commit in this environment.
    fn is_home(&self, section: &Section, environment: &Environment) -> bool {
        let counted = section.name.ends_with(COUNTED);
        environment.profiled == counted
            && (counted || environment.mm_cid == lint::uses_mm_cid(&self.code, section))
    }

    /// Every section, environment, address and treatment. In an environment of the other index an entry
    /// is left at its bound check and the functions are not called, so there nothing has to be reached.
    fn runs(&self) -> impl Iterator<Item = (usize, &'static Environment, u64, Treatment)> {
        self.all_runs().skip(self.part.0).step_by(self.part.1)
    }

    fn all_runs(&self) -> impl Iterator<Item = (usize, &'static Environment, u64, Treatment)> {
        self.sections.iter().enumerate().flat_map(move |(index, section)| {
            let counted = section.name.ends_with(COUNTED);
            let environments = self.environments.iter().filter(move |e| e.profiled == counted);
            environments.flat_map(move |&environment| {
                self.addresses(section).flat_map(move |at| {
                    self.treatments().map(move |treatment| (index, environment, at, treatment))
                })
            })
        })
    }

    /// The section's instructions and the one after its commit.
    fn addresses(&self, section: &Section) -> impl Iterator<Item = u64> {
        self.code.range(section.start..section.post + 1).map(|instruction| instruction.ip())
    }

    /// The start of `malloc`'s section, for all others; see `victim::Phase`.
    fn shake(&self, section: &Section) -> Option<u64> {
        let malloc = self.sections.iter().find(|other| other.name == "malloc")?;
        (malloc.start != section.start).then_some(malloc.start)
    }

    fn treatments(&self) -> impl Iterator<Item = Treatment> {
        let can_move = self.cpus.len() > 1;
        TREATMENTS.iter().copied().filter(move |&t| t != Treatment::Move || can_move)
    }

    fn text(&self, at: u64) -> String {
        self.code.at(at).map_or_else(|| "?".to_owned(), code::text)
    }

    fn is_unreachable(&self, section: &Section, at: u64) -> bool {
        UNREACHABLE.iter().any(|(name, text, _)| *name == section.name && *text == self.text(at))
    }

    fn place(
        &self,
        section: &Section,
        at: u64,
        environment: &Environment,
        treatment: Treatment,
    ) -> String {
        let text = self.text(at);
        format!("{} at {at:x} ({text}), {}, {treatment:?}", section.name, environment.name)
    }

    fn table(&self, rows: &[Row]) -> String {
        let mut text = String::from(
            "| section | instructions | aborted | committed | modes |\n|---|--:|--:|--:|---|\n",
        );
        for (section, row) in self.sections.iter().zip(rows) {
            let count = self.code.range(section.span()).count();
            let modes: Vec<_> = row.environments.iter().copied().collect();
            text += &format!(
                "| `{}` | {count} | {} | {} | {} |\n",
                section.name,
                row.aborted,
                row.committed,
                modes.join(", ")
            );
        }
        text
    }
}
