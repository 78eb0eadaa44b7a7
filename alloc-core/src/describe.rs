//! Mode, statistics and settings in words: text, JSON and the XML of malloc_info(3).
//!
//! Promises to write into whatever is given and to allocate nothing, so that librsalloc.so prints
//! with it at exit and the `rsalloc` command prints the same words. Reads plain values only.

use crate::config::{Origin, Setting};
use crate::report::{Mode, ModeReason, Report};
use crate::stats::{FreeObjects, Shape, Stats};
use core::fmt::{Result, Write};

impl Mode {
    /// The mode as a word for JSON.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Unset => "unset",
            Mode::RseqLibc => "rseq_libc",
            Mode::RseqOwn => "rseq_own",
            Mode::Atomic => "atomic",
        }
    }

    /// The mode for people.
    pub fn text(self) -> &'static str {
        match self {
            Mode::Unset => "not initialised yet (nothing allocated)",
            Mode::RseqLibc => "per CPU, by rseq as libc registered it",
            Mode::RseqOwn => "per CPU, by rseq registered by rsalloc",
            Mode::Atomic => "atomic path, no rseq",
        }
    }
}

impl ModeReason {
    /// The reason as a word for JSON.
    pub fn word(self) -> &'static str {
        match self {
            ModeReason::None => "none",
            ModeReason::LibcDidNotRegister => "libc_did_not_register",
            ModeReason::KernelHasNone => "kernel_has_none",
            ModeReason::ForeignRegistration => "foreign_registration",
            ModeReason::Configured => "configured",
            ModeReason::NoSections => "no_sections",
        }
    }

    /// The reason for people; empty where nothing needs explaining.
    pub fn text(self) -> &'static str {
        match self {
            ModeReason::None => "",
            ModeReason::LibcDidNotRegister => {
                "libc did not register rseq (too old, or its tunable is off)"
            }
            ModeReason::KernelHasNone => "the kernel has no rseq",
            ModeReason::ForeignRegistration => {
                "something else in the process registered rseq for itself"
            }
            ModeReason::Configured => "RSALLOC_CONF asks for it (mode)",
            ModeReason::NoSections => "this build has no rseq sections for this architecture",
        }
    }
}

impl Origin {
    /// The origin for people and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::Environment => "RSALLOC_CONF",
            Origin::Program => "program",
        }
    }
}

/// Mode and what stands behind it, a line each.
pub fn report_text(out: &mut impl Write, r: &Report) -> Result {
    write!(out, "mode:            {}", r.mode.text())?;
    if r.reason != ModeReason::None {
        write!(out, ": {}", r.reason.text())?;
    }
    let index = if r.index_is_mm_cid != 0 { "mm_cid" } else { "cpu_id" };
    write!(out, "\nshard index:     {index}\nshards:          {}\n", r.shards)?;
    writeln!(out, "libc's rseq:     {}", Size(r.libc_rseq_size))?;
    writeln!(out, "kernel's rseq:   {}", Size(r.kernel_feature_size))?;
    let membarrier = if r.membarrier != 0 { "registered" } else { "not registered" };
    writeln!(out, "membarrier:      {membarrier}")?;
    writeln!(out, "OS page:         {} bytes", r.os_page_bytes)?;
    let given_back = match r.zeroing {
        0 => "not known (an older rsalloc)",
        1 => "by madvise",
        2 => "by mmap: madvise succeeds and does nothing here",
        _ => "not at all: madvise and mmap succeed and do nothing here",
    };
    writeln!(out, "gives back:      {given_back}")?;
    writeln!(out, "hardened:        {}", if r.hardened != 0 { "yes" } else { "no" })?;
    match r.guard {
        0 => writeln!(out, "guard pages:     no"),
        every => writeln!(out, "guard pages:     for one of {every} slow calls"),
    }
}

/// Statistics, a line each.
pub fn stats_text(out: &mut impl Write, stats: &Stats) -> Result {
    let fields = Stats::NAMES.into_iter().zip(stats.words());
    fields.into_iter().try_for_each(|(name, value)| writeln!(out, "{name:<20}{value:>16}"))
}

/// `{"mode":...,...}`.
pub fn report_json(out: &mut impl Write, r: &Report) -> Result {
    let index = if r.index_is_mm_cid != 0 { "mm_cid" } else { "cpu_id" };
    write!(out, r#"{{"mode":"{}","reason":"{}","#, r.mode.word(), r.reason.word())?;
    write!(out, r#""shard_index":"{index}","shards":{},"#, r.shards)?;
    write!(out, r#""libc_rseq_size":{},"#, r.libc_rseq_size)?;
    write!(out, r#""kernel_feature_size":{},"#, r.kernel_feature_size)?;
    write!(out, r#""membarrier":{},"os_page_bytes":{},"#, r.membarrier != 0, r.os_page_bytes)?;
    write!(out, r#""hardened":{},"guard":{},"#, r.hardened != 0, r.guard)?;
    let word = match r.zeroing {
        0 => "unknown",
        1 => "madvise",
        2 => "mmap",
        _ => "none",
    };
    write!(out, r#""gives_back":"{word}"}}"#)
}

/// `{"mapped_bytes":...,...}`.
pub fn stats_json(out: &mut impl Write, stats: &Stats) -> Result {
    for (i, (name, value)) in Stats::NAMES.into_iter().zip(stats.words()).enumerate() {
        write!(out, r#"{}"{name}":{value}"#, if i == 0 { '{' } else { ',' })?;
    }
    write!(out, "}}")
}

/// `{"report":{...},"stats":{...}}` and a newline.
pub fn all_json(out: &mut impl Write, report: &Report, stats: &Stats) -> Result {
    write!(out, r#"{{"report":"#)?;
    report_json(out, report)?;
    write!(out, r#","stats":"#)?;
    stats_json(out, stats)?;
    writeln!(out, "}}")
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
    for (name, value) in Stats::NAMES.into_iter().zip(stats.words()) {
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
pub fn settings_lines(out: &mut impl Write, settings: &[Setting]) -> Result {
    settings
        .iter()
        .try_for_each(|s| writeln!(out, "{}\t{}\t{}\t{}", s.key, s.value, s.origin.word(), s.help))
}

/// A size of `struct rseq`, of which 0 means none.
struct Size(u32);

impl core::fmt::Display for Size {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> Result {
        if self.0 == 0 { f.write_str("none") } else { write!(f, "{} bytes", self.0) }
    }
}
