//! The end of a process on misuse: a fixed line on standard error, then abort.
//!
//! The line is formatted in a buffer on the stack, without allocating and without a lock, so this works in signal handlers and inside
//! the allocator.

use crate::os;

/// What was found. docs/misuse.md says in which mode and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misuse {
    /// The pointer is not from this allocator.
    ForeignPointer,
    /// The pointer is inside an object, not at its start.
    InnerPointer,
    /// The object is free already.
    DoubleFree,
    /// The address is that of an object which was never handed out.
    NeverAllocated,
    /// A freed object is to be resized.
    ResizeOfFreed,
    /// A freed object is asked for its size.
    SizeOfFreed,
    /// A sized free or resize names another size than the allocation.
    WrongSize,
    /// A sized free or resize names an alignment that the object does not have.
    WrongAlign,
    /// The bytes behind an object, or its guard page, were written to.
    PastEnd,
    /// The bytes in front of an object, or its guard page, were written to.
    BeforeStart,
    /// A free object has changed.
    WriteAfterFree,
    /// A freed object's guarded page was touched.
    UseAfterFree,
    /// The allocator's own structures are not as they must be.
    Corrupt,
}

impl Misuse {
    /// All of them.
    pub const ALL: [Misuse; 13] = [
        Misuse::ForeignPointer,
        Misuse::InnerPointer,
        Misuse::DoubleFree,
        Misuse::NeverAllocated,
        Misuse::ResizeOfFreed,
        Misuse::SizeOfFreed,
        Misuse::WrongSize,
        Misuse::WrongAlign,
        Misuse::PastEnd,
        Misuse::BeforeStart,
        Misuse::WriteAfterFree,
        Misuse::UseAfterFree,
        Misuse::Corrupt,
    ];

    /// The fixed text.
    pub const fn text(self) -> &'static str {
        match self {
            Misuse::ForeignPointer => "a pointer that rsalloc did not allocate",
            Misuse::InnerPointer => "a pointer into the middle of an object",
            Misuse::DoubleFree => "double free",
            Misuse::NeverAllocated => "free of an object that was never allocated",
            Misuse::ResizeOfFreed => "realloc of a freed object",
            Misuse::SizeOfFreed => "malloc_usable_size of a freed object",
            Misuse::WrongSize => "sized free with another size than allocated",
            Misuse::WrongAlign => "aligned free with another alignment than allocated",
            Misuse::PastEnd => "write past the end of an object",
            Misuse::BeforeStart => "write before the start of an object",
            Misuse::WriteAfterFree => "write after free",
            Misuse::UseAfterFree => "use after free",
            Misuse::Corrupt => "heap structures are corrupt",
        }
    }
}

/// Ends the process by [`fail`] if `found`.
#[inline]
pub fn deny(found: bool, what: Misuse, at: usize) {
    if found && !blind::ignores(what) {
        fail(what, at);
    }
}

/// For tests of the tests: with the feature `blind`, [`deny`] ignores the misuse that `RSALLOC_BLIND` names, so a test can show that
/// it fails without that check.
mod blind {
    use super::Misuse;

    #[cfg(not(feature = "blind"))]
    #[inline(always)]
    pub fn ignores(_what: Misuse) -> bool {
        false
    }

    #[cfg(feature = "blind")]
    pub fn ignores(what: Misuse) -> bool {
        let mut buffer = [0; 1024];
        let named = crate::os::environment(b"RSALLOC_BLIND=", &mut buffer);
        named.is_some_and(|named| named == what.text().as_bytes())
    }
}

/// Ends the process by abort, with a line that says why.
#[cold]
pub fn end(why: &str) -> ! {
    Line::new().text("rsalloc: ").text(why).text("\n").write_to_stderr();
    os::abort()
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
    #[inline(never)]
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends raw bytes; what does not fit is left out.
    #[inline(never)]
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            if self.len < self.bytes.len() {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
        self
    }

    /// Appends bytes of unknown origin. What is not printable ASCII becomes a question mark, so the text stays one line and contains no
    /// terminal sequences.
    #[inline(never)]
    pub fn shown(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            let printable = byte == b' ' || byte.is_ascii_graphic();
            self.bytes(&[if printable { byte } else { b'?' }]);
        }
        self
    }

    /// Appends text of unknown origin, such as a file's name: what is no printable character becomes a question mark.
    #[inline(never)]
    pub fn printable(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            let shown = if character.is_control() { '?' } else { character };
            self.text(shown.encode_utf8(&mut [0; 4]));
        }
        self
    }

    /// Ends the line, whether it is full or not.
    pub fn end(&mut self) -> &mut Self {
        self.len = self.len.min(self.bytes.len() - 1);
        self.bytes(b"\n")
    }

    /// Bytes that still fit.
    pub const fn space(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// Appends `value` in hexadecimal.
    #[inline(never)]
    pub fn hex(&mut self, value: usize) -> &mut Self {
        let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let nibble = (value >> (digit * 4)) & 15;
            self.bytes(&[b"0123456789abcdef"[nibble]]);
        }
        self
    }

    /// Appends `value` in decimal.
    #[inline(never)]
    pub fn decimal(&mut self, value: usize) -> &mut Self {
        let mut power = 10usize.pow(value.checked_ilog10().unwrap_or(0));
        while power > 0 {
            self.bytes(&[b'0' + (value / power % 10) as u8]);
            power /= 10;
        }
        self
    }

    /// Writes the line to standard error.
    pub fn write_to_stderr(&self) {
        os::write_stderr(&self.bytes[..self.len]);
    }
}
