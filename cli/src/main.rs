//! The `rsalloc` command: runs programs on rsalloc and says how a process is served.
//!
//! Promises one clear line on stderr for every error. Each subcommand is a module; they share
//! `launch` (how a program is started on the library) and `inspect` (how a process is read).

mod check;
mod conf;
mod elf;
mod format;
mod inspect;
mod launch;
mod program;
mod record;
mod stats;

use clap::{Parser, Subcommand};
use format::Format;
use std::ffi::OsString;
use std::process::ExitCode;

/// Run programs on the rsalloc allocator, and see how it serves them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program on rsalloc (by LD_PRELOAD)
    Run {
        #[command(flatten)]
        how: launch::How,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
    /// Say whether rsalloc serves a process, and in which mode
    #[command(after_help = "Without PID: how a program run from here would be served.\n\
        Exit code: 0 active per CPU, 1 active on the atomic path, 2 not active, 3 cannot tell.")]
    Check {
        /// The process; without it, a child is started on rsalloc and examined
        #[arg(conflicts_with_all = launch::OPTIONS)]
        pid: Option<u32>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        how: launch::How,
    },
    /// Show a process's statistics, or those of a program when it ends
    Stats {
        /// The process
        #[arg(required_unless_present = "program", conflicts_with_all = launch::OPTIONS)]
        pid: Option<u32>,
        #[command(flatten)]
        format: Format,
        /// Write the answer to a file (for a program otherwise: to stderr)
        #[arg(short, long, value_name = "FILE")]
        output: Option<std::path::PathBuf>,
        #[command(flatten)]
        how: launch::How,
        /// A program to run to its end, and its arguments
        #[arg(last = true, conflicts_with = "pid")]
        program: Vec<OsString>,
    },
    /// Write a trace of a program's allocator calls, for `cargo lab replay`
    Record {
        #[command(flatten)]
        what: record::What,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
    /// Print the effective settings and where each comes from
    Conf {
        /// The process; without it, a child is started on rsalloc and asked
        #[arg(conflicts_with_all = launch::OPTIONS)]
        pid: Option<u32>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        how: launch::How,
    },
    /// The child of `check`: waits to be examined
    #[command(name = check::PROBE, hide = true)]
    CheckProbe,
    /// The child of `conf`: prints what the library in it says
    #[command(name = conf::PROBE, hide = true)]
    ConfProbe,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let _ = usage.print();
            return if usage.use_stderr() { ExitCode::from(CANNOT) } else { ExitCode::SUCCESS };
        }
    };
    let done = match cli.command {
        Command::Run { how, program } => launch::run(&how, &program),
        Command::Check { pid, format, how } => check::check(pid, format, &how),
        Command::Stats { pid: Some(pid), format, output, .. } => {
            stats::of_process(pid, format, output)
        }
        Command::Stats { format, output, how, program, .. } => {
            stats::of_program(&how, &program, format, output)
        }
        Command::Record { what, program } => record::record(&what, &program),
        Command::Conf { pid, format, how } => conf::conf(pid, format, &how),
        Command::CheckProbe => check::probe(),
        Command::ConfProbe => conf::probe(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("rsalloc: {error:#}");
        let code = error.downcast_ref::<program::Unusable>().map_or(CANNOT, |why| why.exit_code());
        ExitCode::from(code)
    })
}

/// Exit code of a command that could not do its work, distinct from the answers of `check`.
const CANNOT: u8 = 3;
