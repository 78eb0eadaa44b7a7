//! A process that leaves a machine as images, after more than one life there if it is told so, and one that comes up
//! from the images of another.
//!
//! Promises of a restored process, here and there: every object holds what was written to it, the validator is content,
//! its mode and its rseq areas are those it had, the kernel lets it use the fence, and the kernel
//! aborts its sections; and of one whose shards are numbered by `mm_cid`, on a kernel that has none, that it ended and said so. What is carried lies in [`PLACE`], with the same path in every machine. Run as
//! tasks; the victim and CRIU are those of `criu`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fixups::Fixups;
use crate::criu::board::Answer;
use crate::criu::identity::Identity;
use crate::criu::images::{Criu, Way};
use crate::criu::kind::{Kind, MODES};
use crate::criu::process::Process;
use crate::criu::victim::Options;
use crate::criu::{child, fetch, snapshot};

/// The process that travels between machines.
pub const PLACE: &str = "/carried";
/// So many aborts show that the kernel knows the sections.
pub const ABORTS: u64 = 20;

/// An emulated machine is slow, and there may be eight busy threads on one CPU.
const WAIT_LIMIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(2);
/// The first program of a machine: it is there in each.
const WATCHER: u32 = 1;

/// How a process is to be dumped.
#[derive(Clone, clap::Args)]
pub struct Leave {
    mode: String,
    /// Its threads have the numbers after this
    number: u32,
    #[arg(value_enum)]
    way: Way,
    /// How often it is dumped; it is restored in between
    dumps: usize,
    #[command(flatten)]
    options: Options,
}

/// What the process was.
#[derive(Serialize, Deserialize)]
struct Life {
    pid: i32,
    identity: Identity,
}

/// Starts a victim and dumps it as `leave` says.
pub fn dump(leave: &Leave) -> Result<()> {
    let kind = kind(&leave.mode)?;
    let scratch = scratch(kind);
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    // Far from those that another machine's own threads have.
    let last = "/proc/sys/kernel/ns_last_pid";
    fs::write(last, leave.number.to_string()).context(last)?;
    child::adopt()?;
    let criu = fetch::criu()?;
    let mut process = Process::spawn(kind, &scratch, WATCHER, leave.options)?;
    process.goes_on(WAIT_LIMIT).context("before the dump")?;
    let fence = answer(&process).context("before the dump")?.fence;
    let life = Life { pid: process.child.pid(), identity: process.identity(kind)? };
    let (mut dumps, mut aborts) = (Vec::new(), Vec::new());
    for number in 1..=leave.dumps {
        let is_last = number == leave.dumps;
        let passing = tempfile::tempdir()?;
        // The last one travels.
        let folder = if is_last { &scratch } else { passing.path() };
        let dump = process.dump(&criu, folder, leave.way, WAIT_LIMIT);
        let dump = dump.with_context(|| format!("dump {number}"))?;
        process.child.reap()?;
        if !is_last {
            let revived = revive(&criu, &mut process, kind, &life.identity, &dump.images);
            aborts.push(revived.with_context(|| format!("of dump {number}"))?.aborts);
        }
        dumps.push(dump);
    }
    let pages = dumps.iter().map(|dump| [dump.stats.written, dump.stats.in_parents]);
    println!(
        "{}",
        json!({
            "bytes": dumps.last().map(|dump| dump.bytes), "fence": fence,
            "caught": dumps.iter().map(|dump| dump.caught).sum::<usize>(),
            "shards": life.identity.shards, "registered": registered(&life.identity),
            "aborts": aborts, "verified": process.board.verified(),
            "written_and_in_parents": pages.collect::<Vec<_>>(),
            "percent_in_parents": dumps.iter().map(|dump| dump.stats.percent_in_parents()).min(),
        })
    );
    let life = serde_json::to_vec(&life)?;
    fs::write(scratch.join("life"), life).context("write what the process was")
}

/// Restores the victim on `mode` and watches it for a while.
pub fn restore(mode: &str) -> Result<()> {
    let kind = kind(mode)?;
    let scratch = scratch(kind);
    let life = fs::read(scratch.join("life")).context("read what the process was")?;
    let life: Life = serde_json::from_slice(&life)?;
    child::adopt()?;
    let mut process = Process::dumped(life.pid, &scratch)?;
    let images = scratch.join("images");
    if kind.is_by_mm_cid() && !has_mm_cid() {
        return ends_itself(&fetch::criu()?, &mut process, &images);
    }
    let verified = process.board.verified();
    let revived = revive(&fetch::criu()?, &mut process, kind, &life.identity, &images)?;
    println!(
        "{}",
        json!({
            "fence_at_first": revived.fence_at_first, "aborts": revived.aborts,
            "verified": process.board.verified() - verified,
            "shards": [life.identity.shards, revived.first.shards, revived.later.shards],
            "registered": registered(&revived.later),
        })
    );
    Ok(())
}

/// What dumps do to threads inside a section, on this kernel.
pub fn snapshot() -> Result<()> {
    child::adopt()?;
    snapshot::show(&fetch::criu()?)
}

/// Whether this kernel keeps an `mm_cid` for threads.
fn has_mm_cid() -> bool {
    const AT_RSEQ_FEATURE_SIZE: libc::c_ulong = 27;
    // SAFETY: reads libc's copy of the vector.
    unsafe { libc::getauxval(AT_RSEQ_FEATURE_SIZE) >= 28 }
}

/// Restores `process` from `images`: it must notice the kernel, say so and end.
fn ends_itself(criu: &Criu, process: &mut Process, images: &Path) -> Result<()> {
    criu.restore(images)?;
    process.child.has_come_back();
    let begin = Instant::now();
    let end = loop {
        match process.child.runs() {
            Err(end) => break end.to_string(),
            Ok(()) => {
                ensure!(begin.elapsed() < WAIT_LIMIT, "a process by mm_cid goes on without it")
            }
        }
        std::thread::sleep(PAUSE);
    };
    ensure!(end.contains("SIGABRT") && end.contains("which has no mm_cid"), "{end}");
    println!("{}", json!({ "end": end, "milliseconds": begin.elapsed().as_millis() as u64 }));
    Ok(())
}

/// A process that was restored and is well.
struct Revived {
    fence_at_first: i64,
    aborts: u64,
    first: Identity,
    later: Identity,
}

/// Restores `process` from `images`, and watches it until its sections have been aborted.
fn revive(
    criu: &Criu,
    process: &mut Process,
    kind: &Kind,
    was: &Identity,
    images: &Path,
) -> Result<Revived> {
    // Before the restore, so that nothing comes before the answer.
    process.board.ask();
    let fixups = Fixups::count().context("no tracepoint rseq:rseq_ip_fixup, or no perf")?;
    criu.restore(images)?;
    process.child.has_come_back();
    process.goes_on(WAIT_LIMIT).context("after the restore")?;
    let fence_at_first = sound(process, kind)?.fence_at_first;
    let first = same(process, kind, was)?;
    let aborts = if kind.has_sections() { aborts(process, &fixups)? } else { 0 };
    process.goes_on(WAIT_LIMIT).context("later")?;
    process.board.ask();
    sound(process, kind).context("later")?;
    let later = same(process, kind, was).context("later")?;
    Ok(Revived { fence_at_first, aborts, first, later })
}

/// The answer to the question that was asked; an error unless all is well.
fn sound(process: &Process, kind: &Kind) -> Result<Answer> {
    let answer = answered(process)?;
    ensure!(answer.check == 0, "rsalloc_check found the heap broken");
    let fence = answer.fence == 0 || !kind.has_sections();
    ensure!(
        fence,
        "the fence is refused: {}",
        std::io::Error::from_raw_os_error(answer.fence as i32)
    );
    Ok(answer)
}

/// What it is now; an error unless that is what it `was`. The number of shards follows the CPUs.
fn same(process: &Process, kind: &Kind, was: &Identity) -> Result<Identity> {
    let now = process.identity(kind)?;
    let areas = (&now.registrations, &was.registrations);
    ensure!(areas.0 == areas.1, "rseq areas {:?} instead of {:?}", areas.0, areas.1);
    Ok(now)
}

/// Moves the threads about until the kernel has aborted [`ABORTS`] sections.
fn aborts(process: &Process, fixups: &Fixups) -> Result<u64> {
    let begin = Instant::now();
    let before = fixups.read().context("the aborts can't be read")?;
    let cpus = std::thread::available_parallelism()?.get();
    for turn in 0.. {
        let count = fixups.read().context("the aborts can't be read")? - before;
        if count >= ABORTS {
            return Ok(count);
        }
        let waited = begin.elapsed();
        ensure!(waited < WAIT_LIMIT, "{count} aborted sections show nothing, {ABORTS} would");
        for entry in fs::read_dir(format!("/proc/{}/task", process.child.pid()))? {
            let thread = entry?.file_name().to_string_lossy().parse()?;
            allow(thread, turn % cpus..turn % cpus + 1)?;
            allow(thread, 0..cpus)?;
        }
        std::thread::sleep(PAUSE);
    }
    unreachable!("the loop has no end")
}

fn allow(thread: i32, cpus: std::ops::Range<usize>) -> Result<()> {
    // SAFETY: all-zero is the empty set; the numbers are below its size.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    cpus.for_each(|cpu| {
        // SAFETY: as above.
        unsafe { libc::CPU_SET(cpu, &mut set) }
    });
    // SAFETY: the kernel reads a live set.
    let done = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &set) };
    ensure!(done == 0, "sched_setaffinity: {}", std::io::Error::last_os_error());
    Ok(())
}

fn answer(process: &Process) -> Result<Answer> {
    process.board.ask();
    answered(process)
}

fn answered(process: &Process) -> Result<Answer> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = process.board.answered() {
            return Ok(answer);
        }
        ensure!(begin.elapsed() < WAIT_LIMIT, "the main thread does not answer");
        std::thread::sleep(PAUSE);
    }
}

fn kind(mode: &str) -> Result<&'static Kind> {
    MODES.iter().find(|kind| kind.name == mode).with_context(|| format!("no mode {mode}"))
}

fn scratch(kind: &Kind) -> PathBuf {
    Path::new(PLACE).join(kind.name)
}

/// Bytes of the areas, if they are all of one size.
fn registered(identity: &Identity) -> Option<u32> {
    let mut sizes = identity.registrations.iter().map(|area| area.map_or(0, |(_, size, _)| size));
    let first = sizes.next()?;
    sizes.all(|size| size == first).then_some(first)
}
