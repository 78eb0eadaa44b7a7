//! Whole programs as rows: `cargo lab compare --programs`.
//!
//! The exercises are `programs::rows::loads`. Promises that the output of each sample equals that of a run on what the
//! program brings, and that the peer's library was seen in the process under test: ours in its mode, by what it
//! publishes; one that must run per CPU by the kernel's word on rseq; the others by the process's maps.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use benches::samples::Watch;
use serde::{Deserialize, Serialize};

use super::figures::{Figures, Metric, Row, Summary};
use super::peers::{Caches, Peer};
use super::sample;
use super::shares::{self, Classifier, Code, Shares};
use super::suite::Suite;
use crate::programs::active::Proof;
use crate::programs::mode::Mode;
use crate::programs::rows::{Program, loads};
use crate::programs::setup::Setup;
use crate::programs::trial::{Measured, Scale, first_difference};
use crate::programs::{Bench, child, scratch};

/// The rows, installed, and what each must print.
pub struct Programs {
    bench: Bench,
    rows: Vec<&'static Program>,
    /// By row; none until it has run on what the program brings.
    outputs: Vec<Option<String>>,
    /// By peer's name, where programs of other users can read it.
    libraries: HashMap<&'static str, PathBuf>,
    takes_shares: bool,
    /// Removed with the value.
    _scratch: tempfile::TempDir,
}

/// What one run of a program cost.
#[derive(Serialize, Deserialize)]
pub struct Sample {
    cpu_seconds: f64,
    wall_seconds: f64,
    peak_rss_bytes: u64,
    minor_faults: u64,
}

/// User and system time.
pub const CPU: Metric<Sample> = Metric {
    title: "CPU time, s",
    digits: 3,
    summary: Summary::GeometricMean,
    plot: Some("cpu-time"),
    of: |s| s.cpu_seconds,
};

/// The most memory.
pub const PEAK: Metric<Sample> = Metric {
    title: "Peak RSS, MiB",
    digits: 1,
    summary: Summary::GeometricMean,
    plot: Some("peak-rss"),
    of: |s| s.peak_rss_bytes as f64 / sample::MIB,
};

impl Figures for Sample {
    const METRICS: &'static [Metric<Self>] = &[
        CPU,
        Metric {
            title: "Wall time, s",
            digits: 3,
            summary: Summary::GeometricMean,
            plot: None,
            of: |s| s.wall_seconds,
        },
        PEAK,
        Metric {
            title: "Page faults",
            digits: 0,
            summary: Summary::None,
            plot: None,
            of: |s| s.minor_faults as f64,
        },
    ];
}

impl Programs {
    /// The rows of these names, all if there are none; installs the programs.
    pub fn new(names: &[String], peers: &[Peer], takes_shares: bool) -> Result<Programs> {
        let chosen = sample::select(loads::ALL.iter().map(|row| row.name), names)?;
        let mut rows = loads::ALL.to_vec();
        rows.retain(|row| chosen.iter().any(|name| name == row.name));
        let packages: Vec<_> = rows.iter().flat_map(|row| row.packages).copied().collect();
        tools::apt_install(&packages)?;
        Ok(Programs { takes_shares, ..Programs::of(rows, peers)? })
    }

    fn of(rows: Vec<&'static Program>, peers: &[Peer]) -> Result<Programs> {
        child::catch_interrupts();
        let scratch = scratch()?;
        let bench = Bench {
            limit: Duration::from_secs(60),
            scale: Scale::Full,
            scratch: scratch.path().to_owned(),
        };
        let mut libraries = HashMap::new();
        for peer in peers {
            let library = match &peer.preload {
                Some(library) => library.clone(),
                None => c_library()?,
            };
            libraries.insert(peer.name, bench.adopt(&library, None)?.path);
        }
        let outputs = vec![None; rows.len()];
        let takes_shares = false;
        Ok(Programs { bench, rows, outputs, libraries, takes_shares, _scratch: scratch })
    }

    /// What row `run` must print: the first time, runs it on what the program brings.
    fn expected(&mut self, run: usize) -> Result<&str> {
        if self.outputs[run].is_none() {
            let row = self.rows[run];
            let without = self.bench.trial(row, Setup::without());
            let without = without.with_context(|| format!("{} without a library", row.name))?;
            self.outputs[run] = Some(without.output);
        }
        self.outputs[run].as_deref().context("it was put there")
    }

    /// Runs row `run` on `peer`; its output is what it must be.
    fn measure(&mut self, run: usize, peer: &Peer) -> Result<Measured> {
        self.expected(run)?;
        // A child starts with the peak of the process it was forked from, which must stay small.
        // SAFETY: malloc_trim has no preconditions.
        unsafe { libc::malloc_trim(0) };
        let trial = self.bench.trial(self.rows[run], self.setup(peer)?);
        // The folder is gone when this is read, and its name is this machine's own.
        let scratch = format!("{}/", self.bench.scratch.display());
        let measured =
            trial.map_err(|error| anyhow!(format!("{error:#}").replace(&scratch, "")))?;
        let expected = self.expected(run)?;
        ensure!(
            measured.output == *expected,
            "output differs: {}",
            first_difference(expected, &measured.output)
        );
        Ok(measured)
    }

    /// Where CPU time goes in row `run` on `peer`, of the processes under test and their descendants.
    fn shares(&mut self, run: usize, peer: &Peer, classifier: &mut Classifier) -> Result<Shares> {
        self.expected(run)?;
        let watch = Watch::begin()?;
        let processes = self.measure(run, peer)?.processes;
        let code = match &peer.preload {
            Some(_) => Code::Library(self.libraries[peer.name].canonicalize()?),
            None => Code::CLibrary,
        };
        classifier.shares(&code, &watch.end(&processes)?)
    }

    fn setup(&self, peer: &Peer) -> Result<Setup> {
        let library = self.libraries.get(peer.name).context("an unknown peer")?;
        let proof = match peer.caches {
            Caches::PerCpu => Proof::MappedPerCpu,
            Caches::Any if peer.ours => {
                let atomic = peer.environment.iter().any(|(_, value)| *value == "mode:atomic");
                let mode = if atomic { Mode::Atomic } else { Mode::Rseq };
                Proof::Published { inspector: tools::release_dir()?.join("rsalloc"), mode }
            }
            Caches::Any => Proof::Mapped,
        };
        Ok(Setup::preloaded(library, peer.environment, proof))
    }
}

impl Suite for Programs {
    type Sample = Sample;

    fn rows(&self) -> Vec<Row> {
        let row = |row: &&Program| Row {
            name: row.name.to_owned(),
            unit: "run".to_owned(),
            what: row.about.to_owned(),
        };
        self.rows.iter().map(row).collect()
    }

    fn take(&mut self, run: usize, peer: &Peer) -> Result<Vec<Sample>> {
        let used = self.measure(run, peer)?.used;
        Ok(vec![Sample {
            cpu_seconds: used.cpu.as_secs_f64(),
            wall_seconds: used.lifetime.as_secs_f64(),
            peak_rss_bytes: used.peak_rss_kib * 1024,
            minor_faults: used.minor_faults,
        }])
    }

    fn appendix(&mut self, peers: &[Peer]) -> Result<String> {
        if !self.takes_shares {
            return Ok(String::new());
        }
        let mut classifier = Classifier::default();
        let mut rows = Vec::new();
        for run in 0..self.rows.len() {
            let name = self.rows[run].name;
            eprintln!("shares of {name}");
            let shares = peers.iter().map(|peer| self.shares(run, peer, &mut classifier));
            rows.push((name.to_owned(), shares.collect()));
        }
        Ok(shares::table(peers, &rows))
    }
}

/// The C library that this process runs on: preloaded, it stands before any allocator that a
/// program is linked with.
fn c_library() -> Result<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
    let path = maps.lines().find(|line| line.ends_with("/libc.so.6"));
    let path = path.and_then(|line| line.split_whitespace().last());
    Ok(PathBuf::from(path.context("the C library is not mapped as libc.so.6")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::report::tests::peer;

    /// A program that is on every system and runs long enough to be examined.
    const SHELL: Program = Program {
        name: "shell",
        about: "counts, and sleeps",
        packages: &[],
        quick: false,
        timeout: Duration::from_secs(60),
        prepare: |_, _| Ok(()),
        run: |trial| {
            let count = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i; sleep 0.2";
            trial.run(std::process::Command::new("sh").args(["-c", count]))
        },
    };

    fn programs() -> Programs {
        Programs::of(vec![&SHELL], &[peer("glibc")]).unwrap()
    }

    #[test]
    fn a_program_is_measured_on_a_library_that_it_maps() {
        let sample = programs().take(0, &peer("glibc")).unwrap().remove(0);
        assert!(sample.wall_seconds >= 0.2 && sample.peak_rss_bytes > 1 << 20);
        assert!((0.001..10.0).contains(&sample.cpu_seconds), "{}", sample.cpu_seconds);
    }

    #[test]
    fn another_output_is_no_sample() {
        let mut programs = programs();
        programs.outputs[0] = Some("20001\n".into());
        let error = programs.take(0, &peer("glibc")).err().expect("it counts to 20000");
        assert!(error.to_string().contains("output differs"), "{error}");
    }

    #[test]
    fn a_library_that_is_not_there_is_no_sample() {
        let mut programs = programs();
        // The loader reports a missing library and goes on without it.
        programs.libraries.insert("glibc", "/nowhere/libc.so.6".into());
        let error = programs.take(0, &peer("glibc")).err().expect("nothing is preloaded");
        assert!(error.to_string().contains("was not seen in sh"), "{error}");
    }

    #[test]
    fn a_library_without_areas_of_its_own_is_not_per_cpu() {
        let mut lame = peer("glibc");
        lame.caches = Caches::PerCpu;
        lame.environment = &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")];
        let error = programs().take(0, &lame).err().expect("no thread registers");
        assert!(error.to_string().contains("was not seen in sh"), "{error}");
    }
}
