//! [`List`]: the processes that rsalloc serves, as rows.

use crate::fleet::Fleet;
use crate::read::{Heap, Target};
use ratatui::crossterm::event::KeyCode;
use std::collections::HashMap;
use std::time::Instant;

/// A process.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub target: Target,
    pub pid: u32,
    pub program: String,
    pub resident: u64,
    pub live: u64,
    pub cached: u64,
    /// Free in slabs.
    pub free: u64,
    /// Free pages that may be resident.
    pub dirty: u64,
    /// Refills a second; not known at the first look.
    pub rate: Option<f64>,
    pub mode: &'static str,
}

/// A column of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Column {
    Pid,
    Program,
    Resident,
    Live,
    Cached,
    Free,
    Dirty,
    Refills,
    Mode,
}

impl Column {
    /// From left to right.
    pub const ALL: [Column; 9] = [
        Column::Pid,
        Column::Program,
        Column::Resident,
        Column::Live,
        Column::Cached,
        Column::Free,
        Column::Dirty,
        Column::Refills,
        Column::Mode,
    ];
}

/// See the module.
pub struct List {
    fleet: Fleet,
    /// In their order.
    pub rows: Vec<Row>,
    /// Processes that are on rsalloc and cannot be read; other users', of which this is not known.
    pub unread: (usize, usize),
    /// What the rows are sorted by.
    pub sort: Column,
    /// Whether the order is the column's own or the other one.
    pub is_reversed: bool,
    /// The process that is selected.
    selected: Option<Target>,
    before: HashMap<Target, (usize, Instant)>,
    /// What to say in the place of the numbers of processes, until the next key.
    pub said: Option<String>,
}

impl List {
    /// An empty list of what `fleet` finds.
    pub fn new(fleet: Fleet, sort: Column) -> List {
        List {
            fleet,
            rows: Vec::new(),
            unread: (0, 0),
            sort,
            is_reversed: false,
            selected: None,
            before: HashMap::new(),
            said: None,
        }
    }

    /// Reads all processes.
    pub fn look(&mut self) {
        let (mut rows, mut refills) = (Vec::new(), HashMap::new());
        let before = &self.before;
        let unread = self.fleet.visit(|heap| {
            let target = &heap.target;
            let Some((row, now)) = read(heap, before.get(target).copied()) else { return false };
            rows.push(row);
            refills.insert(target.clone(), now);
            true
        });
        (self.rows, self.before) = (rows, refills);
        self.unread = (unread, self.fleet.refused());
        self.arrange();
    }

    /// Sorts the rows. A process that is gone is not selected any more.
    fn arrange(&mut self) {
        let sort = self.sort;
        self.rows.sort_by(|a, b| {
            let order = match sort {
                Column::Pid => a.pid.cmp(&b.pid),
                Column::Program => a.program.cmp(&b.program),
                Column::Mode => a.mode.cmp(b.mode),
                Column::Resident => b.resident.cmp(&a.resident),
                Column::Live => b.live.cmp(&a.live),
                Column::Cached => b.cached.cmp(&a.cached),
                Column::Free => b.free.cmp(&a.free),
                Column::Dirty => b.dirty.cmp(&a.dirty),
                Column::Refills => b.rate.unwrap_or(0.0).total_cmp(&a.rate.unwrap_or(0.0)),
            };
            order.then(a.pid.cmp(&b.pid))
        });
        if self.is_reversed {
            self.rows.reverse();
        }
        if self.index().is_none() {
            self.selected = self.rows.first().map(|row| row.target.clone());
        }
    }

    /// Number of the selected row.
    pub fn index(&self) -> Option<usize> {
        self.rows.iter().position(|row| Some(&row.target) == self.selected.as_ref())
    }

    /// The selected process.
    pub fn selected(&self) -> Option<&Target> {
        self.selected.as_ref()
    }

    /// Acts on a key.
    pub fn press(&mut self, code: KeyCode) {
        self.said = None;
        let last = self.rows.len().saturating_sub(1);
        let index = self.index().unwrap_or(0);
        let select = match code {
            KeyCode::Up | KeyCode::Char('k') => index.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => (index + 1).min(last),
            KeyCode::PageUp => index.saturating_sub(10),
            KeyCode::PageDown => (index + 10).min(last),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => index,
        };
        self.selected = self.rows.get(select).map(|row| row.target.clone());
        let column = Column::ALL.iter().position(|column| *column == self.sort).unwrap_or(0);
        match code {
            KeyCode::Left => self.sort = Column::ALL[column.saturating_sub(1)],
            KeyCode::Right => self.sort = Column::ALL[(column + 1).min(Column::ALL.len() - 1)],
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            _ => return,
        }
        self.arrange();
    }

    /// Lines that show all.
    pub fn height(&self) -> u16 {
        u16::try_from(self.rows.len()).unwrap_or(u16::MAX).saturating_add(4)
    }
}

/// A row of a process, and its refills so far; none if it has gone away meanwhile.
fn read(heap: &Heap, before: Option<(usize, Instant)>) -> Option<(Row, (usize, Instant))> {
    let counts = heap.counts().ok()?;
    let (stats, now) = (&counts.stats, Instant::now());
    let rate = before.map(|(refills, at)| {
        stats.refills.saturating_sub(refills) as f64 / (now - at).as_secs_f64().max(1e-3)
    });
    let row = Row {
        target: heap.target.clone(),
        pid: heap.pid?,
        program: heap.program.clone(),
        resident: heap.resident().map_or(0, |resident| resident.bytes),
        live: stats.live_bytes as u64,
        cached: stats.cached_bytes as u64,
        free: stats.slab_free_bytes as u64,
        dirty: stats.dirty_bytes as u64,
        rate,
        mode: heap.report().mode.word().trim_start_matches("rseq_"),
    };
    Some((row, (stats.refills, now)))
}

#[cfg(test)]
impl List {
    /// A list of these rows.
    pub fn of(rows: Vec<Row>) -> List {
        let mut list = List::new(Fleet::all(), Column::Resident);
        list.rows = rows;
        list.arrange();
        list
    }
}
