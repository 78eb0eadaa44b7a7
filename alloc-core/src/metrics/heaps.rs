//! The families of metrics of heaps, and those of this process.

use super::{Label, MetricsFormat, Writer};
use crate::report::Report;
use crate::sums::{ClassCounts, Kind, ShardCounts, Stats};
use core::fmt::{Display, Formatter, Result, Write};

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
}
