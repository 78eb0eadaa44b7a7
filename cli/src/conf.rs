//! `rsalloc conf`: the effective settings and where each comes from, of a running process or as the library prints
//! them in a process started from here.

use crate::format::Format;
use crate::launch::{self, How};
use crate::read::{self, Target};
use anyhow::{Context, Result, bail};
use rsalloc_core::internals::{config, describe};
use serde_json::json;
use std::process::{ExitCode, Stdio};

/// Name of the hidden subcommand whose process prints the library's settings.
pub const PROBE: &str = "conf-probe";

/// Prints the settings of `target`, or of a child that is started for it: a line or a JSON object each.
pub fn conf(target: Option<&Target>, format: Format, how: &How) -> Result<ExitCode> {
    let lines = match target {
        Some(target) => of_target(target)?,
        None => of_child(how)?,
    };
    print(&lines, format);
    Ok(ExitCode::SUCCESS)
}

fn of_target(target: &Target) -> Result<String> {
    let Some(heap) = read::find(target)? else { bail!("rsalloc is not active in {target}") };
    let raw = heap.settings_or_why()?;
    let mut lines = String::new();
    describe::settings_lines(&mut lines, config::settings_of(raw))?;
    Ok(lines)
}

fn of_child(how: &How) -> Result<String> {
    let child = launch::probe(how, PROBE)?.stderr(Stdio::inherit()).output();
    let output = child.context("cannot start a child that prints the settings")?;
    if !output.status.success() {
        bail!("the child that prints the settings ended with {}", output.status);
    }
    String::from_utf8(output.stdout).context("the settings are not UTF-8")
}

fn print(lines: &str, format: Format) {
    let settings = lines.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?, fields.next()?, fields.next()?, fields.next()?))
    });
    if format.json {
        let list: Vec<_> = settings
            .map(|(key, value, origin, help)| {
                json!({"key": key, "value": value, "origin": origin, "help": help})
            })
            .collect();
        println!("{}", serde_json::Value::from(list));
    } else {
        for (key, value, origin, help) in settings {
            println!("{key:<16}{value:<12}{origin:<18}{help}");
        }
    }
}

/// The child: has the library print its settings.
pub fn probe() -> Result<ExitCode> {
    // SAFETY: the name ends with a zero; the library defines it as a function of one int.
    let print = unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"rsalloc_print_settings".as_ptr());
        std::mem::transmute::<*mut libc::c_void, Option<extern "C" fn(libc::c_int)>>(found)
    };
    print.context("librsalloc.so was not loaded into the child")?(libc::STDOUT_FILENO);
    Ok(ExitCode::SUCCESS)
}
