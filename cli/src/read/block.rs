//! Finding the published block: by its magic, in what files are mapped to and the program may write to.

use super::{Range, Source};
use rsalloc_core::Mode;
use rsalloc_core::internals::publish::{HEADER_BYTES, MAGIC, Refused, Snapshot, block_bytes};
use std::path::{Path, PathBuf};

/// A block, where it is, and in what file's memory.
pub struct Found {
    pub address: u64,
    pub seen: Snapshot,
    pub file: PathBuf,
}

/// Longer than the initialised variables of any program; a longer mapping is data.
const RANGE_MAX_BYTES: u64 = 64 << 20;
const PIECE_BYTES: usize = 64 << 10;
const ALIGN: usize = 8;

/// The block of the rsalloc that serves `source`: one that does before one that is only loaded. A file with a block that
/// cannot be read, if there is no other.
pub fn find(source: &dyn Source) -> Result<Option<Found>, (PathBuf, Refused)> {
    let (mut loaded, mut refused) = (None, None);
    let mut ranges: Vec<&Range> = source.ranges().iter().collect();
    ranges.sort_by_key(|range| rank(&range.path, source.executable()));
    for range in ranges.into_iter().filter(|range| range.len <= RANGE_MAX_BYTES) {
        for address in candidates(source, range) {
            let file = range.path.clone();
            match read_at(source, address) {
                Ok(seen) if seen.report.mode != Mode::Unset => {
                    return Ok(Some(Found { address, seen, file }));
                }
                // A program that only knows the block's layout, as this command does, is not served by it.
                Ok(_) if source.executable() == Some(&range.path) => {}
                Ok(seen) => loaded = loaded.or(Some(Found { address, seen, file })),
                Err(Refused::NoBlock) => {}
                Err(why) => refused = refused.or(Some((file, why))),
            }
        }
    }
    match (loaded, refused) {
        (None, Some(why)) => Err(why),
        (found, _) => Ok(found),
    }
}

/// The block at `address`.
pub fn read_at(source: &dyn Source, address: u64) -> Result<Snapshot, Refused> {
    let mut header = [0; HEADER_BYTES];
    if source.read(address, &mut header) < HEADER_BYTES {
        return Err(Refused::NoBlock);
    }
    let mut bytes = vec![0; block_bytes(&header)?];
    let len = source.read(address, &mut bytes);
    Snapshot::parse(&bytes[..len], address)
}

/// The library by its usual name first, then the program, then all else.
fn rank(path: &Path, executable: Option<&Path>) -> u8 {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.starts_with("librsalloc") {
        true => 0,
        false if Some(path) == executable => 1,
        false => 2,
    }
}

/// Addresses of the magic in `range`. Only written pages are read: a block is written to when its program starts, and before that by the
/// loader, which fills in its addresses.
fn candidates<'a>(source: &'a dyn Source, range: &Range) -> impl Iterator<Item = u64> + use<'a> {
    let whole = || std::iter::once(range.start..range.start + range.len).collect();
    let parts = source.written(range).unwrap_or_else(whole);
    let pieces = parts.into_iter().flat_map(|part| {
        let end = part.end;
        part.step_by(PIECE_BYTES).map(move |start| start..end.min(start + PIECE_BYTES as u64))
    });
    pieces.flat_map(move |piece| {
        let mut bytes = vec![0; (piece.end - piece.start) as usize];
        let read = source.read(piece.start, &mut bytes);
        let found = bytes[..read].chunks_exact(ALIGN).enumerate();
        let found = found.filter(|(_, word)| **word == MAGIC);
        found.map(|(index, _)| piece.start + (index * ALIGN) as u64).collect::<Vec<_>>()
    })
}
