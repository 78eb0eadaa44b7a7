//! Proof that a cell can be red: `cargo lab vm --control`.
//!
//! Each defect must turn its step red, for its own reason; a machine that panics, one that stops and one that is not
//! what it is called, too. The same machine without a defect goes first and must be green.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSegment};

use super::Host;
use super::cell::{self, Cell, Shape, Step};
use super::judge::Demand;
use super::plan::Task;
use super::{fetch, icount};
use tools::sections::{self, POST_COMMIT_OFFSET};

/// A step with a defect, and what must be said of it.
struct Defect {
    name: &'static str,
    step: Step,
    says: &'static str,
}

/// Runs the control; fails if a defect is not seen.
pub fn run(host: &mut Host) -> Result<()> {
    host.programs.add("broken.so", broken_library()?);
    let cell = cell::quick();
    let mut missed = 0;
    let mut show = |name: &str, faults: &[String], says: &str| {
        let said = faults.iter().find(|fault| fault.contains(says));
        missed += usize::from(said.is_none());
        match said {
            Some(fault) => println!("red       {name}: {fault}"),
            None => println!("NOT SEEN  {name}: {}", faults.join("; ")),
        }
    };

    let sound = host.steps(&cell, &sound(&cell))?;
    ensure!(sound.faults.is_empty(), "red without a defect: {}", sound.faults.join("; "));
    println!("green     no defect");

    // One machine has them all: each task ends before the next.
    let (names, steps): (Vec<_>, Vec<_>) =
        defects().into_iter().map(|d| ((d.name, d.step.task.name.clone(), d.says), d.step)).unzip();
    let row = host.steps(&cell, &steps)?;
    for (name, task, says) in names {
        let own: Vec<_> =
            row.faults.iter().filter(|f| f.starts_with(&format!("{task}: "))).cloned().collect();
        show(name, &own, says);
    }

    // Machines that stop to answer. The limit is generous for a boot, and short for a wait.
    host.limit = Some(90);
    let shell = |name: &str, line: &str| {
        let task = Task::new(name, &["/bin/busybox", "sh", "-c", line]);
        host.steps(&cell, &[Step::succeeds(task), cell.facts()]).map(|row| row.faults)
    };
    let panic = shell("panic", "echo c > /proc/sysrq-trigger")?;
    show("the kernel panics", &panic, "panic: no answer");
    let stop = shell("stop", "kill -STOP $PPID; sleep 1000")?;
    show("the guest's side stops", &stop, "the machine hung");
    let other = Cell { shape: Shape::Cpus(8), ..cell };
    let row = host.steps(&cell, &[other.facts()])?;
    show("a machine with fewer CPUs than it is called", &row.faults, "CPUs online 0-1");

    host.limit = None;
    // Entries that leave their path at once are not the ones of the table.
    let differing = icount::differing(host, &[("RSALLOC_CONF", "mode:atomic")])?;
    let faults = [format!("{differing} entries differ")];
    show("instructions counted on the atomic path", &faults, "3 entries");

    ensure!(missed == 0, "{missed} defects not seen");
    Ok(())
}

/// The same programs without a defect.
fn sound(cell: &Cell) -> Vec<Step> {
    let steps = cell.steps(true);
    let wanted = ["facts", "check libc", "aborts libc"];
    steps.into_iter().filter(|step| wanted.contains(&step.task.name.as_str())).collect()
}

fn defects() -> Vec<Defect> {
    let check = || Task::new("mode", &["/bin/rsalloc", "check", "--json"]);
    vec![
        Defect {
            name: "a program writes to the kernel's part of its rseq area",
            step: Step::succeeds(Task::new("abi", &["/bin/lab", "vm", "break-abi"])),
            says: "died of signal 11",
        },
        Defect {
            name: "another mode than expected",
            step: Step { task: check(), demands: vec![Demand::Mode("atomic", "cpu_id")] },
            says: "instead of atomic",
        },
        Defect {
            name: "a program that hangs",
            step: Step::succeeds(Task::new("hang", &["/bin/busybox", "sleep", "1000"]).within(2)),
            says: "hung, killed",
        },
        Defect {
            name: "a program that runs no section",
            step: Step {
                task: Task::new("idle", &["/bin/busybox", "true"]),
                demands: vec![Demand::Success, Demand::Aborts(1)],
            },
            says: "0 aborted sections show nothing",
        },
        Defect {
            name: "CPUs that stay",
            step: Step {
                task: Task::new("still", &["/bin/busybox", "true"]),
                demands: vec![Demand::Toggles(1)],
            },
            says: "CPUs went and came 0 times",
        },
        Defect {
            name: "a kernel that overcommits",
            step: cell::refusal("always", &[], "1"),
            says: "nothing was refused at this size",
        },
        Defect {
            name: "malloc's section ends before its commit",
            step: Step::succeeds(cell::HAMMER.task("broken", "/bin/broken.so")),
            says: "an object was handed out twice",
        },
    ]
}

/// The library with only the first byte of malloc's section under the kernel's watch.
fn broken_library() -> Result<PathBuf> {
    let library = tools::library()?;
    let sections = sections::read(&library)?;
    let malloc = sections.iter().find(|section| section.name == "malloc");
    let word = malloc.context("malloc has no section")?.descriptor + POST_COMMIT_OFFSET;
    let mut bytes = fs::read(&library)?;
    let at = offset(&bytes, word)?;
    bytes[at..at + 8].copy_from_slice(&1u64.to_le_bytes());
    let path: &Path = &fetch::cache()?.join("broken.so");
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(path.to_owned())
}

/// Where in the file `address` lies.
fn offset(bytes: &[u8], address: u64) -> Result<usize> {
    let file = object::File::parse(bytes)?;
    let segment =
        file.segments().find(|s| (s.address()..s.address() + s.size()).contains(&address));
    let segment = segment.context("an address outside of the file")?;
    Ok((segment.file_range().0 + address - segment.address()) as usize)
}
