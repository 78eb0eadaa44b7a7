//! The HTTP server of `metrics --listen`: GET and HEAD of `/metrics`, one request a connection.
//!
//! Promises bounds against clients that are slow or many: [`WORKERS`] connections at once, each for at most [`PATIENCE`] and
//! [`REQUEST_MAX_BYTES`]; more wait in the kernel's queue. A request that is no HTTP gets an answer that says so.

use super::Exposition;
use crate::ends::Ends;
use anyhow::{Context, Result};
use rsalloc_core::MetricsFormat;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const WORKERS: usize = 4;
/// How long a client may take for its request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST_MAX_BYTES: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// Serves until a signal asks this process to end.
pub fn serve(address: SocketAddr, exposition: Exposition) -> Result<()> {
    // Before the workers start, so that none of them gets a signal.
    let ends = Ends::take();
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    // Port 0 is any that is free.
    let address = listener.local_addr().context("cannot listen")?;
    crate::output::say(format_args!("serving http://{address}/metrics"));
    let shared = Arc::new((listener, Mutex::new(exposition)));
    for _ in 0..WORKERS {
        let shared = shared.clone();
        let work = move || {
            loop {
                match shared.0.accept() {
                    // A client that goes away is no error.
                    Ok((client, _)) => drop(answer(client, &shared.1)),
                    // Out of descriptors, for one.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        };
        std::thread::Builder::new().spawn(work).context("cannot start a thread")?;
    }
    while !ends.wait(Duration::MAX) {}
    // The workers end with the process; a client that waits for an answer gets none.
    Ok(())
}

fn answer(mut client: TcpStream, exposition: &Mutex<Exposition>) -> std::io::Result<()> {
    let until = Instant::now() + PATIENCE;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    let response = match read_request(&mut client, &mut bytes, until)? {
        Request::Wants(format, what) => {
            // A panic of another request leaves nothing half-done that this one would read.
            let mut exposition = exposition.lock().unwrap_or_else(PoisonError::into_inner);
            response("200 OK", format.content_type(), &exposition.text(format), what)
        }
        Request::Refused(status) => {
            response(status, "text/plain; charset=utf-8", &format!("{status}\n"), Body::Sent)
        }
    };
    client.write_all(response.as_bytes())?;
    client.shutdown(std::net::Shutdown::Write)?;
    // Closed with unread bytes, the connection would be reset under the answer.
    drain(&mut client, until)
}

enum Request {
    Wants(MetricsFormat, Body),
    Refused(&'static str),
}

#[derive(Clone, Copy, PartialEq)]
enum Body {
    Sent,
    LeftOut,
}

fn response(status: &str, content_type: &str, text: &str, body: Body) -> String {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let length = text.len();
    let body = if body == Body::Sent { text } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n{body}"
    )
}

fn read_request(
    client: &mut TcpStream,
    bytes: &mut Vec<u8>,
    until: Instant,
) -> std::io::Result<Request> {
    loop {
        let mut piece = [0; 4096];
        let read = read_until(client, &mut piece, until)?;
        bytes.extend_from_slice(&piece[..read]);
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => return Ok(decide(&request)),
            Ok(httparse::Status::Partial) if read == 0 => {
                return Ok(Request::Refused("400 Bad Request"));
            }
            Ok(httparse::Status::Partial) if bytes.len() < REQUEST_MAX_BYTES => {}
            Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                return Ok(Request::Refused("431 Request Header Fields Too Large"));
            }
            Err(_) => return Ok(Request::Refused("400 Bad Request")),
        }
    }
}

fn decide(request: &httparse::Request<'_, '_>) -> Request {
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    let body = match request.method {
        Some("GET") => Body::Sent,
        Some("HEAD") => Body::LeftOut,
        _ => return Request::Refused("405 Method Not Allowed"),
    };
    if path != "/metrics" {
        return Request::Refused("404 Not Found: see /metrics");
    }
    let accept: Vec<_> = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("accept"))
        .map(|header| String::from_utf8_lossy(header.value))
        .collect();
    Request::Wants(MetricsFormat::of_accept(&accept.join(",")), body)
}

/// Reads once, before `until`; 0 at the end of what the client sends.
fn read_until(client: &mut TcpStream, piece: &mut [u8], until: Instant) -> std::io::Result<usize> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(std::io::ErrorKind::TimedOut.into());
    }
    client.set_read_timeout(Some(left))?;
    client.read(piece)
}

/// Reads what the client still sends, as far as it comes in time.
fn drain(client: &mut TcpStream, until: Instant) -> std::io::Result<()> {
    let mut total = 0;
    while total < REQUEST_MAX_BYTES {
        match read_until(client, &mut [0; 4096], until)? {
            0 => break,
            read => total += read,
        }
    }
    Ok(())
}
