//! What the program declares about its configuration, in its own binary.

use super::{Bound, Key, Origin, RequestedMode, StatsAtExit, store};
use super::{FILE_NAME_MAX_BYTES, KEYS, keep_exit_file, keep_publish_path};
use crate::report::ShardIndex;

/// The settings that a program declares for itself; what it leaves out keeps its default, and the environment
/// variable `RSALLOC_CONF` overrides all.
///
/// A `Config` takes effect when the program declares it, by the macro `config` of the crate `rsalloc`; it is read before
/// the first allocation. Each method is named for the key that it sets.
///
/// ```standalone_crate
/// use rsalloc::{Config, StatsAtExit};
///
/// rsalloc::config!(
///     Config::new()
///         .cache_bytes(512 << 10)
///         .dirty_bytes(16 << 20)
///         .guard_one_in(10_000)
///         .stats_at_exit(StatsAtExit::Text)
/// );
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a `Config` takes effect by `rsalloc::config!` only"]
pub struct Config {
    values: [Option<usize>; KEYS],
    exit_file: Option<&'static str>,
    publish_path: Option<&'static str>,
    has_heap: bool,
}

impl Config {
    /// All defaults.
    pub const fn new() -> Self {
        Config { values: [None; KEYS], exit_file: None, publish_path: None, has_heap: true }
    }

    /// Of a program that reads other processes' heaps and has none: the engine does not start with it.
    #[doc(hidden)]
    pub const fn without_heap() -> Self {
        Config { has_heap: false, ..Config::new() }
    }

    /// `mode`: per-CPU caches where that is possible, or the atomic path in any case.
    pub const fn mode(self, mode: RequestedMode) -> Self {
        self.with(Key::Mode, mode as usize)
    }

    /// `index`: what numbers the shards. With `MmCid` every call takes the slow path, 2.5 to 5.6 times slower; with the
    /// feature `mm_cid` that is so with `CpuId`.
    pub const fn index(self, index: ShardIndex) -> Self {
        self.with(Key::Index, index as usize)
    }

    /// `cache`: bytes that one CPU may cache. 0 lets all CPUs together cache half of what is in use.
    pub const fn cache_bytes(self, bytes: usize) -> Self {
        self.with(Key::Cache, bytes)
    }

    /// `dirty`: bytes of free pages that may stay resident at least. A quarter of what is in use may as well.
    pub const fn dirty_bytes(self, bytes: usize) -> Self {
        self.with(Key::Dirty, bytes)
    }

    /// `stats_at_exit`: where the statistics go when the process ends.
    ///
    /// # Panics
    /// If the name of the file is empty or longer than 255 bytes: in a declaration, when the program is compiled.
    pub const fn stats_at_exit(self, target: StatsAtExit) -> Self {
        match target {
            StatsAtExit::Off => self.with(Key::StatsAtExit, 0),
            StatsAtExit::Text => self.with(Key::StatsAtExit, 1),
            StatsAtExit::Json => self.with(Key::StatsAtExit, 2),
            StatsAtExit::JsonFile(name) => Config { exit_file: Some(checked_name(name)), ..self },
        }
    }

    /// `verbose`: says on standard error at start which mode the process runs in.
    pub const fn verbose(self, is_on: bool) -> Self {
        self.with(Key::Verbose, is_on as usize)
    }

    /// `hardened`: checks each object when it is freed, resized and handed out. Every call takes the slow path. Turns
    /// guard pages on as well, for one of 1,000 slow calls unless [`guard_one_in`](Self::guard_one_in) says otherwise.
    pub const fn hardened(self, is_on: bool) -> Self {
        self.with(Key::Hardened, is_on as usize)
    }

    /// `guard`: one of `calls` slow calls gives an object between guard pages; 0: none does.
    pub const fn guard_one_in(self, calls: usize) -> Self {
        self.with(Key::Guard, calls)
    }

    /// `membarrier`: whether membarrier(2) may be called. For programs whose filter of system calls kills for it.
    pub const fn membarrier(self, is_allowed: bool) -> Self {
        self.with(Key::Membarrier, is_allowed as usize)
    }

    /// `profile`: a sampled heap profile from the start, with one sample in so many bytes on average; 0: none. See
    /// `rsalloc::profile`.
    pub const fn profile_bytes(self, interval: usize) -> Self {
        self.with(Key::Profile, interval)
    }

    /// `limit`: near so much memory the heap gives memory back before it grows.
    ///
    /// # Panics
    /// If a share is not 1 to 100 percent: in a declaration, when the program is compiled.
    pub const fn limit(self, bound: Bound) -> Self {
        self.with(Key::Limit, checked(bound).number())
    }

    /// `limit_hard`: beyond so much memory, requests are refused.
    ///
    /// # Panics
    /// As [`limit`](Self::limit), and for [`Bound::Auto`].
    pub const fn limit_hard(self, bound: Bound) -> Self {
        assert!(!matches!(bound, Bound::Auto), "limit_hard needs a share or bytes");
        self.with(Key::LimitHard, checked(bound).number())
    }

    /// `publish`: keeps the statistics in this file, which any user may read, while the process runs; `%p` in the name becomes
    /// the process id.
    ///
    /// # Panics
    /// If the name is empty or longer than 255 bytes: in a declaration, when the program is compiled.
    pub const fn publish(self, path: &'static str) -> Self {
        Config { publish_path: Some(checked_name(path)), ..self }
    }

    /// `nodes`: whether memory nodes (NUMA) are told apart, where threads of the process work on several: an object lies on the
    /// node on which it was allocated then, and every free takes the slow path.
    pub const fn nodes(self, are_told_apart: bool) -> Self {
        self.with(Key::Nodes, are_told_apart as usize)
    }

    pub(crate) fn has_heap(&self) -> bool {
        self.has_heap
    }

    const fn with(mut self, key: Key, value: usize) -> Self {
        self.values[key as usize] = Some(value);
        if matches!(key, Key::StatsAtExit) {
            self.exit_file = None;
        }
        self
    }

    pub(super) fn take_over(&self) {
        let values = Key::ALL.into_iter().zip(self.values);
        for (key, value) in values.filter_map(|(key, value)| Some((key, value?))) {
            store(key, value, Origin::Program);
        }
        if let Some(value) = self.exit_file.and_then(|name| keep_exit_file(name.as_bytes())) {
            store(Key::StatsAtExit, value, Origin::Program);
        }
        if let Some(value) = self.publish_path.and_then(|name| keep_publish_path(name.as_bytes())) {
            store(Key::Publish, value, Origin::Program);
        }
    }
}

const fn checked_name(name: &'static str) -> &'static str {
    assert!(!name.is_empty(), "the name of the file is empty");
    assert!(name.len() <= FILE_NAME_MAX_BYTES, "the name of the file is too long");
    name
}

const fn checked(bound: Bound) -> Bound {
    if let Bound::Share(percent) = bound {
        assert!(1 <= percent && percent <= 100, "a share is 1 to 100 percent");
    }
    bound
}

impl Default for Config {
    fn default() -> Self {
        Config::new()
    }
}
