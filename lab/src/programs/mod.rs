//! Real programs on the allocator: `cargo lab programs`.
//!
//! Runs each program of the catalogue once without and once with the library (LD_PRELOAD) in each mode, and calls a row
//! ok only if the program's own checks hold, its output equals the run without, and the library was seen at work in it.
//!
//! I1: no row is left out in silence: what cannot be installed or built ends the command.
//! I2: servers listen on loopback or a unix socket; files live in one folder that is removed.

pub(crate) mod active;
pub(crate) mod child;
mod control;
pub(crate) mod mode;
pub(crate) mod rows;
pub(crate) mod setup;
mod table;
pub(crate) mod trial;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use mode::{Mode, Modes};
use rows::Program;
use setup::Setup;
use table::Row;
use trial::{Measured, Scale, Trial};

/// The options of `cargo lab programs`.
#[derive(clap::Args)]
pub struct Args {
    /// Library to preload [default: librsalloc.so, built by this command]
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// How the library is made to run
    #[arg(long, value_enum, default_value_t = Modes::Rseq)]
    mode: Modes,
    /// Only these programs (names as shown by --list)
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    only: Vec<String>,
    /// Show the programs and stop
    #[arg(long)]
    list: bool,
    /// The small set with small loads, for CI
    #[arg(long)]
    quick: bool,
    /// Run on deliberately broken allocators, with small loads: passes only if every row turns red
    #[arg(long, conflicts_with_all = ["lib", "write"])]
    check_control: bool,
    /// Write docs/programs.md (needs a full run: all programs, all modes)
    #[arg(long)]
    write: bool,
    /// Keep the folder with inputs, outputs and logs
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let programs = choose(&args)?;
    if args.list {
        for program in &programs {
            println!("{:<16} {}", program.name, program.about);
        }
        return Ok(());
    }
    if args.write {
        let full = args.only.is_empty() && !args.quick && args.lib.is_none();
        ensure!(
            full && args.mode == Modes::All,
            "--write needs the full run: use it with --mode all and without --only, --quick, --lib"
        );
    }
    let packages: Vec<_> = programs.iter().flat_map(|program| program.packages).copied().collect();
    tools::apt_install(&packages)?;
    child::catch_interrupts();
    let scratch = scratch()?;
    let small = args.quick || args.check_control;
    let bench = Bench {
        scale: if small { Scale::Quick } else { Scale::Full },
        limit: Duration::from_secs(if small { 120 } else { 900 }),
        scratch: scratch.path().to_owned(),
    };
    if args.keep {
        println!("kept: {}", scratch.keep().display());
    }
    if args.check_control {
        return control::check(&bench, &programs);
    }
    let library = match &args.lib {
        Some(path) => bench.adopt(path, None)?,
        None => {
            tools::build_release(&["rsalloc-preload", "rsalloc-cli"])?;
            bench.adopt(&tools::library()?, Some(tools::release_dir()?.join("rsalloc")))?
        }
    };
    let rows = bench.rows(&programs, &library, args.mode.list())?;
    table::show(&rows);
    if args.write {
        table::write(&rows)?;
    }
    let failed = rows.iter().filter(|row| row.with.is_err()).count();
    ensure!(failed == 0, "{failed} of {} rows failed", rows.len());
    println!("{} rows ok", rows.len());
    Ok(())
}

/// A folder for inputs and outputs that is removed with the value; readable by other users.
pub(crate) fn scratch() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("rsalloc-programs-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .context("no temporary folder: set TMPDIR to one that can be written")
}

fn choose(args: &Args) -> Result<Vec<&'static Program>> {
    for name in &args.only {
        if !rows::ALL.iter().any(|program| program.name == *name) {
            bail!("no program is called {name}: see cargo lab programs --list");
        }
    }
    let named = |program: &&Program| args.only.iter().any(|name| name == program.name);
    let chosen = rows::ALL.iter().copied().filter(|program| match args.only.is_empty() {
        true => !args.quick || program.quick,
        false => named(program),
    });
    Ok(chosen.collect())
}

/// The place of one run of the command.
pub(crate) struct Bench {
    /// No trial may take longer, whatever its program allows.
    pub limit: Duration,
    /// How large the loads are.
    pub scale: Scale,
    /// The folder, see [`scratch`].
    pub scratch: PathBuf,
}

impl Bench {
    /// Runs every program without the library, then with it in each mode.
    fn rows(
        &self,
        programs: &[&'static Program],
        library: &Library,
        modes: &[Mode],
    ) -> Result<Vec<Row>> {
        let bar = ProgressBar::new((programs.len() * (1 + modes.len())) as u64).with_style(
            ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}")
                .expect("a constant template"),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        let mut rows = Vec::new();
        for program in programs {
            bar.set_message(format!("{} without", program.name));
            let without = self.trial(program, Setup::without());
            bar.inc(1);
            for &mode in modes {
                bar.set_message(format!("{} {mode}", program.name));
                let row = self.row(program, &without, library, mode);
                ensure!(!child::is_interrupted(), "interrupted");
                bar.suspend(|| println!("{}", table::line(&row)));
                rows.push(row);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(rows)
    }

    fn row(
        &self,
        program: &'static Program,
        without: &Result<Measured>,
        library: &Library,
        mode: Mode,
    ) -> Row {
        let with = match without {
            Err(error) => Err(format!("fails without the library already: {error:#}")),
            Ok(without) => self
                .trial(program, Setup::with(library, mode))
                .and_then(|with| {
                    ensure!(
                        with.output == without.output,
                        "output differs: {}",
                        trial::first_difference(&without.output, &with.output)
                    );
                    Ok(with)
                })
                .map_err(|error| format!("{error:#}")),
        };
        Row { program: program.name, mode, without: without.as_ref().ok().cloned(), with }
    }

    /// Runs a program once; makes its inputs first if they are missing.
    pub fn trial(&self, program: &Program, setup: Setup) -> Result<Measured> {
        let inputs = self.scratch.join(format!("{}-inputs", program.name));
        if !inputs.exists() {
            std::fs::create_dir(&inputs)?;
            (program.prepare)(&inputs, self.scale).context("preparing its inputs")?;
        }
        let limit = self.limit.min(program.timeout);
        Trial::new(&self.scratch, &inputs, self.scale, (program.name, limit), setup)?
            .measure(program.run)
    }

    /// Copies a library to where a program that runs as another user can read it.
    pub fn adopt(&self, library: &Path, inspector: Option<PathBuf>) -> Result<Library> {
        let shown = library.display();
        let name = library.file_name().with_context(|| format!("{shown}: not a file"))?;
        let path = self.scratch.join(name);
        std::fs::copy(library, &path)
            .with_context(|| format!("{shown}: cannot be read; is the path right?"))?;
        Ok(Library { path, inspector })
    }
}

/// The library that the programs run on.
pub struct Library {
    /// Where the programs find it.
    pub path: PathBuf,
    /// The `rsalloc` command, if the library is the workspace's own: it tells the mode of a
    /// process. Rust programs then link the allocator instead of having it preloaded.
    inspector: Option<PathBuf>,
}
