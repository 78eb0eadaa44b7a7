//! What CRIU says of its own time: the image `stats-dump`.
//!
//! Two magic numbers, a length, and a message of protocol buffers (`stats.proto`: entry 1 of `StatsEntry`, whose
//! entry 1 is `freezing_time`, in microseconds). Called by `images`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Of an image and of this one (criu/include/magic.h).
const MAGIC: [u32; 2] = [0x5510_5940, 0x5709_3306];

/// How long the threads took to be stopped.
pub fn stopping(file: &Path) -> Result<Duration> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let micros = freezing_time(&bytes);
    let micros = micros.with_context(|| format!("{} has no freezing time", file.display()))?;
    Ok(Duration::from_micros(micros))
}

fn freezing_time(bytes: &[u8]) -> Option<u64> {
    let (head, message) = bytes.split_at_checked(12)?;
    let words = [0, 4].map(|at| u32::from_le_bytes(head[at..at + 4].try_into().expect("four")));
    if words != MAGIC {
        return None;
    }
    let (tag, rest) = varint(message)?;
    let (len, rest) = varint(rest)?;
    // Field 1, a message.
    if tag != 1 << 3 | 2 {
        return None;
    }
    let (tag, rest) = varint(rest.get(..len as usize)?)?;
    // Field 1, a number.
    (tag == 1 << 3).then(|| varint(rest).map(|(micros, _)| micros)).flatten()
}

/// A number in groups of seven bits, the lowest first, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let groups = bytes[..len].iter().rev();
    let value = groups.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, &bytes[len..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_of_the_first_entry() {
        let mut image: Vec<u8> = MAGIC.iter().flat_map(|word| word.to_le_bytes()).collect();
        image.extend([7, 0, 0, 0, 0x0a, 5, 0x08, 0xb9, 0x60, 0x10, 1]);
        assert_eq!(freezing_time(&image), Some(12_345));
        image[0] ^= 1;
        assert_eq!(freezing_time(&image), None);
        assert_eq!(freezing_time(&image[..11]), None);
    }
}
