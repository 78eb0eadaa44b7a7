//! Processes dumped in one machine and restored in others: `cargo xtask vm --checkpoint`.
//!
//! Promises for each journey that the process came up in the other machine as what it was (see
//! `guest::carry`, which looks at it), and that both machines were the ones they are called. The
//! machines' disk is a file without a filesystem: a tar archive of what is carried. Called by the
//! command; CRIU is that of `criu`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::cell::{Cell, Shape, Step};
use super::fetch::{GLIBC_36, GLIBC_41, Glibc, KERNELS, Kernel};
use super::guest::{ABORTS, PLACE};
use super::judge::Demand;
use super::plan::Task;
use super::{Args, Host, Row, judge, modules};
use crate::criu;
use crate::criu::kind::{Kind, MODES};
use crate::criu::victim::MARK;

/// A machine to dump in, and the machines to restore in.
struct Journey {
    from: Cell,
    to: &'static [(Kernel, usize)],
    glibc: Glibc,
}

const OLD: Kernel = KERNELS[2];
const NEW: Kernel = KERNELS[3];

/// What CRIU needs: the disk, the sockets' and the firewall's tables. Those before go first.
const MODULES: [&str; 9] = [
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

const DISK: &str = "/dev/vda";
const DISK_BYTES: u64 = 1 << 30;
/// Numbers of the processes: no machine's own threads have them.
const NUMBERS: usize = 10_000;
const NUMBERS_EACH: usize = 1000;

fn journeys() -> Vec<Journey> {
    let journey = |kernel, cpus, glibc, to| Journey {
        from: Cell { kernel, glibc, shape: Shape::Cpus(cpus) },
        to,
        glibc,
    };
    vec![
        journey(NEW, 2, GLIBC_41, &[(NEW, 8), (NEW, 1), (OLD, 2)]),
        journey(OLD, 2, GLIBC_36, &[(OLD, 8), (OLD, 1), (NEW, 2)]),
        journey(NEW, 8, GLIBC_41, &[(NEW, 2), (OLD, 2)]),
        journey(OLD, 8, GLIBC_36, &[(OLD, 2), (NEW, 2)]),
        journey(OLD, 2, GLIBC_41, &[(NEW, 2)]),
        journey(NEW, 2, GLIBC_36, &[(OLD, 2)]),
    ]
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let mut host = Host::new(args)?;
    let room = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    host.disk = Some(room.path().join("disk"));
    let mut chosen = journeys();
    let named = |journey: &Journey| args.only.iter().any(|part| journey.from.name().contains(part));
    chosen.retain(|journey| args.only.is_empty() || named(journey));
    ensure!(!chosen.is_empty(), "no process leaves from such a machine: see cargo xtask vm --list");
    if args.quick || args.control {
        chosen.truncate(1);
    }
    if args.control {
        return control(&mut host, &chosen[0]);
    }
    let (mut failed, mut count) = (0, 0);
    for journey in &chosen {
        let left = leave(&mut host, journey.from)?;
        show("dumped in", &left);
        failed += usize::from(!left.faults.is_empty());
        let stops = if args.quick { &journey.to[..1] } else { journey.to };
        for cell in stops.iter().map(|stop| journey.cell(*stop)) {
            let arrived = arrive(&mut host, cell, &steps_of_arrival())?;
            show("  restored in", &arrived);
            failed += usize::from(!arrived.faults.is_empty());
            count += 1;
        }
    }
    ensure!(failed == 0, "{failed} machines failed");
    println!("{count} journeys ok, {} modes each", MODES.len());
    Ok(())
}

/// A damaged image, and a process that has no sections to abort.
fn control(host: &mut Host, journey: &Journey) -> Result<()> {
    let left = leave(host, journey.from)?;
    ensure!(left.faults.is_empty(), "red without a defect: {}", left.faults.join("; "));
    let cell = journey.cell(journey.to[0]);
    let sound = arrive(host, cell, &[arrival(&MODES[0])])?;
    ensure!(sound.faults.is_empty(), "red without a defect: {}", sound.faults.join("; "));
    println!("green     no defect");
    let mut missed = 0;
    let mut see = |name: &str, row: Row, says: &str| {
        let said = row.faults.join("; ");
        missed += usize::from(!said.contains(says));
        println!("{:<9} {name}: {said}", if said.contains(says) { "red" } else { "NOT SEEN" });
    };
    let atomic = Step { demands: vec![Demand::Aborts(1)], ..arrival(&MODES[3]) };
    see("a process without sections", arrive(host, cell, &[atomic])?, "0 aborted sections");
    flip(host.disk.as_deref().context("a disk")?)?;
    let row = arrive(host, cell, &[arrival(&MODES[0])])?;
    see("a bit of each object flipped on the disk", row, "not 0x");
    ensure!(missed == 0, "{missed} defects not seen");
    Ok(())
}

fn flip(disk: &Path) -> Result<()> {
    let mut bytes = fs::read(disk)?;
    ensure!(
        criu::images::flip_in(&mut bytes, &MARK.to_ne_bytes(), 16) > 0,
        "no object on the disk"
    );
    fs::write(disk, bytes).context("write the disk")
}

/// Boots `cell` with an empty disk and leaves a dumped process of each mode there.
fn leave(host: &mut Host, cell: Cell) -> Result<Row> {
    let disk = fs::File::create(host.disk.as_ref().context("a disk")?)?;
    disk.set_len(DISK_BYTES).context("make a disk")?;
    let mut steps = MODES
        .iter()
        .enumerate()
        .map(|(index, kind)| {
            let number = (NUMBERS + index * NUMBERS_EACH).to_string();
            let command = ["/bin/xtask", "vm", "dump", kind.name, &number];
            Step::succeeds(Task::new(kind.name, &command).within(300))
        })
        .collect::<Vec<_>>();
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

fn steps_of_arrival() -> Vec<Step> {
    MODES.iter().map(arrival).collect()
}

fn arrival(kind: &Kind) -> Step {
    let task = Task::new(kind.name, &["/bin/xtask", "vm", "restore", kind.name]).within(420);
    let mut demands = vec![Demand::Success];
    demands.extend(kind.has_sections().then_some(Demand::Aborts(ABORTS)));
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
    row.faults.iter().for_each(|fault| println!("       {fault}"));
}
