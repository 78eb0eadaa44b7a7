//! Cells that have been run, kept in a folder: a file for each, with its commit and its day.
//!
//! Promises that a matrix which was interrupted goes on where it stopped, by several commands side by side too, and
//! that a cell that failed or had few steps only is run again.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Row;
use super::cell::{self, Cell};
use super::plan::Seen;

/// The folder; without one nothing is kept.
pub struct Record(Option<PathBuf>);

/// Where and when a row was run.
#[derive(Clone, Serialize, Deserialize)]
pub struct Run {
    /// Of the programs; with a mark if files differed from it.
    pub commit: String,
    /// Day of the run.
    pub day: String,
    /// Whether it had the few steps of CI only.
    pub is_quick: bool,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    run: Run,
    seconds: f64,
    seen: Vec<Seen>,
    faults: Vec<String>,
}

impl Record {
    /// The record in `folder`, which is made if it is missing.
    pub fn open(folder: Option<PathBuf>) -> Result<Record> {
        if let Some(folder) = &folder {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        Ok(Record(folder))
    }

    /// The row of `cell`, if it is kept.
    pub fn row(&self, cell: &Cell) -> Result<Option<Row>> {
        let Some(file) = self.file(cell).filter(|file| file.exists()) else { return Ok(None) };
        let read = || -> Result<Kept> { Ok(serde_json::from_str(&fs::read_to_string(&file)?)?) };
        let kept = read().with_context(|| format!("{} is no record", file.display()))?;
        let Kept { run, seconds, seen, faults } = kept;
        Ok(Some(Row { cell: *cell, run, seconds, seen, faults }))
    }

    /// Whether `cell` need not be run: it was, with as many steps, and well.
    pub fn is_done(&self, cell: &Cell, is_quick: bool) -> Result<bool> {
        let row = self.row(cell)?;
        Ok(row.is_some_and(|row| row.faults.is_empty() && (is_quick || !row.run.is_quick)))
    }

    /// Keeps `row`.
    pub fn add(&self, row: &Row) -> Result<()> {
        let Some(file) = self.file(&row.cell) else { return Ok(()) };
        let kept = Kept {
            run: row.run.clone(),
            seconds: row.seconds,
            seen: row.seen.clone(),
            faults: row.faults.clone(),
        };
        let fresh = file.with_extension("new");
        fs::write(&fresh, serde_json::to_string(&kept)?)
            .and_then(|()| fs::rename(&fresh, &file))
            .with_context(|| format!("write {}", file.display()))
    }

    /// All rows that are kept, in the order of the matrix.
    pub fn rows(&self) -> Result<Vec<Row>> {
        cell::all().iter().filter_map(|cell| self.row(cell).transpose()).collect()
    }

    fn file(&self, cell: &Cell) -> Option<PathBuf> {
        self.0.as_ref().map(|folder| folder.join(format!("{}.json", cell.name())))
    }
}

impl Run {
    /// One that begins now.
    pub fn now(is_quick: bool) -> Result<Run> {
        let git = |words: &[&str]| {
            tools::output(Command::new("git").args(words).current_dir(tools::root()))
        };
        let mut commit = git(&["rev-parse", "--short=7", "HEAD"])?.trim().to_owned();
        if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
            commit += "+";
        }
        let day = tools::output(Command::new("date").arg("+%Y-%m-%d"))?.trim().to_owned();
        Ok(Run { commit, day, is_quick })
    }
}
