//! A process that leaves a machine as images, and one that comes up from the images of another.
//!
//! Promises of a restored process: every object holds what was written to it, the validator is content,
//! its mode and its rseq areas are those it had, the kernel lets it use the fence, and the kernel
//! aborts its sections. What is carried lies in [`PLACE`], with the same path in every machine. Run as
//! tasks; the victim and CRIU are those of `criu`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fixups::Fixups;
use crate::criu::board::Answer;
use crate::criu::fetch;
use crate::criu::identity::Identity;
use crate::criu::images::Way;
use crate::criu::kind::{Kind, MODES};
use crate::criu::process::Process;

/// What travels.
pub const PLACE: &str = "/carried";
/// So many aborts show that the kernel knows the sections.
pub const ABORTS: u64 = 20;

/// An emulated machine is slow, and there may be eight busy threads on one CPU.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(2);
/// The first program of a machine: it is there in each.
const WATCHER: u32 = 1;

/// What the process was.
#[derive(Serialize, Deserialize)]
struct Life {
    pid: i32,
    identity: Identity,
}

/// Starts a victim on `mode`, whose threads have the numbers after `number`, and dumps it.
pub fn dump(mode: &str, number: u32) -> Result<()> {
    let kind = kind(mode)?;
    let room = room(kind);
    fs::create_dir_all(&room).with_context(|| format!("create {}", room.display()))?;
    // Far from those that another machine's own threads have.
    let last = "/proc/sys/kernel/ns_last_pid";
    fs::write(last, number.to_string()).context(last)?;
    let mut process = Process::spawn(kind, &room, WATCHER)?;
    process.goes_on(PATIENCE).context("before the dump")?;
    let answer = answer(&process).context("before the dump")?;
    let identity = process.identity(kind)?;
    let dump = fetch::criu()?.dump(process.child.pid(), &room, Way::Once)?;
    process.child.reap()?;
    println!(
        "{}",
        json!({
            "bytes": dump.bytes, "caught": dump.caught, "fence": answer.fence,
            "shards": shards(&identity), "registered": registered(&identity),
        })
    );
    let life = serde_json::to_vec(&Life { pid: process.child.pid(), identity })?;
    fs::write(room.join("life"), life).context("write what the process was")
}

/// Restores the victim on `mode` and watches it for a while.
pub fn restore(mode: &str) -> Result<()> {
    let kind = kind(mode)?;
    let room = room(kind);
    let life = fs::read(room.join("life")).context("read what the process was")?;
    let life: Life = serde_json::from_slice(&life)?;
    // A restored process becomes ours when the criu that made it ends.
    // SAFETY: no duties.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    ensure!(done == 0, "prctl: {}", std::io::Error::last_os_error());
    let mut process = Process::dumped(life.pid, &room)?;
    let verified = process.board.verified();
    // Before the restore, so that nothing comes before the answer.
    process.board.ask();
    let fixups = Fixups::count().context("no tracepoint rseq:rseq_ip_fixup, or no perf")?;
    fetch::criu()?.restore(&room.join("images"))?;
    process.child.has_come_back();
    process.goes_on(PATIENCE).context("after the restore")?;
    let first = sound(&process, kind)?;
    let identity = same(&process, kind, &life.identity)?;
    let aborts = if kind.has_sections() { aborts(&process, &fixups)? } else { 0 };
    process.goes_on(PATIENCE).context("later")?;
    process.board.ask();
    sound(&process, kind).context("later")?;
    let later = same(&process, kind, &life.identity).context("later")?;
    println!(
        "{}",
        json!({
            "fence_at_first": first.fence_at_first, "aborts": aborts,
            "verified": process.board.verified() - verified,
            "shards": [shards(&life.identity), shards(&identity), shards(&later)],
            "registered": registered(&later),
        })
    );
    Ok(())
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
        ensure!(waited < PATIENCE, "{count} aborted sections show nothing, {ABORTS} would");
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
        ensure!(begin.elapsed() < PATIENCE, "the main thread does not answer");
        std::thread::sleep(PAUSE);
    }
}

fn kind(mode: &str) -> Result<&'static Kind> {
    MODES.iter().find(|kind| kind.name == mode).with_context(|| format!("no mode {mode}"))
}

fn room(kind: &Kind) -> PathBuf {
    Path::new(PLACE).join(kind.name)
}

fn shards(identity: &Identity) -> Value {
    identity.report.as_ref().map(|report| report["shards"].clone()).unwrap_or_default()
}

/// Bytes of the areas, if they are all of one size.
fn registered(identity: &Identity) -> Option<u32> {
    let mut sizes = identity.registrations.iter().map(|area| area.map_or(0, |(_, size, _)| size));
    let first = sizes.next()?;
    sizes.all(|size| size == first).then_some(first)
}
