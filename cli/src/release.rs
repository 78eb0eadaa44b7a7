//! `rsalloc release`: a process gives all cached and free memory back to the OS.

use crate::format::Format;
use crate::output;
use crate::read::{self, Heap, Target};
use crate::remote;
use crate::text;
use anyhow::{Result, bail};
use rsalloc_core::internals::describe::SCHEMA;
use rsalloc_core::internals::engine::command::Operation;
use serde_json::json;
use std::process::ExitCode;

/// Has process `pid` release, and says what that changed.
pub fn release(pid: u32, format: Format) -> Result<ExitCode> {
    let Some(heap) = read::find(&Target::Process(pid))? else {
        bail!("rsalloc is not active in process {pid}")
    };
    let (pid, place) = heap.command_place()?;
    let before = numbers(&heap)?;
    let answer = remote::command(pid, &place, Operation::Release, 0)?;
    let after = numbers(&heap)?;
    // The answer is without what went back at once when a slab of cached objects became empty.
    let given_back = answer.max(after.given_back.saturating_sub(before.given_back));
    let answer = match format.json {
        true => {
            let side = |numbers: &Numbers| json!({"resident_bytes": numbers.resident, "cached_bytes": numbers.cached, "dirty_bytes": numbers.dirty});
            format!(
                "{}\n",
                json!({"schema": SCHEMA, "pid": pid, "given_back_bytes": given_back, "before": side(&before), "after": side(&after)})
            )
        }
        false => as_text(pid, &heap, given_back, &before, &after),
    };
    output::put(&answer, None, output::Stream::Out)?;
    Ok(ExitCode::SUCCESS)
}

struct Numbers {
    resident: u64,
    cached: u64,
    dirty: u64,
    /// So far.
    given_back: u64,
}

fn numbers(heap: &Heap) -> Result<Numbers> {
    let stats = heap.counts()?.stats;
    let Some(resident) = heap.resident() else { bail!("the process ended while it was read") };
    Ok(Numbers {
        resident: resident.bytes,
        cached: stats.cached_bytes as u64,
        dirty: stats.dirty_bytes as u64,
        given_back: stats.purged_bytes_total as u64,
    })
}

fn as_text(pid: u32, heap: &Heap, given_back: u64, before: &Numbers, after: &Numbers) -> String {
    let human = text::human;
    let mut answer =
        format!("process {pid} ({}): {} given back\n", heap.program, human(given_back));
    for (label, before, after) in [
        ("resident", before.resident, after.resident),
        ("cached", before.cached, after.cached),
        ("free, dirty", before.dirty, after.dirty),
    ] {
        answer += &format!("  {label:<12}{:>12} -> {:>12}\n", human(before), human(after));
    }
    answer
}
