//! Mode, statistics and settings in words: text, JSON and the XML of malloc_info(3).
//!
//! Promises to write into whatever is given and to allocate nothing, so that a process can print them at its end
//! and the `rsalloc` command prints the same words.

use crate::config::{Origin, Setting};
use crate::os;
use crate::report::{Mode, ModeReason, PurgeMethod, Report, ShardIndex};
use crate::sums::{ClassCounts, Stats};
use crate::units::PAGE_BYTES;
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
            ModeReason::KernelDoesNotAbort => "kernel_does_not_abort",
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
            ModeReason::KernelDoesNotAbort => {
                "this kernel does not abort rseq sections (arm64 from Linux 6.19 on, before 7.0.14 and 7.2)"
            }
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
            Origin::Outside => "set from outside",
            Origin::LeftOut => "left out of build",
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
        let slow = if self.slow_path { " (each call takes the slow path)" } else { "" };
        writeln!(out, "\nshard index:     {}{slow}", self.shard_index.word())?;
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
        write!(out, r#""shard_index":"{}","slow_path":{},"#, r.shard_index.word(), r.slow_path)?;
        write!(out, r#""shards":{},"#, r.shards)?;
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

/// The version of the JSON documents: raised when a name or its meaning changes, and with a group of new ones
/// (docs/operate.md).
pub const SCHEMA: u32 = 3;

/// `{"schema":...,"time":...,"pid":...,"report":{...},"stats":{...}}` and a newline; the time in milliseconds since 1970.
pub fn all_json(out: &mut impl Write, report: &Report, stats: &Stats) -> Result {
    let (time_ms, pid) = (os::unix_time_ms(), os::process_id());
    write!(out, r#"{{"schema":{SCHEMA},"time_ms":{time_ms},"pid":{pid},"#)?;
    writeln!(out, r#""report":{},"stats":{}}}"#, report.json(), stats.json())
}

/// The document of malloc_info(3), with the elements of glibc's, whose numbers are those of mallinfo2(3) ([`Arena`]): free
/// objects are `fast` in the caches and `rest` in slabs and in what is kept for samples; free spans that may be resident are `unsorted`, part of the rest;
/// large objects are `mmap`. The address space is what is mapped for all but huge objects, untouched parts included: it is
/// never unmapped, so the arena was never larger. What glibc has no element for stands in the attributes of `rsalloc`.
pub fn stats_xml(
    out: &mut impl Write,
    report: &Report,
    stats: &Stats,
    classes: &[ClassCounts],
) -> Result {
    out.write_str("<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n")?;
    let mut from = 1;
    for class in classes.iter().skip(1) {
        let (to, count) = (class.size, class.cached() + class.free_in_slabs());
        if count > 0 {
            write!(out, "  <size from=\"{from}\" to=\"{to}\" ")?;
            writeln!(out, "total=\"{}\" count=\"{count}\"/>", count * to)?;
        }
        from = to + 1;
    }
    let (dirty, pages) = (stats.dirty_bytes, stats.dirty_bytes / PAGE_BYTES);
    if pages > 0 {
        write!(out, "  <unsorted from=\"{PAGE_BYTES}\" to=\"{dirty}\" ")?;
        writeln!(out, "total=\"{dirty}\" count=\"{pages}\"/>")?;
    }
    out.write_str("</sizes>\n")?;
    let sum = |number: fn(&ClassCounts) -> usize| -> usize { classes.iter().map(number).sum() };
    let free = [
        ("fast", sum(ClassCounts::cached), stats.cached_bytes),
        (
            "rest",
            sum(ClassCounts::free_in_slabs) + pages,
            stats.slab_free_bytes + stats.sampled_free_bytes + dirty,
        ),
    ];
    free_xml(out, stats, &free)?;
    out.write_str("</heap>\n")?;
    free_xml(out, stats, &[free[0], free[1], ("mmap", stats.large_count, stats.large_bytes)])?;
    write!(out, "<rsalloc mode=\"{}\"", report.mode.word())?;
    for (name, value) in stats.entries() {
        write!(out, " {name}=\"{value}\"")?;
    }
    out.write_str("/>\n</malloc>\n")
}

fn free_xml(out: &mut impl Write, stats: &Stats, free: &[(&str, usize, usize)]) -> Result {
    for (kind, count, size) in free {
        writeln!(out, "<total type=\"{kind}\" count=\"{count}\" size=\"{size}\"/>")?;
    }
    let space = stats.mapped_bytes.saturating_sub(stats.huge_bytes);
    for (element, kind, size) in [
        ("system", "current", Arena::of(stats).total()),
        ("system", "max", space),
        ("aspace", "total", space),
        ("aspace", "mprotect", space),
    ] {
        writeln!(out, "<{element} type=\"{kind}\" size=\"{size}\"/>")?;
    }
    Ok(())
}

/// The small objects in the terms of mallinfo2(3). Spans that were never touched, or were given back, are in neither: they
/// are address space, not memory.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    /// Bytes in objects that the program holds, large ones left out.
    pub in_use: usize,
    /// Bytes in free objects and in free spans that may be resident.
    pub free: usize,
}

impl Arena {
    /// That of these statistics.
    pub fn of(stats: &Stats) -> Arena {
        Arena {
            in_use: stats.live_bytes.saturating_sub(stats.large_bytes),
            free: stats.cached_bytes
                + stats.slab_free_bytes
                + stats.dirty_bytes
                + stats.sampled_free_bytes,
        }
    }

    /// Both.
    pub fn total(&self) -> usize {
        self.in_use + self.free
    }
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
