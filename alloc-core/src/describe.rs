//! Mode, statistics and settings in words: text, JSON and the XML of malloc_info(3).
//!
//! Promises to write into whatever is given and to allocate nothing, so that a process can print them at its end
//! and the `rsalloc` command prints the same words.

use crate::config::{Origin, Setting};
use crate::report::{Mode, ModeReason, PurgeMethod, Report, ShardIndex};
use crate::stats::{FreeObjects, Shape, Stats};
use core::fmt::{Display, Formatter, Result, Write};

impl Mode {
    /// The mode as a word, as JSON has it.
    pub const fn word(self) -> &'static str {
        match self {
            Mode::Unset => "unset",
            Mode::RseqLibc => "rseq_libc",
            Mode::RseqOwn => "rseq_own",
            Mode::Atomic => "atomic",
        }
    }

    /// The mode in words.
    pub const fn text(self) -> &'static str {
        match self {
            Mode::Unset => "not initialised yet (nothing allocated)",
            Mode::RseqLibc => "per CPU, by rseq as libc registered it",
            Mode::RseqOwn => "per CPU, by rseq registered by rsalloc",
            Mode::Atomic => "atomic path, no rseq",
        }
    }
}

impl ModeReason {
    /// The reason as a word, as JSON has it.
    pub const fn word(self) -> &'static str {
        match self {
            ModeReason::None => "none",
            ModeReason::LibcDidNotRegister => "libc_did_not_register",
            ModeReason::KernelHasNone => "kernel_has_none",
            ModeReason::ForeignRegistration => "foreign_registration",
            ModeReason::Configured => "configured",
            ModeReason::NoSections => "no_sections",
        }
    }

    /// The reason in words; empty where nothing needs explaining.
    pub const fn text(self) -> &'static str {
        match self {
            ModeReason::None => "",
            ModeReason::LibcDidNotRegister => {
                "libc did not register rseq (too old, or its tunable is off)"
            }
            ModeReason::KernelHasNone => "the kernel has no rseq",
            ModeReason::ForeignRegistration => {
                "something else in the process registered rseq for itself"
            }
            ModeReason::Configured => "the configuration asks for it (mode)",
            ModeReason::NoSections => "this build has no rseq sections for this architecture",
        }
    }
}

impl ShardIndex {
    /// The index as a word, as the configuration has it.
    pub const fn word(self) -> &'static str {
        match self {
            ShardIndex::CpuId => "cpu_id",
            ShardIndex::MmCid => "mm_cid",
        }
    }
}

impl PurgeMethod {
    /// The method as a word, as JSON has it.
    pub const fn word(self) -> &'static str {
        match self {
            PurgeMethod::Madvise => "madvise",
            PurgeMethod::Mmap => "mmap",
            PurgeMethod::Nothing => "none",
        }
    }

    /// The method in words.
    pub const fn text(self) -> &'static str {
        match self {
            PurgeMethod::Madvise => "by madvise",
            PurgeMethod::Mmap => "by mmap: madvise succeeds and does nothing here",
            PurgeMethod::Nothing => "not at all: madvise and mmap succeed and do nothing here",
        }
    }
}

impl Origin {
    /// The origin as a word, as `rsalloc conf` shows it.
    pub const fn word(self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::Program => "program",
            Origin::Environment => "RSALLOC_CONF",
            Origin::Call => "call",
        }
    }
}

macro_rules! displayed {
    ($($of:ident: $text:ident;)*) => {
        $(impl Display for $of {
            fn fmt(&self, out: &mut Formatter<'_>) -> Result {
                out.pad(self.$text())
            }
        })*
    };
}

displayed! {
    Mode: text;
    ModeReason: text;
    ShardIndex: word;
    PurgeMethod: text;
    Origin: word;
}

/// A line for each field.
impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        write!(out, "mode:            {}", self.mode.text())?;
        if self.reason != ModeReason::None {
            write!(out, ": {}", self.reason.text())?;
        }
        writeln!(out, "\nshard index:     {}", self.shard_index.word())?;
        writeln!(out, "shards:          {}", self.shards)?;
        writeln!(out, "libc's rseq:     {}", Size(self.libc_rseq_size))?;
        writeln!(out, "kernel's rseq:   {}", Size(self.kernel_feature_size))?;
        let membarrier = if self.membarrier { "registered" } else { "not registered" };
        writeln!(out, "membarrier:      {membarrier}")?;
        writeln!(out, "OS page:         {} bytes", self.os_page_bytes)?;
        let given_back =
            self.purge_method.map_or("not known (an older rsalloc)", PurgeMethod::text);
        writeln!(out, "gives back:      {given_back}")?;
        writeln!(out, "hardened:        {}", if self.hardened { "yes" } else { "no" })?;
        match self.guard_one_in {
            None => write!(out, "guard pages:     no"),
            Some(calls) => write!(out, "guard pages:     for one of {calls} slow calls"),
        }
    }
}

/// A line for each field.
impl Display for Stats {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        self.entries().enumerate().try_for_each(|(i, (name, value))| {
            write!(out, "{}{name:<20}{value:>16}", if i == 0 { "" } else { "\n" })
        })
    }
}

impl Report {
    /// The report as a JSON object, without a newline.
    pub fn json(&self) -> impl Display {
        ReportJson(*self)
    }
}

impl Stats {
    /// The statistics as a JSON object of numbers, without a newline.
    pub fn json(&self) -> impl Display {
        StatsJson(*self)
    }
}

struct ReportJson(Report);

impl Display for ReportJson {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let r = &self.0;
        write!(out, r#"{{"mode":"{}","reason":"{}","#, r.mode.word(), r.reason.word())?;
        write!(out, r#""shard_index":"{}","shards":{},"#, r.shard_index.word(), r.shards)?;
        write!(out, r#""libc_rseq_size":{},"#, r.libc_rseq_size.unwrap_or(0))?;
        write!(out, r#""kernel_feature_size":{},"#, r.kernel_feature_size.unwrap_or(0))?;
        write!(out, r#""membarrier":{},"os_page_bytes":{},"#, r.membarrier, r.os_page_bytes)?;
        write!(out, r#""hardened":{},"guard":{},"#, r.hardened, r.guard_one_in.unwrap_or(0))?;
        let given_back = r.purge_method.map_or("unknown", PurgeMethod::word);
        write!(out, r#""gives_back":"{given_back}"}}"#)
    }
}

struct StatsJson(Stats);

impl Display for StatsJson {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        for (i, (name, value)) in self.0.entries().enumerate() {
            write!(out, r#"{}"{name}":{value}"#, if i == 0 { '{' } else { ',' })?;
        }
        write!(out, "}}")
    }
}

/// `{"report":{...},"stats":{...}}` and a newline.
pub fn all_json(out: &mut impl Write, report: &Report, stats: &Stats) -> Result {
    writeln!(out, r#"{{"report":{},"stats":{}}}"#, report.json(), stats.json())
}

/// The document of malloc_info(3), with the elements of glibc's: one heap, whose free objects are `fast` in the
/// caches and `rest` in slabs; mappings of their own are `mmap`; all else that is mapped for objects is `system`,
/// which is never unmapped, so what it is now is the most it ever was. What glibc has no element for stands in
/// the attributes of `rsalloc`.
pub fn stats_xml(out: &mut impl Write, report: &Report, stats: &Stats, shape: &Shape) -> Result {
    out.write_str("<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n")?;
    let mut from = 1;
    for free in shape.classes.iter().skip(1) {
        let (to, count) = (free.size, free.cached + free.in_slabs);
        if count > 0 {
            write!(out, "  <size from=\"{from}\" to=\"{to}\" ")?;
            writeln!(out, "total=\"{}\" count=\"{count}\"/>", count * to)?;
        }
        from = to + 1;
    }
    out.write_str("</sizes>\n")?;
    totals_xml(out, shape, None)?;
    out.write_str("</heap>\n")?;
    totals_xml(out, shape, Some(shape.own_mappings))?;
    write!(out, "<rsalloc mode=\"{}\"", report.mode.word())?;
    for (name, value) in stats.entries() {
        write!(out, " {name}=\"{value}\"")?;
    }
    out.write_str("/>\n</malloc>\n")
}

fn totals_xml(out: &mut impl Write, shape: &Shape, mapped: Option<(usize, usize)>) -> Result {
    let sum = |number: fn(&FreeObjects) -> usize| {
        let classes = shape.classes.iter();
        classes
            .fold((0, 0), |(n, bytes), free| (n + number(free), bytes + number(free) * free.size))
    };
    let totals = [
        ("fast", Some(sum(|free| free.cached))),
        ("rest", Some(sum(|free| free.in_slabs))),
        ("mmap", mapped),
    ];
    for (kind, (count, size)) in totals.into_iter().filter_map(|(kind, sum)| Some((kind, sum?))) {
        writeln!(out, "<total type=\"{kind}\" count=\"{count}\" size=\"{size}\"/>")?;
    }
    let size = shape.shared_bytes;
    for (element, kind) in
        [("system", "current"), ("system", "max"), ("aspace", "total"), ("aspace", "mprotect")]
    {
        writeln!(out, "<{element} type=\"{kind}\" size=\"{size}\"/>")?;
    }
    Ok(())
}

/// `key value origin help`, a line each, separated by tabs.
pub fn settings_lines(out: &mut impl Write, mut settings: impl Iterator<Item = Setting>) -> Result {
    settings
        .try_for_each(|s| writeln!(out, "{}\t{}\t{}\t{}", s.key, s.value, s.origin.word(), s.help))
}

/// A size of `struct rseq`.
struct Size(Option<usize>);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            None => f.write_str("none"),
            Some(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}
