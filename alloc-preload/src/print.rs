//! What librsalloc.so prints: malloc_stats(3), malloc_info(3), the statistics at exit, and the
//! settings for `rsalloc conf`.
//!
//! Promises to allocate nothing itself (I3 of the crate): a fixed buffer is formatted into and
//! handed on when it is full. Called by programs, by the `rsalloc` command inside its probe, and
//! by the dynamic linker at exit; the words come from `rsalloc_core::internals::describe`.

use crate::errno;
use core::ffi::{c_int, c_void};
use core::fmt::Write;
use rsalloc_core::Value;
use rsalloc_core::internals::{describe, os};

/// See malloc_stats(3). As glibc's, it is no cancellation point: it writes by system calls of its own.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    errno::keeping(|| text_to(&mut to_fd(libc::STDERR_FILENO)));
}

/// See malloc_info(3). A bad option gives EINVAL, as glibc does, and sets errno, as its manual says.
///
/// # Safety
/// 1. `stream` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        errno::set(libc::EINVAL);
        return libc::EINVAL;
    }
    let mut out = Buffered::new(|bytes: &[u8]| {
        // SAFETY: duty 1; the bytes are live. A stream in error keeps its own error flag.
        unsafe { libc::fwrite(bytes.as_ptr().cast::<c_void>(), 1, bytes.len(), stream) };
    });
    let (report, stats, shape) =
        (rsalloc_core::report(), rsalloc_core::stats(), rsalloc_core::shape());
    let _ = describe::stats_xml(&mut out, &report, &stats, &shape);
    0
}

/// Writes `key value origin` lines of the effective settings to a file descriptor.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_print_settings(fd: c_int) {
    let _ = describe::settings_lines(&mut to_fd(fd), &rsalloc_core::settings());
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = stats_at_exit;

/// Obeys `stats_at_exit`: `text` and `json` go to stderr, anything else names a file (JSON; `%p`
/// becomes the process id).
extern "C" fn stats_at_exit() {
    let settings = rsalloc_core::settings();
    let Some(setting) = settings.iter().find(|s| s.key == "stats_at_exit") else { return };
    match setting.value {
        Value::Word("text") => text_to(&mut to_fd(libc::STDERR_FILENO)),
        Value::Word("json") => json_to(&mut to_fd(libc::STDERR_FILENO)),
        Value::Text(name) => json_to_file(name),
        _ => {}
    }
}

fn json_to_file(name: &str) {
    let mut path = Path { bytes: [0; 1024], len: 0 };
    let fd = match path.expand(name) {
        // SAFETY: `path` ends with a zero, which `expand` never overwrites.
        Ok(()) => unsafe {
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
            libc::open(path.bytes.as_ptr().cast(), flags, 0o644)
        },
        Err(_) => -1,
    };
    if fd < 0 {
        let mut err = to_fd(libc::STDERR_FILENO);
        let _ = writeln!(err, "rsalloc: cannot write the statistics to {name}; see stats_at_exit");
        return;
    }
    json_to(&mut to_fd(fd));
    // SAFETY: opened above, closed once.
    unsafe { libc::close(fd) };
}

fn text_to(out: &mut impl Write) {
    let _ = describe::report_text(out, &rsalloc_core::report());
    let _ = describe::stats_text(out, &rsalloc_core::stats());
}

fn json_to(out: &mut impl Write) {
    let _ = describe::all_json(out, &rsalloc_core::report(), &rsalloc_core::stats());
}

/// A zero-terminated path.
struct Path {
    bytes: [u8; 1024],
    len: usize,
}

impl Path {
    fn expand(&mut self, name: &str) -> core::fmt::Result {
        let mut parts = name.split("%p");
        self.write_str(parts.next().unwrap_or_default())?;
        // SAFETY: getpid has no preconditions.
        parts.try_for_each(|part| write!(self, "{}{part}", unsafe { libc::getpid() }))
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

/// A fixed buffer in front of a sink, emptied when full and when dropped.
pub struct Buffered<S: FnMut(&[u8])> {
    bytes: [u8; 1024],
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
            Err(_) => return, // there is nobody to tell
        }
    }
}

impl<S: FnMut(&[u8])> Buffered<S> {
    fn new(sink: S) -> Self {
        Self { bytes: [0; 1024], len: 0, sink }
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
