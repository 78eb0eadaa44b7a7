//! Statistics as metrics: the text formats of Prometheus and of OpenMetrics, for a process that answers for itself and for the
//! `rsalloc` command, which answers for others.
//!
//! Promises to allocate nothing, and that both formats have the same samples. A family is written once, with the samples of
//! all processes behind it, as the formats want it.

mod heaps;

pub use heaps::{Heap, Metrics, write_heaps};

use crate::sums::Kind;
use core::fmt::{Display, Result, Write};

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

#[cfg(test)]
mod tests {
    use super::*;

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
