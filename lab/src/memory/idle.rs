//! What is left: resident bytes some seconds after everything was freed, over those at the start.
//!
//! Runs rows of the `workload` program. An idle process needs no CPU, so the peers of a row are idle at the same time.

use super::{Failed, by_peer, cell};
use crate::compare::peers::Peer;
use crate::compare::sample::{self, Sample};
use anyhow::anyhow;

/// Rows with small, larger and large objects, on one and several threads, which are gone at the end.
const ROWS: [&str; 7] =
    ["churn-512", "churn-8k", "churn-256k", "vec-1g", "larson", "mstress", "threads-64"];
const SECONDS: f64 = 0.3;

/// What a row ends with, and its bytes.
type Look = (&'static str, fn(&Sample) -> u64);

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
        let at_rest = |sample: &Sample| sample.final_rss_bytes;
        let woken = |sample: &Sample| sample.woken_rss_bytes;
        let looks: [Look; 2] = [("", at_rest), (", woken", woken)];
        for (look, of) in looks {
            let values = samples.iter().enumerate().map(|(peer, sample)| {
                let ratio = match sample {
                    Ok(sample) => Ok(of(sample) as f64 / sample.start_rss_bytes as f64),
                    Err(error) => Err(anyhow!("{}", error.root_cause())),
                };
                cell(peers, peer, &format!("idle after {row}"), ratio, failed)
            });
            rows.push((format!("{row}{look}"), values.collect()));
        }
    }
    Ok(format!(
        "\nResident bytes {rest} s after everything was freed and the threads had ended, over those of the same \
         process before the load; woken: after an allocation and a free of each power of two from 16 B to 512 KiB. The \
         goal is 1.1, by the next allocation at the latest.\n{}",
        by_peer("idle after", peers, &rows, 2)
    ))
}
