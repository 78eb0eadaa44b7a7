//! Small clients for the servers under test: redis, memcached, HTTP.
//!
//! Each speaks only what its row needs, over a blocking socket with a time limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long an answer may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A connection to a redis server.
pub struct Redis(BufReader<UnixStream>);

impl Redis {
    /// Connects to a unix socket.
    pub fn connect(socket: &Path) -> Result<Redis> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIME_LIMIT))?;
        Ok(Redis(BufReader::new(stream)))
    }

    /// Sends a command and returns its reply.
    pub fn ask(&mut self, words: &[&[u8]]) -> Result<Vec<u8>> {
        self.send(&[words])?;
        self.reply()
    }

    /// Sends commands at once; no reply may be an error.
    pub fn pipe(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<Vec<Vec<u8>>> {
        let commands: Vec<Vec<&[u8]>> =
            commands.iter().map(|words| words.iter().map(Vec::as_slice).collect()).collect();
        let commands: Vec<&[&[u8]]> = commands.iter().map(Vec::as_slice).collect();
        self.send(&commands)?;
        commands.iter().map(|_| self.reply()).collect()
    }

    fn send(&mut self, commands: &[&[&[u8]]]) -> Result<()> {
        let mut bytes = Vec::new();
        for words in commands {
            write!(bytes, "*{}\r\n", words.len())?;
            for word in *words {
                write!(bytes, "${}\r\n", word.len())?;
                bytes.extend_from_slice(word);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        Ok(self.0.get_mut().write_all(&bytes)?)
    }

    fn reply(&mut self) -> Result<Vec<u8>> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("no reply")?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).context("the server closed the connection")?;
        match kind {
            "+" | ":" => Ok(rest.as_bytes().to_vec()),
            "$" if rest == "-1" => Ok(b"(nil)".to_vec()),
            "$" => {
                let mut value = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut value)?;
                value.truncate(value.len() - 2);
                Ok(value)
            }
            "*" => {
                let parts: Result<Vec<_>> =
                    (0..rest.parse::<u32>()?).map(|_| self.reply()).collect();
                Ok(parts?.join(&b' '))
            }
            _ => bail!("redis answered {line}"),
        }
    }
}

/// Fails with both values' sizes unless they are equal.
pub fn expect(key: &str, want: &[u8], got: &[u8]) -> Result<()> {
    let (want_len, got_len) = (want.len(), got.len());
    ensure!(want == got, "{key} is not what was stored ({want_len} bytes stored, {got_len} read)");
    Ok(())
}

/// A connection to a server that speaks memcached's text protocol.
pub struct Cache(BufReader<TcpStream>);

impl Cache {
    /// Connects, with a limit on each wait.
    pub fn connect(address: SocketAddr) -> Result<Cache> {
        Ok(Cache(BufReader::new(connect(address)?)))
    }

    /// Stores a value.
    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut bytes = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
        self.0.get_mut().write_all(&bytes)?;
        self.line("STORED")
    }

    /// Reads a value.
    pub fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        write!(self.0.get_mut(), "get {key}\r\n")?;
        let mut head = String::new();
        self.0.read_line(&mut head)?;
        if head.trim_end() == "END" {
            return Ok(None);
        }
        let len = head.trim_end().strip_prefix(&format!("VALUE {key} 0 "));
        let len: usize = len.with_context(|| format!("get {key} answered {head:?}"))?.parse()?;
        let mut value = vec![0; len + 2];
        self.0.read_exact(&mut value)?;
        value.truncate(len);
        self.line("END")?;
        Ok(Some(value))
    }

    /// Deletes a value that is there.
    pub fn delete(&mut self, key: &str) -> Result<()> {
        write!(self.0.get_mut(), "delete {key}\r\n")?;
        self.line("DELETED")
    }

    fn line(&mut self, want: &str) -> Result<()> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.trim_end() == want, "answered {line:?}, not {want}");
        Ok(())
    }
}

/// The body of a page, with one request header.
pub fn get_page(address: SocketAddr, path: &str, (name, value): (&str, &str)) -> Result<Vec<u8>> {
    let request = minreq::get(format!("http://{address}{path}")).with_header(name, value);
    let answer = request.with_timeout(TIME_LIMIT.as_secs()).send()?;
    ensure!(answer.status_code == 200, "{path}: answered with {}", answer.status_code);
    Ok(answer.into_bytes())
}

/// The answer to a text that is posted.
pub fn post(address: SocketAddr, path: &str, text: &str) -> Result<Vec<u8>> {
    let request = minreq::post(format!("http://{address}{path}")).with_body(text);
    let answer = request.with_timeout(TIME_LIMIT.as_secs()).send()?;
    let code = answer.status_code;
    ensure!(code == 200, "{path}: answered with {code}: {}", answer.as_str().unwrap_or_default());
    Ok(answer.into_bytes())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    Ok(stream)
}
