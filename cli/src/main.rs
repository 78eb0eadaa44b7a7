//! The `rsalloc` command: runs programs on rsalloc and says how a process is served.
//!
//! Promises one clear line on stderr for every error. Each subcommand is a module; they share
//! `launch` (how a program is started on the library) and `read` (how a process or a core file is read).

mod check;
mod conf;
mod elf;
mod ends;
mod fleet;
mod foreign;
mod format;
mod generate;
mod launch;
mod metrics;
mod output;
mod profile;
mod program;
mod read;
mod record;
mod release;
mod remote;
mod report;
mod seconds;
mod series;
mod set;
mod stats;
mod supervise;
mod symbolize;
mod text;
mod top;

use clap::{Parser, Subcommand};
use format::Format;
use rsalloc_core::internals::config::Config;
use std::ffi::OsString;
use std::process::ExitCode;

/// The engine is linked for its layouts only: `RSALLOC_CONF` is for the programs that are run.
#[used]
#[unsafe(link_section = "rsalloc_config")]
static NO_HEAP: Config = Config::without_heap();

/// Run programs on the rsalloc allocator, and see how it serves them.
#[derive(Parser)]
#[command(name = "rsalloc", version, after_help = STATUSES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a program on rsalloc (by LD_PRELOAD)
    #[command(
        after_help = "Exit status: the program's own. Without having run it: 3 could not be done, 126 the program \
        cannot be run on rsalloc, 127 there is no such program."
    )]
    Run {
        #[command(flatten)]
        how: launch::How,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
    /// Say whether rsalloc serves a process, and in which mode
    #[command(after_help = "Without PID: how a program run from here would be served.\n\
        Exit status: 0 active per CPU, 1 active on the atomic path, 2 not active, 3 cannot tell.")]
    Check {
        /// The process, or a core file; without it, a child is started on rsalloc and examined
        #[arg(value_name = "PID|CORE", conflicts_with_all = launch::OPTIONS)]
        target: Option<read::Target>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        how: launch::How,
    },
    /// Show what a process's heap holds, running or stopped, that of a core file, what a process publishes in a file, or the
    /// heap of a program when it ends
    #[command(after_help = "It reads and changes nothing: the process does not notice.\n\
        Refilled and flushed are small objects that moved into the caches of CPUs, and back; a class's and a shard's by --all. \
        Calls that a cache serves are not counted, so a program allocates and frees at least so often; how often in all, \
        `rsalloc profile` estimates (alloc_objects).\n\
        Exit status: 0 shown, 3 cannot tell; of a program that was run, the program's own (128 and the number of a signal).")]
    Stats {
        /// The process, a core file, or a file in which a process publishes its statistics (publish of RSALLOC_CONF)
        #[arg(value_name = "PID|FILE", required_unless_present = "program", conflicts_with_all = launch::OPTIONS)]
        target: Option<read::Target>,
        #[command(flatten)]
        form: stats::Form,
        /// Show a row each so many seconds until the process ends (with --json: a document each)
        #[arg(long, value_name = "SECONDS", value_parser = seconds::parse, conflicts_with_all = ["program", "all"])]
        watch: Option<std::time::Duration>,
        #[command(flatten)]
        how: launch::How,
        /// A program to run to its end, and its arguments
        #[arg(last = true, conflicts_with = "target")]
        program: Vec<OsString>,
    },
    /// Expose what processes hold as metrics for Prometheus: printed, in a file, or over HTTP
    #[command(after_help = "Without --listen and --textfile the metrics are printed once.\n\
        Exit status: 0 done, 3 could not be done.")]
    Metrics {
        #[command(flatten)]
        what: metrics::What,
    },
    /// Watch all processes on rsalloc in the terminal, or one closely
    #[command(
        after_help = "Without a terminal: --once prints what would be shown, stats --watch prints rows.\n\
        Exit status: 0 left by q or Ctrl-C, or printed; 3 could not be done; 128 and the number of a signal that ended it."
    )]
    Top {
        #[command(flatten)]
        what: top::What,
    },
    /// Write a page that shows where a process's memory is: in words, drawn by address, by size and over time
    #[command(after_help = "It reads and changes nothing: the process does not notice.\n\
        Exit status: 0 written, 3 cannot tell; of a program that was run, the program's own (128 and the number of a signal).")]
    Report {
        /// The process, or a core file
        #[arg(value_name = "PID|CORE", required_unless_present = "program", conflicts_with_all = launch::OPTIONS)]
        target: Option<read::Target>,
        #[command(flatten)]
        what: report::What,
        #[command(flatten)]
        how: launch::How,
        /// A program to run and look at, and its arguments
        #[arg(last = true, conflicts_with = "target")]
        program: Vec<OsString>,
    },
    /// Write a trace of a program's allocator calls, for `cargo lab replay`
    #[command(
        after_help = "Exit status: the program's own (128 and the number of a signal); 3 nothing was recorded, \
        126 the program cannot be run so, 127 there is no such program."
    )]
    Record {
        #[command(flatten)]
        what: record::What,
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
    /// Profile the heap of a process or of a program: what is allocated and live, by stack
    #[command(
        after_help = "A process that is not sampled yet is sampled for --seconds (10), then no more; one that is, by \
        profile:BYTES in RSALLOC_CONF, is read. A program is sampled from its start.\n\
        Exit status: 0 done, 3 could not be done; of a program that was run, the program's own (128 and the number of a signal)."
    )]
    Profile {
        /// The process, or a core file of one that was sampled
        #[arg(value_name = "PID|CORE", required_unless_present = "program", conflicts_with_all = launch::OPTIONS)]
        target: Option<read::Target>,
        #[command(flatten)]
        what: profile::What,
        #[command(flatten)]
        how: launch::How,
        /// A program to run, and its arguments
        #[arg(last = true, conflicts_with = "target")]
        program: Vec<OsString>,
    },
    /// Add symbols to a profile, or to lines that name places as MODULE+0xOFFSET
    #[command(
        after_help = "Files are found by their names and build ids, debug files in --debug-dir and /usr/lib/debug. \
        A profile is replaced unless something else is asked for; lines of a text go to stdout.\n\
        Exit status: 0 done, 3 could not be done."
    )]
    Symbolize {
        /// The profile or the text (default: standard input)
        file: Option<std::path::PathBuf>,
        #[command(flatten)]
        outputs: profile::Outputs,
    },
    /// Print the effective settings and where each comes from
    #[command(after_help = "Exit status: 0 printed, 3 cannot tell.")]
    Conf {
        /// The process, or a core file; without it, a child is started on rsalloc and asked
        #[arg(value_name = "PID|CORE", conflicts_with_all = launch::OPTIONS)]
        target: Option<read::Target>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        how: launch::How,
    },
    /// Have a process give all cached and free memory back to the OS
    #[command(after_help = "A thread of the process does it, and goes on where it was.\n\
        Exit status: 0 done, 3 could not be done.")]
    Release {
        /// The process
        #[arg(value_name = "PID")]
        pid: u32,
        #[command(flatten)]
        format: Format,
    },
    /// Change settings of a running process
    #[command(after_help = "A thread of the process does it, and goes on where it was.\n\
        Exit status: 0 all set, 3 at least one was not: one line on standard error says why.")]
    Set {
        /// The process
        #[arg(value_name = "PID")]
        pid: u32,
        /// The settings, as in RSALLOC_CONF
        #[arg(value_name = "KEY:VALUE,...", required = true)]
        settings: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Write the man pages and the completions of shells, for packages
    #[command(hide = true)]
    Generate {
        /// The folder to write into, as it is laid out under `/usr`
        folder: std::path::PathBuf,
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
        Err(usage) if usage.use_stderr() => {
            crate::output::say(format_args!(
                "{}; see rsalloc --help",
                in_a_line(&usage.to_string())
            ));
            return ExitCode::from(CANNOT);
        }
        Err(asked_for) => {
            let _ = asked_for.print();
            return ExitCode::SUCCESS;
        }
    };
    let done = match cli.command {
        Command::Run { how, program } => launch::run(&how, &program),
        Command::Check { target, format, how } => check::check(target, format, &how),
        Command::Stats { target: Some(target), form, watch, .. } => {
            stats::of_target(&target, &form, watch)
        }
        Command::Stats { form, how, program, .. } => stats::of_program(&how, &program, &form),
        Command::Metrics { what } => metrics::metrics(what),
        Command::Top { what } => top::top(&what),
        Command::Report { target: Some(target), what, .. } => report::of_target(&target, &what),
        Command::Report { what, how, program, .. } => report::of_program(&how, &program, &what),
        Command::Record { what, program } => record::record(&what, &program),
        Command::Profile { target: Some(target), what, .. } => profile::of_target(&target, &what),
        Command::Profile { what, how, program, .. } => profile::of_program(&how, &program, &what),
        Command::Symbolize { file, outputs } => symbolize::symbolize(file.as_deref(), &outputs),
        Command::Conf { target, format, how } => conf::conf(target.as_ref(), format, &how),
        Command::Release { pid, format } => release::release(pid, format),
        Command::Set { pid, settings, format } => set::set(pid, &settings, format),
        Command::Generate { folder } => generate::generate(&folder),
        Command::CheckProbe => check::probe(),
        Command::ConfProbe => conf::probe(),
    };
    done.unwrap_or_else(|error| {
        crate::output::say(format_args!("{error:#}"));
        let code = error.downcast_ref::<program::Unusable>().map_or(CANNOT, |why| why.exit_code());
        ExitCode::from(code)
    })
}

/// What clap says first, without what follows behind an empty line.
fn in_a_line(usage: &str) -> String {
    let words = usage.lines().take_while(|line| !line.is_empty()).flat_map(str::split_whitespace);
    let line = words.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").map(str::to_owned).unwrap_or(line)
}

/// What the exit statuses mean, in the words of docs/operate.md.
const STATUSES: &str = "Exit status: 0 done; 3 could not be done, said in one line; 126 the program cannot be run on \
    rsalloc; 127 there is no such program. `check` has its own: 0 per CPU, 1 atomic path, 2 not active. A program that was \
    run passes its own on, 128 and the number if a signal ended it.";

/// Exit code of a command that could not do its work, distinct from the answers of `check`.
const CANNOT: u8 = 3;
