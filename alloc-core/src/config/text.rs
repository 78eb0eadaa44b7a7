//! `RSALLOC_CONF=key:value,...`: the configuration in the environment.

use super::key::{EXIT_WORDS, Key, Shape};
use super::{Bound, Origin, keep_exit_file, keep_publish_path, store};
use crate::fail::Line;
use crate::os;

/// Reads the environment, unless the program is setuid.
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
/// no other thread reads or writes settings meanwhile.
#[doc(hidden)]
pub fn parse(text: &[u8]) {
    for item in text.split(|&byte| byte == b',').filter(|item| !item.is_empty()) {
        match parse_item(item) {
            Ok((key, value)) => store(key, value, Origin::Environment),
            Err(wrong) => complain(wrong.text(), item, wrong.then()),
        }
    }
}

/// What is wrong with a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// There is no such key.
    Key,
    /// The key has no such value.
    Value,
}

impl Wrong {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Wrong::Key => "unknown key",
            Wrong::Value => "bad value",
        }
    }

    const fn then(self) -> &'static str {
        match self {
            Wrong::Key => "ignored; `rsalloc conf` lists the keys",
            Wrong::Value => "ignored; `rsalloc conf` lists the values",
        }
    }
}

/// The key and the number of a setting `key:value`.
pub fn parse_item(item: &[u8]) -> Result<(Key, usize), Wrong> {
    let key = key_of(item)?;
    let value = item.splitn(2, |&byte| byte == b':').nth(1).unwrap_or(b"").trim_ascii();
    Ok((key, parse_value(&key.info().shape, value).ok_or(Wrong::Value)?))
}

/// The key of a setting `key:value`.
pub fn key_of(item: &[u8]) -> Result<Key, Wrong> {
    let name = item.splitn(2, |&byte| byte == b':').next().unwrap_or(b"").trim_ascii();
    let known = Key::ALL.into_iter().find(|&known| known.info().name.as_bytes() == name);
    known.ok_or(Wrong::Key)
}

fn parse_value(shape: &Shape, value: &[u8]) -> Option<usize> {
    let word_of = |words: &[&str]| words.iter().position(|word| word.as_bytes() == value);
    match shape {
        Shape::Switch => parse_switch(value).map(usize::from),
        Shape::Words(words) => word_of(words),
        Shape::Number => os::parse_number(value),
        Shape::NumberOrOff if parse_switch(value) == Some(false) => Some(0),
        Shape::NumberOrOff => os::parse_number(value),
        Shape::NumberOrSwitch(on, range) => match parse_switch(value) {
            Some(is_on) => Some(if is_on { *on } else { 0 }),
            None => os::parse_number(value).filter(|number| range.contains(number)),
        },
        Shape::Bound if value == b"auto" => Some(Bound::Auto.number()),
        Shape::Bound | Shape::FirmBound => parse_bound(value).map(Bound::number),
        // On means text: its number is 1.
        Shape::Exit => parse_switch(value)
            .map(usize::from)
            .or_else(|| word_of(&EXIT_WORDS))
            .or_else(|| keep_exit_file(value)),
        Shape::Path => match parse_switch(value) {
            Some(false) => Some(0),
            Some(true) => None,
            None => keep_publish_path(value),
        },
    }
}

fn parse_bound(value: &[u8]) -> Option<Bound> {
    if parse_switch(value) == Some(false) {
        return Some(Bound::Off);
    }
    match value.strip_suffix(b"%") {
        Some(percent) => match os::parse_number(percent)? {
            percent @ 1..=100 => Some(Bound::Share(percent as u8)),
            _ => None,
        },
        // More is as good as none, and stands for other bounds.
        None => os::parse_number(value).filter(|&bytes| bytes <= MOST_BYTES).map(Bound::Bytes),
    }
}

/// More than any machine has.
const MOST_BYTES: usize = 1 << 56;

fn parse_switch(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"on" | b"true" | b"yes" => Some(true),
        b"0" | b"off" | b"false" | b"no" => Some(false),
        _ => None,
    }
}

#[cold]
fn complain(what: &str, item: &[u8], then: &str) {
    let mut line = Line::new();
    line.text("rsalloc: RSALLOC_CONF: ").text(what).text(" '");
    line.shown(&item[..item.len().min(64)]).text("': ").text(then).text("\n");
    line.write_to_stderr();
}
