//! Memory with 1 to 10,000 threads that have allocated and freed.
//!
//! Runs the storm's victim of many threads. What the threads themselves take (stacks, the kernel's tables) is left out
//! by taking off a run whose threads never allocated.

use super::{Failed, MIB, by_peer, cell};
use crate::compare::peers::Peer;
use crate::compare::sample;
use crate::storm::victim::compile;
use crate::storm::{THREADS, rss};
use anyhow::{Context, bail, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The table.
pub fn table(peers: &[Peer], counts: &[usize], failed: &mut Failed) -> anyhow::Result<String> {
    let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    let victim = compile(scratch.path(), "threads", THREADS, &[])?;
    let mut rows = Vec::new();
    for &count in counts {
        let values = peers.iter().enumerate().map(|(index, peer)| {
            eprintln!("{count} threads on {}", peer.name);
            let cost = cost(&victim, peer, count);
            cell(peers, index, &format!("{count} threads"), cost, failed)
        });
        rows.push((count.to_string(), values.collect()));
    }
    Ok(format!(
        "\nResident MiB of so many live threads that have allocated and freed (300 steps with objects up to 4 KiB) and \
         sleep, less those of as many that have not.\n{}",
        by_peer("threads", peers, &rows, 2)
    ))
}

fn cost(victim: &Path, peer: &Peer, count: usize) -> anyhow::Result<f64> {
    let (busy, idle) = (asleep(victim, peer, count, &[])?, asleep(victim, peer, count, &["idle"])?);
    Ok((busy as f64 - idle as f64) / MIB)
}

/// Resident bytes with all threads asleep.
fn asleep(victim: &Path, peer: &Peer, count: usize, extra: &[&str]) -> anyhow::Result<u64> {
    let mut command = Command::new(victim);
    command.arg(count.to_string()).args(extra);
    for variable in sample::CLEARED {
        command.env_remove(variable);
    }
    command.envs(peer.environment.iter().copied());
    if let Some(library) = &peer.preload {
        command.env("LD_PRELOAD", library);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut running = Running(command.spawn().context("cannot start the victim")?);
    let pid = running.0.id() as i32;
    let mut seen = None;
    for line in BufReader::new(running.0.stdout.take().context("no output")?).lines() {
        if line?.ends_with(" asleep") {
            served(pid, peer)?;
            seen = Some(rss::of(pid)?);
        }
    }
    let status = running.0.wait()?;
    ensure!(status.success(), "the victim failed: {status}");
    seen.context("the victim's threads never slept")
}

/// An error unless the library of `peer`, and no other peer's, is in process `pid`.
fn served(pid: i32, peer: &Peer) -> anyhow::Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).context("read its mappings")?;
    match &peer.preload {
        Some(library) if !maps.contains(&*library.canonicalize()?.to_string_lossy()) => {
            bail!("{} is not in the process", library.display())
        }
        None if maps.contains("malloc") || maps.contains("librsalloc") => {
            bail!("another allocator than the C library's is in the process")
        }
        _ => Ok(()),
    }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
