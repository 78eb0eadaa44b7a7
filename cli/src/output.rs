//! Where answers go: to standard output, standard error, or a file. A reader that has gone away is no error.

use crate::read::printable;
use anyhow::{Context, Result, ensure};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Which of the two, where no file is named.
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Says something in a line on standard error.
pub fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("rsalloc: {}", printable(&line.to_string(), ""));
}

/// What lines of an answer may hold.
pub const LINES: &str = "\n\t";

/// Writes an answer: text in lines, or JSON.
pub fn put(text: &str, path: Option<&Path>, stream: Stream) -> Result<()> {
    let text = printable(text, LINES);
    match (path, stream) {
        (Some(path), _) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        (None, Stream::Out) => written(stdout().write_all(text.as_bytes())).map(drop),
        (None, Stream::Err) => written(stderr().write_all(text.as_bytes())).map(drop),
    }
}

/// Fails unless [`replace`] may make or replace the file at `path`, as far as that can be told before.
pub fn check_place(path: &Path) -> Result<()> {
    ensure!(!path.is_dir(), "{} is a folder: name a file", path.display());
    if path.exists() && !path.is_file() {
        return Ok(());
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "there is no folder {}", folder.display());
    let name = CString::new(folder.as_os_str().as_bytes()).context("a path with a zero in it")?;
    // SAFETY: the name ends with a zero.
    let may = unsafe {
        libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::W_OK | libc::X_OK, libc::AT_EACCESS)
    };
    match may {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot write in the folder {}", folder.display())),
    }
}

/// Makes a file, or replaces it as a whole: written beside its place first, then renamed. What is no file, such as a pipe, is
/// written to; a link stays, and what it leads to is replaced.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if path == Path::new("-") {
        return written(stdout().write_all(bytes));
    }
    let cannot = || format!("cannot write {}", path.display());
    if path.metadata().is_ok_and(|meta| !meta.is_file()) {
        return std::fs::write(path, bytes).with_context(cannot);
    }
    let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let beside = place.with_file_name(name);
    // Left by a command of the same id that was killed, as in a container.
    let _ = std::fs::remove_file(&beside);
    let done = || -> std::io::Result<()> {
        // Never through a link that lies there: the folder may be open to all users.
        let mut file = File::create_new(&beside)?;
        file.write_all(bytes)?;
        std::fs::rename(&beside, &place)
    };
    let done = done();
    if done.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    done.with_context(cannot)
}

fn written(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("cannot write the answer"),
    }
}

/// An answer that comes row by row.
pub enum Rows<'a> {
    /// To standard output.
    Out,
    /// To a file.
    File(File, &'a Path),
}

impl<'a> Rows<'a> {
    /// To `path`, or to standard output.
    pub fn open(path: Option<&'a Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Rows::Out) };
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Rows::File(file, path))
    }

    /// Writes a row at once.
    pub fn put(&mut self, row: &str) -> Result<()> {
        let row = printable(row, LINES);
        match self {
            Rows::Out => {
                let mut out = stdout().lock();
                written(out.write_all(row.as_bytes()).and_then(|()| out.flush()))
            }
            Rows::File(file, path) => file
                .write_all(row.as_bytes())
                .with_context(|| format!("cannot write {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_nothing_to_obey() {
        let text = "a\x1b[31m\u{9b}b\r\x07\tä ✓\n";
        assert_eq!(printable(text, ""), "a?[31m?b???ä ✓?");
        assert_eq!(printable(text, LINES), "a?[31m?b??\tä ✓\n");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_stays() {
        let folder = std::env::temp_dir().join(format!("rsalloc-replace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("heap.pb.gz");
        replace(&file, b"first").unwrap();
        replace(&file, b"second").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"second");
        assert!(check_place(&file).is_ok() && check_place(Path::new("/dev/null")).is_ok());
        assert!(check_place(&folder).is_err() && check_place(&folder.join("no/file")).is_err());
        let in_way = folder.join(format!(".heap.pb.gz.{}", std::process::id()));
        std::fs::create_dir(&in_way).unwrap();
        let why = format!("{:#}", replace(&file, b"third").unwrap_err());
        assert!(why.starts_with(&format!("cannot write {}: ", file.display())), "{why}");
        assert_eq!(std::fs::read(&file).unwrap(), b"second");
        std::fs::remove_dir(&in_way).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
