//! `cargo xtask vm`: the tests on other kernels, with other CPUs, in virtual machines.
//!
//! Promises for each cell of the matrix that the machine was the one it is called, that every program
//! ended well and in the mode that it had to run in, and that the kernel did abort sections; a hang
//! and a missing answer are red. Nothing but Debian's packages and this repository's programs is in
//! the guests. Called by hand and, with `--quick`, by `preflight`; calls `cell` for what to do,
//! `fetch`, `initramfs` and `qemu` for the machines, `judge` for the verdict.

mod cell;
mod fetch;
mod guest;
mod initramfs;
mod judge;
mod plan;
mod programs;
mod qemu;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use cell::{Cell, Step};
use plan::{Plan, Seen};
use programs::Programs;
use qemu::{Accelerator, Boot};

/// The options of `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// One cell with few steps, for CI
    #[arg(long)]
    quick: bool,
    /// Only the cells whose names contain one of these
    #[arg(long, value_delimiter = ',', value_name = "A,B", conflicts_with = "quick")]
    only: Vec<String>,
    /// Show the cells and stop
    #[arg(long)]
    list: bool,
    /// Who executes the guests [default: KVM where the CPU can, else translation]
    #[arg(long)]
    accelerator: Option<Accelerator>,
    /// Be the guest's side
    #[arg(long, hide = true)]
    guest: Option<PathBuf>,
    #[arg(long, hide = true)]
    facts: bool,
}

/// From the start of QEMU to the first task.
const BOOT_SECONDS: u64 = 180;

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(plan) = args.guest {
        return guest::run(&plan);
    }
    if args.facts {
        return guest::facts();
    }
    let cells = choose(&args)?;
    if args.list {
        cells.iter().for_each(|cell| println!("{}", cell.name()));
        return Ok(());
    }
    let accelerator = args.accelerator.unwrap_or_else(Accelerator::best);
    println!("guests are executed by {accelerator:?}");
    let host = Host { accelerator, programs: Programs::build()?, is_quick: args.quick };
    let bar = ProgressBar::new(cells.len() as u64).with_style(ProgressStyle::with_template(
        "{elapsed_precise} {wide_bar} {pos}/{len} {msg}",
    )?);
    let mut failed = 0;
    for cell in &cells {
        bar.set_message(cell.name());
        let row = host.run(cell).with_context(|| cell.name())?;
        failed += usize::from(!row.faults.is_empty());
        bar.suspend(|| println!("{}", row.line()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    ensure!(failed == 0, "{failed} of {} cells failed", cells.len());
    println!("{} cells ok", cells.len());
    Ok(())
}

fn choose(args: &Args) -> Result<Vec<Cell>> {
    if args.quick {
        return Ok(vec![cell::quick()]);
    }
    let named = |cell: &Cell| args.only.iter().any(|part| cell.name().contains(part));
    let mut cells = cell::all();
    cells.retain(|cell| args.only.is_empty() || named(cell));
    ensure!(!cells.is_empty(), "no cell has such a name: see cargo xtask vm --list");
    Ok(cells)
}

/// What all cells have in common.
struct Host {
    accelerator: Accelerator,
    programs: Programs,
    is_quick: bool,
}

/// How a cell went.
struct Row {
    cell: Cell,
    seconds: f64,
    seen: Vec<Seen>,
    faults: Vec<String>,
}

impl Host {
    fn run(&self, cell: &Cell) -> Result<Row> {
        self.steps(cell, &cell.steps(self.is_quick))
    }

    fn steps(&self, cell: &Cell, steps: &[Step]) -> Result<Row> {
        let plan = Plan { tasks: steps.iter().map(|step| step.task.clone()).collect() };
        let logs = fetch::cache()?.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        let options = cell.shape.options();
        let limit = BOOT_SECONDS + plan.tasks.iter().map(|task| task.seconds).sum::<u64>();
        let boot = Boot {
            accelerator: self.accelerator,
            kernel: &cell.kernel.image()?,
            initramfs: &self.programs.initramfs(cell, &plan)?,
            cpus: cell.shape.possible(),
            options: &options.iter().map(String::as_str).collect::<Vec<_>>(),
            words: &cell.words(),
            console: &logs.join(format!("{}.console", cell.name())),
            limit: Duration::from_secs(limit),
        };
        let begin = Instant::now();
        let end = boot.run()?;
        fs::write(logs.join(format!("{}.port", cell.name())), end.lines.join("\n"))?;
        let seen = judge::answers(&end.lines);
        let mut faults = judge::faults(steps, &seen);
        if end.hung {
            faults.push(format!("the machine hung, killed after {limit} s"));
        }
        Ok(Row { cell: *cell, seconds: begin.elapsed().as_secs_f64(), seen, faults })
    }
}

impl Row {
    fn line(&self) -> String {
        let name = self.cell.name();
        match self.faults.is_empty() {
            true => format!(
                "ok      {name:<26} {:>4} steps, {:>7} sections aborted, {:>5.0} s",
                self.seen.len(),
                self.aborts(),
                self.seconds,
            ),
            false => format!("FAILED  {name:<26} {}", self.faults.join("\n        ")),
        }
    }

    fn aborts(&self) -> u64 {
        self.seen.iter().filter_map(|seen| seen.fixups).sum()
    }
}
