//! Decoding of what [`Profile::write`] and other programs wrote.

use crate::{Function, Line, Location, Mapping, Profile, Sample, Symbolized, ValueType};
use flate2::read::MultiGzDecoder;
use std::collections::HashMap;
use std::io::Read;

/// Why bytes are no profile.
#[derive(Debug)]
pub struct DecodeError(&'static str);

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for DecodeError {}

type Result<T> = std::result::Result<T, DecodeError>;

/// Longer profiles are refused: what unpacks to more is no profile.
const MAX_BYTES: u64 = 1 << 30;

impl Profile {
    /// Reads a profile, compressed or not.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            return Self::decode(bytes);
        }
        let mut plain = Vec::new();
        let mut gzip = MultiGzDecoder::new(bytes).take(MAX_BYTES);
        gzip.read_to_end(&mut plain).map_err(|_| DecodeError("damaged gzip data"))?;
        Self::decode(&plain)
    }

    /// Reads a profile that is not compressed.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut raw = Raw::default();
        each_field(bytes, |field, value| {
            match (field, value) {
                (1, Value::Bytes(inner)) => raw.sample_types.push(pair(inner)?),
                (2, Value::Bytes(inner)) => raw.samples.push(sample(inner)?),
                (3, Value::Bytes(inner)) => raw.mappings.push(numbers(inner)?),
                (4, Value::Bytes(inner)) => raw.locations.push(location(inner)?),
                (5, Value::Bytes(inner)) => raw.functions.push(numbers(inner)?),
                (6, Value::Bytes(text)) => raw.strings.push(String::from_utf8_lossy(text).into()),
                (9, Value::Number(value)) => raw.time_nanos = value as i64,
                (10, Value::Number(value)) => raw.duration_nanos = value as i64,
                (11, Value::Bytes(inner)) => raw.period_type = pair(inner)?,
                (12, Value::Number(value)) => raw.period = value as i64,
                (13, value) => value.append_to(&mut raw.comments)?,
                (14, Value::Number(value)) => raw.default_sample_type = value,
                _ => {}
            }
            Ok(())
        })?;
        raw.resolve()
    }
}

/// A message with ids and indices of strings; of a mapping or a function, its fields up to the 10th.
#[derive(Default)]
struct Raw {
    sample_types: Vec<(u64, u64)>,
    samples: Vec<(Vec<u64>, Vec<u64>)>,
    mappings: Vec<[u64; 11]>,
    locations: Vec<([u64; 11], Vec<[u64; 11]>)>,
    functions: Vec<[u64; 11]>,
    strings: Vec<String>,
    time_nanos: i64,
    duration_nanos: i64,
    period_type: (u64, u64),
    period: i64,
    comments: Vec<u64>,
    default_sample_type: u64,
}

impl Raw {
    fn resolve(&self) -> Result<Profile> {
        let value_type = |&(kind, unit): &(u64, u64)| {
            Ok(ValueType { kind: self.text(kind)?, unit: self.text(unit)? })
        };
        let mapping_ids = Ids::of(self.mappings.iter().map(|fields| fields[1]));
        let location_ids = Ids::of(self.locations.iter().map(|(fields, _)| fields[1]));
        let function_ids = Ids::of(self.functions.iter().map(|fields| fields[1]));
        Ok(Profile {
            sample_types: self.sample_types.iter().map(value_type).collect::<Result<_>>()?,
            samples: self
                .samples
                .iter()
                .map(|(locations, values)| {
                    if values.len() != self.sample_types.len() {
                        return Err(DecodeError("a sample with another number of values"));
                    }
                    let locations = locations.iter().map(|&id| location_ids.index(id));
                    Ok(Sample {
                        locations: locations.collect::<Result<_>>()?,
                        values: values.iter().map(|&value| value as i64).collect(),
                    })
                })
                .collect::<Result<_>>()?,
            mappings: self
                .mappings
                .iter()
                .map(|fields| self.mapping(fields))
                .collect::<Result<_>>()?,
            locations: self
                .locations
                .iter()
                .map(|(fields, lines)| {
                    let line = |line: &[u64; 11]| {
                        Ok(Line { function: function_ids.index(line[1])?, line: line[2] as i64 })
                    };
                    Ok(Location {
                        mapping: (fields[2] != 0)
                            .then(|| mapping_ids.index(fields[2]))
                            .transpose()?,
                        address: fields[3],
                        lines: lines.iter().map(line).collect::<Result<_>>()?,
                    })
                })
                .collect::<Result<_>>()?,
            functions: self
                .functions
                .iter()
                .map(|fields| {
                    Ok(Function {
                        name: self.text(fields[2])?,
                        system_name: self.text(fields[3])?,
                        file: self.text(fields[4])?,
                    })
                })
                .collect::<Result<_>>()?,
            time_nanos: self.time_nanos,
            duration_nanos: self.duration_nanos,
            period_type: value_type(&self.period_type)?,
            period: self.period,
            comments: self.comments.iter().map(|&index| self.text(index)).collect::<Result<_>>()?,
            default_sample_type: self.text(self.default_sample_type)?,
        })
    }

    fn mapping(&self, fields: &[u64; 11]) -> Result<Mapping> {
        Ok(Mapping {
            start: fields[2],
            end: fields[3],
            file_offset: fields[4],
            file: self.text(fields[5])?,
            build_id: self.text(fields[6])?,
            symbolized: match (fields[7], fields[9]) {
                (0, _) => Symbolized::No,
                (_, 0) => Symbolized::Functions,
                _ => Symbolized::Lines,
            },
        })
    }

    /// The string with that index. A profile without strings has the empty one only.
    fn text(&self, index: u64) -> Result<String> {
        match self.strings.get(index as usize) {
            Some(text) => Ok(text.clone()),
            None if index == 0 => Ok(String::new()),
            None => Err(DecodeError("an index without a string")),
        }
    }
}

/// From ids, which may be any numbers, to indices.
struct Ids(HashMap<u64, usize>);

impl Ids {
    fn of(ids: impl Iterator<Item = u64>) -> Self {
        Ids(ids.enumerate().map(|(index, id)| (id, index)).collect())
    }

    fn index(&self, id: u64) -> Result<usize> {
        self.0.get(&id).copied().ok_or(DecodeError("an id that nothing has"))
    }
}

fn pair(bytes: &[u8]) -> Result<(u64, u64)> {
    numbers(bytes).map(|fields| (fields[1], fields[2]))
}

fn sample(bytes: &[u8]) -> Result<(Vec<u64>, Vec<u64>)> {
    let (mut locations, mut values) = (Vec::new(), Vec::new());
    each_field(bytes, |field, value| match field {
        1 => value.append_to(&mut locations),
        2 => value.append_to(&mut values),
        _ => Ok(()),
    })?;
    Ok((locations, values))
}

fn location(bytes: &[u8]) -> Result<([u64; 11], Vec<[u64; 11]>)> {
    let mut lines = Vec::new();
    each_field(bytes, |field, value| {
        if let (4, Value::Bytes(inner)) = (field, value) {
            lines.push(numbers(inner)?);
        }
        Ok(())
    })?;
    Ok((numbers(bytes)?, lines))
}

/// The numbers of a message by their fields; those of other fields are left out.
fn numbers(bytes: &[u8]) -> Result<[u64; 11]> {
    let mut numbers = [0; 11];
    each_field(bytes, |field, value| {
        if let (Some(number), Value::Number(value)) = (numbers.get_mut(field as usize), value) {
            *number = value;
        }
        Ok(())
    })?;
    Ok(numbers)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    /// A number, or packed numbers.
    fn append_to(self, to: &mut Vec<u64>) -> Result<()> {
        match self {
            Value::Number(value) => to.push(value),
            Value::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    to.push(varint(&mut bytes)?);
                }
            }
        }
        Ok(())
    }
}

fn each_field<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u64, Value<'a>) -> Result<()>,
) -> Result<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Bytes(split(&mut bytes, 8)?),
            2 => {
                let len = varint(&mut bytes)?;
                Value::Bytes(split(&mut bytes, len)?)
            }
            5 => Value::Bytes(split(&mut bytes, 4)?),
            _ => return Err(DecodeError("a field of an unknown kind")),
        };
        // Fixed numbers do not occur in a profile: they are skipped.
        if matches!(tag & 7, 0 | 2) {
            take(tag >> 3, value)?;
        }
    }
    Ok(())
}

fn split<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let len = usize::try_from(len).ok().filter(|len| *len <= bytes.len());
    let (first, rest) = bytes.split_at(len.ok_or(CUT_SHORT)?);
    *bytes = rest;
    Ok(first)
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CUT_SHORT)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(DecodeError("a number of more than 64 bits"))
}

const CUT_SHORT: DecodeError = DecodeError("cut short, or no profile");
