//! The results as Markdown: a table for each figure, what failed, and where it all comes from.

use super::confidence::Interval;
use super::figures::{Figures, Metric, Row, Summary};
use super::multiples::{Multiple, Multiples};
use super::part::Part;
use super::peers::Peer;
use super::report::Results;
use anyhow::Context;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// All tables, and what failed.
pub fn all<S: Figures>(results: &Results<S>) -> String {
    let mut text = String::from("| row | what happens |\n|---|---|\n");
    for Row { name, what, .. } in &results.rows {
        writeln!(text, "| {name} | {what} |").unwrap();
    }
    for metric in S::METRICS {
        table(results, metric, &mut text);
    }
    text.push_str(&results.appendix);
    let failed: Vec<_> = results.failed().collect();
    if !failed.is_empty() {
        text.push_str("\nFailed:\n\n");
        for line in failed {
            writeln!(text, "* {line}").unwrap();
        }
    }
    text
}

/// The text of a part: origin, notes, plots and tables.
pub fn document<S: Figures>(
    results: &Results<S>,
    part: &Part,
    pictures: &[(&str, String)],
) -> anyhow::Result<String> {
    let mut text = format!(
        "{} Medians of {} rounds, interleaved, each sample in its own process; bold is the best peer. \
         The last columns are ours over the best peer: the median over the rounds, the best peer of a round being the \
         one with the lowest median of the other rounds; in brackets where it lies with a confidence of 95 % (bootstrap \
         over the rounds, none below 5); ahead, level, behind: the interval lies below, around, above 1.00. {}",
        origin()?,
        results.rounds(),
        allocators(&results.peers)
    );
    if !part.notes.is_empty() {
        write!(text, "\n\n{}", part.notes)?;
    }
    text.push_str("\n\n");
    for (file, caption) in pictures {
        let picture = Path::new(part.folder).join(format!("{file}.svg"));
        writeln!(text, "![{caption}]({})", picture.display())?;
    }
    Ok(text + "\n" + &all(results))
}

fn table<S: Figures>(results: &Results<S>, metric: &Metric<S>, text: &mut String) {
    let peers = &results.peers;
    let multiples = Multiples::of(results, metric);
    write!(text, "\n### {}\n\n{}", metric.title, head(&["row", "per"], peers)).unwrap();
    // By peer of ours: in how many rows it is ahead, level, behind.
    let mut standings = vec![[0; 3]; peers.len()];
    for (row, Row { name, unit, .. }) in results.rows.iter().enumerate() {
        let values: Vec<_> =
            (0..peers.len()).map(|peer| results.median(metric, row, peer)).collect();
        let ours = (0..peers.len()).filter(|&peer| peers[peer].ours).map(|peer| {
            let multiple = multiples.of_row(row, peer);
            if let Some(interval) = multiple.and_then(|multiple| multiple.interval) {
                standings[peer][interval.standing() as usize] += 1;
            }
            shown(multiple, 2)
        });
        let ours: Vec<_> = ours.collect();
        text.push_str(&(figures(&[name, unit], peers, &values, metric.digits) + &cells(&ours)));
    }
    if metric.summary == Summary::GeometricMean {
        means(results, &multiples, text);
    }
    let counted = peers.iter().zip(&standings).filter(|(_, counts)| counts.iter().any(|&n| n > 0));
    let counted = counted.map(|(peer, [ahead, level, behind])| {
        format!("{} is ahead in {ahead} rows, level in {level}, behind in {behind}", peer.name)
    });
    let counted: Vec<_> = counted.collect();
    if !counted.is_empty() {
        writeln!(text, "\n{}.", counted.join("; ")).unwrap();
    }
}

/// A multiple as a cell: its value, and with enough rounds its interval and what that says.
fn shown(multiple: Option<Multiple>, digits: usize) -> String {
    match multiple {
        None => "-".to_owned(),
        Some(Multiple { value, interval: None }) => format!("{value:.digits$}"),
        Some(Multiple { value, interval: Some(interval) }) => {
            let Interval { low, high } = interval;
            format!("{value:.digits$} ({low:.digits$} to {high:.digits$}) {}", interval.standing())
        }
    }
}

/// The head of a table: the columns of `first`, then one for each peer, and ours over the best peer.
pub fn head(first: &[&str], peers: &[Peer]) -> String {
    let mut text = format!("| {} |", first.join(" | "));
    peers.iter().for_each(|peer| write!(text, " {} |", peer.name).unwrap());
    let ours = peers.iter().filter(|peer| peer.ours);
    ours.clone().for_each(|peer| write!(text, " {}/best |", peer.name).unwrap());
    text + "\n|" + &"---|".repeat(first.len()) + &"--:|".repeat(peers.len() + ours.count()) + "\n"
}

/// A line of it: a figure for each peer, none where it failed, and ours over the best; the least of the peers that are
/// not ours is bold.
pub fn line(first: &[&str], peers: &[Peer], values: &[Option<f64>], digits: usize) -> String {
    let best = best(peers, values);
    let ours = values.iter().zip(peers).filter(|(_, peer)| peer.ours).map(|(value, _)| {
        let ratio = value.zip(best).map(|(value, best)| value / best);
        match ratio.filter(|ratio| ratio.is_finite() && *ratio >= 0.0) {
            None => "-".to_owned(),
            Some(ratio) => format!("{ratio:.2}"),
        }
    });
    figures(first, peers, values, digits) + &cells(&ours.collect::<Vec<_>>())
}

/// The first columns of a line, and the peers'.
fn figures(first: &[&str], peers: &[Peer], values: &[Option<f64>], digits: usize) -> String {
    let mut text = format!("| {} |", first.join(" | "));
    let best = best(peers, values);
    for (peer, value) in peers.iter().zip(values) {
        match value {
            None => text.push_str(" failed |"),
            Some(value) => {
                let bold = if !peer.ours && Some(*value) == best { "**" } else { "" };
                write!(text, " {bold}{value:.digits$}{bold} |").unwrap();
            }
        }
    }
    text
}

/// The last columns.
fn cells(texts: &[String]) -> String {
    texts.iter().map(|text| format!(" {text} |")).collect::<String>() + "\n"
}

/// The least value of the peers that are not ours.
fn best(peers: &[Peer], values: &[Option<f64>]) -> Option<f64> {
    let others = (0..peers.len()).filter(|&peer| !peers[peer].ours);
    others.filter_map(|peer| values[peer]).min_by(f64::total_cmp)
}

/// The last line of a table: geometric means, and ours over the best of the peers'.
fn means<S: Figures>(results: &Results<S>, multiples: &Multiples, text: &mut String) {
    let ours = |peer: &usize| results.peers[*peer].ours;
    let rows = multiples.complete_rows();
    let all = 0..results.peers.len();
    let means: Vec<_> = all.clone().map(|peer| multiples.mean(&rows, peer)).collect();
    let value = |peer: &usize| means[*peer].map(|mean| mean.value);
    let best = all.clone().filter(|peer| !ours(peer) && value(peer).is_some());
    let best = best.min_by(|a, b| value(a).partial_cmp(&value(b)).expect("a mean is a number"));
    write!(text, "| geometric mean of {} | best |", rows.len()).unwrap();
    for peer in all.clone() {
        let bold = if Some(peer) == best { "**" } else { "" };
        match means[peer] {
            None => text.push_str(" - |"),
            Some(Multiple { value, interval: None }) => {
                write!(text, " {bold}{value:.3}{bold} |").unwrap();
            }
            Some(Multiple { value, interval: Some(Interval { low, high }) }) => {
                write!(text, " {bold}{value:.3}{bold} ({low:.3} to {high:.3}) |").unwrap();
            }
        }
    }
    let over = all
        .filter(ours)
        .map(|peer| shown(best.and_then(|best| multiples.mean_over(&rows, peer, best)), 3));
    text.push_str(&cells(&over.collect::<Vec<_>>()));
}

/// Where, when and how figures were measured.
pub fn origin() -> anyhow::Result<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown CPU", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cpus = std::thread::available_parallelism()?;
    let date = tools::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let words: Vec<_> = std::env::args().skip(1).map(|word| without_folders(&word)).collect();
    Ok(format!(
        "Machine: {model}, {cpus} CPUs, Linux {kernel}. Date: {}. Command: `cargo lab {}`.",
        date.trim(),
        words.join(" ")
    ))
}

/// The allocators and what they were built from.
pub fn allocators(peers: &[Peer]) -> String {
    let peers = peers.iter().map(|peer| format!("{} ({})", peer.name, peer.version));
    format!("Allocators: {}.", peers.collect::<Vec<_>>().join(", "))
}

/// A word of the command line; of files that it names by their whole path, only the names.
fn without_folders(word: &str) -> String {
    let name = |part: &str| match part.strip_prefix('/') {
        Some(path) => path.rsplit('/').next().unwrap_or(path).to_owned(),
        None => part.to_owned(),
    };
    word.split(',').map(name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{peer, results, row};
    use super::*;

    #[test]
    fn the_best_peer_is_bold_and_ours_is_a_multiple_of_it() {
        let text =
            all(&results(&["ours", "a", "b"], &[("row", &[Some(1.0), Some(2.0), Some(3.0)])]));
        assert!(text.contains("| 1.00 | **2.00** | 3.00 | 0.50 |"), "{text}");
    }

    #[test]
    fn with_rounds_enough_a_figure_has_an_interval_and_a_standing() {
        let mut results = Results::new(vec![row("row")], ["ours", "a", "b"].map(peer).into());
        for round in 0..9 {
            for (peer, time) in [1.0, 2.0, 3.0].into_iter().enumerate() {
                let time = time + 0.01 * round as f64 * time;
                results.add(round, 0, peer, Ok(super::super::sample::Sample::of(time)));
            }
        }
        let text = all(&results);
        assert!(text.contains("| **2.08** | 3.12 | 0.50 (0.50 to 0.50) ahead |"), "{text}");
        assert!(text.contains("\nours is ahead in 1 rows, level in 0, behind in 0.\n"), "{text}");
    }

    #[test]
    fn a_failure_is_shown_in_the_table_and_below() {
        let text = all(&results(&["ours", "a"], &[("row", &[Some(1.0), None])]));
        assert!(text.contains(" failed |") && text.contains("* row on a, round 1: it crashed"));
    }

    #[test]
    fn this_machines_folders_stay_out() {
        assert_eq!(without_folders("--rows"), "--rows");
        assert_eq!(without_folders("redis,g++"), "redis,g++");
        assert_eq!(without_folders("/tmp/x/a.csv,b/c.csv,/d"), "a.csv,b/c.csv,d");
    }

    #[test]
    fn the_means_of_all_are_compared() {
        let rows: [(&str, &[Option<f64>]); 2] = [
            ("one", &[Some(1.0), Some(2.0), Some(4.0)]),
            ("two", &[Some(1.0), Some(2.0), Some(1.0)]),
        ];
        let results = results(&["ours", "a", "b"], &rows);
        let metric = &super::super::sample::Sample::METRICS[0];
        let mut text = String::new();
        means(&results, &Multiples::of(&results, metric), &mut text);
        // Ours 1/2 and 1; a 1 and 2; b 2 and 1.
        assert_eq!(
            text.trim(),
            "| geometric mean of 2 | best | 0.707 | **1.414** | 1.414 | 0.500 |"
        );
    }
}
