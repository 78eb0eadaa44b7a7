//! The configuration: built-in defaults, what the program declares ([`Config`]), `RSALLOC_CONF`, in rising order.
//!
//! Promises: init reads it once, without allocating; unknown keys and bad values are named in one line on standard
//! error and change nothing; a setuid program ignores the environment; each effective value knows its origin.

mod bound;
mod declared;
mod key;
mod text;

pub use bound::Bound;
pub use declared::Config;
pub use key::{KEYS, Key};
pub use text::{Wrong, key_of, parse, parse_item};

use crate::atomic::{AtomicU8, Ordering};
use crate::object::Link;
use crate::os;
use crate::parts;
use crate::report::ShardIndex;
use key::{EXIT_TO_FILE, EXIT_WORDS, PATH_GIVEN, Shape, VALUES};

/// Where the value of a setting comes from.
///
/// ```
/// use rsalloc::Origin;
///
/// let changed = rsalloc::settings().filter(|setting| setting.origin != Origin::Default);
/// for setting in changed {
///     println!("{setting}, by {}", setting.origin);
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Origin {
    /// Built in.
    Default,
    /// Declared by the program: [`Config`].
    Program,
    /// The environment variable `RSALLOC_CONF`.
    Environment,
    /// A call at run time: `mallopt` or [`limit_dirty`](crate::limit_dirty).
    Call,
    /// Another process: `rsalloc set PID`.
    Outside,
    /// Of no importance: the part that obeys the setting is left out of this build.
    LeftOut,
}

/// The value of a setting.
///
/// ```
/// use rsalloc::Value;
///
/// let hardened = rsalloc::settings().find(|setting| setting.key == "hardened").unwrap();
/// assert_eq!(hardened.value, Value::Switch(false));
/// assert_eq!(hardened.value.to_string(), "off");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Value {
    /// A switch; shown as `on` or `off`.
    Switch(bool),
    /// One of the key's words.
    Word(&'static str),
    /// A number, of bytes where the key says so.
    Number(usize),
    /// A limit of memory.
    Bound(Bound),
    /// A text, such as a file name.
    Text(&'static str),
}

impl core::fmt::Display for Value {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Value::Switch(is_on) => f.write_str(if *is_on { "on" } else { "off" }),
            Value::Word(text) | Value::Text(text) => f.write_str(text),
            Value::Number(number) => write!(f, "{number}"),
            Value::Bound(bound) => write!(f, "{bound}"),
        }
    }
}

/// A setting: its key, its effective value and where that comes from. Shown as `key:value`, as `RSALLOC_CONF` has it.
///
/// ```
/// let dirty = rsalloc::settings().find(|setting| setting.key == "dirty").unwrap();
/// assert_eq!(dirty.to_string(), "dirty:1048576");
/// println!("{dirty}: {}", dirty.help);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// The key as written in `RSALLOC_CONF`.
    pub key: &'static str,
    /// The effective value.
    pub value: Value,
    /// Where the value comes from.
    pub origin: Origin,
    /// What the setting does, in words.
    pub help: &'static str,
}

impl core::fmt::Display for Setting {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}:{}", self.key, self.value)
    }
}

/// What is to number the shards: a [`ShardIndex`], or `Auto`, what the entries know, with caches that obey a quota (docs/adr/0055).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RequestedIndex {
    /// [`ShardIndex::CpuId`].
    CpuId = ShardIndex::CpuId as isize,
    /// [`ShardIndex::MmCid`].
    MmCid = ShardIndex::MmCid as isize,
    /// In the order of the words.
    Auto,
}

/// What the program asks for: per-CPU caches where the system has rseq, or the atomic path in any case.
///
/// ```standalone_crate
/// use rsalloc::{Config, RequestedMode};
///
/// rsalloc::config!(Config::new().mode(RequestedMode::Atomic));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RequestedMode {
    /// Per CPU where that is possible.
    Auto,
    /// The atomic path, without rseq.
    Atomic,
}

/// Where the statistics go when the process ends.
///
/// ```standalone_crate
/// use rsalloc::{Config, StatsAtExit};
///
/// rsalloc::config!(Config::new().stats_at_exit(StatsAtExit::JsonFile("/tmp/stats-%p.json")));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StatsAtExit {
    /// Nowhere.
    Off,
    /// To standard error, as text.
    Text,
    /// To standard error, as JSON.
    Json,
    /// To a file, as JSON; `%p` in its name becomes the process id.
    JsonFile(&'static str),
}

static ORIGINS: [AtomicU8; KEYS] = [const { AtomicU8::new(Origin::Default as u8) }; KEYS];

const FILE_NAME_MAX_BYTES: usize = 255;

struct FileName {
    bytes: [u8; FILE_NAME_MAX_BYTES],
    len: usize,
}
static EXIT_FILE: Link<FileName> = Link::none();
static PUBLISH_PATH: Link<FileName> = Link::none();

/// The value of a key whose values are numbers.
pub fn number(key: Key) -> usize {
    // Ordering: Relaxed, values that stand alone.
    VALUES[key as usize].load(Ordering::Relaxed)
}

/// The value of a key that is a switch.
pub fn is_on(key: Key) -> bool {
    number(key) != 0
}

/// The mode that was asked for.
pub fn requested_mode() -> RequestedMode {
    match number(Key::Mode) {
        0 => RequestedMode::Auto,
        _ => RequestedMode::Atomic,
    }
}

/// What is to number the shards; none: what the entries know.
pub fn requested_index() -> Option<ShardIndex> {
    match number(Key::Index) {
        index if index == RequestedIndex::CpuId as usize => Some(ShardIndex::CpuId),
        index if index == RequestedIndex::MmCid as usize => Some(ShardIndex::MmCid),
        _ => None,
    }
}

/// Whether the caches are to be as large as a quota of CPUs asks for.
pub fn obeys_quota() -> bool {
    number(Key::Index) == RequestedIndex::Auto as usize
}

/// Where the statistics go when the process ends.
pub fn stats_at_exit() -> StatsAtExit {
    if !parts::REPORTS {
        return StatsAtExit::Off;
    }
    // Ordering: Acquire pairs with the Release in `store`: the link to the file's name leads to it.
    match VALUES[Key::StatsAtExit as usize].load(Ordering::Acquire) {
        0 => StatsAtExit::Off,
        1 => StatsAtExit::Text,
        2 => StatsAtExit::Json,
        _ => StatsAtExit::JsonFile(exit_file()),
    }
}

/// The effective settings, each with its origin.
///
/// ```
/// for setting in rsalloc::settings() {
///     println!("{setting}  # {}", setting.help);
/// }
/// ```
pub fn settings() -> impl ExactSizeIterator<Item = Setting> + Clone {
    raw().into_iter().zip(Key::ALL).map(|((value, origin), key)| {
        let name = match key {
            Key::Publish => publish_path().unwrap_or(""),
            _ => match stats_at_exit() {
                StatsAtExit::JsonFile(name) => name,
                _ => "",
            },
        };
        setting_of(key, value, origin, name)
    })
}

/// The value and the origin of each key, as numbers.
pub fn raw() -> [(usize, u8); KEYS] {
    Key::ALL.map(|key| {
        let origin = if key.left_out().is_some() { Origin::LeftOut } else { origin(key) };
        (number(key), origin as u8)
    })
}

/// The settings that another process has, by its [`raw`] numbers. The names of its files are not among them.
/// One with an older version has fewer.
pub fn settings_of(raw: impl IntoIterator<Item = (usize, u8)>) -> impl Iterator<Item = Setting> {
    let settings = raw.into_iter().zip(Key::ALL);
    settings.map(|((value, origin), key)| setting_of(key, value, origin, "(a file)"))
}

fn setting_of(key: Key, value: usize, origin: u8, file: &'static str) -> Setting {
    let info = key.info();
    let value = match info.shape {
        Shape::Switch => Value::Switch(value != 0),
        Shape::Words(words) => Value::Word(words.get(value).unwrap_or(&"(unknown)")),
        Shape::Number | Shape::NumberOrOff | Shape::NumberOrSwitch(..) => Value::Number(value),
        Shape::Bound | Shape::FirmBound => Value::Bound(Bound::of_number(value)),
        Shape::Exit => EXIT_WORDS.get(value).map_or(Value::Text(file), |word| Value::Word(word)),
        Shape::Path if value == 0 => Value::Word("off"),
        Shape::Path => Value::Text(file),
    };
    Setting { key: info.name, value, origin: origin_of(origin), help: key.help() }
}

/// The origin of this number; the default for one that this version does not know.
pub fn origin_of(raw: u8) -> Origin {
    let origins = [
        Origin::Default,
        Origin::Program,
        Origin::Environment,
        Origin::Call,
        Origin::Outside,
        Origin::LeftOut,
    ];
    origins.into_iter().find(|&known| known as u8 == raw).unwrap_or(Origin::Default)
}

/// Sets a number that the setting `by` implies, unless the number was set. Its origin is that of `by`.
pub fn set_implied(key: Key, value: usize, by: Key) {
    if origin(key) == Origin::Default {
        store(key, value, origin(by));
    }
}

/// Where the value of a key comes from.
pub fn origin(key: Key) -> Origin {
    // Ordering: Relaxed, values that stand alone.
    origin_of(ORIGINS[key as usize].load(Ordering::Relaxed))
}

/// Whether a key may get this value while the program runs: not what takes effect at the start only, nor the name of a file.
pub fn may_change(key: Key, value: usize) -> bool {
    match key {
        Key::Cache | Key::Dirty | Key::Guard | Key::Limit | Key::LimitHard | Key::Profile => true,
        Key::StatsAtExit => value < EXIT_TO_FILE,
        _ => false,
    }
}

/// Sets a value at run time, for `engine::settings` and tests.
pub fn set(key: Key, value: usize, origin: Origin) {
    store(key, value, origin);
}

/// As [`set`], for a call.
pub fn set_number(key: Key, value: usize) {
    set(key, value, Origin::Call);
}

/// Takes over what the program declares, then the environment. For init, once.
pub fn read(declarations: &[Config]) {
    declarations.iter().for_each(Config::take_over);
    text::read_environment();
}

fn store(key: Key, value: usize, origin: Origin) {
    // Ordering: Release publishes the link to the name behind `EXIT_TO_FILE`.
    VALUES[key as usize].store(value, Ordering::Release);
    // Ordering: Relaxed, a word that stands alone.
    ORIGINS[key as usize].store(origin as u8, Ordering::Relaxed);
}

/// Keeps the name of a file for the statistics at exit; the value that stands for it, or none if the name cannot be kept.
fn keep_exit_file(name: &[u8]) -> Option<usize> {
    keep_name(&EXIT_FILE, name).map(|()| EXIT_TO_FILE)
}

/// The same of the file that the statistics are published in.
fn keep_publish_path(name: &[u8]) -> Option<usize> {
    keep_name(&PUBLISH_PATH, name).map(|()| PATH_GIVEN)
}

/// The name that this one replaces stays in memory, since a thread may be using it.
#[inline(never)]
fn keep_name(place: &Link<FileName>, name: &[u8]) -> Option<()> {
    if name.is_empty() || name.len() > FILE_NAME_MAX_BYTES || core::str::from_utf8(name).is_err() {
        return None;
    }
    let mut kept = FileName { bytes: [0; FILE_NAME_MAX_BYTES], len: name.len() };
    kept.bytes[..name.len()].copy_from_slice(name);
    place.set(Some(os::keep(kept)?));
    Some(())
}

fn exit_file() -> &'static str {
    text_of(&EXIT_FILE)
}

/// The file that the statistics are to be published in, `%p` as it was written.
pub fn publish_path() -> Option<&'static str> {
    if !parts::REPORTS {
        return None;
    }
    (number(Key::Publish) == PATH_GIVEN).then(|| text_of(&PUBLISH_PATH))
}

fn text_of(place: &'static Link<FileName>) -> &'static str {
    let name = place.get().and_then(|name| core::str::from_utf8(&name.bytes[..name.len]).ok());
    name.unwrap_or("")
}
