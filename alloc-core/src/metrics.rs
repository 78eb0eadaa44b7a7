//! Statistics as metrics: the text formats of Prometheus and of OpenMetrics, for a process that answers for itself and for the
//! `rsalloc` command, which answers for others.
//!
//! Promises to allocate nothing, and that both formats have the same samples. A family is written once, with the samples of
//! all processes behind it, as the formats want it.

use crate::report::Report;
use crate::sums::{ClassCounts, Kind, ShardCounts, Stats};
use core::fmt::{Display, Formatter, Result, Write};

/// A text format of metrics.
///
/// ```
/// use rsalloc::MetricsFormat;
///
/// let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
/// assert_eq!(MetricsFormat::of_accept(accept), MetricsFormat::OpenMetrics);
/// assert!(MetricsFormat::Prometheus.content_type().starts_with("text/plain"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MetricsFormat {
    /// Version 0.0.4 of Prometheus' text format, which every scraper and node_exporter's textfile collector reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl MetricsFormat {
    /// What an HTTP header `Content-Type` says of it.
    pub const fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            MetricsFormat::OpenMetrics => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8"
            }
        }
    }

    /// The format that a client prefers, by its header `Accept`: OpenMetrics if it is named there, and not refused.
    pub fn of_accept(accept: &str) -> MetricsFormat {
        let is_named = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts
                .next()
                .is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
            is_it && parts.all(|part| !is_refusal(part))
        });
        if is_named { MetricsFormat::OpenMetrics } else { MetricsFormat::Prometheus }
    }
}

/// Whether a parameter of a media range is a weight of 0.
fn is_refusal(parameter: &str) -> bool {
    let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
    weight.is_some_and(|weight| weight.trim_matches(['0', '.']).is_empty())
}

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a dyn Display);

/// Metrics, family after family.
pub struct Writer<W> {
    out: W,
    format: MetricsFormat,
    family: Family,
}

/// What samples are written with: the name of their family, and what follows it.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    /// What a sample's name has behind `name`.
    suffix: &'static str,
}

impl<W: Write> Writer<W> {
    /// None written yet.
    pub fn new(out: W, format: MetricsFormat) -> Self {
        Writer { out, format, family: Family { name: "", suffix: "" } }
    }

    /// Begins the family `rsalloc_NAME`, whose samples come next. A name that ends in `_bytes` says that this is their unit.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Result {
        let name = name.strip_suffix("_total").unwrap_or(name);
        let (word, suffix) = match kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
        };
        self.begin(Family { name, suffix }, word, help)
    }

    /// The family `rsalloc_NAME_info`, whose samples are 1: what they say is in their labels.
    pub fn info(&mut self, name: &'static str, help: &str) -> Result {
        let word = match self.format {
            MetricsFormat::Prometheus => "gauge",
            MetricsFormat::OpenMetrics => "info",
        };
        self.begin(Family { name, suffix: "_info" }, word, help)
    }

    fn begin(&mut self, family: Family, word: &str, help: &str) -> Result {
        self.family = family;
        let Family { name, suffix } = family;
        // OpenMetrics describes a family without the suffix of its samples, Prometheus the samples.
        let described = match self.format {
            MetricsFormat::Prometheus => suffix,
            MetricsFormat::OpenMetrics => "",
        };
        writeln!(self.out, "# HELP rsalloc_{name}{described} {}", help.trim())?;
        writeln!(self.out, "# TYPE rsalloc_{name}{described} {word}")?;
        if self.format == MetricsFormat::OpenMetrics && name.ends_with("_bytes") {
            writeln!(self.out, "# UNIT rsalloc_{name} bytes")?;
        }
        Ok(())
    }

    /// A sample of the family.
    pub fn sample(&mut self, labels: &[&[Label<'_>]], value: usize) -> Result {
        let Family { name, suffix } = self.family;
        write!(self.out, "rsalloc_{name}{suffix}")?;
        let mut before = '{';
        for (name, value) in labels.iter().copied().flatten() {
            write!(self.out, "{before}{name}=\"")?;
            write!(Escaped(&mut self.out), "{value}")?;
            self.out.write_char('"')?;
            before = ',';
        }
        writeln!(self.out, "{} {value}", if before == ',' { "}" } else { "" })
    }

    /// Ends the metrics.
    pub fn end(mut self) -> Result {
        match self.format {
            MetricsFormat::Prometheus => Ok(()),
            MetricsFormat::OpenMetrics => self.out.write_str("# EOF\n"),
        }
    }
}

/// A label's value between its quotation marks.
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> Result {
        text.chars().try_for_each(|c| match c {
            '\\' => self.0.write_str("\\\\"),
            '"' => self.0.write_str("\\\""),
            '\n' => self.0.write_str("\\n"),
            c => self.0.write_char(c),
        })
    }
}

/// A heap that metrics are about.
pub struct Heap<'a> {
    /// What each of its samples says of it.
    pub labels: &'a [Label<'a>],
    /// The version of rsalloc in it.
    pub version: &'a dyn Display,
    /// How it is served.
    pub report: &'a Report,
    /// Its sums.
    pub stats: &'a Stats,
    /// Its classes; none if samples of each are not wanted.
    pub classes: &'a [ClassCounts],
    /// Its shards; none if samples of each are not wanted.
    pub shards: &'a [ShardCounts],
}

/// Writes all families of heaps.
pub fn write_heaps<W: Write>(out: &mut Writer<W>, heaps: &[Heap<'_>]) -> Result {
    out.info("build", "The version of rsalloc in the process.")?;
    for heap in heaps {
        out.sample(&[heap.labels, &[("version", heap.version)]], 1)?;
    }
    out.info("mode", "How the process is served, and why.")?;
    for heap in heaps {
        let report = heap.report;
        let gives_back = report.purge_method.map_or("unknown", |method| method.word());
        let words: [Label<'_>; 4] = [
            ("mode", &report.mode.word()),
            ("reason", &report.reason.word()),
            ("shard_index", &report.shard_index),
            ("gives_back", &gives_back),
        ];
        out.sample(&[heap.labels, &words], 1)?;
    }
    let names = Stats::default();
    for (number, ((name, _), (kind, help))) in names.entries().zip(Stats::KINDS).enumerate() {
        out.family(kind, family_name(name), help)?;
        for heap in heaps {
            let value = heap.stats.entries().nth(number).map_or(0, |(_, value)| value);
            out.sample(&[heap.labels], value)?;
        }
    }
    write_classes(out, heaps)?;
    write_shards(out, heaps)
}

/// `_count` is reserved for histograms.
fn family_name(name: &'static str) -> &'static str {
    match name {
        "large_count" => "large_objects",
        "huge_count" => "huge_objects",
        "guarded_count" => "guarded_objects",
        "sampled_count" => "sampled_objects",
        "aborts" => "aborted_sections",
        "atomic_ops" => "atomic_operations",
        name => name,
    }
}

fn write_classes<W: Write>(out: &mut Writer<W>, heaps: &[Heap<'_>]) -> Result {
    type Number = fn(&ClassCounts) -> Option<usize>;
    let families: [(Kind, &str, &str, Number); 6] = [
        (
            Kind::Gauge,
            "class_live_objects",
            "Objects of a size class that the program holds.",
            |c| Some(c.live()),
        ),
        (Kind::Gauge, "class_cached_objects", "Objects of a size class in caches.", |c| {
            Some(c.cached())
        }),
        (Kind::Gauge, "class_free_objects", "Free objects of a size class in slabs.", |c| {
            Some(c.free_in_slabs())
        }),
        (Kind::Gauge, "class_slab_bytes", "Bytes in slabs of a size class.", |c| {
            Some(c.slab_bytes)
        }),
        (
            Kind::Counter,
            "class_refilled_objects",
            "Objects of a size class that came into the caches of CPUs, or past them to the program.",
            |c| c.transferred.map(|each| each.refilled),
        ),
        (
            Kind::Counter,
            "class_flushed_objects",
            "Objects of a size class that left the caches of CPUs, or came past them from the program.",
            |c| c.transferred.map(|each| each.flushed),
        ),
    ];
    if heaps.iter().all(|heap| heap.classes.is_empty()) {
        return Ok(());
    }
    for (kind, name, help, number) in families {
        out.family(kind, name, help)?;
        for heap in heaps {
            let used = heap.classes.iter().enumerate().filter(|(_, class)| class.slabs > 0);
            for (index, class) in used {
                let which: [Label<'_>; 2] = [("class", &index), ("size", &class.size)];
                if let Some(number) = number(class) {
                    out.sample(&[heap.labels, &which], number)?;
                }
            }
        }
    }
    Ok(())
}

fn write_shards<W: Write>(out: &mut Writer<W>, heaps: &[Heap<'_>]) -> Result {
    type Number = fn(&ShardCounts) -> Option<usize>;
    let families: [(Kind, &str, &str, Number); 5] = [
        (Kind::Gauge, "shard_held_bytes", "Bytes in objects that a shard caches.", |s| {
            Some(s.bytes)
        }),
        (Kind::Counter, "shard_refills", "Refills of a shard.", |s| Some(s.refills)),
        (Kind::Counter, "shard_flushes", "Flushes of a shard.", |s| Some(s.flushes)),
        (
            Kind::Counter,
            "shard_refilled_objects",
            "Objects that came into a shard from the tiers below.",
            |s| s.transferred.map(|each| each.refilled),
        ),
        (
            Kind::Counter,
            "shard_flushed_objects",
            "Objects that left a shard to the tiers below.",
            |s| s.transferred.map(|each| each.flushed),
        ),
    ];
    if heaps.iter().all(|heap| heap.shards.is_empty()) {
        return Ok(());
    }
    for (kind, name, help, number) in families {
        out.family(kind, name, help)?;
        for heap in heaps {
            for shard in heap.shards {
                let which: [Label<'_>; 2] = [("kind", &shard.kind.word()), ("shard", &shard.index)];
                if let Some(number) = number(shard) {
                    out.sample(&[heap.labels, &which], number)?;
                }
            }
        }
    }
    Ok(())
}

/// What a process says of its own heap in a format of metrics, from [`metrics`](crate::metrics()). Shown as its text.
#[derive(Clone, Copy, Debug)]
pub struct Metrics {
    format: MetricsFormat,
    report: Report,
    stats: Stats,
}

impl Metrics {
    pub(crate) const fn new(report: Report, stats: Stats) -> Metrics {
        Metrics { format: MetricsFormat::Prometheus, report, stats }
    }

    /// The same in another format.
    #[must_use]
    pub const fn in_format(self, format: MetricsFormat) -> Metrics {
        Metrics { format, ..self }
    }

    /// What an HTTP header `Content-Type` says of the text.
    pub const fn content_type(&self) -> &'static str {
        self.format.content_type()
    }
}

impl Display for Metrics {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let mut writer = Writer::new(out, self.format);
        let heap = Heap {
            labels: &[],
            version: &env!("CARGO_PKG_VERSION"),
            report: &self.report,
            stats: &self.stats,
            classes: &[],
            shards: &[],
        };
        write_heaps(&mut writer, &[heap])?;
        writer.end()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::sums::{ShardKind, Transferred};
    use std::string::{String, ToString};

    fn text(format: MetricsFormat, heaps: &[Heap<'_>]) -> String {
        let mut text = String::new();
        let mut writer = Writer::new(&mut text, format);
        write_heaps(&mut writer, heaps).and_then(|()| writer.end()).unwrap();
        text
    }

    #[test]
    fn a_family_stands_once_before_the_samples_of_all_heaps() {
        let stats = Stats { live_bytes: 48, refills: 3, large_count: 2, ..Stats::default() };
        let class =
            ClassCounts { size: 48, slabs: 1, objects: 9, handed_out: 1, ..Default::default() };
        let classes = [ClassCounts::default(), class];
        let shards = [ShardCounts {
            kind: ShardKind::PerCpu,
            index: 1,
            objects: 2,
            bytes: 96,
            refills: 3,
            flushes: 4,
            aborts: 0,
            transferred: Some(Transferred { refilled: 12, flushed: 11 }),
        }];
        let labels: [&[Label<'_>]; 2] = [&[("pid", &1)], &[("pid", &2), ("comm", &"a\"b\\c\nd")]];
        let heaps = labels.map(|labels| Heap {
            labels,
            version: &"1.2.3",
            report: &Report::UNSET,
            stats: &stats,
            classes: &classes,
            shards: &shards,
        });
        let prometheus = text(MetricsFormat::Prometheus, &heaps);
        let open = text(MetricsFormat::OpenMetrics, &heaps);
        for (text, expected) in [
            (
                &prometheus,
                "# TYPE rsalloc_refills_total counter\nrsalloc_refills_total{pid=\"1\"} 3\nrsalloc_refills_total{pid=\"2\",comm=\"a\\\"b\\\\c\\nd\"} 3\n",
            ),
            (&open, "# TYPE rsalloc_refills counter\nrsalloc_refills_total{pid=\"1\"} 3\n"),
            (
                &open,
                "# TYPE rsalloc_live_bytes gauge\n# UNIT rsalloc_live_bytes bytes\nrsalloc_live_bytes{pid=\"1\"} 48\n",
            ),
            (
                &open,
                "# TYPE rsalloc_purged_bytes counter\n# UNIT rsalloc_purged_bytes bytes\nrsalloc_purged_bytes_total{",
            ),
            (
                &open,
                "# TYPE rsalloc_build info\nrsalloc_build_info{pid=\"1\",version=\"1.2.3\"} 1\n",
            ),
            (&prometheus, "# TYPE rsalloc_build_info gauge\nrsalloc_build_info{"),
            (&prometheus, "rsalloc_large_objects{pid=\"1\"} 2\n"),
            (
                &open,
                "# TYPE rsalloc_shard_refilled_objects counter\nrsalloc_shard_refilled_objects_total{pid=\"1\",kind=\"per_cpu\",shard=\"1\"} 12\n",
            ),
            (&prometheus, "rsalloc_class_free_objects{pid=\"1\",class=\"1\",size=\"48\"} 8\n"),
            (
                &prometheus,
                "rsalloc_shard_flushes_total{pid=\"1\",kind=\"per_cpu\",shard=\"1\"} 4\n",
            ),
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert!(!open.contains("class_flushed_objects_total{"), "not known is no sample: {open}");
        assert!(open.ends_with("\n# EOF\n") && !prometheus.contains("# EOF"));
        let samples = |text: &str| -> std::vec::Vec<String> {
            text.lines().filter(|line| !line.starts_with('#')).map(ToString::to_string).collect()
        };
        assert_eq!(samples(&prometheus), samples(&open));
    }

    #[test]
    fn a_client_gets_the_format_that_it_names() {
        let of = MetricsFormat::of_accept;
        // Prometheus 2.53 and 3, curl, a browser.
        for accept in [
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "Application/OpenMetrics-Text",
        ] {
            assert_eq!(of(accept), MetricsFormat::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,*/*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text; q=0.0, text/plain",
        ] {
            assert_eq!(of(accept), MetricsFormat::Prometheus, "{accept}");
        }
    }
}
