//! Settings of other allocators in the environment of a program that is run on rsalloc.
//!
//! Promises one line at most, which names what has no effect and what takes its place. Names that a setting of
//! `RSALLOC_CONF` already replaces, and switches that are off, are left out. docs/migrating.md has the same names.

use std::path::Path;

/// What takes the place of a setting.
enum Instead {
    /// None is needed, and why.
    Nothing(&'static str),
    /// A key of `RSALLOC_CONF`, and its value.
    Set(&'static str, Value),
    /// A command.
    Use(&'static str),
}

/// The value of a setting that takes the place of another.
enum Value {
    /// The same number.
    Same,
    /// So many MiB.
    Mebibytes,
    /// Two to its power.
    Power,
    /// What the user finds: the two are not in one unit.
    Bytes,
    /// This word, where the other is a switch that is on.
    Word(&'static str),
}

use Instead::{Nothing, Set, Use};

const PER_CPU: Instead = Nothing("caches are per CPU");
const NO_THREAD: Instead = Nothing("pages go back where they are freed");
const AS_USED: Instead = Nothing("what is mapped follows what is used");
const SYSTEM_PAGES: Instead = Nothing("the system's setting of huge pages holds");
const OWN_SPANS: Instead = Nothing("large objects are spans of their own");
const DIRTY: Instead = Set("dirty", Value::Bytes);
const CACHE: Instead = Set("cache", Value::Bytes);
const HARDENED: Instead = Set("hardened", Value::Word("on"));
const AT_EXIT: Instead = Set("stats_at_exit", Value::Word("text"));
const PROFILE: Instead = Use("rsalloc profile");
const STATS: Instead = Use("rsalloc stats");

/// Variables, each of one setting.
const VARIABLES: &[(&str, Instead)] = &[
    ("HEAPCHECK", PROFILE),
    ("HEAPPROFILE", PROFILE),
    ("HEAP_PROFILE_ALLOCATION_INTERVAL", PROFILE),
    ("HEAP_PROFILE_INUSE_INTERVAL", PROFILE),
    ("HEAP_PROFILE_TIME_INTERVAL", PROFILE),
    ("MALLOCSTATS", AT_EXIT),
    ("MALLOC_ARENA_MAX", PER_CPU),
    ("MALLOC_ARENA_TEST", PER_CPU),
    ("MALLOC_CHECK_", HARDENED),
    ("MALLOC_MMAP_MAX_", OWN_SPANS),
    ("MALLOC_MMAP_THRESHOLD_", OWN_SPANS),
    ("MALLOC_PERTURB_", HARDENED),
    ("MALLOC_TOP_PAD_", AS_USED),
    ("MALLOC_TRACE", Use("rsalloc record")),
    ("MALLOC_TRIM_THRESHOLD_", Set("dirty", Value::Same)),
    ("MIMALLOC_ALLOW_LARGE_OS_PAGES", SYSTEM_PAGES),
    ("MIMALLOC_ALLOW_THP", SYSTEM_PAGES),
    ("MIMALLOC_ARENA_EAGER_COMMIT", AS_USED),
    ("MIMALLOC_ARENA_RESERVE", AS_USED),
    ("MIMALLOC_EAGER_COMMIT", AS_USED),
    ("MIMALLOC_GUARDED_SAMPLE_RATE", Set("guard", Value::Same)),
    ("MIMALLOC_LARGE_OS_PAGES", SYSTEM_PAGES),
    ("MIMALLOC_PURGE_DECOMMITS", DIRTY),
    ("MIMALLOC_PURGE_DELAY", DIRTY),
    ("MIMALLOC_RESERVE_HUGE_OS_PAGES", AS_USED),
    ("MIMALLOC_RESERVE_OS_MEMORY", AS_USED),
    ("MIMALLOC_RESET_DELAY", DIRTY),
    ("MIMALLOC_SHOW_ERRORS", Nothing("errors are always shown")),
    ("MIMALLOC_SHOW_STATS", AT_EXIT),
    ("MIMALLOC_USE_NUMA_NODES", PER_CPU),
    ("MIMALLOC_VERBOSE", Set("verbose", Value::Word("on"))),
    ("TCMALLOC_AGGRESSIVE_DECOMMIT", Set("dirty", Value::Word("0"))),
    ("TCMALLOC_HEAP_LIMIT_MB", Set("limit_hard", Value::Mebibytes)),
    ("TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD", STATS),
    ("TCMALLOC_MAX_TOTAL_THREAD_CACHE_BYTES", CACHE),
    ("TCMALLOC_PAGE_FENCE", Set("guard", Value::Word("1000"))),
    ("TCMALLOC_RECLAIM_MEMORY", Set("guard", Value::Word("1000"))),
    ("TCMALLOC_RELEASE_RATE", DIRTY),
    ("TCMALLOC_SAMPLE_PARAMETER", Set("profile", Value::Same)),
];

/// Variables with jemalloc's settings, `key:value,..`.
const JEMALLOC: [&str; 3] = ["MALLOC_CONF", "_RJEM_MALLOC_CONF", "JE_MALLOC_CONF"];

const JEMALLOC_KEYS: &[(&str, Instead)] = &[
    ("abort_conf", Nothing("unknown keys are always named")),
    ("background_thread", NO_THREAD),
    ("confirm_conf", Use("rsalloc conf")),
    ("dirty_decay_ms", DIRTY),
    ("junk", HARDENED),
    ("lg_prof_interval", PROFILE),
    ("lg_prof_sample", Set("profile", Value::Power)),
    ("lg_tcache_max", CACHE),
    ("max_background_threads", NO_THREAD),
    ("metadata_thp", SYSTEM_PAGES),
    ("muzzy_decay_ms", DIRTY),
    ("narenas", PER_CPU),
    ("oversize_threshold", OWN_SPANS),
    ("percpu_arena", PER_CPU),
    ("prof", Set("profile", Value::Word("on"))),
    ("prof_active", Set("profile", Value::Word("on"))),
    ("prof_final", PROFILE),
    ("prof_gdump", PROFILE),
    ("prof_leak", PROFILE),
    ("prof_prefix", PROFILE),
    ("quarantine", HARDENED),
    ("redzone", HARDENED),
    ("retain", AS_USED),
    ("stats_print", AT_EXIT),
    ("tcache", CACHE),
    ("tcache_max", CACHE),
    ("thp", SYSTEM_PAGES),
    ("xmalloc", Nothing("a limit says what holds the memory")),
    ("zero", HARDENED),
];

/// Of `GLIBC_TUNABLES`, `name=value:..`; the other tunables are libc's and keep their meaning.
const TUNABLES: &[(&str, Instead)] = &[
    ("glibc.malloc.arena_max", PER_CPU),
    ("glibc.malloc.arena_test", PER_CPU),
    ("glibc.malloc.check", HARDENED),
    ("glibc.malloc.hugetlb", SYSTEM_PAGES),
    ("glibc.malloc.mmap_max", OWN_SPANS),
    ("glibc.malloc.mmap_threshold", OWN_SPANS),
    ("glibc.malloc.mxfast", CACHE),
    ("glibc.malloc.perturb", HARDENED),
    ("glibc.malloc.tcache_count", CACHE),
    ("glibc.malloc.tcache_max", CACHE),
    ("glibc.malloc.tcache_unsorted_limit", CACHE),
    ("glibc.malloc.top_pad", AS_USED),
    ("glibc.malloc.trim_threshold", Set("dirty", Value::Same)),
];

/// Parts of the names of libraries that have a malloc.
const LIBRARIES: [&str; 6] =
    ["jemalloc", "mimalloc", "tcmalloc", "snmalloc", "rpmalloc", "libhoard"];

/// So many settings are named; the others are counted.
const NAMED: usize = 8;

/// The line of an environment; `conf` is what the program gets as `RSALLOC_CONF`.
pub fn line(environment: impl Iterator<Item = (String, String)>, conf: &str) -> Option<String> {
    let mut variables: Vec<_> = environment.collect();
    variables.sort();
    let mut found = Vec::new();
    for (name, value) in &variables {
        match name.as_str() {
            "LD_PRELOAD" => found.extend(libraries(value)),
            "GLIBC_TUNABLES" => {
                for (key, value) in value.split(':').filter_map(|pair| pair.split_once('=')) {
                    if key.starts_with("glibc.malloc.") {
                        found.extend(remark(TUNABLES, key, key, value, conf));
                    }
                }
            }
            list if JEMALLOC.contains(&list) => {
                for (key, value) in value.split(',').filter_map(|pair| pair.split_once(':')) {
                    found.extend(remark(JEMALLOC_KEYS, key, &format!("{list} {key}"), value, conf));
                }
            }
            name if is_known(name) => found.extend(remark(VARIABLES, name, name, value, conf)),
            _ => {}
        }
    }
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    (!found.is_empty())
        .then(|| format!("no effect on rsalloc: {}{rest}; see docs/migrating.md", found.join(", ")))
}

fn is_known(name: &str) -> bool {
    name.starts_with("MIMALLOC_")
        || name.starts_with("TCMALLOC_")
        || VARIABLES.iter().any(|(known, _)| *known == name)
}

/// What is said of one setting, shown as `shown`; none if there is nothing to do.
fn remark(
    table: &[(&str, Instead)],
    name: &str,
    shown: &str,
    value: &str,
    conf: &str,
) -> Option<String> {
    let Some((_, instead)) = table.iter().find(|(known, _)| *known == name) else {
        return Some(format!("{shown} (nothing like it)"));
    };
    match instead {
        Nothing(why) => Some(format!("{shown} (needs nothing: {why})")),
        Use(command) => Some(format!("{shown} (use {command})")),
        Set(key, as_what) => {
            let is_set =
                conf.split(',').any(|pair| pair.split(':').next().map(str::trim) == Some(key));
            let text = as_what.of(value)?;
            (!is_set).then(|| format!("{shown} (set {key}:{text})"))
        }
    }
}

impl Value {
    /// The value in words of `RSALLOC_CONF`; none for a switch that is off.
    fn of(&self, other: &str) -> Option<String> {
        let number = other.parse::<u32>().ok();
        let unclear = || "BYTES".to_owned();
        match self {
            Value::Word(_)
                if ["", "0", "false", "no", "off", "never", "f", "n"]
                    .contains(&other.to_lowercase().as_str()) =>
            {
                None
            }
            Value::Word(word) => Some((*word).to_owned()),
            Value::Bytes => Some(unclear()),
            Value::Same => Some(other.parse::<u64>().map_or_else(|_| unclear(), |n| n.to_string())),
            Value::Mebibytes => Some(number.map_or_else(unclear, |n| format!("{n}m"))),
            Value::Power => {
                let bytes = number.and_then(|n| 1u64.checked_shl(n));
                Some(bytes.map_or_else(unclear, |bytes| bytes.to_string()))
            }
        }
    }
}

/// Of LD_PRELOAD: other allocators, which rsalloc comes before.
fn libraries(preload: &str) -> impl Iterator<Item = String> {
    let paths = preload.split([' ', ':']).filter(|path| {
        let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        LIBRARIES.iter().any(|library| name.contains(library))
    });
    paths.map(|path| format!("{path} in LD_PRELOAD (remove it: rsalloc comes first)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(variables: &[(&str, &str)], conf: &str) -> Option<String> {
        line(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())), conf)
    }

    #[test]
    fn what_has_no_effect_is_named_with_what_takes_its_place() {
        for (name, value, text) in [
            ("MALLOC_ARENA_MAX", "2", "MALLOC_ARENA_MAX (needs nothing: caches are per CPU)"),
            ("MALLOC_TRIM_THRESHOLD_", "131072", "MALLOC_TRIM_THRESHOLD_ (set dirty:131072)"),
            ("MALLOC_CONF", "lg_prof_sample:19", "MALLOC_CONF lg_prof_sample (set profile:524288)"),
            ("_RJEM_MALLOC_CONF", "prof:true", "_RJEM_MALLOC_CONF prof (set profile:on)"),
            ("MALLOC_CONF", "dirty_decay_ms:0", "MALLOC_CONF dirty_decay_ms (set dirty:BYTES)"),
            ("MALLOC_CONF", "new_key:1", "MALLOC_CONF new_key (nothing like it)"),
            ("MIMALLOC_SHOW_STATS", "1", "MIMALLOC_SHOW_STATS (set stats_at_exit:text)"),
            ("MIMALLOC_NEW", "1", "MIMALLOC_NEW (nothing like it)"),
            ("TCMALLOC_HEAP_LIMIT_MB", "512", "TCMALLOC_HEAP_LIMIT_MB (set limit_hard:512m)"),
            ("HEAPPROFILE", "/tmp/x", "HEAPPROFILE (use rsalloc profile)"),
            (
                "GLIBC_TUNABLES",
                "glibc.pthread.rseq=0:glibc.malloc.tcache_count=0",
                "glibc.malloc.tcache_count (set cache:BYTES)",
            ),
            (
                "LD_PRELOAD",
                "/usr/lib/libx.so:/usr/lib/libjemalloc.so.2",
                "/usr/lib/libjemalloc.so.2 in LD_PRELOAD (remove it: rsalloc comes first)",
            ),
        ] {
            let expected = format!("no effect on rsalloc: {text}; see docs/migrating.md");
            assert_eq!(said(&[(name, value)], ""), Some(expected));
        }
    }

    #[test]
    fn all_are_in_one_line_and_the_last_are_counted() {
        let names: Vec<_> = VARIABLES.iter().map(|(name, _)| (*name, "1")).collect();
        let line = said(&names, "").unwrap();
        assert_eq!(line.matches(" (").count(), NAMED);
        assert!(line.contains(&format!(", and {} more;", VARIABLES.len() - NAMED)), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn nothing_is_said_of_what_is_replaced_off_or_libcs_own() {
        assert_eq!(said(&[("MALLOC_CONF", "prof:false,stats_print:false")], ""), None);
        assert_eq!(said(&[("MALLOC_CONF", "dirty_decay_ms:0")], "verbose:on,dirty:0"), None);
        assert_eq!(said(&[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")], ""), None);
        assert_eq!(said(&[("LD_PRELOAD", "/usr/lib/librsalloc.so"), ("PATH", "/bin")], ""), None);
    }

    #[test]
    fn the_page_on_migrating_has_every_name() {
        let page = include_str!("../../docs/migrating.md");
        let tables = [VARIABLES, JEMALLOC_KEYS, TUNABLES];
        let mut names: Vec<_> =
            tables.iter().flat_map(|table| table.iter().map(|row| row.0)).collect();
        names.extend(JEMALLOC);
        for name in names {
            let shown = [format!("`{name}`"), format!("`{name}:"), format!("`{name}=")];
            assert!(
                shown.iter().any(|text| page.contains(text)),
                "{name} is not in docs/migrating.md"
            );
        }
    }
}
