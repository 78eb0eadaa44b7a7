//! The results as lines on the terminal and as docs/programs.md.
//!
//! Judges nothing.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};

use super::mode::Mode;
use super::trial::Measured;

/// A program in a mode.
pub struct Row {
    pub program: &'static str,
    pub mode: Mode,
    /// None if the program failed even without the library.
    pub without: Option<Measured>,
    /// The error says what was wrong and how to repeat it.
    pub with: Result<Measured, String>,
}

/// One row for the terminal, as soon as it is known.
pub fn line(row: &Row) -> String {
    match &row.with {
        Ok(with) => {
            let [wall, wall_with, rss, rss_with] = figures(row.without.as_ref(), with);
            format!(
                "ok      {:<16} {:<7} {wall_with:>6} s (without {wall:>6})  {rss_with:>7} MiB (without {rss:>7})",
                row.program, row.mode
            )
        }
        Err(why) => format!("FAILED  {:<16} {:<7} {why}", row.program, row.mode),
    }
}

/// The failures once more, at the end.
pub fn show(rows: &[Row]) {
    for row in rows.iter().filter(|row| row.with.is_err()) {
        println!("{}", line(row));
    }
}

/// Writes docs/programs.md.
pub fn write(rows: &[Row]) -> Result<()> {
    ensure!(!rows.is_empty(), "nothing to write");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/programs.md");
    fs::write(path, page(rows)?).with_context(|| format!("{path}: cannot be written"))?;
    println!("wrote docs/programs.md");
    Ok(())
}

fn page(rows: &[Row]) -> Result<String> {
    let mut page = String::from(
        "# Real programs on rsalloc\n\n\
         Made by `cargo lab programs --mode all --write`. A row is ok if the program's own checks\n\
         hold, what it gave equals the run without the library, and the library was seen at work in\n\
         it. Wall time is one run and includes the row's clients and checks; peak RSS is the largest\n\
         process of the row (`wait4`). They are there to show outliers, not to rank allocators: other\n\
         work may have run beside. `cargo lab programs --check-control` shows that each row can fail.\n\n",
    );
    writeln!(page, "{}, {}, commit {}\n", machine()?, said("date", &["+%F"])?, commit()?)?;
    page.push_str("| program | mode | result | wall s | without | peak RSS MiB | without |\n");
    page.push_str("|---|---|---|---:|---:|---:|---:|\n");
    for row in rows {
        match &row.with {
            Ok(with) => {
                let [wall, wall_with, rss, rss_with] = figures(row.without.as_ref(), with);
                writeln!(
                    page,
                    "| {} | {} | ok | {wall_with} | {wall} | {rss_with} | {rss} |",
                    row.program, row.mode
                )?;
            }
            Err(_) => writeln!(page, "| {} | {} | **failed** | | | | |", row.program, row.mode)?,
        }
    }
    Ok(page)
}

fn figures(without: Option<&Measured>, with: &Measured) -> [String; 4] {
    let wall = |run: &Measured| format!("{:.2}", run.wall.as_secs_f64());
    let rss = |run: &Measured| format!("{:.1}", run.used.peak_rss_kib as f64 / 1024.0);
    let of = |figure: &dyn Fn(&Measured) -> String| without.map(figure).unwrap_or_default();
    [of(&wall), wall(with), of(&rss), rss(with)]
}

fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let models: Vec<&str> = processors
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.split(['-', '+']).next().unwrap_or_default().trim();
    let model = models.first().context("/proc/cpuinfo names no model")?;
    Ok(format!("{} x {model}, Linux {kernel}", models.len()))
}

fn commit() -> Result<String> {
    said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short=7", "HEAD"])
}

fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let text = tools::output(std::process::Command::new(program).args(arguments))?;
    Ok(text.trim().to_owned())
}
