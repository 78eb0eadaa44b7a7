//! Rust programs in small: a JSON parser, a map under churn, a tree of boxes, a parallel sort, a server.
//!
//! Each checks what it computed, so that a lost object is noticed.

use benches::client::Client;
use benches::loads::Load;
use benches::rng::Rng;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Parses a document and drops it.
pub struct Json {
    text: String,
    values: usize,
}

impl Json {
    /// A document of `values` records.
    pub fn new(values: usize) -> Self {
        let mut rng = Rng::new(3);
        let record = |index: usize| {
            let (size, share) = (rng.below(1 << 20), rng.below(1000));
            let tags: Vec<String> =
                (0..rng.below(6)).map(|tag| format!("tag-{tag}-{share}")).collect();
            serde_json::json!({"id": index, "name": format!("record {index}"), "size": size,
                "nested": {"share": share as f64 / 7.0, "tags": tags, "more": [null, true, "text"]}})
        };
        let all: Vec<_> = (0..values).map(record).collect();
        Json { text: serde_json::Value::from(all).to_string(), values }
    }
}

impl Load for Json {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let value: serde_json::Value = serde_json::from_str(&self.text).expect("what we wrote");
        assert_eq!(value.as_array().map(Vec::len), Some(self.values));
        assert_eq!(value[self.values - 1]["id"], self.values - 1);
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// A map from strings to strings whose entries come and go.
pub struct TreeChurn {
    map: BTreeMap<String, String>,
    live: usize,
    rng: Rng,
}

impl TreeChurn {
    /// `live` entries at most.
    pub fn new(live: usize) -> Self {
        TreeChurn { map: BTreeMap::new(), live, rng: Rng::new(5) }
    }
}

impl Load for TreeChurn {
    fn step(&mut self, _client: &mut Client) -> u64 {
        const STEP: u64 = 10_000;
        for _ in 0..STEP {
            let key = format!("key {}", self.rng.below(2 * self.live));
            if self.map.remove(&key).is_none_or(|value| !value.ends_with(&key)) {
                let filler = "x".repeat(self.rng.below(100));
                let value = format!("{filler}{key}");
                self.map.insert(key, value);
            }
        }
        STEP
    }
    fn finish(&mut self, _client: &mut Client) {
        assert!(self.map.iter().all(|(key, value)| value.ends_with(key)));
        self.map.clear();
    }
}

/// An expression as a compiler without arenas holds it.
pub struct Ast;

enum Expression {
    Number(i64),
    Name(String),
    Sum(Box<Expression>, Box<Expression>),
    Call(String, Vec<Expression>),
}

impl Expression {
    fn build(depth: u32, rng: &mut Rng) -> Expression {
        let below = |rng: &mut Rng| Expression::build(depth - 1, rng);
        match (depth, rng.below(2)) {
            (0, 0) => Expression::Number(rng.below(100) as i64),
            (0, _) => Expression::Name(format!("variable_{}", rng.below(100))),
            (_, 0) => Expression::Sum(Box::new(below(rng)), Box::new(below(rng))),
            _ => Expression::Call(format!("function_{depth}"), vec![below(rng), below(rng)]),
        }
    }

    /// Sums of numbers become numbers, in a tree of its own; with the number of leaves.
    fn fold(&self) -> (Expression, usize) {
        match self {
            Expression::Number(value) => (Expression::Number(*value), 1),
            Expression::Name(name) => (Expression::Name(name.clone()), 1),
            Expression::Sum(left, right) => {
                let ((left, many), (right, more)) = (left.fold(), right.fold());
                let sum = match (&left, &right) {
                    (Expression::Number(a), Expression::Number(b)) => Expression::Number(a + b),
                    _ => Expression::Sum(Box::new(left), Box::new(right)),
                };
                (sum, many + more)
            }
            Expression::Call(name, arguments) => {
                let (arguments, leaves): (Vec<_>, Vec<_>) =
                    arguments.iter().map(Self::fold).unzip();
                (Expression::Call(name.clone(), arguments), leaves.into_iter().sum())
            }
        }
    }
}

impl Load for Ast {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let mut rng = Rng::new(7);
        for _ in 0..10 {
            let tree = Expression::build(10, &mut rng);
            let (_folded, leaves) = tree.fold();
            assert_eq!(leaves, 1024);
        }
        10
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// Builds strings and sorts them, on as many threads as there are CPUs.
pub struct SortStrings {
    len: usize,
}

impl SortStrings {
    /// `len` strings.
    pub fn new(len: usize) -> Self {
        SortStrings { len }
    }
}

impl Load for SortStrings {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let number = |index: usize| index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let make = |index: usize| format!("{:012x} of {index}", number(index));
        let mut strings: Vec<String> = (0..self.len).into_par_iter().map(make).collect();
        strings.par_sort();
        assert!(strings.is_sorted());
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// A server that keeps lines under keys, and the clients that ask it.
pub struct KeyValue {
    runtime: Runtime,
    connections: Vec<BufReader<TcpStream>>,
}

type Store = Arc<Mutex<HashMap<String, Arc<str>>>>;

impl KeyValue {
    /// With so many connections at once.
    pub fn new(connections: usize) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let connections = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(async move {
                let store = Store::default();
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, store.clone()));
                }
            });
            let mut all = Vec::new();
            for _ in 0..connections {
                let stream = TcpStream::connect(address).await.expect("our own server");
                stream.set_nodelay(true).expect("TCP");
                all.push(BufReader::new(stream));
            }
            all
        });
        KeyValue { runtime, connections }
    }
}

async fn serve(stream: TcpStream, store: Store) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let mut words = line.trim_end().splitn(2, ' ').map(str::to_owned);
        let answer = match (words.next(), words.next()) {
            (Some(key), Some(value)) => {
                store.lock().expect("not poisoned").insert(key, value.into());
                "stored\n".to_owned()
            }
            (Some(key), None) => {
                let value = store.lock().expect("not poisoned").get(&key).cloned();
                format!("{}\n", value.as_deref().unwrap_or("-"))
            }
            _ => "?\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

/// 50 values stored and read back; the number of requests.
async fn ask(mut stream: BufReader<TcpStream>, client: usize) -> (BufReader<TcpStream>, u64) {
    let mut answer = String::new();
    for turn in 0..50 {
        let (key, value) = (format!("key-{client}-{turn}"), "v".repeat(8 * turn + 1));
        for (line, expected) in
            [(format!("{key} {value}\n"), "stored"), (format!("{key}\n"), &value)]
        {
            stream.write_all(line.as_bytes()).await.expect("our own server");
            answer.clear();
            stream.read_line(&mut answer).await.expect("our own server");
            assert_eq!(answer.trim_end(), expected);
        }
    }
    (stream, 100)
}

impl Load for KeyValue {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let asked = std::mem::take(&mut self.connections).into_iter().enumerate();
        let (streams, requests): (Vec<_>, Vec<u64>) = self.runtime.block_on(async {
            let tasks: Vec<_> = asked.map(|(client, stream)| tokio::spawn(ask(stream, client))).collect();
            let mut done = Vec::new();
            for task in tasks {
                done.push(task.await.expect("no panic"));
            }
            done.into_iter().unzip()
        });
        self.connections = streams;
        requests.into_iter().sum()
    }
    fn finish(&mut self, _client: &mut Client) {
        self.connections.clear();
    }
}
