//! Where answers go: to standard output, standard error, or a file. A reader that has gone away is no error.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{ErrorKind, Write, stderr, stdout};
use std::path::Path;

/// Which of the two, where no file is named.
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Writes an answer.
pub fn put(text: &str, path: Option<&Path>, stream: Stream) -> Result<()> {
    match (path, stream) {
        (Some(path), _) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        (None, Stream::Out) => written(stdout().write_all(text.as_bytes())).map(drop),
        (None, Stream::Err) => written(stderr().write_all(text.as_bytes())).map(drop),
    }
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
