//! `cargo lab compare --goals`: each goal beside what docs/benchmarks/tables.md says, and whether it is met.
//!
//! Reads the tables of the last `--write`, so it measures nothing. A value above its goal whose interval reaches the
//! goal is "open": more rounds decide it.

use super::confidence::Interval;
use super::part::{self, Part};
use anyhow::Context;
use std::fmt::Write as _;
use std::path::Path;

/// A goal, and how it is read off the tables.
struct Goal {
    what: &'static str,
    goal: &'static str,
    read: fn(&Tables) -> Option<Vec<Finding>>,
}

/// A figure that has a limit.
struct Finding {
    /// What it is of, for the reader.
    of: String,
    cell: Cell,
    limit: f64,
}

/// A cell of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    value: f64,
    interval: Option<Interval>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Met,
    Open,
    NotMet,
}

const TIME: &str = "Time, ns";
/// The largest multiple of the best peer that is no loss.
const LEVEL: f64 = 1.0;

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

const GOALS: &[Goal] = &[
    Goal {
        what: "loads of the literature",
        goal: "no row above 1.10 of its best peer",
        read: |tables| {
            let all = tables.over_best(&part::C, TIME)?.into_iter();
            Some(limited(all.filter(|(row, _)| LITERATURE.contains(&row.as_str())), 1.10))
        },
    },
    Goal {
        what: "micro rows, mean",
        goal: "the lowest, at most 0.97 of the next",
        read: |tables| Some(vec![mean(tables, &part::C, TIME, 0.97)?]),
    },
    Goal {
        what: "micro rows",
        goal: "none above 1.00",
        read: |tables| {
            let all = tables.over_best(&part::C, TIME)?.into_iter();
            // No allocator takes part in touch-1g.
            Some(limited(all.filter(|(row, _)| row != "touch-1g"), LEVEL))
        },
    },
    Goal {
        what: "Rust front",
        goal: "each row at most 1.00",
        read: |tables| Some(limited(tables.over_best(&part::FRONT, TIME)?.into_iter(), LEVEL)),
    },
    Goal {
        what: "Rust front, mean over the best peer's",
        goal: "0.92",
        read: |tables| Some(vec![mean(tables, &part::FRONT, TIME, 0.92)?]),
    },
    Goal {
        what: "`json`, `ast`, `sort`",
        goal: "ahead",
        read: |tables| {
            let all = tables.over_best(&part::FRONT, TIME)?.into_iter();
            let three = all.filter(|(row, _)| ["json", "ast", "sort"].contains(&row.as_str()));
            // Ahead is what the upper end says.
            let upper = |(row, cell): (String, Cell)| {
                let value = cell.interval.map_or(cell.value, |interval| interval.high);
                (row, Cell { value, interval: None })
            };
            Some(limited(three.map(upper), LEVEL - f64::EPSILON))
        },
    },
    Goal {
        what: "programs, CPU time, mean",
        goal: "the lowest by more than its interval",
        read: |tables| Some(vec![mean(tables, &part::PROGRAMS, "CPU time, s", LEVEL)?]),
    },
    Goal {
        what: "programs, CPU time",
        goal: "no row above 1.03",
        read: |tables| {
            Some(limited(tables.over_best(&part::PROGRAMS, "CPU time, s")?.into_iter(), 1.03))
        },
    },
    Goal {
        what: "programs, peak RSS, mean over glibc's",
        goal: "at most 1.03",
        read: |tables| {
            let table = tables.table(&part::PROGRAMS, "Peak RSS, MiB")?;
            let of = |column| Some(table.cell(MEAN, column)?.value);
            let cell = Cell { value: of("rsalloc")? / of("glibc")?, interval: None };
            Some(vec![Finding { of: "mean".into(), cell, limit: 1.03 }])
        },
    },
    Goal {
        what: "sqlite3, python3-malloc, peak RSS over glibc's",
        goal: "at most 1.10",
        read: |tables| {
            let table = tables.table(&part::PROGRAMS, "Peak RSS, MiB")?;
            let of = |row: &str| {
                let of = |column| Some(table.cell(row, column)?.value);
                let cell = Cell { value: of("rsalloc")? / of("glibc")?, interval: None };
                Some(Finding { of: row.into(), cell, limit: 1.10 })
            };
            ["sqlite3", "python3-malloc"].into_iter().map(of).collect()
        },
    },
    Goal {
        what: "recorded programs' calls",
        goal: "at most 1.00 of the best",
        read: |tables| Some(limited(tables.over_best(&part::REPLAY, TIME)?.into_iter(), LEVEL)),
    },
    Goal {
        what: "p99.99 of malloc",
        goal: "at most 1.0 of the best",
        read: |tables| latency(tables, "malloc", 1.0),
    },
    Goal {
        what: "p99.99 of free",
        goal: "at most 1.5 of the best",
        read: |tables| latency(tables, "free", 1.5),
    },
    Goal {
        what: "all freed and idle, over the start",
        goal: "at most 1.1 in every row",
        read: |tables| {
            let table = tables.first_table(&part::MEMORY_IDLE)?;
            Some(limited(table.column("rsalloc")?.into_iter(), 1.1))
        },
    },
];

/// The first words of the line of means.
const MEAN: &str = "geometric mean";

/// The goals as a table, read off the file at `path`.
pub fn table(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("read {}: run `cargo lab compare --write`", path.display()))?;
    Ok(shown(&Tables { text }))
}

fn shown(tables: &Tables) -> String {
    let mut text =
        String::from("| what | goal | measured, the worst first | |\n|---|---|---|---|\n");
    for Goal { what, goal, read } in GOALS {
        let (measured, outcome) = match read(tables).filter(|findings| !findings.is_empty()) {
            None => ("not in the tables".to_owned(), "-".to_owned()),
            Some(findings) => judged(findings),
        };
        writeln!(text, "| {what} | {goal} | {measured} | {outcome} |").unwrap();
    }
    text
}

/// The worst findings, and what is said of all.
fn judged(mut findings: Vec<Finding>) -> (String, String) {
    const SHOWN: usize = 3;
    findings.sort_by(|a, b| (b.cell.value / b.limit).total_cmp(&(a.cell.value / a.limit)));
    let shown: Vec<_> = findings.iter().take(SHOWN).map(Finding::shown).collect();
    let outcomes: Vec<_> = findings.iter().map(Finding::outcome).collect();
    let count = |outcome| outcomes.iter().filter(|one| **one == outcome).count();
    let said = match outcomes.iter().max() {
        Some(Outcome::Met) | None => "met".to_owned(),
        Some(Outcome::Open) => format!("open in {} of {}", count(Outcome::Open), outcomes.len()),
        Some(Outcome::NotMet) => {
            format!("not met in {} of {}", count(Outcome::NotMet), outcomes.len())
        }
    };
    (shown.join(", "), said)
}

impl Finding {
    fn shown(&self) -> String {
        let Finding { of, cell: Cell { value, interval }, .. } = self;
        match interval {
            None => format!("{of} {value:.2}"),
            Some(Interval { low, high }) => format!("{of} {value:.2} ({low:.2} to {high:.2})"),
        }
    }

    fn outcome(&self) -> Outcome {
        let low = self.cell.interval.map_or(self.cell.value, |interval| interval.low);
        match self.limit {
            limit if self.cell.value <= limit => Outcome::Met,
            limit if low <= limit => Outcome::Open,
            _ => Outcome::NotMet,
        }
    }
}

fn limited(rows: impl Iterator<Item = (String, Cell)>, limit: f64) -> Vec<Finding> {
    rows.map(|(of, cell)| Finding { of, cell, limit }).collect()
}

fn mean(tables: &Tables, part: &Part, title: &str, limit: f64) -> Option<Finding> {
    let cell = tables.table(part, title)?.cell(MEAN, OVER_BEST)?;
    Some(Finding { of: "mean".into(), cell, limit })
}

fn latency(tables: &Tables, call: &str, limit: f64) -> Option<Vec<Finding>> {
    let rows = tables.over_best(&part::LATENCY, "p99.99, ns")?.into_iter();
    Some(limited(rows.filter(|(row, _)| row.ends_with(&format!(" {call}"))), limit))
}

/// The column that compares us.
const OVER_BEST: &str = "rsalloc/best";

/// The text of tables.md.
struct Tables {
    text: String,
}

/// One table: its head and its lines, as cells.
struct Table<'a> {
    head: Vec<&'a str>,
    lines: Vec<Vec<&'a str>>,
}

impl Tables {
    /// The table with this title in `part`.
    fn table(&self, part: &Part, title: &str) -> Option<Table<'_>> {
        let text = part.of(&self.text)?;
        let (_, text) = text.split_once(&format!("\n### {title}\n"))?;
        Table::first(text)
    }

    fn first_table(&self, part: &Part) -> Option<Table<'_>> {
        Table::first(part.of(&self.text)?)
    }

    /// By row: ours over the best peer.
    fn over_best(&self, part: &Part, title: &str) -> Option<Vec<(String, Cell)>> {
        let mut all = self.table(part, title)?.column(OVER_BEST)?;
        all.retain(|(row, _)| !row.starts_with(MEAN));
        Some(all)
    }
}

impl<'a> Table<'a> {
    fn first(text: &'a str) -> Option<Table<'a>> {
        let lines = text.lines().skip_while(|line| !line.starts_with('|'));
        let lines = lines.take_while(|line| line.starts_with('|'));
        let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
        let mut lines = lines.map(cells);
        let head = lines.next()?;
        Some(Table { head, lines: lines.skip(1).collect() })
    }

    /// What each row has under `name`, where it is a number.
    fn column(&self, name: &str) -> Option<Vec<(String, Cell)>> {
        let column = self.head.iter().position(|head| *head == name)?;
        let cell =
            |line: &Vec<&str>| Some(((*line.first()?).to_owned(), Cell::parse(line.get(column)?)?));
        Some(self.lines.iter().filter_map(cell).collect())
    }

    /// The cell of the first row whose name begins so.
    fn cell(&self, row: &str, column: &str) -> Option<Cell> {
        let all = self.column(column)?;
        all.into_iter().find(|(name, _)| name.starts_with(row)).map(|(_, cell)| cell)
    }
}

impl Cell {
    /// `VALUE`, `**VALUE**`, `VALUE (LOW to HIGH) ..`
    fn parse(text: &str) -> Option<Cell> {
        let (value, rest) = text.split_once(' ').unwrap_or((text, ""));
        let value = value.trim_matches('*').parse().ok()?;
        let interval = rest.strip_prefix('(').and_then(|rest| {
            let (low, high) = rest.split_once(')')?.0.split_once(" to ")?;
            Some(Interval { low: low.parse().ok()?, high: high.parse().ok()? })
        });
        Some(Cell { value, interval })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(row: &str) -> String {
        let text = format!(
            "<!-- compare-front: begin -->\nWords.\n\n### Time, ns\n\n\
             | row | per | rsalloc | mimalloc | rsalloc/best |\n|---|---|--:|--:|--:|\n\
             | alloc-16 | call | 1.00 | **2.00** | 0.50 (0.40 to 0.60) ahead |\n{row}\
             | geometric mean of 2 | best | 0.900 (0.890 to 0.910) | **1.000** | 0.900 (0.880 to 0.930) ahead |\n\n\
             <!-- compare-front: end -->\n"
        );
        shown(&Tables { text })
    }

    fn line<'a>(table: &'a str, what: &str) -> &'a str {
        table.lines().find(|line| line.starts_with(&format!("| {what} |"))).unwrap()
    }

    #[test]
    fn goals_are_met_open_or_not() {
        let front = |cell: &str| {
            let table = with(&format!("| json | document | 1 | **2** | {cell} |\n"));
            (
                line(&table, "Rust front").to_owned(),
                line(&table, "`json`, `ast`, `sort`").to_owned(),
            )
        };
        let (each, ahead) = front("0.98 (0.97 to 0.99) ahead");
        assert!(each.ends_with("json 0.98 (0.97 to 0.99), alloc-16 0.50 (0.40 to 0.60) | met |"));
        assert!(ahead.ends_with("| json 0.99 | met |"), "{ahead}");
        let (each, ahead) = front("1.01 (0.99 to 1.03) level");
        assert!(each.ends_with("| open in 1 of 2 |") && ahead.ends_with("| not met in 1 of 1 |"));
        let (each, _) = front("1.20 (1.10 to 1.30) behind");
        assert!(each.ends_with("| not met in 1 of 2 |"), "{each}");
        let (each, ahead) = front("0.90");
        assert!(each.ends_with("| met |") && ahead.ends_with("| json 0.90 | met |"));
    }

    #[test]
    fn a_mean_is_read_off_the_last_line() {
        let table = with("");
        let mean = line(&table, "Rust front, mean over the best peer's");
        assert!(mean.ends_with("| 0.92 | mean 0.90 (0.88 to 0.93) | met |"), "{mean}");
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        assert!(line(&with(""), "p99.99 of free").ends_with("| not in the tables | - |"));
    }

    /// The committed tables have the titles and columns that the goals name.
    #[test]
    fn the_committed_tables_have_what_the_goals_read() {
        let table = table(&tools::root().join("docs/benchmarks/tables.md")).unwrap();
        for what in [
            "micro rows",
            "Rust front",
            "programs, CPU time",
            "recorded programs' calls",
            "p99.99 of malloc",
            "p99.99 of free",
            "all freed and idle, over the start",
            "programs, peak RSS, mean over glibc's",
            "sqlite3, python3-malloc, peak RSS over glibc's",
        ] {
            assert!(!line(&table, what).contains("not in the tables"), "{table}");
        }
    }
}
