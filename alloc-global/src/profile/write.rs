//! The profile in the format of pprof.

extern crate std;

use rsalloc_core::internals::profile::layout::{NEVER_STARTED, RUNNING, Stack};
use rsalloc_core::internals::profile::{OwnMemory, own_header, read};
use rsalloc_pprof::{Amount, HeapProfile, HeapSample, Mapping};
use std::io::{self, Write};
use std::prelude::v1::*;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes what was sampled since the last start, live and allocated, in the format of pprof, compressed. Addresses have no names in
/// it: `rsalloc symbolize`, or `go tool pprof` with the program, finds them.
///
/// ```standalone_crate
/// # #[global_allocator]
/// # static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
/// # fn main() -> std::io::Result<()> {
/// rsalloc::profile::start(0).unwrap();
/// let kept = vec![1u8; 10 << 20];
/// let mut profile = Vec::new();
/// rsalloc::profile::write_pprof(&mut profile)?;
/// assert!(profile.starts_with(&[0x1f, 0x8b]));
/// # drop(kept);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// No profile was ever started, or `to` fails.
pub fn write_pprof(to: impl Write) -> io::Result<()> {
    let header = own_header();
    if header.state == NEVER_STARTED {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no heap profile was ever started"));
    }
    let mut samples = Vec::new();
    read::for_each_stack(&header, &OwnMemory, |_, stack: &Stack<u64>| {
        let [allocated, live] = stack.amounts().map(|(objects, bytes)| Amount { objects, bytes });
        if allocated != Amount::default() {
            let frames = read::frames(&header, stack, &OwnMemory).collect();
            samples.push(HeapSample { stack: frames, allocated, live });
        }
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let end = if header.state == RUNNING { now } else { header.stopped_ns };
    let profile = HeapProfile {
        interval_bytes: header.interval_bytes,
        time_nanos: end as i64,
        duration_nanos: end.saturating_sub(header.started_ns) as i64,
        mappings: mappings()?,
        samples,
        comments: Vec::new(),
    };
    profile.to_pprof().write(to)
}

/// What is mapped with code, the program's own file first.
fn mappings() -> io::Result<Vec<Mapping>> {
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut mappings: Vec<_> = maps.lines().filter_map(mapping_of).collect();
    mappings.sort_by_key(|mapping| program.as_os_str() != mapping.file.as_str());
    Ok(mappings)
}

/// A line of /proc/PID/maps (proc_pid_maps(5)), if it is one of code.
fn mapping_of(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()?.contains('x');
    let offset = words.next()?;
    let file = words.nth(2)?.trim_start();
    let number = |text| u64::from_str_radix(text, 16).ok();
    let mapping = Mapping {
        start: number(start)?,
        end: number(end)?,
        file_offset: number(offset)?,
        file: file.into(),
        build_id: build_id(file).unwrap_or_default(),
        ..Mapping::default()
    };
    is_code.then_some(mapping)
}

/// The build id of an ELF file of this machine (elf(5), PT_NOTE; NT_GNU_BUILD_ID is 3), in hexadecimal digits.
fn build_id(file: &str) -> Option<String> {
    const PT_NOTE: u64 = 4;
    const HEAD_BYTES: u64 = 1 << 16;
    let mut head = Vec::new();
    io::Read::read_to_end(
        &mut io::Read::take(std::fs::File::open(file).ok()?, HEAD_BYTES),
        &mut head,
    )
    .ok()?;
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for header in (0..count).map(|index| (headers + index * size) as usize) {
        if number(header, 4)? != PT_NOTE {
            continue;
        }
        let mut at = number(header + 8, 8)? as usize;
        let end = at + number(header + 32, 8)? as usize;
        while at + 12 <= end {
            let (name, len) = (number(at, 4)? as usize, number(at + 4, 4)? as usize);
            let data = at + 12 + name.next_multiple_of(4);
            if number(at + 8, 4)? == 3 && head.get(at + 12..at + 16)? == b"GNU\0" {
                let id = head.get(data..data + len)?;
                return Some(id.iter().map(|byte| std::format!("{byte:02x}")).collect());
            }
            at = data + len.next_multiple_of(4);
        }
    }
    None
}
