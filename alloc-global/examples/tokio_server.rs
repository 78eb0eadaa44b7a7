//! A key-value server on tokio with rsalloc as its allocator.
//!
//! `cargo run --release --example tokio_server -- 127.0.0.1:11311` speaks `set`, `get` and
//! `delete` of memcached's text protocol. `cargo lab programs` puts it under load and verifies
//! every value; for the comparison it builds it with `--cfg without_rsalloc`.
#![allow(unexpected_cfgs)]

use std::collections::HashMap;
use std::io::{Error, Result};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

#[cfg(not(without_rsalloc))]
#[global_allocator]
static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;

/// Each connection may reach every value; the lock is held for a look-up, never across a wait.
type Store = Arc<Mutex<HashMap<String, Arc<[u8]>>>>;

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:11311".into());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let store = Store::default();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    tokio::spawn(serve(accepted?.0, store.clone()));
                }
                _ = stop.recv() => return Ok(()),
            }
        }
    })
}

async fn serve(stream: TcpStream, store: Store) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["set", key, _, _, len] => {
                let mut value = vec![0; len.parse::<usize>().map_err(Error::other)? + 2];
                stream.read_exact(&mut value).await?;
                value.truncate(value.len() - 2);
                store.lock().expect("not poisoned").insert(key.to_owned(), value.into());
                stream.write_all(b"STORED\r\n").await?;
            }
            ["get", key] => {
                let value = store.lock().expect("not poisoned").get(key).cloned();
                if let Some(value) = value {
                    let head = format!("VALUE {key} 0 {}\r\n", value.len());
                    stream.write_all(head.as_bytes()).await?;
                    stream.write_all(&value).await?;
                    stream.write_all(b"\r\n").await?;
                }
                stream.write_all(b"END\r\n").await?;
            }
            ["delete", key] => {
                let known = store.lock().expect("not poisoned").remove(key).is_some();
                stream.write_all(if known { b"DELETED\r\n" } else { b"NOT_FOUND\r\n" }).await?;
            }
            _ => stream.write_all(b"ERROR\r\n").await?,
        }
        stream.flush().await?;
        line.clear();
    }
    Ok(())
}
