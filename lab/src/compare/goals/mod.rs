//! `cargo lab compare --goals`: each goal beside what the last table runs say, and whether it is met.
//!
//! Reads the samples that `--write` keeps, and the tables of memory, so it measures nothing. A value above its goal whose
//! interval reaches the goal is "open": more rounds decide it. What must be ahead is judged by the upper end of its
//! interval.

mod kept;
mod tables;

use Limit::AtMost;

use super::confidence::Interval;
use super::figures::{Figures, Metric};
use super::multiples::Multiple;
use super::part::{self, Part};
use super::{latency, programs, sample};
use anyhow::Context;
use kept::{Compared, Kept};
use std::fmt::Write as _;
use std::path::Path;
use tables::Tables;

/// A goal, and how it is read.
struct Goal {
    what: &'static str,
    goal: &'static str,
    read: fn(&Measured) -> Option<Vec<Finding>>,
}

/// A figure that has a limit.
struct Finding {
    /// What it is of, for the reader.
    of: String,
    figure: Multiple,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    /// The value may be so much; its interval says how sure that is.
    AtMost(f64),
    /// The whole interval must lie below.
    Below(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Met,
    Open,
    Missed,
}

/// What was measured; none: not kept.
struct Measured {
    micro: Option<Kept>,
    micro_peak: Option<Kept>,
    floor: Option<Kept>,
    front: Option<Kept>,
    programs: Option<Kept>,
    programs_peak: Option<Kept>,
    replay: Option<Kept>,
    latency: Option<Kept>,
    tables: Tables,
}

/// No loss.
const LEVEL: Limit = AtMost(1.0);
const AHEAD: Limit = Limit::Below(1.0);

/// Loads of the literature in the micro rows.
const LITERATURE: [&str; 12] = [
    "sh6",
    "shbench",
    "sh8",
    "rptest",
    "xmalloc-64",
    "larson-5000",
    "alloc-test",
    "alloc-test-2",
    "glibc-simple",
    "glibc-thread",
    "cache-scratch",
    "cache-thrash",
];

/// Peers that ask the kernel for huge pages where it leaves that to programs.
const ON_HUGE_PAGES: [&str; 3] = ["mimalloc2", "mimalloc2-crate", "mimalloc3"];

const GOALS: &[Goal] = &[
    Goal {
        what: "loads of the literature and programs, mean over the next",
        goal: "the lowest, at most 0.97",
        read: |measured| {
            let (next, figure) = measured.outside_rows()?.mean_over_next()?;
            Some(vec![Finding { of: format!("over {next}"), figure, limit: AtMost(0.97) }])
        },
    },
    Goal {
        what: "loads of the literature and programs, each",
        goal: "no row above 1.10",
        read: |measured| Some(limited(&measured.outside_rows()?, AtMost(1.10))),
    },
    Goal {
        what: "Rust front, each row",
        goal: "at most 1.00",
        read: |measured| Some(limited(&all(measured.front.as_ref()?), LEVEL)),
    },
    Goal {
        what: "Rust front, mean",
        goal: "at most 0.92",
        read: |measured| Some(vec![mean(&all(measured.front.as_ref()?), AtMost(0.92))?]),
    },
    Goal {
        what: "`json`, `ast`, `sort`",
        goal: "ahead",
        read: |measured| {
            let wanted = |row: &str| ["json", "ast", "sort"].contains(&row);
            let three = Compared::of(&[measured.front.as_ref()?], wanted, |_| true);
            Some(limited(&three, AHEAD))
        },
    },
    Goal {
        what: "micro rows",
        goal: "none above 1.00, or within 3 % of the floor",
        read: |measured| {
            let micro = measured.micro.as_ref()?;
            // No allocator takes part in touch-1g.
            let rows = |row: &str| row != "touch-1g";
            let over_floor = measured.floor.as_ref().map_or(Vec::new(), |floor| all(floor).each());
            let mut findings = limited(&Compared::of(&[micro], rows, |_| true), LEVEL);
            for finding in &mut findings {
                let floor = over_floor.iter().find(|(row, _)| *row == finding.of);
                if let Some((row, figure)) = floor.filter(|(_, over)| over.value <= 1.03) {
                    let of = format!("{row} over the floor");
                    *finding = Finding { of, figure: *figure, limit: AtMost(1.03) };
                }
            }
            Some(findings)
        },
    },
    Goal {
        what: "programs, CPU time, mean over the next",
        goal: "the lowest by more than its interval",
        read: |measured| {
            let (next, figure) = all(measured.programs.as_ref()?).mean_over_next()?;
            Some(vec![Finding { of: format!("over {next}"), figure, limit: AHEAD }])
        },
    },
    Goal {
        what: "programs, CPU time, each row",
        goal: "at most 1.03",
        read: |measured| Some(limited(&all(measured.programs.as_ref()?), AtMost(1.03))),
    },
    Goal {
        what: "programs, peak RSS, mean over glibc's",
        goal: "at most 1.03",
        read: |measured| {
            let peak = measured.programs_peak.as_ref()?;
            Some(vec![mean(&Compared::of(&[peak], |_| true, is_glibc), AtMost(1.03))?])
        },
    },
    Goal {
        what: "sqlite3 and python3, peak RSS over glibc's",
        goal: "at most 1.10",
        read: |measured| {
            let wanted = |row: &str| ["sqlite3", "python3", "python3-malloc"].contains(&row);
            let peak = measured.programs_peak.as_ref()?;
            Some(limited(&Compared::of(&[peak], wanted, is_glibc), AtMost(1.10)))
        },
    },
    Goal {
        what: "programs, peak RSS over the leanest peer's but glibc's",
        goal: "at most 1.00",
        read: |measured| {
            let peak = measured.programs_peak.as_ref()?;
            Some(limited(&Compared::of(&[peak], |_| true, |peer| !is_glibc(peer)), LEVEL))
        },
    },
    Goal {
        what: "recorded programs' calls, over peers without huge pages",
        goal: "at most 1.00",
        read: |measured| {
            let rivals = |peer: &str| !ON_HUGE_PAGES.contains(&peer);
            Some(limited(&Compared::of(&[measured.replay.as_ref()?], |_| true, rivals), LEVEL))
        },
    },
    Goal {
        what: "recorded programs' calls, over all peers",
        goal: "at most 1.10",
        read: |measured| Some(limited(&all(measured.replay.as_ref()?), AtMost(1.10))),
    },
    Goal {
        what: "p99.99 of malloc",
        goal: "at most 1.0",
        read: |measured| single_calls(measured, "malloc", LEVEL),
    },
    Goal {
        what: "p99.99 of free",
        goal: "at most 1.5",
        read: |measured| single_calls(measured, "free", AtMost(1.5)),
    },
    Goal {
        what: "all freed and idle, over the start",
        goal: "at most 1.1 in every row of `memory`",
        read: |measured| {
            let rows = measured.tables.column(&part::MEMORY_IDLE, "rsalloc")?;
            let phases = measured.tables.column(&part::MEMORY_PHASES, "rsalloc")?;
            let phases = phases.into_iter().filter(|(row, _)| row == "idle over start");
            let phases = phases.map(|(_, value)| ("phases".to_owned(), value));
            Some(
                rows.into_iter()
                    .chain(phases)
                    .map(|(of, value)| plain(of, value, AtMost(1.1)))
                    .collect(),
            )
        },
    },
    Goal {
        what: "resident in the smallest program (`same-16`), MiB above glibc",
        goal: "at most 0.1",
        read: |measured| {
            let peak = measured.micro_peak.as_ref()?;
            let of = |name| peak.median("same-16", name);
            Some(vec![plain("same-16".into(), of("rsalloc")? - of("glibc")?, AtMost(0.1))])
        },
    },
];

fn is_glibc(peer: &str) -> bool {
    peer == "glibc"
}

fn all(kept: &Kept) -> Compared {
    Compared::of(&[kept], |_| true, |_| true)
}

/// The goals as a table, read off the files in the folder `docs`.
pub fn table(docs: &Path) -> anyhow::Result<String> {
    Ok(shown(&Measured::read(docs)?))
}

impl Measured {
    fn read(docs: &Path) -> anyhow::Result<Measured> {
        let path = docs.join("benchmarks/tables.md");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read {}: run `cargo lab compare --write`", path.display()))?;
        fn kept<S: Figures>(
            docs: &Path,
            part: &Part,
            metric: &Metric<S>,
        ) -> anyhow::Result<Option<Kept>> {
            Kept::read(docs, part, metric)
        }
        Ok(Measured {
            micro: kept(docs, &part::C, &sample::TIME)?,
            micro_peak: kept(docs, &part::C, &sample::PEAK)?,
            floor: kept(docs, &part::FLOOR, &sample::TIME)?,
            front: kept(docs, &part::FRONT, &sample::TIME)?,
            programs: kept(docs, &part::PROGRAMS, &programs::CPU)?,
            programs_peak: kept(docs, &part::PROGRAMS, &programs::PEAK)?,
            replay: kept(docs, &part::REPLAY, &sample::TIME)?,
            latency: kept(docs, &part::LATENCY, &latency::P99_99)?,
            tables: Tables { text },
        })
    }

    /// What was not written for this project: time of the loads of the literature, CPU time of programs.
    fn outside_rows(&self) -> Option<Compared> {
        let programs = self.programs.as_ref()?;
        let wanted = |row: &str| LITERATURE.contains(&row) || programs.has(row);
        Some(Compared::of(&[self.micro.as_ref()?, programs], wanted, |_| true))
    }
}

fn shown(measured: &Measured) -> String {
    let mut text =
        String::from("| what | goal | measured, the worst first | |\n|---|---|---|---|\n");
    for Goal { what, goal, read } in GOALS {
        let (measured, outcome) = match read(measured).filter(|findings| !findings.is_empty()) {
            None => ("not measured".to_owned(), "-".to_owned()),
            Some(findings) => judged(findings),
        };
        writeln!(text, "| {what} | {goal} | {measured} | {outcome} |").unwrap();
    }
    text
}

/// The worst findings, and what is said of all.
fn judged(mut findings: Vec<Finding>) -> (String, String) {
    const SHOWN: usize = 3;
    findings.sort_by(|a, b| {
        b.outcome().cmp(&a.outcome()).then(b.over_limit().total_cmp(&a.over_limit()))
    });
    let shown: Vec<_> = findings.iter().take(SHOWN).map(Finding::shown).collect();
    let outcomes: Vec<_> = findings.iter().map(Finding::outcome).collect();
    let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count();
    let (open, missed, all) = (count(Outcome::Open), count(Outcome::Missed), outcomes.len());
    let said = match outcomes.iter().max() {
        Some(Outcome::Met) | None => "met".to_owned(),
        Some(Outcome::Open) => format!("open in {open} of {all}"),
        Some(Outcome::Missed) if open == 0 => format!("missed in {missed} of {all}"),
        Some(Outcome::Missed) => format!("missed in {missed}, open in {open} of {all}"),
    };
    (shown.join(", "), said)
}

impl Finding {
    fn shown(&self) -> String {
        let Finding { of, figure: Multiple { value, interval }, .. } = self;
        match interval {
            None => format!("{of} {value:.2}"),
            Some(Interval { low, high }) => format!("{of} {value:.2} ({low:.2} to {high:.2})"),
        }
    }

    fn outcome(&self) -> Outcome {
        let Multiple { value, interval } = self.figure;
        let Interval { low, high } = interval.unwrap_or(Interval { low: value, high: value });
        match self.limit {
            AtMost(limit) if value <= limit => Outcome::Met,
            AtMost(limit) if low <= limit => Outcome::Open,
            Limit::Below(limit) if high < limit => Outcome::Met,
            Limit::Below(limit) if low < limit => Outcome::Open,
            _ => Outcome::Missed,
        }
    }

    fn over_limit(&self) -> f64 {
        let (AtMost(limit) | Limit::Below(limit)) = self.limit;
        self.figure.value / limit
    }
}

fn limited(rows: &Compared, limit: Limit) -> Vec<Finding> {
    rows.each().into_iter().map(|(of, figure)| Finding { of, figure, limit }).collect()
}

fn mean(rows: &Compared, limit: Limit) -> Option<Finding> {
    let (count, figure) = rows.mean()?;
    Some(Finding { of: format!("mean of {count}"), figure, limit })
}

fn plain(of: String, value: f64, limit: Limit) -> Finding {
    Finding { of, figure: Multiple { value, interval: None }, limit }
}

fn single_calls(measured: &Measured, call: &str, limit: Limit) -> Option<Vec<Finding>> {
    let wanted = |row: &str| row.ends_with(&format!(" {call}"));
    Some(limited(&Compared::of(&[measured.latency.as_ref()?], wanted, |_| true), limit))
}

#[cfg(test)]
mod tests {
    use super::super::report::Results;
    use super::super::report::tests::{peer, row};
    use super::super::sample::Sample;
    use super::*;

    /// Nine rounds of the Rust front: times of ours and of mimalloc, by row, with a noise of 2 %.
    fn front(rows: &[(&str, f64, f64)]) -> String {
        let docs = tempfile::tempdir().unwrap();
        let peers = ["rsalloc", "mimalloc"].map(peer).into();
        let mut results = Results::new(rows.iter().map(|(name, ..)| row(name)).collect(), peers);
        for round in 0..9 {
            for (row, (_, ours, other)) in rows.iter().enumerate() {
                let noise = 1.0 + 0.005 * (round as f64 - 4.0);
                results.add(round, row, 0, Ok(Sample::of(ours * noise)));
                results.add(round, row, 1, Ok(Sample::of(*other)));
            }
        }
        results.write_csv(&part::FRONT.samples_in(docs.path())).unwrap();
        std::fs::write(docs.path().join("benchmarks/tables.md"), "").unwrap();
        table(docs.path()).unwrap()
    }

    fn line<'a>(table: &'a str, what: &str) -> &'a str {
        table.lines().find(|line| line.starts_with(&format!("| {what} |"))).unwrap()
    }

    #[test]
    fn goals_are_met_open_or_missed() {
        let outcomes = |ours| {
            let table = front(&[("json", ours, 1.0), ("alloc-16", 0.5, 1.0)]);
            let end = |what| line(&table, what).rsplit('|').nth(1).unwrap().trim().to_owned();
            (end("Rust front, each row"), end("`json`, `ast`, `sort`"))
        };
        let both = |each: &str, ahead: &str| (each.to_owned(), ahead.to_owned());
        assert_eq!(outcomes(0.95), both("met", "met"));
        assert_eq!(outcomes(0.995), both("met", "open in 1 of 1"));
        assert_eq!(outcomes(1.005), both("open in 1 of 2", "open in 1 of 1"));
        assert_eq!(outcomes(1.2), both("missed in 1 of 2", "missed in 1 of 1"));
    }

    #[test]
    fn a_mean_is_over_the_best_peer_of_each_row() {
        let table = front(&[("json", 0.8, 1.0), ("alloc-16", 0.45, 0.5)]);
        let mean = line(&table, "Rust front, mean");
        assert!(mean.contains("| mean of 2 0.85 (") && mean.ends_with("| met |"), "{mean}");
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let table = front(&[("json", 0.8, 1.0)]);
        assert!(line(&table, "p99.99 of free").ends_with("| not measured | - |"), "{table}");
        assert!(line(&table, "programs, CPU time, each row").ends_with("| not measured | - |"));
    }

    /// What is kept of the last table runs has the rows and allocators that the goals name.
    #[test]
    fn of_a_suite_that_is_kept_all_goals_are_read() {
        let docs = tools::root().join("docs");
        let measured = Measured::read(&docs).unwrap();
        let table = table(&docs).unwrap();
        let kept = [
            ("micro rows", measured.micro.is_some()),
            (
                "resident in the smallest program (`same-16`), MiB above glibc",
                measured.micro_peak.is_some(),
            ),
            ("`json`, `ast`, `sort`", measured.front.is_some()),
            ("sqlite3 and python3, peak RSS over glibc's", measured.programs_peak.is_some()),
            ("programs, CPU time, mean over the next", measured.programs.is_some()),
            (
                "loads of the literature and programs, each",
                measured.programs.is_some() && measured.micro.is_some(),
            ),
            ("recorded programs' calls, over peers without huge pages", measured.replay.is_some()),
            ("p99.99 of malloc", measured.latency.is_some()),
            ("p99.99 of free", measured.latency.is_some()),
            ("all freed and idle, over the start", true),
        ];
        for (what, is_kept) in kept {
            assert_eq!(!line(&table, what).contains("not measured"), is_kept, "{table}");
        }
    }
}
