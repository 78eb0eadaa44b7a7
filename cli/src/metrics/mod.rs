//! `rsalloc metrics`: what processes hold as metrics for Prometheus, printed, kept in a file, or served over HTTP.
//!
//! Promises that each answer is of this moment: processes that have gone away are not in it, and those that came are.

mod serve;
mod textfile;

use crate::fleet::Fleet;
use crate::output;
use crate::read::{Counts, Heap, Resident, Target};
use anyhow::Result;
use rsalloc_core::internals::metrics::{self, Label, Writer};
use rsalloc_core::internals::sums::Kind;
use rsalloc_core::{MetricsFormat, Report};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Which processes, what of them, and where to.
#[derive(clap::Args)]
pub struct What {
    /// The processes, or the files in which they publish their statistics; a folder stands for all such files in it
    #[arg(value_name = "PID|FILE|FOLDER", required_unless_present = "all")]
    targets: Vec<Target>,
    /// All processes that rsalloc serves and that may be read, those that start later included
    #[arg(long, conflicts_with = "targets")]
    all: bool,
    /// Serve them at http://ADDRESS:PORT/metrics; any client that reaches the address can read them
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "textfile")]
    listen: Option<SocketAddr>,
    /// Write them to a file (NAME.prom) for node_exporter's textfile collector
    #[arg(long, value_name = "PATH")]
    textfile: Option<PathBuf>,
    /// Renew the file each so many seconds, until a signal ends this command, which removes the file
    #[arg(long, value_name = "SECONDS", value_parser = crate::seconds::parse, requires = "textfile")]
    every: Option<Duration>,
    #[command(flatten)]
    detail: Detail,
}

/// Samples that are many.
#[derive(clap::Args, Clone, Copy)]
struct Detail {
    /// Add samples for each size class
    #[arg(long)]
    classes: bool,
    /// Add samples for each shard
    #[arg(long)]
    shards: bool,
}

/// Runs the command.
pub fn metrics(what: What) -> Result<ExitCode> {
    let fleet = if what.all { Fleet::all() } else { Fleet::of(&what.targets)? };
    let mut exposition = Exposition { fleet, detail: what.detail };
    match (what.listen, &what.textfile) {
        (Some(address), _) => serve::serve(address, exposition)?,
        (None, Some(path)) => {
            textfile::keep(path, what.every, || exposition.text(MetricsFormat::Prometheus))?;
        }
        (None, None) => {
            let text = exposition.text(MetricsFormat::Prometheus);
            output::put(&text, None, output::Stream::Out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is exposed.
struct Exposition {
    fleet: Fleet,
    detail: Detail,
}

/// A process as it was read.
struct Sampled {
    pid: u32,
    program: String,
    version: String,
    report: Report,
    counts: Counts,
    resident: Option<Resident>,
}

impl Sampled {
    /// None if it has gone away meanwhile.
    fn read(heap: &Heap) -> Option<Sampled> {
        Some(Sampled {
            pid: heap.pid?,
            program: heap.program.clone(),
            version: heap.version(),
            report: heap.report(),
            counts: heap.counts().ok()?,
            resident: heap.resident(),
        })
    }
}

impl Exposition {
    /// The metrics of this moment.
    fn text(&mut self, format: MetricsFormat) -> String {
        let mut sampled = Vec::new();
        let unread = self.fleet.visit(|heap| {
            let read = Sampled::read(heap);
            let is_read = read.is_some();
            sampled.extend(read);
            is_read
        });
        let mut text = String::new();
        // A String takes all that is written to it.
        let _ = self.write(&mut Writer::new(&mut text, format), &sampled, unread);
        let _ = Writer::new(&mut text, format).end();
        text
    }

    fn write(
        &self,
        out: &mut Writer<&mut String>,
        sampled: &[Sampled],
        unread: usize,
    ) -> std::fmt::Result {
        out.family(
            Kind::Gauge,
            "processes",
            "Processes that rsalloc serves, by whether they were read.",
        )?;
        for (state, number) in [("read", sampled.len()), ("not_readable", unread)] {
            out.sample(&[&[("state", &state)]], number)?;
        }
        let labels: Vec<[Label<'_>; 2]> = sampled
            .iter()
            .map(|one| [("pid", &one.pid as _), ("comm", &one.program as _)])
            .collect();
        let heaps: Vec<_> = sampled
            .iter()
            .zip(&labels)
            .map(|(one, labels)| metrics::Heap {
                labels,
                version: &one.version,
                report: &one.report,
                stats: &one.counts.stats,
                classes: if self.detail.classes { &one.counts.classes } else { &[] },
                shards: if self.detail.shards { &one.counts.shards } else { &[] },
            })
            .collect();
        metrics::write_heaps(out, &heaps)?;
        if sampled.iter().any(|one| one.counts.renewed.is_some()) {
            let help = "When the process last published what is here, in seconds since 1970.";
            out.family(Kind::Gauge, "published_timestamp_seconds", help)?;
            for (one, labels) in sampled.iter().zip(&labels) {
                if let Some(renewed) = one.counts.renewed {
                    out.sample(&[labels], (renewed.at_ms / 1000) as usize)?;
                }
            }
        }
        type Number = fn(&Resident) -> u64;
        let families: [(&str, &str, Number); 4] = [
            (
                "process_resident_bytes",
                "Memory of the process that is resident, whatever it is for.",
                |r| r.bytes,
            ),
            ("process_anonymous_bytes", "Of the resident memory, what is of no file.", |r| {
                r.anonymous_bytes
            }),
            ("process_resident_peak_bytes", "The most that was resident at once.", |r| {
                r.peak_bytes
            }),
            ("process_swapped_bytes", "Memory of the process that is swapped out.", |r| {
                r.swapped_bytes
            }),
        ];
        for (name, help, number) in families {
            out.family(Kind::Gauge, name, help)?;
            for (one, labels) in sampled.iter().zip(&labels) {
                if let Some(resident) = &one.resident {
                    out.sample(&[labels], number(resident) as usize)?;
                }
            }
        }
        Ok(())
    }
}
