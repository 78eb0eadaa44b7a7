//! The layout of a trace, as the recorder writes and the loader reads it; docs/trace.md shows it.
//!
//! Compiled into both. Allocates nothing.
#![allow(dead_code)] // each side uses a part

use std::sync::atomic::{AtomicU32, AtomicU64};

/// How a trace begins.
pub const MAGIC: [u8; 8] = *b"rsalloct";
/// Of the layout.
pub const VERSION: u32 = 1;
/// Where the first chunk begins.
pub const HEADER_BYTES: usize = 4096;
/// One thread's events, until they are full.
pub const CHUNK_BYTES: usize = 32 << 10;
/// What stands before the events of a chunk.
pub const CHUNK_HEADER_BYTES: usize = 24;
/// The longest event.
pub const EVENT_MAX: usize = 64;
/// The longest name of a program that is kept.
pub const NAME_MAX: usize = 64;

/// The first bytes of a trace.
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// [`CHUNK_BYTES`].
    pub chunk_bytes: u32,
    /// Chunks given out.
    pub chunks: AtomicU64,
    /// Numbers given out.
    pub sequence: AtomicU64,
    /// Threads that made an event.
    pub threads: AtomicU32,
    /// Calls that could not be written.
    pub lost: AtomicU32,
    /// The file name of the program, then zeroes.
    pub name: [u8; NAME_MAX],
}

/// The first bytes of a chunk, and what its first event counts from.
#[repr(C)]
pub struct ChunkHeader {
    /// The thread's number, from 1 on; 0: the chunk was given out and never used.
    pub thread: u32,
    /// 0.
    pub reserved: u32,
    /// The number before.
    pub sequence: u64,
    /// The address before.
    pub address: u64,
}

/// `malloc(size)`.
pub const MALLOC: u8 = 1;
/// `calloc`, its two numbers multiplied.
pub const CALLOC: u8 = 2;
/// An aligned allocation.
pub const ALIGNED: u8 = 3;
/// `realloc` of an object to another size.
pub const RESIZE: u8 = 4;
/// `free`.
pub const FREE: u8 = 5;
/// C23's `free_sized`.
pub const FREE_SIZED: u8 = 6;
/// A number without a call: a `realloc` that failed.
pub const NOTHING: u8 = 7;

/// In the upper half of an event's first byte: the difference of the numbers follows.
pub const LONG: u8 = 15;

/// Puts a number, seven bits a byte, the lowest first.
pub fn put(buffer: &mut [u8; EVENT_MAX], at: &mut usize, mut value: u64) {
    while value >= 0x80 {
        buffer[*at] = value as u8 | 0x80;
        *at += 1;
        value >>= 7;
    }
    buffer[*at] = value as u8;
    *at += 1;
}

/// Takes a number that [`put`] has put; none if the bytes end before.
pub fn take(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// From one address to another, so that a near one is a small number.
pub fn distance(from: u64, to: u64) -> u64 {
    let difference = to.wrapping_sub(from) as i64;
    // A multiple of 8 in all allocators: the lowest bits say when it is not.
    let (scaled, exact) = if difference % 8 == 0 { (difference / 8, 0) } else { (difference, 1) };
    (((scaled << 1) ^ (scaled >> 63)) as u64) << 1 | exact
}

/// The inverse of [`distance`].
pub fn walk(from: u64, distance: u64) -> u64 {
    let (zigzag, exact) = (distance >> 1, distance & 1);
    let scaled = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    from.wrapping_add(if exact == 0 { scaled.wrapping_mul(8) } else { scaled } as u64)
}
