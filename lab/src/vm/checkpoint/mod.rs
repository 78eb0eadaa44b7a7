//! Processes dumped in one machine and restored in others: `cargo lab vm --checkpoint`.
//!
//! Promises for each journey that the process came up in the other machine as what it was (see `guest::carry`, which
//! looks at it), and that both machines were the ones they are called. Some leave as an incremental chain, after lives
//! in the first machine that ended in chains too: most of their pages must come from the images before the last. The
//! machines' disk is a file without a filesystem: a tar archive of what is carried. CRIU is that of `criu`, `control`
//! shows that a journey can be red.

mod control;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::criu;
use crate::criu::images::Way;
use crate::criu::kind::{Kind, MODES};
use crate::vm::cell::{Cell, Shape, Step};
use crate::vm::fetch::{GLIBC_36, GLIBC_41, Glibc, KERNELS, Kernel};
use crate::vm::guest::{ABORTS, PLACE};
use crate::vm::judge::Demand;
use crate::vm::plan::Task;
use crate::vm::{Args, Host, Row, judge, modules};

/// A machine to dump in, and the machines to restore in.
struct Journey {
    from: Cell,
    to: &'static [(Kernel, usize)],
    glibc: Glibc,
    way: Way,
}

/// Without `mm_cid`.
const WITHOUT: Kernel = KERNELS[1];
const OLD: Kernel = KERNELS[2];
const NEW: Kernel = KERNELS[3];

/// What CRIU needs: the disk, the sockets' and the firewall's tables. Those before go first.
const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "unix_diag",
    "netlink_diag",
    "af_packet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "nf_tables",
    "tun",
];

/// Name of the step that shows what dumps do to threads inside a section.
const SNAPSHOT: &str = "sections";

const DISK: &str = "/dev/vda";
const DISK_BYTES: u64 = 1 << 30;
/// First process id of the travelling processes: no machine's own threads have such numbers.
const NUMBERS: usize = 10_000;
const NUMBERS_EACH: usize = 1000;

/// Chains that a process goes through, the last of which travels.
const CHAINS: usize = 5;
/// Objects that each of its threads keeps: 32 MiB in all, of which little is written between two dumps.
const SHELF: usize = 256;
/// Least share of pages, in percent, that must come from earlier images. Measured: 55 to 77; a plain dump has 0.
const PERCENT_IN_PARENTS: u64 = 40;

fn journeys() -> Vec<Journey> {
    let journey = |kernel, cpus, glibc, to| Journey {
        from: Cell { kernel, glibc, shape: Shape::Cpus(cpus) },
        to,
        glibc,
        way: Way::Once,
    };
    let chain =
        |kernel, cpus, glibc, to| Journey { way: Way::Chain, ..journey(kernel, cpus, glibc, to) };
    vec![
        journey(NEW, 2, GLIBC_41, &[(NEW, 8), (NEW, 1), (OLD, 2)]),
        journey(OLD, 2, GLIBC_36, &[(OLD, 8), (OLD, 1), (NEW, 2)]),
        journey(NEW, 8, GLIBC_41, &[(NEW, 2), (OLD, 2)]),
        journey(OLD, 8, GLIBC_36, &[(OLD, 2), (NEW, 2), (WITHOUT, 2)]),
        journey(OLD, 2, GLIBC_41, &[(NEW, 2)]),
        journey(NEW, 2, GLIBC_36, &[(OLD, 2)]),
        chain(OLD, 2, GLIBC_41, &[(OLD, 8), (NEW, 2)]),
        chain(OLD, 8, GLIBC_36, &[(OLD, 2)]),
        chain(NEW, 2, GLIBC_41, &[(NEW, 8), (OLD, 1)]),
    ]
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let mut host = Host::new(args)?;
    let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    host.disk = Some(scratch.path().join("disk"));
    let mut chosen = journeys();
    let named = |journey: &Journey| args.only.iter().any(|part| journey.name().contains(part));
    chosen.retain(|journey| args.only.is_empty() || named(journey));
    ensure!(!chosen.is_empty(), "no process leaves from such a machine: see cargo lab vm --list");
    if args.control {
        return control::run(&mut host, &chosen);
    }
    if args.quick {
        chosen.truncate(1);
    }
    let (mut failed, mut count) = (0, 0);
    for journey in &chosen {
        let left = leave(&mut host, journey.from, &journey.steps())?;
        show(journey.verb(), &left);
        failed += usize::from(!left.faults.is_empty());
        let stops = if args.quick { &journey.to[..1] } else { journey.to };
        for cell in stops.iter().map(|stop| journey.cell(*stop)) {
            let arrived = arrive(&mut host, cell, &steps_of_arrival(&cell.kernel))?;
            show("  restored in", &arrived);
            failed += usize::from(!arrived.faults.is_empty());
            count += 1;
        }
    }
    ensure!(failed == 0, "{failed} machines failed");
    println!("{count} journeys ok, {} modes each", MODES.len());
    Ok(())
}

/// Boots `cell` with an empty disk, does `steps` and carries what they leave.
fn leave(host: &mut Host, cell: Cell, steps: &[Step]) -> Result<Row> {
    let disk = fs::File::create(host.disk.as_ref().context("a disk")?)?;
    disk.set_len(DISK_BYTES).context("make a disk")?;
    let mut steps = steps.to_vec();
    let line = format!("tar -cf {DISK} -C / {} && sync", PLACE.trim_start_matches('/'));
    steps.push(shell("carry", &line));
    boot(host, cell, &steps)
}

/// Boots `cell` and does `steps` with what is on the disk.
fn arrive(host: &mut Host, cell: Cell, steps: &[Step]) -> Result<Row> {
    let unpack = shell("carry", &format!("tar -xf {DISK} -C /"));
    let steps: Vec<_> = [unpack].into_iter().chain(steps.iter().cloned()).collect();
    boot(host, cell, &steps)
}

/// The task that dumps a process of mode `index` by its `way`, the last of so many times.
fn departure(index: usize, way: Way, dumps: usize, shelf: usize) -> Step {
    let kind = &MODES[index];
    let (way, dumps, shelf) = (way.name(), dumps.to_string(), shelf.to_string());
    let number = (NUMBERS + index * NUMBERS_EACH).to_string();
    let mut command = vec!["/bin/lab", "vm", "dump", kind.name, &number, &way, &dumps];
    command.extend(["--shelf", &shelf]);
    Step::succeeds(Task::new(kind.name, &command).within(900))
}

/// The number of chains, at least one.
fn chains(index: usize, dumps: usize) -> Step {
    let mut step = departure(index, Way::Chain, dumps, SHELF);
    step.demands.push(Demand::InParents(PERCENT_IN_PARENTS));
    step
}

/// The kernel tracks writes by the page: a huge one is written as a whole as soon as a byte in it is.
fn small_pages() -> Step {
    shell("small pages", "echo never > /sys/kernel/mm/transparent_hugepage/enabled")
}

fn steps_of_arrival(kernel: &Kernel) -> Vec<Step> {
    MODES.iter().map(|kind| arrival(kind, kernel)).collect()
}

fn arrival(kind: &Kind, kernel: &Kernel) -> Step {
    let task = Task::new(kind.name, &["/bin/lab", "vm", "restore", kind.name]).within(420);
    let mut demands = vec![Demand::Success];
    let goes_on = kernel.has_mm_cid() || !kind.is_by_mm_cid();
    demands.extend((goes_on && kind.has_sections()).then_some(Demand::Aborts(ABORTS)));
    Step { task, demands }
}

fn boot(host: &mut Host, cell: Cell, steps: &[Step]) -> Result<Row> {
    let mut files = criu_files()?;
    files.extend(modules::files(&cell.kernel, &MODULES)?);
    host.programs.set_files(files);
    let load = format!("for m in /{}/*; do insmod $m || exit 1; done", modules::FOLDER);
    let mut all = vec![cell.facts(), shell("modules", &load)];
    all.extend(steps.iter().cloned());
    host.steps(&cell, &all)
}

fn shell(name: &str, line: &str) -> Step {
    let line = line.replace("insmod ", "/bin/busybox insmod ").replace("tar ", "/bin/busybox tar ");
    let line = line.replace("sync", "/bin/busybox sync");
    Step::succeeds(Task::new(name, &["/bin/busybox", "sh", "-c", &line]).within(120))
}

/// CRIU with its loader and libraries, where `criu::fetch` looks for it in a guest.
fn criu_files() -> Result<Vec<(String, Vec<u8>)>> {
    let root = criu::fetch::folder()?;
    let mut files = Vec::new();
    let mut take = |path: &Path| -> Result<()> {
        let inside = path.strip_prefix(&root)?.display();
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        files.push((format!("criu/{inside}"), bytes));
        Ok(())
    };
    take(&root.join("usr/sbin/criu"))?;
    take(&root.join("usr/lib64/ld-linux-x86-64.so.2"))?;
    for entry in fs::read_dir(root.join("usr/lib/x86_64-linux-gnu"))? {
        let path = entry?.path();
        if path.is_file() {
            take(&path)?;
        }
    }
    Ok(files)
}

impl Journey {
    /// For `--only`.
    fn name(&self) -> String {
        let chain = if self.way == Way::Chain { "-chain" } else { "" };
        format!("{}{chain}", self.from.name())
    }

    fn verb(&self) -> &'static str {
        if self.way == Way::Chain { "chains in" } else { "dumped in" }
    }

    /// What is done in the first machine.
    fn steps(&self) -> Vec<Step> {
        let modes = 0..MODES.len();
        if self.way != Way::Chain {
            return modes.map(|index| departure(index, self.way, 1, 0)).collect();
        }
        let mut steps = vec![small_pages()];
        steps.extend(modes.map(|index| chains(index, CHAINS)));
        let task = Task::new(SNAPSHOT, &["/bin/lab", "vm", "snapshot"]).within(120);
        steps.push(Step::succeeds(task));
        steps
    }

    fn cell(&self, (kernel, cpus): (Kernel, usize)) -> Cell {
        Cell { kernel, glibc: self.glibc, shape: Shape::Cpus(cpus) }
    }
}

fn show(what: &str, row: &Row) {
    let verdict = if row.faults.is_empty() { "ok    " } else { "FAILED" };
    println!("{verdict} {what} {} ({:.0} s)", row.cell.name(), row.seconds);
    for kind in &MODES {
        if let Some(seen) = row.seen.iter().find(|seen| seen.name == kind.name) {
            println!("         {:<7} {}", kind.name, judge::json(seen));
        }
    }
    let snapshot = row.seen.iter().find(|seen| seen.name == SNAPSHOT);
    let lines = snapshot.into_iter().flat_map(|seen| seen.said.lines());
    lines.for_each(|line| println!("         {line}"));
    row.faults.iter().for_each(|fault| println!("       {fault}"));
}
