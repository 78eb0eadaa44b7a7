//! The one way out on misuse: a fixed line on standard error, then abort.
//!
//! Called by every tier; calls `os` only. Formats in a buffer on the stack, allocates nothing, takes
//! no lock, so it works from signal handlers and from inside the allocator.

use crate::os;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misuse {
    /// The pointer is not from this allocator.
    ForeignPointer,
    /// The pointer is inside an object, not at its start.
    InnerPointer,
    /// The object is free already.
    DoubleFree,
    /// The allocator's own structures are not as they must be.
    Corrupt,
}

impl Misuse {
    /// The fixed text.
    pub const fn text(self) -> &'static str {
        match self {
            Misuse::ForeignPointer => "free of a pointer that rsalloc did not allocate",
            Misuse::InnerPointer => "free of a pointer into the middle of an object",
            Misuse::DoubleFree => "double free",
            Misuse::Corrupt => "heap structures are corrupt",
        }
    }
}

/// Reports `what` about the address `at` and aborts.
#[cold]
pub fn fail(what: Misuse, at: usize) -> ! {
    let mut line = Line::new();
    line.text("rsalloc: ").text(what.text()).text(": 0x").hex(at).text("\n");
    line.write_to_stderr();
    os::abort()
}

/// A line of text on the stack.
pub struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Line { bytes: [0; 256], len: 0 }
    }

    /// Appends `text`; what does not fit is left out.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends raw bytes; what does not fit is left out.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            if self.len < self.bytes.len() {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
        self
    }

    /// Appends bytes of unknown origin: what is not printable ASCII becomes a question mark, so that
    /// the line stays one and no terminal obeys it.
    pub fn shown(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            let printable = byte == b' ' || byte.is_ascii_graphic();
            self.bytes(&[if printable { byte } else { b'?' }]);
        }
        self
    }

    /// Appends `value` in hexadecimal.
    pub fn hex(&mut self, value: usize) -> &mut Self {
        let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let nibble = (value >> (digit * 4)) & 15;
            self.bytes(&[b"0123456789abcdef"[nibble]]);
        }
        self
    }

    /// Writes the line to standard error.
    pub fn write_to_stderr(&self) {
        os::write_stderr(&self.bytes[..self.len]);
    }
}
