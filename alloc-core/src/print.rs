//! What a process prints about itself: the statistics at its end, and the buffer that such texts go through.
//!
//! Promises to allocate nothing: a fixed buffer is formatted into and handed on when it is full.

use crate::config::{self, StatsAtExit};
use crate::describe;
use crate::engine::init::report;
use crate::os::{self, File};
use crate::stats::stats;
use core::ffi::{CStr, c_int};
use core::fmt::Write;

/// Obeys the setting `stats_at_exit`.
pub fn stats_at_exit() {
    match config::stats_at_exit() {
        StatsAtExit::Off => {}
        StatsAtExit::Text => all_text(&mut to_fd(libc::STDERR_FILENO)),
        StatsAtExit::Json => all_json(&mut to_fd(libc::STDERR_FILENO)),
        StatsAtExit::JsonFile(name) => json_to_file(name),
    }
}

/// Report and statistics as text.
pub fn all_text(out: &mut impl Write) {
    let _ = writeln!(out, "{}\n{}", report(), stats());
}

/// Report and statistics as JSON.
pub fn all_json(out: &mut impl Write) {
    let _ = describe::all_json(out, &report(), &stats());
}

fn json_to_file(name: &str) {
    if let Some(fd) = inherited(name) {
        return json_in_one_write(fd);
    }
    let mut path = Path::default();
    let Some(file) = path.expanded(name).and_then(File::create) else {
        let mut err = to_fd(libc::STDERR_FILENO);
        let _ = writeln!(err, "rsalloc: cannot write the statistics to {name}; see stats_at_exit");
        return;
    };
    all_json(&mut to_fd(file.descriptor()));
}

/// The descriptor that `name`, `fd=NUMBER=DEVICE=INODE`, stands for, with which `rsalloc stats` starts programs; -1 if it is
/// closed, or the program's own by now. None if the name is a path.
fn inherited(name: &str) -> Option<c_int> {
    let mut numbers = name.strip_prefix("fd=")?.splitn(3, '=').map(|part| part.parse::<u64>().ok());
    let [fd, device, inode] = [numbers.next()??, numbers.next()??, numbers.next()??];
    let fd = c_int::try_from(fd).ok()?;
    Some(if os::is_file(fd, device, inode) { fd } else { -1 })
}

/// Descendants of a program may end at once, and append to the same file: [`BUFFER_BYTES`] hold it all.
fn json_in_one_write(fd: c_int) {
    if fd >= 0 {
        all_json(&mut to_fd(fd));
    }
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
pub struct Buffered<S: FnMut(&[u8])> {
    bytes: [u8; BUFFER_BYTES],
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
        Self { bytes: [0; BUFFER_BYTES], len: 0, sink }
    }

    fn flush(&mut self) {
        (self.sink)(&self.bytes[..self.len]);
        self.len = 0;
    }
}

impl<S: FnMut(&[u8])> Write for Buffered<S> {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for &byte in s.as_bytes() {
            if self.len == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

impl<S: FnMut(&[u8])> Drop for Buffered<S> {
    fn drop(&mut self) {
        self.flush();
    }
}
