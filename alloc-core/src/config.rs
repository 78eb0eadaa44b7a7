//! Configuration: `RSALLOC_CONF=key:value,...`, read once at start without allocating.
//!
//! Promises: unknown keys and bad values are named in one line on standard error and change nothing;
//! a setuid program is not configured; each effective value knows where it came from. A leaf that
//! calls os; read by every room.

use crate::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::fail::Line;
use crate::os;
use core::cell::UnsafeCell;

/// Where a configuration value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Built in.
    Default,
    /// `RSALLOC_CONF`.
    Environment,
    /// The program, by `mallopt` or the Rust API.
    Program,
}

/// The value of a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// One of the key's words.
    Word(&'static str),
    /// A number, of bytes where the key says so.
    Number(usize),
    /// A text, such as a file name.
    Text(&'static str),
}

impl core::fmt::Display for Value {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Value::Word(text) | Value::Text(text) => f.write_str(text),
            Value::Number(number) => write!(f, "{number}"),
        }
    }
}

/// One effective configuration value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The key as written in `RSALLOC_CONF`.
    pub key: &'static str,
    /// The effective value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
    /// What it does, for people.
    pub help: &'static str,
}

/// The keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Key {
    /// `auto` or `atomic`.
    Mode = 0,
    /// `cpu_id` or `mm_cid`.
    Index = 1,
    /// Bytes that one shard may cache; 0: see `cpu_cache::capacity`.
    Cache = 2,
    /// Bytes of free spans that may stay resident.
    Dirty = 3,
    /// `off`, `text`, `json` or a file name.
    StatsAtExit = 4,
    /// 1: say at start what mode the process runs in.
    Verbose = 5,
    /// 1: check every object when it is freed, and every free one when it is handed out.
    Hardened = 6,
    /// One of how many slow calls gets an object between guard pages; 0: none.
    Guard = 7,
    /// `on` or `off`.
    Membarrier = 8,
}

const KEYS: usize = 9;

enum Shape {
    Words(&'static [&'static str]),
    Number,
    WordsOrText(&'static [&'static str]),
}

struct KeyInfo {
    name: &'static str,
    shape: Shape,
    default: usize,
    help: &'static str,
}

static INFO: [KeyInfo; KEYS] = [
    KeyInfo {
        name: "mode",
        shape: Shape::Words(&["auto", "atomic"]),
        default: 0,
        help: "atomic: never use restartable sequences",
    },
    KeyInfo {
        name: "index",
        shape: Shape::Words(&["cpu_id", "mm_cid"]),
        default: 0,
        help: "what numbers the shards: the CPU, or the kernel's compact concurrency id",
    },
    KeyInfo {
        name: "cache",
        shape: Shape::Number,
        default: 0,
        help: "bytes that one shard may cache; 0: all shards together a quarter of what is in use",
    },
    KeyInfo {
        name: "dirty",
        shape: Shape::Number,
        default: 1 << 20,
        help: "bytes of free spans that may stay resident at least; a quarter of what is in use may as well",
    },
    KeyInfo {
        name: "stats_at_exit",
        shape: Shape::WordsOrText(&["off", "text", "json"]),
        default: 0,
        help: "print statistics to standard error, or as JSON to a file, when the process ends",
    },
    KeyInfo {
        name: "verbose",
        shape: Shape::Number,
        default: 0,
        help: "1: say at start which mode the process runs in",
    },
    KeyInfo {
        name: "hardened",
        shape: Shape::Words(&["0", "1"]),
        default: 0,
        help: "1: check each object when it is freed and handed out (slower); sets guard:1000",
    },
    KeyInfo {
        name: "guard",
        shape: Shape::Number,
        default: 0,
        help: "one of so many slow calls gives an object between guard pages, with a SIGSEGV handler; 0: none",
    },
    KeyInfo {
        name: "membarrier",
        shape: Shape::Words(&["on", "off"]),
        default: 0,
        help: "off: never call membarrier, where a filter kills for it (release then empties one CPU's cache)",
    },
];

static VALUES: [AtomicUsize; KEYS] = [
    AtomicUsize::new(INFO[0].default),
    AtomicUsize::new(INFO[1].default),
    AtomicUsize::new(INFO[2].default),
    AtomicUsize::new(INFO[3].default),
    AtomicUsize::new(INFO[4].default),
    AtomicUsize::new(INFO[5].default),
    AtomicUsize::new(INFO[6].default),
    AtomicUsize::new(INFO[7].default),
    AtomicUsize::new(INFO[8].default),
];
static ORIGINS: [AtomicU8; KEYS] = [const { AtomicU8::new(0) }; KEYS];

const TEXT_MAX: usize = 255;
/// The value index that says "the text below".
const IS_TEXT: usize = 1 << 16;

struct Text(UnsafeCell<[u8; TEXT_MAX + 1]>, AtomicUsize);
// SAFETY: written once by init before other threads can see `IS_TEXT`; read-only afterwards.
unsafe impl Sync for Text {}
static TEXT: Text = Text(UnsafeCell::new([0; TEXT_MAX + 1]), AtomicUsize::new(0));

/// The value of `key`: a number, or the index of a word.
pub fn get(key: Key) -> usize {
    // Ordering: Relaxed, values that stand alone.
    VALUES[key as usize].load(Ordering::Relaxed)
}

/// Bytes that one shard may cache; 0: see `cpu_cache::capacity`.
pub fn cache_bytes() -> usize {
    get(Key::Cache)
}

/// Sets the default of a number that init finds out, if nobody has set it.
pub fn set_default(key: Key, value: usize) {
    // Ordering: Relaxed, values that stand alone.
    if ORIGINS[key as usize].load(Ordering::Relaxed) == Origin::Default as u8 {
        store(key as usize, value, Origin::Default);
    }
}

/// Sets a number on behalf of the program unless the environment did; whether it was set.
pub fn set_number_if_unset(key: Key, value: usize) -> bool {
    // Ordering: Relaxed, values that stand alone.
    let is_free = ORIGINS[key as usize].load(Ordering::Relaxed) != Origin::Environment as u8;
    if is_free {
        set_number(key, value);
    }
    is_free
}

/// Sets a number on behalf of the program.
pub fn set_number(key: Key, value: usize) {
    store(key as usize, value, Origin::Program);
}

fn store(index: usize, value: usize, origin: Origin) {
    // Ordering: Release publishes the text behind `IS_TEXT` to `settings`.
    VALUES[index].store(value, Ordering::Release);
    // Ordering: Relaxed, as above.
    ORIGINS[index].store(origin as u8, Ordering::Relaxed);
}

/// The effective settings, in the order of [`Key`].
pub fn settings() -> [Setting; KEYS] {
    core::array::from_fn(|index| {
        let info = &INFO[index];
        // Ordering: Acquire pairs with the Release in `store`, for the text.
        let value = VALUES[index].load(Ordering::Acquire);
        // Ordering: Relaxed, a word that stands alone.
        let origin = match ORIGINS[index].load(Ordering::Relaxed) {
            0 => Origin::Default,
            1 => Origin::Environment,
            _ => Origin::Program,
        };
        let value = match info.shape {
            Shape::Number => Value::Number(value),
            Shape::Words(words) => Value::Word(words[value]),
            Shape::WordsOrText(_) if value == IS_TEXT => Value::Text(text()),
            Shape::WordsOrText(words) => Value::Word(words[value]),
        };
        Setting { key: info.name, value, origin, help: info.help }
    })
}

fn text() -> &'static str {
    // Ordering: Relaxed, whoever saw `IS_TEXT` acquired it.
    let len = TEXT.1.load(Ordering::Relaxed);
    // SAFETY: written once by init, before `IS_TEXT` was stored.
    let bytes: &'static [u8; TEXT_MAX + 1] = unsafe { &*TEXT.0.get() };
    core::str::from_utf8(&bytes[..len]).unwrap_or("")
}

/// Reads the environment, unless the program is setuid. Called once, by init.
pub fn read_environment() {
    if os::auxv(libc::AT_SECURE) != 0 {
        return;
    }
    let mut buffer = [0; 8192];
    if let Some(text) = os::environment(b"RSALLOC_CONF=", &mut buffer) {
        parse(text);
    }
}

/// Takes over the settings of `text`, as written in `RSALLOC_CONF`. For init and for tests, where
/// nobody else reads or writes settings meanwhile.
#[doc(hidden)]
pub fn parse(text: &[u8]) {
    for item in text.split(|&byte| byte == b',').filter(|item| !item.is_empty()) {
        let mut parts = item.splitn(2, |&byte| byte == b':');
        let key = parts.next().unwrap_or(b"").trim_ascii();
        let value = parts.next().unwrap_or(b"").trim_ascii();
        match INFO.iter().position(|info| info.name.as_bytes() == key) {
            None => complain("unknown key", item, "ignored; `rsalloc conf` lists the keys"),
            Some(index) => match parse_value(index, value) {
                Some(number) => store(index, number, Origin::Environment),
                None => complain("bad value", item, "ignored; `rsalloc conf` lists the values"),
            },
        }
    }
}

fn parse_value(index: usize, value: &[u8]) -> Option<usize> {
    let word_of = |words: &[&str]| words.iter().position(|word| word.as_bytes() == value);
    match INFO[index].shape {
        Shape::Number => os::parse_number(value),
        Shape::Words(words) => word_of(words),
        Shape::WordsOrText(words) => word_of(words).or_else(|| keep_text(value)),
    }
}

fn keep_text(value: &[u8]) -> Option<usize> {
    if value.is_empty() || value.len() > TEXT_MAX || core::str::from_utf8(value).is_err() {
        return None;
    }
    // SAFETY: init runs alone, and nobody reads before `IS_TEXT` is stored.
    unsafe { (&mut *TEXT.0.get())[..value.len()].copy_from_slice(value) };
    // Ordering: Relaxed, published with `IS_TEXT`.
    TEXT.1.store(value.len(), Ordering::Relaxed);
    Some(IS_TEXT)
}

#[cold]
fn complain(what: &str, item: &[u8], then: &str) {
    let mut line = Line::new();
    line.text("rsalloc: RSALLOC_CONF: ").text(what).text(" '");
    line.shown(&item[..item.len().min(64)]).text("': ").text(then).text("\n");
    line.write_to_stderr();
}
