//! `rsalloc stats`: what a process's heap holds now, what that of a core file held, or that of a program at its end.

use crate::ends::Ends;
use crate::format::Format;
use crate::launch::{self, How};
use crate::read::{self, Counts, Heap, Resident, Target, Writer};
use crate::{output, supervise, text};
use anyhow::{Context, Result, bail, ensure};
use rsalloc_core::internals::describe::SCHEMA;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How the answer looks.
#[derive(clap::Args)]
pub struct Form {
    #[command(flatten)]
    format: Format,
    /// Add tables of the size classes and of the shards
    #[arg(long)]
    all: bool,
    /// Write the answer to a file (for a program otherwise: to stderr)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Statistics of a process or of a core file.
pub fn of_target(target: &Target, form: &Form, watch: Option<Duration>) -> Result<ExitCode> {
    let Some(heap) = read::find(target)? else { bail!("rsalloc is not active in {target}") };
    match watch {
        None => {
            let counts = heap.counts()?;
            let answer = Answer { target, heap: &heap, counts: &counts, resident: heap.resident() };
            output::put(&answer.show(form)?, form.output.as_deref(), output::Stream::Out)?;
        }
        Some(every) => {
            ensure!(
                !matches!(target, Target::Core(_)),
                "{target} does not change: --watch is for processes"
            );
            self::watch(target, &heap, form, every)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A row each time, until the process ends, or a signal asks this one to.
fn watch(target: &Target, heap: &Heap, form: &Form, every: Duration) -> Result<()> {
    let mut out = output::Rows::open(form.output.as_deref())?;
    let mut before: Option<Counts> = None;
    let ends = Ends::take();
    let mut next = Instant::now();
    while heap.is_there() {
        let counts = match heap.counts() {
            Err(_) if !heap.is_there() => break,
            counts => counts?,
        };
        let resident = heap.resident();
        let row = if form.format.json {
            Answer { target, heap, counts: &counts, resident }.json()?
        } else {
            text::watched(&text::now("%H:%M:%S"), &counts, before.as_ref(), resident)
        };
        if before.is_none() && !form.format.json {
            out.put(&text::watched_head())?;
        }
        out.put(&row)?;
        before = Some(counts);
        next += every;
        if ends.wait(next.saturating_duration_since(Instant::now())) {
            return Ok(());
        }
    }
    crate::output::say(format_args!("{target} has ended, or runs another program"));
    Ok(())
}

struct Answer<'a> {
    target: &'a Target,
    heap: &'a Heap,
    counts: &'a Counts,
    resident: Option<Resident>,
}

impl Answer<'_> {
    fn show(&self, form: &Form) -> Result<String> {
        if form.format.json { self.json() } else { Ok(self.text(form)) }
    }

    fn text(&self, form: &Form) -> String {
        let heap = self.heap;
        let report = heap.report();
        let mut text = format!("{} ({})", self.target, heap.program);
        match self.target {
            Target::Process(_) => text += &format!(", {}\n", text::now("%Y-%m-%d %H:%M:%S")),
            Target::Core(_) => text.push('\n'),
            Target::Published(_) => text += &format!(", {}\n", published(heap, self.counts)),
        }
        text += &format!("{}: {}", heap.file.display(), report.mode.text());
        if !report.reason.text().is_empty() {
            text += &format!(": {}", report.reason.text());
        }
        text += "\n\n";
        let values: Vec<_> = self.counts.numbers().collect();
        text += &text::summary(&|name| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
        });
        if let Some(resident) = &self.resident {
            text += &text::resident(resident);
        }
        if form.all {
            text += &text::classes(self.counts);
            text += &text::shards(self.counts);
        }
        text
    }

    fn json(&self) -> Result<String> {
        Ok(format!("{}\n", self.value()?))
    }

    fn value(&self) -> Result<Value> {
        let Self { target, heap, counts, resident } = self;
        let report: Value = serde_json::from_str(&heap.report().json().to_string())?;
        let stats: serde_json::Map<_, _> =
            counts.numbers().map(|(name, value)| (name.into(), value.into())).collect();
        let classes = counts.classes.iter().enumerate().skip(1).map(|(class, counts)| {
            json!({
                "class": class, "size": counts.size, "live": counts.live(), "in_shards": counts.in_shards,
                "in_depot": counts.in_depot, "free_in_slabs": counts.free_in_slabs(), "slabs": counts.slabs,
                "slab_bytes": counts.slab_bytes, "tail_bytes": counts.tail_bytes(),
                "refilled_objects": counts.transferred.map(|each| each.refilled),
                "flushed_objects": counts.transferred.map(|each| each.flushed),
            })
        });
        let shards = counts.shards.iter().map(|shard| {
            json!({
                "kind": shard.kind.word(), "index": shard.index, "objects": shard.objects, "bytes": shard.bytes,
                "refills": shard.refills, "flushes": shard.flushes, "aborts": shard.aborts,
                "refilled_objects": shard.transferred.map(|each| each.refilled),
                "flushed_objects": shard.transferred.map(|each| each.flushed),
            })
        });
        let process = resident.map(|resident| {
            json!({
                "resident_bytes": resident.bytes, "anonymous_bytes": resident.anonymous_bytes,
                "resident_peak_bytes": resident.peak_bytes, "swapped_bytes": resident.swapped_bytes,
            })
        });
        let core = match target {
            Target::Core(path) => Some(path.to_string_lossy()),
            Target::Process(_) | Target::Published(_) => None,
        };
        let renewed = counts.renewed.map(|renewed| {
            let writer = match renewed.writer {
                Writer::Runs => "runs",
                Writer::Gone => "gone",
                Writer::Elsewhere => "elsewhere",
            };
            json!({"renewed_ms": renewed.at_ms, "writer": writer})
        });
        Ok(json!({
            "schema": SCHEMA, "time_ms": unix_time_ms(), "published": renewed, "pid": heap.pid, "core": core, "program": heap.program,
            "file": heap.file.to_string_lossy(), "report": report, "stats": stats, "process": process,
            "classes": classes.collect::<Vec<_>>(), "shards": shards.collect::<Vec<_>>(),
        }))
    }
}

/// Of which process, and of when, a published file is.
fn published(heap: &Heap, counts: &Counts) -> String {
    let pid = heap.pid.unwrap_or(0);
    let Some(renewed) = counts.renewed else { return format!("by process {pid}") };
    let by = match renewed.writer {
        Writer::Runs => format!("by process {pid}"),
        Writer::Elsewhere => format!("by process {pid} of another container"),
        Writer::Gone => {
            format!(
                "by process {pid}, which has ended, or was restored since and has not published yet"
            )
        }
    };
    let at = text::clock("%Y-%m-%d %H:%M:%S", (renewed.at_ms / 1000) as i64);
    let ago = unix_time_ms().saturating_sub(renewed.at_ms) as f64 / 1000.0;
    format!("{by}, as of {at}, {ago:.1} s ago")
}

fn unix_time_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Runs a program to its end, then shows what it left: on stderr, since stdout is the program's.
pub fn of_program(how: &How, program: &[OsString], form: &Form) -> Result<ExitCode> {
    let left = Left::new()?;
    let mut conf = how.conf.clone();
    conf.push(format!("stats_at_exit:{}", left.name()?));
    let how = How { conf, ..how.clone() };
    // It leaves none if a signal ends it, or if it has closed the descriptor: what is seen from outside at its end then says it.
    let mut seen = None;
    let mut last_look = |pid| {
        let target = Target::Process(pid);
        seen = read::find(&target).ok().flatten().filter(Heap::is_active).and_then(|heap| {
            let (counts, resident) = (heap.counts().ok()?, heap.resident());
            Answer { target: &target, heap: &heap, counts: &counts, resident }.value().ok()
        });
    };
    let traced =
        supervise::run_and_look(&mut launch::command(&how, program)?, None, &mut last_look);
    // Where it may not be traced, it has not begun.
    let (pid, status) = match traced {
        Err(_) => supervise::run(&mut launch::command(&how, program)?)?,
        traced => traced?,
    };
    match left.of(pid)?.or(seen) {
        Some(found) => {
            output::put(
                &render(&found, form.format.json),
                form.output.as_deref(),
                output::Stream::Err,
            )?;
        }
        None => crate::output::say(format_args!("the program left no statistics ({status})")),
    }
    Ok(launch::exit_code(status))
}

/// Memory that the program and its descendants inherit and append a line to at their end: no file system is needed, no
/// process waits, and none leaves anything behind.
struct Left(File);

impl Left {
    fn new() -> Result<Self> {
        // SAFETY: the name ends with a zero; the descriptor is new and the file's own.
        let file = unsafe {
            let fd = libc::memfd_create(c"rsalloc-stats".as_ptr(), 0);
            ensure!(
                fd >= 0,
                "cannot make memory for the statistics: {}",
                std::io::Error::last_os_error()
            );
            File::from_raw_fd(fd)
        };
        // SAFETY: the descriptor is the file's.
        let appends = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_APPEND) };
        ensure!(
            appends == 0,
            "cannot make memory for the statistics: {}",
            std::io::Error::last_os_error()
        );
        Ok(Self(file))
    }

    /// As `stats_at_exit` has it: the descriptor, and what it must still be at the program's end.
    fn name(&self) -> Result<String> {
        let meta = self.0.metadata()?;
        Ok(format!("fd={}={}={}", self.0.as_raw_fd(), meta.dev(), meta.ino()))
    }

    /// The last line of process `pid`.
    fn of(mut self, pid: u32) -> Result<Option<Value>> {
        let mut lines = Vec::new();
        self.0.rewind().context("cannot read the statistics")?;
        self.0.read_to_end(&mut lines).context("cannot read the statistics")?;
        let lines = lines.split(|&byte| byte == b'\n').rev();
        let mut found = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        Ok(found.find(|found| found["pid"] == pid))
    }
}

fn render(found: &Value, json: bool) -> String {
    match json {
        true => format!("{found}\n"),
        false => text::summary(&|name| found["stats"][name].as_u64()),
    }
}
