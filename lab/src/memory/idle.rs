//! What is left: resident bytes some seconds after everything was freed, over those at the start.
//!
//! Runs rows of the `workload` program. An idle process needs no CPU, so the peers of a row are idle at the same time.

use super::{Failed, by_peer, cell};
use crate::compare::peers::Peer;
use crate::compare::sample;

/// Rows with small, larger and large objects, on one and several threads, which are gone at the end.
const ROWS: [&str; 7] =
    ["churn-512", "churn-8k", "churn-256k", "vec-1g", "larson", "mstress", "threads-64"];
const SECONDS: f64 = 0.3;

/// The table.
pub fn table(peers: &[Peer], rest: f64, failed: &mut Failed) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for row in ROWS {
        eprintln!("idle after {row}");
        let samples: Vec<_> = std::thread::scope(|scope| {
            let take = |peer| scope.spawn(move || sample::take(row, peer, SECONDS, rest));
            let running: Vec<_> = peers.iter().map(take).collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let values = samples.into_iter().enumerate().map(|(peer, sample)| {
            let ratio =
                sample.map(|sample| sample.final_rss_bytes as f64 / sample.start_rss_bytes as f64);
            cell(peers, peer, &format!("idle after {row}"), ratio, failed)
        });
        rows.push((row.to_owned(), values.collect()));
    }
    Ok(format!(
        "\nResident bytes {rest} s after everything was freed and the threads had ended, over those of the same \
         process before the load. The goal is 1.1.\n{}",
        by_peer("idle after", peers, &rows, 2)
    ))
}
