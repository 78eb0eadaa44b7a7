//! The file for node_exporter's textfile collector: each reader sees a whole one, since a new one is renamed over the old.

use crate::ends::Ends;
use crate::output;
use anyhow::{Context, Result, ensure};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes the file once; with `every`, again and again until a signal asks this process to end, and removes it then. A renewal
/// that fails is said once, and leaves the file as it was.
pub fn keep(path: &Path, every: Option<Duration>, mut text: impl FnMut() -> String) -> Result<()> {
    ensure!(
        path.extension().is_some_and(|extension| extension == "prom"),
        "{}: node_exporter reads files whose names end in .prom",
        path.display()
    );
    let Some(every) = every else { return output::replace(path, text().as_bytes()) };
    let ends = Ends::take();
    output::replace(path, text().as_bytes())?;
    let mut next = Instant::now() + every;
    let mut has_failed = false;
    while !ends.wait(next.saturating_duration_since(Instant::now())) {
        // A folder that is away for a while, or a full disk, comes back.
        let renewed = output::replace(path, text().as_bytes());
        if let Err(why) = &renewed
            && !has_failed
        {
            crate::output::say(format_args!(
                "{why:#}; it is tried again every {} s",
                every.as_secs_f64()
            ));
        }
        has_failed = renewed.is_err();
        next = (next + every).max(Instant::now());
    }
    // What ended processes held would stay in it as if they ran.
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != ErrorKind::NotFound => {
            Err(why).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
