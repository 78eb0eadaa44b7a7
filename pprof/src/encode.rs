//! Encoding: `profile.proto` of github.com/google/pprof as protocol buffers, compressed by gzip.

use crate::{Function, Line, Location, Mapping, Profile, Sample, Symbolized, ValueType};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::io::{self, Write};

impl Profile {
    /// Writes the profile as files have it: encoded and compressed.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        let mut gzip = GzEncoder::new(to, Compression::default());
        gzip.write_all(&self.encode())?;
        gzip.finish()?.flush()
    }

    /// The encoded profile, not compressed.
    pub fn encode(&self) -> Vec<u8> {
        let mut strings = Strings::default();
        strings.index("");
        let mut out = Message::default();
        for kind in &self.sample_types {
            out.message(1, value_type(kind, &mut strings));
        }
        for sample in &self.samples {
            out.message(2, encode_sample(sample));
        }
        for (index, mapping) in self.mappings.iter().enumerate() {
            out.message(3, encode_mapping(id(index), mapping, &mut strings));
        }
        for (index, location) in self.locations.iter().enumerate() {
            out.message(4, encode_location(id(index), location));
        }
        for (index, function) in self.functions.iter().enumerate() {
            out.message(5, encode_function(id(index), function, &mut strings));
        }
        let period_type = value_type(&self.period_type, &mut strings);
        let comments: Vec<u64> = self.comments.iter().map(|text| strings.index(text)).collect();
        let default = strings.index(&self.default_sample_type);
        for text in &strings.texts {
            out.bytes(6, text.as_bytes());
        }
        out.number(9, self.time_nanos as u64);
        out.number(10, self.duration_nanos as u64);
        out.message(11, period_type);
        out.number(12, self.period as u64);
        out.packed(13, &comments);
        out.number(14, default);
        out.0
    }
}

/// Ids begin at 1: 0 means none.
fn id(index: usize) -> u64 {
    index as u64 + 1
}

fn value_type<'a>(of: &'a ValueType, strings: &mut Strings<'a>) -> Message {
    let mut out = Message::default();
    out.number(1, strings.index(&of.kind));
    out.number(2, strings.index(&of.unit));
    out
}

fn encode_sample(sample: &Sample) -> Message {
    let mut out = Message::default();
    let locations: Vec<u64> = sample.locations.iter().map(|&index| id(index)).collect();
    let values: Vec<u64> = sample.values.iter().map(|&value| value as u64).collect();
    out.packed(1, &locations);
    out.packed(2, &values);
    out
}

fn encode_mapping<'a>(id: u64, mapping: &'a Mapping, strings: &mut Strings<'a>) -> Message {
    let Mapping { start, end, file_offset, file, build_id, symbolized } = mapping;
    let mut out = Message::default();
    out.number(1, id);
    out.number(2, *start);
    out.number(3, *end);
    out.number(4, *file_offset);
    out.number(5, strings.index(file));
    out.number(6, strings.index(build_id));
    out.number(7, u64::from(*symbolized != Symbolized::No));
    for field in 8..=10 {
        out.number(field, u64::from(*symbolized == Symbolized::Lines));
    }
    out
}

fn encode_location(id_: u64, location: &Location) -> Message {
    let mut out = Message::default();
    out.number(1, id_);
    out.number(2, location.mapping.map_or(0, id));
    out.number(3, location.address);
    for &Line { function, line } in &location.lines {
        let mut inner = Message::default();
        inner.number(1, id(function));
        inner.number(2, line as u64);
        out.message(4, inner);
    }
    out
}

fn encode_function<'a>(id: u64, function: &'a Function, strings: &mut Strings<'a>) -> Message {
    let mut out = Message::default();
    out.number(1, id);
    out.number(2, strings.index(&function.name));
    out.number(3, strings.index(&function.system_name));
    out.number(4, strings.index(&function.file));
    out
}

/// The string table; its first entry is the empty string.
#[derive(Default)]
struct Strings<'a> {
    texts: Vec<&'a str>,
    indices: HashMap<&'a str, u64>,
}

impl<'a> Strings<'a> {
    fn index(&mut self, text: &'a str) -> u64 {
        *self.indices.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() as u64 - 1
        })
    }
}

/// Encoded fields. A field that is 0 is left out, as the format wants it.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.varint(field << 3);
            self.varint(value);
        }
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, inner: Message) {
        self.bytes(field, &inner.0);
    }

    fn packed(&mut self, field: u64, values: &[u64]) {
        if !values.is_empty() {
            let mut inner = Message::default();
            values.iter().for_each(|&value| inner.varint(value));
            self.bytes(field, &inner.0);
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
