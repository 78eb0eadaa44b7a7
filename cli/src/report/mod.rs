//! `rsalloc report`: one page of HTML that says and draws where the memory of a process is.
//!
//! Promises that the page needs no other file, no network and no script, and that the process is only read.

mod charts;
mod heap;
mod page;
mod story;
mod tables;
mod words;

pub use charts::SHARES;

use crate::launch::{self, How};
use crate::profile::Progress;
use crate::read::{self, Target};
use crate::{output, supervise};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use story::{Moment, Story};

/// What is written, and of how long.
#[derive(clap::Args)]
pub struct What {
    /// The file to write; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    /// Watch the process for so many seconds, and show its memory over this time (of a program: its first seconds, instead
    /// of all)
    #[arg(long, value_name = "SECONDS", value_parser = crate::seconds::parse)]
    seconds: Option<Duration>,
}

impl What {
    fn is_stdout(&self) -> bool {
        self.output.as_os_str() == "-"
    }

    fn check_place(&self) -> Result<()> {
        if self.is_stdout() { Ok(()) } else { output::check_place(&self.output) }
    }

    fn write(&self, mut story: Story) -> Result<()> {
        story.symbolize();
        let page = page::render(&story).into_string();
        output::replace(&self.output, crate::read::printable(&page, output::LINES).as_bytes())?;
        if !self.is_stdout() {
            let path = &self.output;
            let size = crate::text::human(page.len() as u64);
            crate::output::say(format_args!(
                "{} says where the memory is ({size})",
                path.display()
            ));
        }
        Ok(())
    }
}

/// A report of a process, now or over some time, or of a core file.
pub fn of_target(target: &Target, what: &What) -> Result<ExitCode> {
    let duration = what.seconds;
    what.check_place()?;
    ensure!(
        !matches!(target, Target::Published(_)),
        "{target} has sums only, which `rsalloc stats` shows: name the process"
    );
    ensure!(
        duration.is_none() || matches!(target, Target::Process(_)),
        "{target} does not change: --seconds is for processes"
    );
    let Some(heap) = read::find(target)? else { bail!("rsalloc is not active in {target}") };
    let every = duration.map_or(Duration::MAX, |duration| duration / SAMPLES);
    let mut story = Story::begin(target, &heap, every.max(EVERY_MIN), Moment::Last)?;
    if let Some(duration) = duration {
        let progress = Progress::new(format!("{target} is watched"), duration);
        progress.wait_and_look(
            || heap.is_there(),
            || {
                // A failure is of a process that ended, which the next step says.
                let _ = story.sample(&heap);
                story.pause()
            },
        );
        match story.look(&heap) {
            Err(_) if !heap.is_there() => {
                crate::output::say(format_args!("{target} has ended, or runs another program"));
            }
            looked => looked?,
        }
    }
    what.write(story)?;
    Ok(ExitCode::SUCCESS)
}

/// So many samples are taken in the time that was asked for.
const SAMPLES: u32 = 200;
/// At first, a program is looked at so often.
const EVERY_MIN: Duration = Duration::from_millis(5);

/// Runs a program. The report shows it when it was largest; it is written when the program ends, or after `--seconds`.
pub fn of_program(how: &How, program: &[OsString], what: &What) -> Result<ExitCode> {
    let duration = what.seconds.unwrap_or(Duration::MAX);
    what.check_place()?;
    let has_ended = &AtomicBool::new(false);
    let mut command = launch::command(how, program)?;
    let (status, written) = std::thread::scope(|scope| -> Result<_> {
        let mut watcher = None;
        let ran = supervise::run_beside(&mut command, |pid| {
            let watch = move || -> Result<()> {
                match watch(pid, duration, has_ended)? {
                    Some(story) => what.write(story),
                    None => {
                        bail!("the program ended before it could be looked at: nothing was written")
                    }
                }
            };
            watcher = Some(scope.spawn(watch));
        });
        // Ordering: Relaxed, the flag carries nothing else.
        has_ended.store(true, Ordering::Relaxed);
        let written = watcher.map(|watcher| watcher.join());
        let (_, status) = ran?;
        let written = written.and_then(Result::ok).context("the program was not watched")?;
        Ok((status, written))
    })?;
    if let Err(why) = written {
        crate::output::say(format_args!("{why:#}"));
    }
    Ok(launch::exit_code(status))
}

/// Looks at process `pid` until it ends, or for as long as `duration`. None if it was never seen on rsalloc.
fn watch(pid: u32, duration: Duration, has_ended: &AtomicBool) -> Result<Option<Story>> {
    let target = Target::Process(pid);
    let mut story: Option<Story> = None;
    // Ordering: Relaxed, the flag carries nothing else.
    let is_over = || has_ended.load(Ordering::Relaxed);
    while !is_over() && story.as_ref().is_none_or(|story| story.age() < duration) {
        // A program may become another one (exec), with another heap.
        let heap = match read::find(&target) {
            Ok(Some(heap)) if heap.is_active() => heap,
            Err(why) if !is_over() && story.is_none() && is_alive(pid) => return Err(why),
            _ => {
                std::thread::sleep(EVERY_MIN);
                continue;
            }
        };
        if story.is_none() {
            story = Story::begin(&target, &heap, EVERY_MIN, Moment::Largest).ok();
        }
        while let Some(story) = &mut story
            && heap.is_there()
            && story.age() < duration
        {
            if story.sample(&heap).is_err() {
                break;
            }
            std::thread::sleep(story.pause());
        }
    }
    Ok(story)
}

fn is_alive(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/maps")).is_ok_and(|maps| !maps.is_empty())
}
