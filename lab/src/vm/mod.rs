//! `cargo lab vm`: the tests on other kernels, with other CPUs, in virtual machines.
//!
//! Promises for each cell of the matrix that the machine was the one it is called, that every program ended well and in
//! the mode that it had to run in, and that the kernel did abort sections; a hang and a missing answer are red. Nothing
//! but Debian's packages and this repository's programs is in the guests.

mod cell;
mod checkpoint;
mod control;
mod fetch;
mod guest;
mod here;
mod icount;
mod initramfs;
mod judge;
mod modules;
mod plan;
mod programs;
mod qemu;
mod record;
mod scale;
mod table;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use cell::{Cell, Step};
use plan::{Plan, Seen};
use programs::Programs;
use qemu::{Accelerator, Boot};
use record::{Record, Run};

/// The options of `cargo lab vm`.
#[derive(clap::Args)]
pub struct Args {
    /// Few steps, for CI; without --only in one cell
    #[arg(long)]
    quick: bool,
    /// Only the cells whose names contain one of these
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    only: Vec<String>,
    /// Show the cells and stop
    #[arg(long)]
    list: bool,
    /// What executes the guests [default: KVM where the CPU can, else translation]
    #[arg(long)]
    accelerator: Option<Accelerator>,
    /// Make defects on purpose; succeed if every one is seen
    #[arg(long)]
    control: bool,
    /// Count the instructions that the hot entries execute, and hold them against docs/golden.md
    #[arg(long)]
    icount: bool,
    /// Count on this machine's own kernel what the kernel aborts, without a guest
    #[arg(long)]
    here: bool,
    /// Dump processes in one machine and restore them in others; `--only chain`: those that leave as
    /// incremental chains
    #[arg(long, conflicts_with_all = ["icount", "here"])]
    checkpoint: bool,
    /// Count slow paths, locks and shared writes on machines of 2 to 240 CPUs
    #[arg(long, conflicts_with_all = ["icount", "here", "checkpoint", "quick", "control"])]
    scale: bool,
    /// With --scale: RSALLOC_CONF of the loads
    #[arg(long, requires = "scale", value_name = "KEY:VALUE,..")]
    conf: Option<String>,
    /// Keep each cell that was run in this folder, and leave out those that it has
    #[arg(long, conflicts_with_all = ["control", "icount", "here", "checkpoint", "scale"])]
    record: Option<PathBuf>,
    /// Write docs/kernels.md with all that was run and recorded, or docs/scale.md with --scale
    #[arg(long, conflicts_with_all = ["quick", "only", "control", "here", "checkpoint"])]
    write: bool,
    /// A part that runs inside a guest
    #[command(subcommand)]
    inside: Option<guest::Inside>,
}

/// From the start of QEMU to the first task.
const BOOT_SECONDS: u64 = 180;

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(inside) = args.inside {
        return inside.run();
    }
    if args.here {
        return here::run();
    }
    if args.scale {
        return scale::run(&args);
    }
    if args.checkpoint {
        return checkpoint::run(&args);
    }
    let cells = choose(&args)?;
    if args.list {
        cells.iter().for_each(|cell| println!("{}", cell.name()));
        return Ok(());
    }
    let record = Record::open(args.record.clone())?;
    let mut todo = Vec::new();
    for cell in &cells {
        if !record.is_done(cell, args.quick)? {
            todo.push(*cell);
        }
    }
    let mut rows = Vec::new();
    if !todo.is_empty() {
        let mut host = Host::new(&args)?;
        if args.control {
            return control::run(&mut host);
        }
        if args.icount {
            return icount::run(&mut host);
        }
        rows = run_all(&host, &todo, &record)?;
    }
    if args.write {
        let kept = record.rows()?;
        table::write(if args.record.is_some() { &kept } else { &rows })?;
    }
    let failed = rows.iter().filter(|row| !row.faults.is_empty()).count();
    ensure!(failed == 0, "{failed} of {} cells failed", rows.len());
    println!("{} cells ok, {} of them run now", cells.len(), rows.len());
    Ok(())
}

/// Runs `cells`; a line for each as soon as it is known.
fn run_all(host: &Host, cells: &[Cell], record: &Record) -> Result<Vec<Row>> {
    let bar = ProgressBar::new(cells.len() as u64).with_style(ProgressStyle::with_template(
        "{elapsed_precise} {wide_bar} {pos}/{len} {msg}",
    )?);
    let mut rows = Vec::new();
    for cell in cells {
        bar.set_message(cell.name());
        let row = host.run(cell).with_context(|| cell.name())?;
        bar.suspend(|| println!("{}", table::line(&row)));
        record.add(&row)?;
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

fn choose(args: &Args) -> Result<Vec<Cell>> {
    if args.quick && args.only.is_empty() {
        return Ok(vec![cell::quick()]);
    }
    let named = |cell: &Cell| args.only.iter().any(|part| cell.name().contains(part));
    let mut cells = cell::all();
    cells.retain(|cell| args.only.is_empty() || named(cell));
    ensure!(!cells.is_empty(), "no cell has such a name: see cargo lab vm --list");
    Ok(cells)
}

/// What all cells have in common.
struct Host {
    accelerator: Accelerator,
    programs: Programs,
    is_quick: bool,
    /// When a machine counts as hung, if not when all its tasks would.
    limit: Option<u64>,
    /// A file that is the machine's disk, and makes the logs' names other ones.
    disk: Option<PathBuf>,
}

/// How a cell went.
struct Row {
    cell: Cell,
    run: Run,
    seconds: f64,
    seen: Vec<Seen>,
    faults: Vec<String>,
}

impl Host {
    fn new(args: &Args) -> Result<Host> {
        let accelerator = args.accelerator.unwrap_or_else(Accelerator::best);
        println!("guests are executed by {accelerator:?}");
        let programs = Programs::build()?;
        Ok(Host { accelerator, programs, is_quick: args.quick, limit: None, disk: None })
    }

    fn run(&self, cell: &Cell) -> Result<Row> {
        self.steps(cell, &cell.steps(self.is_quick))
    }

    fn steps(&self, cell: &Cell, steps: &[Step]) -> Result<Row> {
        let plan = Plan { tasks: steps.iter().map(|step| step.task.clone()).collect() };
        let logs = fetch::cache()?.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        let mut options = cell.shape.options();
        let mut log = logs.join(cell.name());
        if let Some(disk) = &self.disk {
            let drive = format!("file={},if=virtio,format=raw,cache=unsafe", disk.display());
            options.extend(["-drive".into(), drive]);
            log = logs.join(format!("checkpoint-{}", cell.name()));
        }
        let tasks = plan.tasks.iter().map(|task| task.seconds).sum::<u64>();
        let limit = self.limit.unwrap_or(BOOT_SECONDS + tasks);
        let boot = Boot {
            accelerator: self.accelerator,
            kernel: &cell.kernel.image()?,
            initramfs: &self.programs.initramfs(cell, &plan)?,
            cpus: cell.shape.possible(),
            options: &options.iter().map(String::as_str).collect::<Vec<_>>(),
            words: &cell.words(),
            log: &log,
            limit: Duration::from_secs(limit),
        };
        let run = Run::now(self.is_quick)?;
        let begin = Instant::now();
        let mut end = boot.run()?;
        // Seen once in twenty boots on a busy machine: QEMU or the kernel stands still before any program
        // of ours runs. A second time is red.
        if end.hung && end.lines.is_empty() {
            println!("AGAIN   {}: the kernel did not start its first program", cell.name());
            end = boot.run()?;
        }
        let seen = judge::answers(&end.lines);
        let mut faults = judge::faults(steps, &seen);
        if end.hung {
            faults.push(format!("the machine hung, killed after {limit} s"));
        }
        Ok(Row { cell: *cell, run, seconds: begin.elapsed().as_secs_f64(), seen, faults })
    }
}

impl Row {
    fn facts(&self) -> Option<guest::Facts> {
        let seen = self.seen.iter().find(|seen| seen.name == cell::FACTS)?;
        serde_json::from_value(judge::json(seen)).ok()
    }
}
