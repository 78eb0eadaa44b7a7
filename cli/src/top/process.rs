//! [`Watched`]: one process, over time.

use crate::profile::Taken;
use crate::read::{self, Counts, Heap, Resident, Target};
use anyhow::{Result, bail};
use ratatui::crossterm::event::KeyCode;
use rsalloc_core::internals::sums::{ClassCounts, ShardCounts};
use rsalloc_core::{Report, Stats};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often slow paths ran, in a second.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Rates {
    pub refills: f64,
    pub flushes: f64,
    pub aborts: f64,
    /// Objects; none of a process that does not count them.
    pub refilled: Option<f64>,
    pub flushed: Option<f64>,
    /// Bytes given back to the system.
    pub purged: f64,
}

/// Sums at an instant that are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub live: u64,
    pub resident: u64,
}

/// Points that are kept: more than a terminal has columns.
const POINTS_MAX: usize = 512;

/// See the module.
pub struct Watched {
    pub target: Target,
    pub pid: u32,
    pub program: String,
    pub report: Report,
    /// As it was last seen.
    pub counts: Counts,
    pub resident: Option<Resident>,
    /// None at the first look.
    pub rates: Option<Rates>,
    /// Refills a second, by shard.
    pub shard_rates: Vec<f64>,
    /// Objects refilled and flushed a second, by class; none where that is not known.
    pub class_rates: Vec<Option<f64>>,
    pub history: VecDeque<Point>,
    /// Where the most live bytes are from, as far as a heap profile that runs has seen; none if none does.
    pub sites: Vec<(u64, String)>,
    /// When to look for them again.
    next_sites: Instant,
    /// Why it cannot be looked at any more.
    pub ended: Option<String>,
    /// The first row of the classes that is shown.
    pub scrolled: usize,
    heap: Option<Heap>,
    looked_at: Instant,
}

impl Watched {
    /// Opens a process, or the file in which it publishes.
    pub fn open(target: &Target) -> Result<Watched> {
        let Some(heap) = read::find(target)? else { bail!("rsalloc is not active in {target}") };
        let counts = heap.counts()?;
        let mut watched = Watched {
            target: target.clone(),
            pid: heap.pid.unwrap_or(0),
            program: heap.program.clone(),
            report: heap.report(),
            resident: heap.resident(),
            counts,
            rates: None,
            shard_rates: Vec::new(),
            class_rates: Vec::new(),
            history: VecDeque::new(),
            sites: Vec::new(),
            next_sites: Instant::now(),
            ended: None,
            scrolled: 0,
            heap: Some(heap),
            looked_at: Instant::now(),
        };
        watched.remember();
        watched.look_for_sites();
        Ok(watched)
    }

    /// Reads it again.
    pub fn look(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // It may run another program by now, with another heap.
        if self.heap.as_ref().is_none_or(|heap| !heap.is_there()) {
            match read::find(&self.target) {
                Ok(Some(heap)) => {
                    (self.program, self.report) = (heap.program.clone(), heap.report());
                    (self.rates, self.heap) = (None, Some(heap));
                }
                Ok(None) => self.ended = Some("runs a program that is not on rsalloc now".into()),
                Err(_) => self.ended = Some("has ended".into()),
            }
        }
        let Some(counts) = self.heap.as_ref().and_then(|heap| heap.counts().ok()) else { return };
        let seconds = self.looked_at.elapsed().as_secs_f64();
        self.looked_at = Instant::now();
        if seconds >= LEAST_SECONDS {
            self.measure(&counts, seconds);
        }
        self.resident = self.heap.as_ref().and_then(Heap::resident);
        self.counts = counts;
        self.remember();
        self.look_for_sites();
    }

    /// Looks for the sites, if it is time: that reads symbols.
    fn look_for_sites(&mut self) {
        let begin = Instant::now();
        if let Some(heap) = self.heap.as_ref().filter(|_| begin >= self.next_sites) {
            self.sites = Taken::largest_sites(heap, SITES_MAX);
            self.next_sites = Instant::now() + (SITES_PARTS * begin.elapsed()).max(SITES_EVERY);
        }
    }

    /// Sets the rates by what was counted since the last look.
    fn measure(&mut self, now: &Counts, seconds: f64) {
        let before = &self.counts;
        let rate = |number: fn(&Stats) -> usize| {
            number(&now.stats).saturating_sub(number(&before.stats)) as f64 / seconds
        };
        let is_counted = now.transferred().is_some();
        self.rates = Some(Rates {
            refills: rate(|stats| stats.refills),
            flushes: rate(|stats| stats.flushes),
            aborts: rate(|stats| stats.aborts),
            refilled: is_counted.then(|| rate(|stats| stats.refilled_objects)),
            flushed: is_counted.then(|| rate(|stats| stats.flushed_objects)),
            purged: rate(|stats| stats.purged_bytes_total),
        });
        let of = |shard: &ShardCounts| {
            let known =
                before.shards.iter().find(|old| (old.kind, old.index) == (shard.kind, shard.index));
            shard.refills.saturating_sub(known.map_or(0, |old| old.refills)) as f64 / seconds
        };
        self.shard_rates = now.shards.iter().map(of).collect();
        let moved =
            |class: &ClassCounts| class.transferred.map(|each| each.refilled + each.flushed);
        let since =
            |(now, before)| Some(moved(now)?.saturating_sub(moved(before)?) as f64 / seconds);
        self.class_rates = now.classes.iter().zip(&before.classes).map(since).collect();
    }

    fn remember(&mut self) {
        if self.history.len() == POINTS_MAX {
            self.history.pop_front();
        }
        let resident = self.resident.map_or(0, |resident| resident.bytes);
        self.history.push_back(Point { live: self.counts.stats.live_bytes as u64, resident });
    }

    /// Acts on a key.
    pub fn press(&mut self, code: KeyCode) {
        let last =
            self.counts.classes.iter().filter(|class| class.slabs > 0).count().saturating_sub(1);
        self.scrolled = match code {
            KeyCode::Up | KeyCode::Char('k') => self.scrolled.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => (self.scrolled + 1).min(last),
            KeyCode::PageUp => self.scrolled.saturating_sub(10),
            KeyCode::PageDown => (self.scrolled + 10).min(last),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => self.scrolled,
        };
    }

    /// Lines that show the largest classes.
    pub fn height(&self) -> u16 {
        31 + self.sites.len() as u16
    }
}

/// Sites that are shown at the most.
pub const SITES_MAX: usize = 8;
/// They are looked for at most so often, and for at most one of so many parts of the time.
const SITES_EVERY: Duration = Duration::from_secs(2);
const SITES_PARTS: u32 = 40;

/// Rates are taken over at least this time.
const LEAST_SECONDS: f64 = 0.05;
