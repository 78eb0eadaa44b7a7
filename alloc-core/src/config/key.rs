//! The keys of the configuration: their names, how their values are written, and their defaults.

use super::{RequestedIndex, RequestedMode};
use crate::atomic::AtomicUsize;
use crate::parts;
use crate::units::PROFILE_INTERVALS;
use core::ops::RangeInclusive;

/// How a key's value is written, and kept in a `usize`.
pub enum Shape {
    /// 0 or 1.
    Switch,
    /// The index of a word.
    Words(&'static [&'static str]),
    /// A number.
    Number,
    /// As a number, and the words of a switch that is off mean 0.
    NumberOrOff,
    /// As [`Shape::NumberOrOff`], and the words of a switch that is on mean the first number; others are in the range.
    NumberOrSwitch(usize, RangeInclusive<usize>),
    /// See [`EXIT_WORDS`].
    Exit,
    /// The name of a file, or off; see [`PATH_GIVEN`].
    Path,
    /// The number of a [`Bound`](super::Bound).
    Bound,
    /// The same without `auto`.
    FirmBound,
}

/// The words of `stats_at_exit`. Any other value is the name of a file.
pub const EXIT_WORDS: [&str; 3] = ["off", "text", "json"];
/// The value of `stats_at_exit` that stands for the name in `EXIT_FILE`.
pub const EXIT_TO_FILE: usize = EXIT_WORDS.len();

/// The value of a key of [`Shape::Path`] that has a name; 0 if it is off.
pub const PATH_GIVEN: usize = 1;

/// What belongs to a key.
pub struct KeyInfo {
    /// As `RSALLOC_CONF` has it.
    pub name: &'static str,
    /// How values are written.
    pub shape: Shape,
}

macro_rules! keys {
    ($(
        $(#[$doc:meta])*
        $key:ident = KeyInfo {
            name: $name:expr,
            shape: $shape:expr,
            default: $default:expr,
            help: $help:expr,
        },
    )*) => {
        /// The keys.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub enum Key {
            $($(#[$doc])* $key,)*
        }

        /// Number of keys.
        pub const KEYS: usize = Key::ALL.len();

        impl Key {
            /// All of them, in the order in which they are shown and published: a new one comes last.
            pub const ALL: [Key; [$(Key::$key),*].len()] = [$(Key::$key),*];
        }

        static INFO: [KeyInfo; KEYS] = [$(KeyInfo { name: $name, shape: $shape }),*];

        /// Not in [`KeyInfo`]: a program that lists no settings does not have the texts.
        static HELP: [&str; KEYS] = [$($help),*];

        /// The effective values.
        pub static VALUES: [AtomicUsize; KEYS] = [$(AtomicUsize::new($default)),*];
    };
}

keys! {
    /// See [`RequestedMode`].
    Mode = KeyInfo {
        name: "mode",
        shape: Shape::Words(&["auto", "atomic"]),
        default: RequestedMode::Auto as usize,
        help: "atomic: never use restartable sequences",
    },
    /// See [`RequestedIndex`].
    Index = KeyInfo {
        name: "index",
        shape: Shape::Words(&["cpu_id", "mm_cid", "auto"]),
        default: RequestedIndex::Auto as usize,
        help: "what numbers the shards: the CPU, with caches for as many CPUs as a quota lets work at once (auto) or for all (cpu_id), or the kernel's compact concurrency id (mm_cid: every call then takes the slow path, but in a build with that feature, where cpu_id does)",
    },
    /// Bytes that one shard may cache; 0: see `cpu_cache::policy::capacity`.
    Cache = KeyInfo {
        name: "cache",
        shape: Shape::Number,
        default: 0,
        help: "bytes that one shard may cache; 0: all shards together half of what is in use",
    },
    /// Bytes of free spans that may stay resident.
    Dirty = KeyInfo {
        name: "dirty",
        shape: Shape::Number,
        default: 1 << 20,
        help: "bytes of free spans that may stay resident at least; a quarter of what is in use may as well",
    },
    /// See [`StatsAtExit`].
    StatsAtExit = KeyInfo {
        name: "stats_at_exit",
        shape: Shape::Exit,
        default: 0,
        help: "text, json or a file name for JSON: write statistics when the process ends",
    },
    /// Says at start which mode the process runs in.
    Verbose = KeyInfo {
        name: "verbose",
        shape: Shape::Switch,
        default: 0,
        help: "on: say at start which mode the process runs in",
    },
    /// Checks each object when it is freed, resized and handed out.
    Hardened = KeyInfo {
        name: "hardened",
        shape: Shape::Switch,
        default: 0,
        help: "on: check each object when it is freed, resized and handed out; every call takes the slow path; sets guard:1000",
    },
    /// One of how many slow calls gets an object between guard pages; 0: none.
    Guard = KeyInfo {
        name: "guard",
        shape: Shape::NumberOrOff,
        default: 0,
        help: "one of so many slow calls gives an object between guard pages, with a SIGSEGV handler; 0: none",
    },
    /// Allows calls of membarrier(2).
    Membarrier = KeyInfo {
        name: "membarrier",
        shape: Shape::Switch,
        default: 1,
        help: "off: never call membarrier, where a filter kills for it (release then empties one CPU's cache)",
    },
    /// The mean interval of a heap profile that runs from the start, in bytes; 0: none runs.
    Profile = KeyInfo {
        name: "profile",
        shape: Shape::NumberOrSwitch(512 << 10, PROFILE_INTERVALS),
        default: 0,
        help: "on, or 256 to 1g bytes: a sampled heap profile from the start, with one sample in so many bytes on average (on: 512k)",
    },
    /// See [`Bound`](super::Bound).
    Limit = KeyInfo {
        name: "limit",
        shape: Shape::Bound,
        default: 0,
        help: "auto, a share such as 90%, or bytes: near so much memory the heap gives back before it grows; auto: 90% of the container's limit",
    },
    /// The same, beyond which requests are refused.
    LimitHard = KeyInfo {
        name: "limit_hard",
        shape: Shape::FirmBound,
        default: 0,
        help: "a share such as 95%, or bytes: beyond so much memory requests are refused (ENOMEM)",
    },
    /// The file in which the statistics are kept for readers without the right to trace.
    Publish = KeyInfo {
        name: "publish",
        shape: Shape::Path,
        default: 0,
        help: "a file name (%p: the process id): keep the statistics in this file, which any user may read, while the process runs",
    },
    /// Tells memory nodes apart.
    Nodes = KeyInfo {
        name: "nodes",
        shape: Shape::Switch,
        default: 1,
        help: "off: take all memory for one node's, which makes frees faster on machines with several (NUMA), and memory slower that lies on another",
    },
}

impl Key {
    /// The feature of the part that obeys the setting, if this build leaves it out: then the setting has no effect.
    pub fn left_out(self) -> Option<&'static str> {
        let (feature, is_there) = match self {
            Key::Guard => ("guard", parts::GUARD),
            Key::Limit | Key::LimitHard => ("limits", parts::LIMITS),
            Key::Nodes => ("nodes", parts::NODES),
            Key::Profile => ("profile", parts::PROFILE),
            Key::StatsAtExit | Key::Publish | Key::Verbose => ("reports", parts::REPORTS),
            Key::Mode | Key::Index | Key::Cache | Key::Dirty | Key::Hardened | Key::Membarrier => {
                return None;
            }
        };
        (!is_there).then_some(feature)
    }

    /// What the setting does.
    pub fn help(self) -> &'static str {
        HELP[self as usize]
    }

    /// What belongs to it.
    pub fn info(self) -> &'static KeyInfo {
        &INFO[self as usize]
    }
}
