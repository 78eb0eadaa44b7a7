//! `rsalloc set`: changes settings of a running process.

use crate::format::Format;
use crate::output;
use crate::read::{self, Heap, Target};
use crate::remote;
use anyhow::{Context, Result, bail, ensure};
use rsalloc_core::internals::config::{self, Key};
use rsalloc_core::internals::describe::SCHEMA;
use rsalloc_core::internals::engine::command::Operation;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Changes the settings of process `pid`, in their order, and says what each was. Checks all before it begins; goes on behind
/// one that the process refuses.
pub fn set(pid: u32, texts: &[String], format: Format) -> Result<ExitCode> {
    let changes = parse(texts)?;
    let Some(heap) = read::find(&Target::Process(pid))? else {
        bail!("rsalloc is not active in process {pid}")
    };
    let (pid, place) = heap.command_place()?;
    let (mut done, mut status) = (Vec::new(), ExitCode::SUCCESS);
    for (key, value) in changes {
        let name = key.info().name;
        let before = shown(&heap, key)?;
        if let Err(why) = remote::command(pid, &place, Operation::Set(key), value) {
            crate::output::say(format_args!("{name}: {why:#}"));
            status = ExitCode::from(crate::CANNOT);
            continue;
        }
        let after = shown(&heap, key)?;
        match format.json {
            true => done.push(json!({"key": name, "before": before, "after": after})),
            false => {
                output::put(&format!("{name}: {before} -> {after}\n"), None, output::Stream::Out)?
            }
        }
    }
    if format.json {
        let answer = json!({"schema": SCHEMA, "pid": pid, "set": Value::from(done)});
        output::put(&format!("{answer}\n"), None, output::Stream::Out)?;
    }
    Ok(status)
}

fn parse(texts: &[String]) -> Result<Vec<(Key, usize)>> {
    let items = texts.iter().flat_map(|text| text.split(',')).filter(|item| !item.is_empty());
    let changes = items.map(|item| match config::parse_item(item.as_bytes()) {
        Ok((key, value)) if config::may_change(key, value) => Ok((key, value)),
        Ok((key, _)) => {
            bail!(
                "'{item}': {} cannot be changed so while a program runs; nothing was changed",
                key.info().name
            )
        }
        Err(wrong) => bail!(
            "{} '{item}': `rsalloc conf` lists keys and values; nothing was changed",
            wrong.text()
        ),
    });
    let changes = changes.collect::<Result<Vec<_>>>()?;
    ensure!(!changes.is_empty(), "no setting is named: KEY:VALUE,..");
    Ok(changes)
}

/// The value of a setting now.
fn shown(heap: &Heap, key: Key) -> Result<String> {
    let raw = heap.settings_or_why()?;
    let setting = config::settings_of(raw).nth(key as usize).context("no such setting")?;
    Ok(setting.value.to_string())
}
