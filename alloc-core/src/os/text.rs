//! Small texts of the OS, read without allocating: files of /proc and /sys, numbers.

use crate::arch::syscall;

/// Reads the start of a file into `buffer`; the part that was read, or none if it can't be opened.
/// `path` ends in a NUL byte.
#[inline(never)]
pub fn read_file<'a>(path: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let file = Reader::open(path)?;
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            0 => break,
            read => len += read,
        }
    }
    Some(&buffer[..len])
}

/// Calls `f` with each line of a file, without its end; a line of more than 1 KiB is left out: a handler on a small stack may
/// come here. None if the file can't be opened.
/// `path` ends in a NUL byte.
pub fn for_each_line(path: &[u8], f: &mut dyn FnMut(&[u8])) -> Option<()> {
    let file = Reader::open(path)?;
    let (mut buffer, mut len, mut is_too_long) = ([0; LINE_MAX_BYTES], 0, false);
    loop {
        if len == buffer.len() {
            (len, is_too_long) = (0, true);
        }
        let read = file.read(&mut buffer[len..]);
        len += read;
        let mut rest = &buffer[..len];
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            if !is_too_long {
                f(&rest[..end]);
            }
            (rest, is_too_long) = (&rest[end + 1..], false);
        }
        if read == 0 {
            if !rest.is_empty() && !is_too_long {
                f(rest);
            }
            return Some(());
        }
        let done = len - rest.len();
        buffer.copy_within(done..len, 0);
        len -= done;
    }
}

const LINE_MAX_BYTES: usize = 1024;

/// A file that is open to be read.
struct Reader(usize);

impl Reader {
    /// `path` ends in a NUL byte.
    fn open(path: &[u8]) -> Option<Self> {
        debug_assert!(path.ends_with(&[0]));
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
        let at = libc::AT_FDCWD as isize as usize;
        // SAFETY: `path` is NUL-terminated; the descriptor is closed when the value is dropped.
        let fd = unsafe {
            syscall(libc::SYS_openat as usize, [at, path.as_ptr() as usize, flags, 0, 0, 0])
        };
        // `then_some` would close a file that was never opened.
        (fd >= 0).then(|| Reader(fd as usize))
    }

    /// Reads; how many bytes, 0 at the end or where reading fails.
    fn read(&self, buffer: &mut [u8]) -> usize {
        loop {
            // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`.
            let read = unsafe {
                let args = [self.0, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
                syscall(libc::SYS_read as usize, args)
            };
            if read != -(libc::EINTR as isize) {
                return read.max(0) as usize;
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once.
        unsafe {
            syscall(libc::SYS_close as usize, [self.0, 0, 0, 0, 0, 0]);
        }
    }
}

/// Whether the system fills mappings with huge pages unasked. False if the setting can't be read.
pub fn gives_huge_pages_unasked() -> bool {
    let mut buffer = [0; 64];
    let text = read_file(b"/sys/kernel/mm/transparent_hugepage/enabled\0", &mut buffer);
    text.is_some_and(|text| is_chosen(text, b"[always]"))
}

/// Whether `choice`, in brackets, is among the words of `text`.
fn is_chosen(text: &[u8], choice: &[u8]) -> bool {
    text.split(|byte| byte.is_ascii_whitespace()).any(|word| word == choice)
}

/// A decimal number with an optional suffix k, m or g (powers of 1024). None if malformed or too large.
pub fn parse_number(text: &[u8]) -> Option<usize> {
    let (digits, unit) = match text.last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 1 << 10),
        b'm' | b'M' => (&text[..text.len() - 1], 1 << 20),
        b'g' | b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0usize;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add((digit - b'0') as usize)?;
    }
    value.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(parse_number(b"12"), Some(12));
        assert_eq!(parse_number(b"4k"), Some(4096));
        assert_eq!(parse_number(b"1G"), Some(1 << 30));
        assert_eq!(parse_number(b"k"), None);
        assert_eq!(parse_number(b""), None);
        assert_eq!(parse_number(b"-1"), None);
        assert_eq!(parse_number(b"99999999999999999999"), None);
    }

    #[test]
    fn files() {
        let mut buffer = [0; 64];
        let read = read_file(b"/proc/self/stat\0", &mut buffer);
        assert_eq!(read.map(<[u8]>::len), Some(64));
        assert_eq!(read_file(b"/nonexistent\0", &mut [0; 1]), None);
    }

    #[test]
    fn choices() {
        assert!(is_chosen(b"[always] madvise never\n", b"[always]"));
        for text in [&b"always [madvise] never\n"[..], b"always madvise [never]\n", b"[always", b""]
        {
            assert!(!is_chosen(text, b"[always]"), "{text:?}");
        }
    }
}
