//! The side of the command that runs inside a virtual machine.
//!
//! Runs the tasks of the plan one after the other and says how each went, on the second serial port;
//! a task that hangs is killed and said to have hung. Started by the initramfs' script.

mod carry;
mod defect;
mod facts;
mod fixups;
mod hammer;
mod hotplug;
mod ticks;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::plan::{MARK, Plan, Seen, Task};
use crate::criu;
pub use carry::{ABORTS, PLACE};
pub use facts::Facts;
pub use fixups::Fixups;
pub use hotplug::ENOUGH;
use hotplug::Hotplug;

const PORT: &str = "/dev/ttyS1";
const WORDS: &str = "/tmp/said";
const WORDS_MAX: usize = 1500;

/// What runs inside.
#[derive(clap::Subcommand)]
#[command(hide = true)]
pub enum Inside {
    /// Runs the tasks of a plan
    Guest { plan: PathBuf },
    /// Prints what machine this is
    Facts,
    /// Allocates and frees under signals
    Hammer { signals: u64, period_us: u64, aborts: u64 },
    /// Counts the instructions of the hot entries
    Ticks,
    /// Writes where only the kernel may
    BreakAbi,
    /// Starts a victim and dumps it
    Dump(carry::Leave),
    /// Restores what another machine has dumped
    Restore { mode: String },
    /// Flips a bit of each object in an image
    Flip { images: PathBuf },
    /// Shows what dumps do to threads inside a section
    Snapshot,
}

impl Inside {
    /// Runs it.
    pub fn run(self) -> Result<()> {
        match self {
            Inside::Guest { plan } => run(&plan),
            Inside::Facts => facts::facts(),
            Inside::Hammer { signals, period_us, aborts } => {
                hammer::hammer(signals, Duration::from_micros(period_us), aborts)
            }
            Inside::Ticks => ticks::ticks(),
            Inside::BreakAbi => defect::break_abi(),
            Inside::Dump(leave) => carry::dump(&leave),
            Inside::Restore { mode } => carry::restore(&mode),
            Inside::Flip { images } => criu::control::flip(&images),
            Inside::Snapshot => carry::snapshot(),
        }
    }
}

fn run(plan: &Path) -> Result<()> {
    let text = fs::read_to_string(plan).with_context(|| format!("read {}", plan.display()))?;
    let plan: Plan = serde_json::from_str(&text)?;
    for task in &plan.tasks {
        let seen = attempt(task).with_context(|| task.name.clone())?;
        let mut port = File::options().write(true).open(PORT).context(PORT)?;
        writeln!(port, "{MARK}{}", serde_json::to_string(&seen)?)?;
    }
    Ok(())
}

fn attempt(task: &Task) -> Result<Seen> {
    let words = File::create(WORDS).context(WORDS)?;
    let (program, arguments) = task.command.split_first().context("a task without a program")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(task.environment.iter().map(|(n, v)| (n, v)));
    command.env("PATH", "/bin").stdin(Stdio::null());
    command.stdout(words.try_clone()?).stderr(words).process_group(0);
    let fixups = Fixups::count();
    let hotplug = task.hotplug.then(Hotplug::start).transpose()?;
    let begin = Instant::now();
    let ended = watch(&mut command, Duration::from_secs(task.seconds))?;
    let seconds = begin.elapsed().as_secs_f64();
    let toggles = hotplug.map_or(0, Hotplug::finish);
    let said = fs::read(WORDS).context(WORDS)?;
    let said = String::from_utf8_lossy(&said[said.len().saturating_sub(WORDS_MAX)..]).into_owned();
    Ok(Seen {
        name: task.name.clone(),
        exit: ended.and_then(|status| status.code()),
        signal: ended.and_then(|status| status.signal()),
        seconds,
        said,
        fixups: fixups.and_then(|fixups| fixups.read()),
        toggles,
    })
}

/// How the program ended; none: it was killed after `limit`, with all that it started.
fn watch(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let begin = Instant::now();
    let mut child = command.spawn().context("cannot be started")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() > limit {
            // SAFETY: the group was made for this child, which has not been waited for.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
