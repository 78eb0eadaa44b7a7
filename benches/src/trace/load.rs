//! A trace file, read: the events of each thread, in the thread's order.
//!
//! Promises that a file which is no trace, of another version or cut short is an error of one line. The layout is
//! `format`'s.

use super::format::{
    ALIGNED, CALLOC, CHUNK_BYTES, CHUNK_HEADER_BYTES, FREE, FREE_SIZED, HEADER_BYTES, LONG, MAGIC,
    MALLOC, NAME_MAX, NOTHING, RESIZE, VERSION, take, walk,
};
use anyhow::{Context, bail, ensure};
use std::collections::HashMap;
use std::path::Path;

/// What a call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// An object of `size` came to be at `address`.
    Make {
        /// By which function.
        how: Make,
        /// Where.
        address: u64,
        /// In bytes.
        size: u64,
    },
    /// The object at `old` became one of `size` at `address`; `after` is its second number.
    Resize {
        /// Where it was.
        old: u64,
        /// Where it is.
        address: u64,
        /// In bytes.
        size: u64,
        /// When it was done.
        after: u64,
    },
    /// The object at `address` went.
    Free {
        /// Where it was.
        address: u64,
        /// By which function.
        sized: Sized,
    },
    /// A call that changed nothing.
    Nothing,
}

/// The function that an object came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Make {
    /// `malloc`.
    Malloc,
    /// `calloc`.
    Calloc,
    /// At a multiple of two to this power.
    Aligned(u8),
}

/// Whether the caller said the size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sized {
    /// `free`.
    No,
    /// `free_sized`.
    Yes,
}

/// A call of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its place among the calls of all threads.
    pub number: u64,
    /// The thread, from 0 on.
    pub thread: u32,
    /// What it did.
    pub call: Call,
}

/// A trace.
#[derive(Debug)]
pub struct Trace {
    /// The program's file name.
    pub name: String,
    /// Numbers that were given to calls.
    pub numbers: u64,
    /// Threads that made a call.
    pub threads: u32,
    /// Calls that the recorder could not write.
    pub lost: u32,
    /// The calls, those of a thread in its order.
    pub events: Vec<Event>,
}

/// Reads the trace at `path`.
pub fn load(path: &Path) -> anyhow::Result<Trace> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} can't be replayed", path.display()))
}

fn parse(bytes: &[u8]) -> anyhow::Result<Trace> {
    ensure!(bytes.starts_with(&MAGIC), "it is no trace of `rsalloc record`");
    ensure!(bytes.len() >= HEADER_BYTES, "it is cut short within its header; record it again");
    let (version, chunk_bytes) = (u32_at(bytes, 8), u32_at(bytes, 12) as usize);
    ensure!(
        version == VERSION && chunk_bytes == CHUNK_BYTES,
        "it has version {version}, this program reads {VERSION}; record it again"
    );
    let (chunks, numbers) = (u64_at(bytes, 16), u64_at(bytes, 24));
    let (threads, lost) = (u32_at(bytes, 32), u32_at(bytes, 36));
    let name: Vec<u8> = bytes[40..40 + NAME_MAX].iter().copied().take_while(|&b| b != 0).collect();
    let body = &bytes[HEADER_BYTES..];
    let whole = body.len() / CHUNK_BYTES;
    ensure!(
        body.len().is_multiple_of(CHUNK_BYTES) && whole as u64 == chunks,
        "it is cut short: {chunks} chunks were recorded, {:.1} are there; record it again",
        body.len() as f64 / CHUNK_BYTES as f64
    );
    let mut of_thread: HashMap<u32, Vec<Event>> = HashMap::new();
    for (index, chunk) in body.chunks_exact(CHUNK_BYTES).enumerate() {
        let thread = u32_at(chunk, 0);
        if thread == 0 {
            continue;
        }
        ensure!(
            thread <= threads,
            "chunk {index} is damaged: it is of thread {thread} of {threads}"
        );
        let events = of_thread.entry(thread - 1).or_default();
        parse_chunk(chunk, thread - 1, events)
            .with_context(|| format!("chunk {index} is damaged"))?;
    }
    let mut events = Vec::new();
    for thread in 0..threads {
        let mut own = of_thread.remove(&thread).unwrap_or_default();
        // Chunks are given out in the order of time, but the thread that asked first may have been mapped last.
        own.sort_by_key(|event| event.number);
        events.append(&mut own);
    }
    ensure!(!events.is_empty(), "it has no call");
    let name = String::from_utf8_lossy(&name).into_owned();
    Ok(Trace { name, numbers, threads, lost, events })
}

fn parse_chunk(chunk: &[u8], thread: u32, events: &mut Vec<Event>) -> anyhow::Result<()> {
    let (mut number, mut address) = (u64_at(chunk, 8), u64_at(chunk, 16));
    let mut at = CHUNK_HEADER_BYTES;
    while let Some(&first) = chunk.get(at).filter(|&&first| first != 0) {
        let from = at;
        at += 1;
        let mut value = || take(chunk, &mut at);
        let mut decode = || -> Option<Call> {
            number += if first >> 4 == LONG { value()? } else { u64::from(first >> 4) };
            let kind = first & 15;
            let step = |address: &mut u64, distance| {
                *address = walk(*address, distance);
                *address
            };
            Some(match kind {
                MALLOC | CALLOC | ALIGNED => {
                    let how = match kind {
                        MALLOC => Make::Malloc,
                        CALLOC => Make::Calloc,
                        _ => Make::Aligned(u8::try_from(value()?).ok().filter(|&log| log < 48)?),
                    };
                    let size = value()?;
                    Call::Make { how, address: step(&mut address, value()?), size }
                }
                RESIZE => {
                    let old = step(&mut address, value()?);
                    let size = value()?;
                    let fresh = step(&mut address, value()?);
                    Call::Resize { old, address: fresh, size, after: number + value()? }
                }
                FREE | FREE_SIZED => {
                    let sized = if kind == FREE { Sized::No } else { Sized::Yes };
                    Call::Free { address: step(&mut address, value()?), sized }
                }
                NOTHING => Call::Nothing,
                _ => return None,
            })
        };
        let Some(call) = decode() else { bail!("no event at byte {from}") };
        events.push(Event { number, thread, call });
        if let Call::Resize { after, .. } = call {
            number = after;
        }
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::super::format::{EVENT_MAX, distance, put};
    use super::*;

    /// A trace with these bytes of events, each list a chunk of the thread with its number.
    fn file(chunks: &[(u32, &[u8])], numbers: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES + chunks.len() * CHUNK_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(CHUNK_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&(chunks.len() as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&numbers.to_le_bytes());
        let threads = chunks.iter().map(|chunk| chunk.0).max().unwrap_or(0);
        bytes[32..36].copy_from_slice(&threads.to_le_bytes());
        bytes[40..44].copy_from_slice(b"test");
        for (index, (thread, events)) in chunks.iter().enumerate() {
            let at = HEADER_BYTES + index * CHUNK_BYTES;
            bytes[at..at + 4].copy_from_slice(&thread.to_le_bytes());
            let at = at + CHUNK_HEADER_BYTES;
            bytes[at..at + events.len()].copy_from_slice(events);
        }
        bytes
    }

    /// One event's bytes.
    fn event(kind: u8, since: u8, values: &[u64]) -> Vec<u8> {
        let (mut buffer, mut len) = ([0; EVENT_MAX], 1);
        buffer[0] = kind | since << 4;
        values.iter().for_each(|&value| put(&mut buffer, &mut len, value));
        buffer[..len].to_vec()
    }

    #[test]
    fn numbers_and_addresses_come_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let (mut buffer, mut len, mut at) = ([0; EVENT_MAX], 0, 0);
            put(&mut buffer, &mut len, value);
            assert_eq!(take(&buffer[..len], &mut at), Some(value));
            assert_eq!(at, len);
            assert_eq!(take(&buffer[..len - 1], &mut 0), None, "cut short");
        }
        let near = 0x7fff_1234_5678;
        for to in [near, near + 16, near - 4096, near + 3, 8, u64::MAX >> 17] {
            assert_eq!(walk(near, distance(near, to)), to, "{to:#x}");
            assert_eq!(walk(to, distance(to, near)), near, "{to:#x}");
        }
        assert!(distance(near, near + 16) < 16, "a near one is one byte");
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let text = |bytes: &[u8]| format!("{:#}", parse(bytes).unwrap_err());
        let events = event(MALLOC, 0, &[24, distance(0, 0x1000)]);
        let good = file(&[(1, &events)], 1);
        assert_eq!(parse(&good).unwrap().events.len(), 1);
        assert!(text(b"\x7fELF and so on").contains("no trace"));
        assert!(text(&[]).contains("no trace"));
        assert!(text(&good[..100]).contains("cut short"));
        assert!(text(&good[..good.len() - 1]).contains("cut short"));
        assert!(text(&good[..HEADER_BYTES]).contains("cut short"));
        let mut other = good.clone();
        other[8] = 9;
        assert!(text(&other).contains("version 9"));
        let mut damaged = good.clone();
        damaged[HEADER_BYTES + CHUNK_HEADER_BYTES] = 15;
        assert!(text(&damaged).contains("no event at byte"));
        assert!(text(&file(&[], 0)).contains("no call"));
    }
}
