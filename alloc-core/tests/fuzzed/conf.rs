//! Texts from outside: RSALLOC_CONF, another process's published block.
//!
//! The settings that a text leaves are compared with those of a second, plain reading of its rules, and
//! each item that is refused must be named in one line on standard error.

use crate::objects::{Defect, alone};
use rsalloc_core::internals::config;
use rsalloc_core::internals::publish::Snapshot;
use rsalloc_core::internals::sums::{self, ClassCounts, Memory};
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsRawFd, FromRawFd};

/// Each key as it is by default, which the second reading starts from.
const START: &[u8] =
    b"mode:auto,index:auto,cache:2097152,dirty:1048576,stats_at_exit:off,verbose:0,hardened:0,guard:0,membarrier:on,profile:off,limit:off,limit_hard:off,publish:off,nodes:on";
const KEYS: [&str; 14] = [
    "mode",
    "index",
    "cache",
    "dirty",
    "stats_at_exit",
    "verbose",
    "hardened",
    "guard",
    "membarrier",
    "profile",
    "limit",
    "limit_hard",
    "publish",
    "nodes",
];

/// Has the text read; panics if a promise is broken.
pub fn replay(text: &[u8], defect: Option<Defect>) {
    let _alone = alone();
    assert_eq!(complaints_of(START), 0);
    let mut expected = KEYS.map(config_value);
    let mut refused = 0;
    for item in text.split(|&byte| byte == b',').filter(|item| !item.is_empty()) {
        match read(item) {
            Some((key, value)) => expected[key] = value,
            None => refused += 1,
        }
    }
    let text = match defect {
        Some(_) => text.trim_ascii_end().strip_suffix(b"m").unwrap_or(text),
        None => text,
    };
    assert_eq!(complaints_of(text), refused, "lines about items that are refused");
    assert_eq!(KEYS.map(config_value), expected);
    read_as_a_block(text);
    assert_eq!(complaints_of(START), 0);
}

/// Takes `text` for a published block, and its counters for what the block says: as a damaged process would have them.
fn read_as_a_block(text: &[u8]) {
    const START: [u8; 12] = *b"rsalloc\0\x03\0\0\0";
    let mut bytes = [&START, &(text.len() as u32 + 16).to_ne_bytes()[..], text].concat();
    let _ = Snapshot::parse(text, 0);
    // The report, and the block's own address behind it.
    bytes.iter_mut().skip(16).take(64).for_each(|byte| *byte = 0);
    let address = bytes.get(80..88).map_or(0, |word| u64::from_ne_bytes(word.try_into().unwrap()));
    let Ok(Snapshot { map: Some(map), .. }) = Snapshot::parse(&bytes, address) else { return };
    let mut classes = [ClassCounts::default(); 100];
    let (left, seed) = (Cell::new(100_000), address);
    sums::collect(&map, &Damaged { left, seed }, &mut classes, &mut |_| ());
}

/// Memory in which each word is another number, and of which some words can be read.
struct Damaged {
    left: Cell<u32>,
    seed: u64,
}

impl Memory for Damaged {
    fn word(&self, address: u64) -> Option<u64> {
        self.left.set(self.left.get().checked_sub(1)?);
        Some((address ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn half(&self, address: u64) -> Option<u32> {
        self.word(address).map(|word| (word >> 32) as u32)
    }
}

/// The key's number and the value's text, if the item is a good one.
fn read(item: &[u8]) -> Option<(usize, String)> {
    let item = std::str::from_utf8(item).ok()?;
    let (key, value) = item.split_once(':')?;
    let key = key.trim_matches(is_space);
    let value = value.trim_matches(is_space);
    let good = match key {
        "mode" => ["auto", "atomic"].contains(&value).then(|| value.into()),
        "index" => ["cpu_id", "mm_cid", "auto"].contains(&value).then(|| value.into()),
        "membarrier" | "hardened" | "nodes" | "verbose" => switch(value).map(str::to_owned),
        "guard" if switch(value) == Some("off") => Some("0".into()),
        "profile" if switch(value) == Some("off") => Some("0".into()),
        "profile" if switch(value) == Some("on") => Some("524288".into()),
        "cache" | "dirty" | "guard" | "profile" => number(value).map(|number| number.to_string()),
        "limit" if value == "auto" => Some("auto".into()),
        "limit" | "limit_hard" => bound(value),
        "stats_at_exit" => match switch(value) {
            Some("on") => Some("text".into()),
            Some(off) => Some(off.into()),
            None => (1..=255).contains(&value.len()).then(|| value.into()),
        },
        "publish" => match switch(value) {
            Some("off") => Some("off".into()),
            Some(_) => None,
            None => (1..=255).contains(&value.len()).then(|| value.into()),
        },
        _ => None,
    };
    Some((KEYS.iter().position(|&known| known == key)?, good?))
}

fn switch(text: &str) -> Option<&'static str> {
    const WORDS: [(&str, &str); 4] = [("1", "0"), ("on", "off"), ("true", "false"), ("yes", "no")];
    WORDS.iter().find_map(|&(on, off)| match text {
        _ if text == on => Some("on"),
        _ if text == off => Some("off"),
        _ => None,
    })
}

fn number(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches(|c: char| "kKmMgG".contains(c));
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value: u128 = plain.then(|| digits.parse().unwrap_or(u128::MAX))?;
    usize::try_from(value.checked_mul(1 << shift)?).ok()
}

/// `off`, a share of 1 to 100 percent, or bytes, which 0 of is off.
fn bound(text: &str) -> Option<String> {
    if switch(text) == Some("off") {
        return Some("off".into());
    }
    match text.strip_suffix('%') {
        Some(percent) => number(percent)
            .filter(|percent| (1..=100).contains(percent))
            .map(|percent| format!("{percent}%")),
        None => number(text).filter(|&bytes| bytes <= 1 << 56).map(|bytes| match bytes {
            0 => "off".into(),
            bytes => bytes.to_string(),
        }),
    }
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace()
}

fn config_value(key: &str) -> String {
    let setting = config::settings().find(|setting| setting.key == key).expect("a known key");
    setting.value.to_string()
}

/// Parses `text`; how many lines that says on standard error.
fn complaints_of(text: &[u8]) -> usize {
    let mut heard = String::new();
    let mut file = memory_file();
    // SAFETY: descriptors only; standard error is put back.
    unsafe {
        let stderr = libc::dup(2);
        assert!(stderr >= 0 && libc::dup2(file.as_raw_fd(), 2) == 2);
        config::parse(text);
        assert!(libc::dup2(stderr, 2) == 2 && libc::close(stderr) == 0);
    }
    file.rewind().and_then(|()| file.read_to_string(&mut heard)).expect("lines of text");
    assert!(heard.is_empty() || heard.ends_with('\n'), "a line without an end: {heard:?}");
    assert!(heard.lines().all(|line| line.starts_with("rsalloc: RSALLOC_CONF: ")), "{heard:?}");
    assert!(heard.chars().all(|c| c == '\n' || !c.is_control()), "control characters: {heard:?}");
    heard.lines().count()
}

fn memory_file() -> File {
    // SAFETY: the descriptor is new and the file's own.
    unsafe {
        let fd = libc::memfd_create(c"stderr".as_ptr(), 0);
        assert!(fd >= 0, "no memory file");
        File::from_raw_fd(fd)
    }
}
