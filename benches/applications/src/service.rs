//! A JSON service under load, and a cache that many threads share.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use benches::client::Client;
use benches::loads::Load;
use benches::rng::Rng;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: String,
    lines: Vec<Line>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    article: String,
    count: u32,
    price: f64,
}

type Orders = Arc<Mutex<HashMap<u64, Order>>>;

/// A service on axum that takes orders as JSON and gives them back, and clients on the loopback device, which allocate
/// next to nothing.
pub struct Api {
    runtime: Runtime,
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    /// The whole request that posts an order, and the one that gets it.
    requests: [Vec<u8>; 2],
    /// The order, which is also the answer to the second request.
    order: String,
    answer: Vec<u8>,
}

impl Api {
    /// With so many connections at once.
    pub fn new(connections: usize) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let connections = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let app = Router::new()
                .route("/orders", post(take))
                .route("/orders/{id}", get(give))
                .with_state(Orders::default());
            tokio::spawn(async move { axum::serve(listener, app).await });
            let mut all = Vec::new();
            for id in 0..connections as u64 {
                let stream = TcpStream::connect(address).await.expect("our own service");
                stream.set_nodelay(true).expect("TCP");
                let (order, requests) = requests(id);
                all.push(Connection { stream, requests, order, answer: vec![0; 64 << 10] });
            }
            all
        });
        Api { runtime, connections }
    }
}

async fn take(State(orders): State<Orders>, Json(order): Json<Order>) -> Json<u64> {
    let id = order.id;
    orders.lock().expect("not poisoned").insert(id, order);
    Json(id)
}

async fn give(State(orders): State<Orders>, Path(id): Path<u64>) -> Json<Option<Order>> {
    Json(orders.lock().expect("not poisoned").get(&id).cloned())
}

/// An order as JSON, and the requests that post and get it.
fn requests(id: u64) -> (String, [Vec<u8>; 2]) {
    let line = |number: u64| Line {
        article: format!("article {}", number * id),
        count: number as u32,
        price: number as f64 * 1.25,
    };
    let order =
        Order { id, customer: format!("customer {id}"), lines: (0..20).map(line).collect() };
    let body = serde_json::to_string(&order).expect("it is data");
    let head = "HTTP/1.1\r\nhost: here\r\n";
    let length = body.len();
    let post = format!(
        "POST /orders {head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let get = format!("GET /orders/{id} {head}\r\n");
    (body, [post.into_bytes(), get.into_bytes()])
}

impl Connection {
    /// So many orders posted and read back; the number of requests.
    async fn ask(&mut self, orders: usize) -> u64 {
        for _ in 0..orders {
            for request in 0..2 {
                self.stream.write_all(&self.requests[request]).await.expect("our own service");
                let body = self.receive().await;
                assert!(self.answer.starts_with(b"HTTP/1.1 200"), "not 200");
                let is_order = self.answer[body] == *self.order.as_bytes();
                assert!(request == 0 || is_order, "another order");
            }
        }
        2 * orders as u64
    }

    /// Reads one answer; where its body lies.
    async fn receive(&mut self) -> Range<usize> {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.answer[filled..]).await.expect("our own service");
            assert!(read > 0, "the service closed the connection");
            filled += read;
            let text = std::str::from_utf8(&self.answer[..filled]).expect("an answer in ASCII");
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
            if body.len() == length {
                return filled - length..filled;
            }
        }
    }
}

impl Load for Api {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let asked = std::mem::take(&mut self.connections);
        let (connections, requests): (Vec<_>, Vec<u64>) = self.runtime.block_on(async {
            let tasks = asked.into_iter().map(|mut connection| {
                tokio::spawn(async move {
                    let requests = connection.ask(25).await;
                    (connection, requests)
                })
            });
            let tasks: Vec<_> = tasks.collect();
            let mut done = Vec::new();
            for task in tasks {
                done.push(task.await.expect("no panic"));
            }
            done.into_iter().unzip()
        });
        self.connections = connections;
        requests.into_iter().sum()
    }
    fn finish(&mut self, _client: &mut Client) {
        self.connections.clear();
    }
}

/// A thread that looks up keys in a cache of moka's and puts in what is missing.
pub struct Cached {
    cache: Cache<u64, Arc<Vec<u8>>>,
    rng: Rng,
}

impl Cached {
    const CAPACITY: u64 = 10_000;

    /// So many threads around one cache.
    pub fn group(threads: usize) -> Vec<Box<dyn Load>> {
        let cache = Cache::new(Self::CAPACITY);
        let thread = |seed| Cached { cache: cache.clone(), rng: Rng::new(seed) };
        (0..threads).map(|seed| Box::new(thread(seed)) as Box<dyn Load>).collect()
    }
}

impl Load for Cached {
    fn step(&mut self, _client: &mut Client) -> u64 {
        const STEP: u64 = 2000;
        for _ in 0..STEP {
            // Small keys are asked for more often.
            let range = 2 * Self::CAPACITY as usize;
            let key = self.rng.below(range).min(self.rng.below(range)) as u64;
            let length = 16 + key as usize % 500;
            let value = self.cache.get_with(key, || Arc::new(vec![key as u8; length]));
            assert!(value.len() == length && value[length - 1] == key as u8);
        }
        STEP
    }
    fn finish(&mut self, _client: &mut Client) {
        self.cache.invalidate_all();
    }
}
