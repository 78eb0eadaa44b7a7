//! A web service on rsalloc that serves what it holds: `/metrics` for Prometheus, `/debug/pprof/heap` for `go tool pprof`.
//!
//! ```sh
//! cargo run -- 127.0.0.1:8080
//! curl http://127.0.0.1:8080/work?bytes=1000000           # keeps memory, so that there is something to see
//! curl http://127.0.0.1:8080/metrics
//! curl -o heap.pb.gz http://127.0.0.1:8080/debug/pprof/heap    # what was allocated since the first such request
//! rsalloc symbolize -o named.pb.gz heap.pb.gz && go tool pprof -top named.pb.gz
//! ```
//!
//! Any client that reaches the address can read both: a real service serves them at an address of their own.

use axum::Router;
use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use rsalloc::profile::{self, ProfileError};
use rsalloc::{MetricsFormat, RsAlloc};
use std::sync::Mutex;

#[global_allocator]
static GLOBAL: RsAlloc = RsAlloc;

/// The memory that requests for work have kept.
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("http://{}", listener.local_addr()?);
    let service = Router::new()
        .route("/work", get(work))
        .route("/metrics", get(metrics))
        .route("/debug/pprof/heap", get(heap));
    axum::serve(listener, service).await
}

#[derive(serde::Deserialize)]
struct Work {
    bytes: usize,
}

async fn work(Query(work): Query<Work>) -> String {
    const MAX_BYTES: usize = 64 << 20;
    let mut kept = KEPT.lock().unwrap();
    kept.push(vec![1; work.bytes.min(MAX_BYTES)]);
    format!("{} kept\n", kept.len())
}

/// What the allocator holds, in the format that the client names.
async fn metrics(headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let metrics =
        rsalloc::metrics().in_format(MetricsFormat::of_accept(accept.unwrap_or_default()));
    ([(header::CONTENT_TYPE, metrics.content_type())], metrics.to_string())
}

/// What was sampled since the first request, which starts the profile: programs that are never asked pay nothing.
async fn heap() -> Result<impl IntoResponse, (StatusCode, String)> {
    let failed = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, why + "\n");
    match profile::start(0) {
        Ok(()) | Err(ProfileError::IsRunning) => {}
        Err(why) => return Err(failed(format!("no profile: {why}"))),
    }
    let mut written = Vec::new();
    profile::write_pprof(&mut written).map_err(|why| failed(why.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], written))
}
