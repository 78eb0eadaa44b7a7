//! What a process prints about itself: the statistics at its end, and the buffer that such texts go through.
//!
//! Promises to allocate nothing: a fixed buffer is formatted into and handed on when it is full.

use crate::config::{self, StatsAtExit};
use crate::describe;
use crate::engine::init::report;
use crate::os::{self, File};
use crate::publish;
use crate::size_class::CLASSES;
use crate::stats::stats;
use crate::sums::{ClassCounts, Stats};
use core::ffi::{CStr, c_int};
use core::fmt::Write;

/// The memory that the statistics at the end are collected and formatted in.
pub struct Buffers {
    classes: [ClassCounts; CLASSES],
    text: [u8; BUFFER_BYTES],
}

impl Buffers {
    /// An empty one.
    #[allow(clippy::new_without_default, reason = "for a static")]
    pub const fn new() -> Self {
        Buffers { classes: [ClassCounts::NONE; CLASSES], text: [0; BUFFER_BYTES] }
    }

    /// Collects the statistics, and has `write` write them.
    fn tell(&mut self, fd: c_int, write: impl Fn(&mut dyn Write, &Stats)) {
        let stats = publish::collect_own(&mut self.classes).unwrap_or_default();
        write(&mut Buffered::over(&mut self.text, |bytes| write_all(fd, bytes)), &stats);
    }
}

/// Obeys the setting `stats_at_exit`. Fits on the stack of a handler.
pub fn stats_at_exit(buffers: &mut Buffers) {
    match config::stats_at_exit() {
        StatsAtExit::Off => {}
        StatsAtExit::Text => buffers.tell(os::stderr_or_kept(), text),
        StatsAtExit::Json => buffers.tell(os::stderr_or_kept(), json),
        StatsAtExit::JsonFile(name) => json_to_file(name, buffers),
    }
}

/// Report and statistics as text.
pub fn all_text(out: &mut impl Write) {
    text(out, &stats());
}

/// Report and statistics as JSON.
pub fn all_json(out: &mut impl Write) {
    json(out, &stats());
}

fn text(out: &mut dyn Write, stats: &Stats) {
    let _ = writeln!(out, "{}\n{stats}", report());
}

fn json(mut out: &mut dyn Write, stats: &Stats) {
    let _ = describe::all_json(&mut out, &report(), stats);
}

fn json_to_file(name: &str, buffers: &mut Buffers) {
    match inherited(name) {
        // Descendants of a program may end at once, and append to the same file: the buffer holds it all.
        Some(fd) if fd >= 0 => buffers.tell(fd, json),
        Some(_) => {}
        None => match create(name) {
            Some(file) => buffers.tell(file.descriptor(), json),
            None => {
                let mut err = Buffered::over(&mut buffers.text, os::write_stderr);
                let why = "; see stats_at_exit";
                let _ = writeln!(err, "rsalloc: cannot write the statistics to {name}{why}");
            }
        },
    }
}

/// A file for the statistics; none where a write to it would raise SIGXFSZ.
fn create(name: &str) -> Option<File> {
    if os::file_size_limit() < BUFFER_BYTES as u64 {
        return None;
    }
    Path::default().expanded(name).and_then(File::create)
}

/// The descriptor that `name`, `fd=NUMBER=DEVICE=INODE`, stands for, with which `rsalloc stats` starts programs; -1 if it is
/// closed, or the program's own by now. None if the name is a path.
fn inherited(name: &str) -> Option<c_int> {
    let mut numbers = name.strip_prefix("fd=")?.splitn(3, '=').map(|part| part.parse::<u64>().ok());
    let [fd, device, inode] = [numbers.next()??, numbers.next()??, numbers.next()??];
    let fd = c_int::try_from(fd).ok()?;
    Some(if os::is_file(fd, device, inode) { fd } else { -1 })
}

/// A zero-terminated path.
pub struct Path {
    bytes: [u8; 1024],
    len: usize,
}

impl Default for Path {
    fn default() -> Self {
        Path { bytes: [0; 1024], len: 0 }
    }
}

impl Path {
    /// `name` with the process id in the place of each `%p`; none if that is too long.
    pub fn expanded(&mut self, name: &str) -> Option<&CStr> {
        self.expand(name).ok()?;
        self.as_c_str()
    }

    fn expand(&mut self, name: &str) -> core::fmt::Result {
        let mut parts = name.split("%p");
        self.write_str(parts.next().unwrap_or_default())?;
        parts.try_for_each(|part| write!(self, "{}{part}", os::process_id()))
    }

    /// The path, up to its first zero: `expand` never overwrites the last.
    fn as_c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).ok()
    }
}

impl Write for Path {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let end = self.len + s.len();
        if end >= self.bytes.len() {
            return Err(core::fmt::Error);
        }
        self.bytes[self.len..end].copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// More than the statistics have as JSON.
const BUFFER_BYTES: usize = 4096;

/// A fixed buffer in front of a sink, emptied when full and when dropped.
pub struct Buffered<S: FnMut(&[u8]), B: AsMut<[u8]> = [u8; BUFFER_BYTES]> {
    bytes: B,
    len: usize,
    sink: S,
}

/// A buffer that is written to a file descriptor.
pub fn to_fd(fd: c_int) -> Buffered<impl FnMut(&[u8])> {
    Buffered::new(move |bytes| write_all(fd, bytes))
}

fn write_all(fd: c_int, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match os::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(libc::EINTR) => {}
            Err(_) => return, // There is no other place to say so.
        }
    }
}

impl<S: FnMut(&[u8])> Buffered<S> {
    /// An empty buffer in front of `sink`.
    pub fn new(sink: S) -> Self {
        Self::over([0; BUFFER_BYTES], sink)
    }
}

impl<S: FnMut(&[u8]), B: AsMut<[u8]>> Buffered<S, B> {
    const fn over(bytes: B, sink: S) -> Self {
        Self { bytes, len: 0, sink }
    }

    fn flush(&mut self) {
        (self.sink)(&self.bytes.as_mut()[..self.len]);
        self.len = 0;
    }
}

impl<S: FnMut(&[u8]), B: AsMut<[u8]>> Write for Buffered<S, B> {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for &byte in s.as_bytes() {
            if self.len == self.bytes.as_mut().len() {
                self.flush();
            }
            self.bytes.as_mut()[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

impl<S: FnMut(&[u8]), B: AsMut<[u8]>> Drop for Buffered<S, B> {
    fn drop(&mut self) {
        self.flush();
    }
}
