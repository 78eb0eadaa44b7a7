//! `cargo lab memory`: what memory every peer takes over time, when all was freed, and with many threads.
//!
//! Promises that each figure is of a process of its own, served by the allocator that is meant.

mod idle;
mod phases;
mod threads;

use crate::compare::peers::{self, Peer};
use crate::compare::sample::MIB;
use crate::compare::{part, tables};
use part::Part;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Tables to make (default: all)
    #[arg(value_parser = ["phases", "idle", "threads"])]
    tables: Vec<String>,
    /// Allocators to run, by name (default: all)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Seconds of idleness before the final memory is read
    #[arg(long, default_value_t = 10.0)]
    rest: f64,
    /// The numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000,10000")]
    threads: Vec<usize>,
    /// Write tables and plot to docs/benchmarks/tables.md and docs/benchmarks/memory
    #[arg(long)]
    write: bool,
}

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    peers::check(&arguments.peers)?;
    tools::build_release(&["benches", "rsalloc-preload", "rsalloc-cli"])?;
    let peers = peers::select(&arguments.peers)?;
    let docs = tools::root().join("docs");
    let wanted = |name| arguments.tables.is_empty() || arguments.tables.iter().any(|t| t == name);
    let begin = || -> anyhow::Result<String> {
        Ok(format!("{} {}\n", tables::origin()?, tables::allocators(&peers)))
    };
    let show = |part: &Part, text: String| -> anyhow::Result<()> {
        println!("{text}");
        match arguments.write {
            true => part.write(&docs.join("benchmarks/tables.md"), &(begin()? + &text)),
            false => Ok(()),
        }
    };
    let mut failed = Vec::new();
    if wanted("phases") {
        let folder = arguments.write.then(|| part::MEMORY_PHASES.folder_in(&docs));
        let text = phases::table(&peers, arguments.rest, folder.as_deref(), &mut failed)?;
        show(&part::MEMORY_PHASES, text)?;
    }
    if wanted("idle") {
        show(&part::MEMORY_IDLE, idle::table(&peers, arguments.rest, &mut failed)?)?;
    }
    if wanted("threads") {
        show(&part::MEMORY_THREADS, threads::table(&peers, &arguments.threads, &mut failed)?)?;
    }
    // A peer's failure is in its table; ours is the command's.
    let ours: Vec<_> =
        failed.iter().filter(|(peer, _)| peers[*peer].ours).map(|(_, why)| why.as_str()).collect();
    anyhow::ensure!(ours.is_empty(), "{}", ours.join("\n"));
    Ok(())
}

/// What failed: the peer's index, and where and why.
type Failed = Vec<(usize, String)>;

/// A cell of a table; what failed is noted.
fn cell(
    peers: &[Peer],
    peer: usize,
    what: &str,
    value: anyhow::Result<f64>,
    failed: &mut Failed,
) -> Option<f64> {
    value
        .inspect_err(|error| {
            let cause = error.root_cause().to_string();
            let cause = cause.lines().next().unwrap_or_default();
            eprintln!("{what} on {}: {cause}", peers[peer].name);
            failed.push((peer, format!("{what} on {}: {cause}", peers[peer].name)));
        })
        .ok()
}

/// A table of these rows.
fn by_peer(
    head: &str,
    peers: &[Peer],
    rows: &[(String, Vec<Option<f64>>)],
    digits: usize,
) -> String {
    let lines = rows.iter().map(|(name, values)| tables::line(&[name], peers, values, digits));
    format!("\n{}{}", tables::head(&[head], peers), lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::report::tests::peer;

    #[test]
    fn the_best_of_the_others_is_bold_and_what_ours_is_held_against() {
        let peers = ["ours", "a", "b", "c"].map(peer);
        let rows = [("row".to_owned(), vec![Some(1.0), Some(4.0), Some(2.0), None])];
        let text = by_peer("what", &peers, &rows, 1);
        assert!(text.contains("| what | ours | a | b | c | ours/best |\n|---|--:|--:|"), "{text}");
        assert!(text.contains("| row | 1.0 | 4.0 | **2.0** | failed | 0.50 |"), "{text}");
    }
}
