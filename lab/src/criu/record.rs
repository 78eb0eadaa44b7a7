//! What the cycles showed so far: sums and measurements by kind, in a file if one is wanted.
//!
//! Promises that an interrupted run can be taken up again, on the same build of the library only.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::cycle::Taken;
use super::kind::GLIBC;

/// The rows, and where they are kept.
pub struct Record {
    file: Option<PathBuf>,
    kept: Kept,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// The build that was tested.
    library: u64,
    rows: BTreeMap<String, Row>,
}

/// What the cycles of one kind showed.
#[derive(Serialize, Deserialize, Default)]
struct Row {
    cycles: usize,
    caught: usize,
    /// Snapshots after which the process that ran on was not judged.
    unjudged: usize,
    /// Objects compared.
    verified: u64,
    /// Milliseconds of the dumps, and of the restores after them.
    dumps: Vec<f64>,
    /// The part of a dump's time until all threads had stopped, and how many threads were running.
    #[serde(default)]
    stops: Vec<f64>,
    #[serde(default)]
    running: Vec<f64>,
    restores: Vec<f64>,
    /// Bytes of the images.
    bytes: Vec<f64>,
}

impl Record {
    /// The record in `file` or, if there is none yet, an empty one.
    pub fn open(file: Option<PathBuf>) -> Result<Record> {
        let path = tools::library()?;
        let mut hasher = DefaultHasher::new();
        fs::read(&path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
        let library = hasher.finish();
        let kept = match &file {
            Some(file) if file.exists() => read(file)?,
            _ => Kept { library, rows: BTreeMap::new() },
        };
        ensure!(
            kept.library == library,
            "the record is of another build: remove it or name another"
        );
        Ok(Record { file, kept })
    }

    /// Cycles of `kind` so far.
    pub fn cycles(&self, kind: &str) -> usize {
        self.kept.rows.get(kind).map_or(0, |row| row.cycles)
    }

    /// Adds a cycle of `kind` in which `verified` objects were compared. Only a `measured` one counts
    /// for the medians.
    pub fn add(&mut self, kind: &str, taken: &Taken, verified: u64, measured: bool) {
        let row = self.kept.rows.entry(kind.to_owned()).or_default();
        row.cycles += 1;
        row.caught += taken.dump.caught;
        row.unjudged += usize::from(!taken.is_judged);
        row.verified += verified;
        if measured {
            row.dumps.push(taken.dump.wall.as_secs_f64() * 1e3);
            row.stops.push(taken.dump.stats.stopping.as_secs_f64() * 1e3);
            row.running.push(taken.dump.running as f64);
            row.restores.push(taken.restore.as_secs_f64() * 1e3);
            row.bytes.push(taken.dump.bytes as f64);
        }
    }

    /// Writes the file, if there is one: whole or not at all.
    pub fn save(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let fresh = file.with_extension("new");
        let saved = fs::write(&fresh, serde_json::to_string(&self.kept)?)
            .and_then(|()| fs::rename(&fresh, file));
        saved.with_context(|| format!("write {}", file.display()))
    }

    /// A line for each kind, and one that compares it with glibc's malloc.
    pub fn print(&self) {
        let rows = &self.kept.rows;
        rows.iter().for_each(|(kind, row)| println!("{}", row.line(kind)));
        let Some(glibc) = rows.get(GLIBC.name) else { return };
        for (kind, row) in rows.iter().filter(|(kind, _)| *kind != GLIBC.name) {
            println!("{}", row.ratios(kind, glibc));
        }
    }
}

impl Row {
    fn line(&self, kind: &str) -> String {
        let mut line = format!(
            "{kind:<8}{:>5} cycles ok, {:>4} threads caught in a section, {:>11} objects compared; medians: dump {:>4.0} ms ({:.0} to stop the threads, {:.0} of which were running), restore {:>4.0} ms, image {:>5.1} MB",
            self.cycles,
            self.caught,
            self.verified,
            median(&self.dumps),
            median(&self.stops),
            median(&self.running),
            median(&self.restores),
            median(&self.bytes) / 1e6,
        );
        if self.unjudged > 0 {
            line += &format!(
                "\n        NOT JUDGED: what ran on after {} snapshots that had a thread in a section: only their images are judged (docs/proof.md)",
                self.unjudged
            );
        }
        line
    }

    /// The part of each dump's time after all threads have stopped.
    fn stopped(&self) -> Vec<f64> {
        self.dumps.iter().zip(&self.stops).map(|(dump, stop)| dump - stop).collect()
    }

    fn ratios(&self, kind: &str, glibc: &Row) -> String {
        let ratio = |a: &[f64], b: &[f64]| median(a) / median(b);
        format!(
            "{kind:<8}against glibc: dump time {:.2} ({:.2} once the threads have stopped), restore time {:.2}, image size {:.2}",
            ratio(&self.dumps, &glibc.dumps),
            ratio(&self.stopped(), &glibc.stopped()),
            ratio(&self.restores, &glibc.restores),
            ratio(&self.bytes, &glibc.bytes),
        )
    }
}

fn read(file: &Path) -> Result<Kept> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no record", file.display()))
}

/// 0 if there are no values.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
