//! The results as lines on the terminal and as docs/kernels.md.
//!
//! Judges nothing.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use super::Row;
use super::cell::{self, Shape};

/// One row for the terminal, as soon as it is known.
pub fn line(row: &Row) -> String {
    let name = row.cell.name();
    match row.faults.is_empty() {
        true => format!(
            "ok      {name:<26} {:>3} steps, {:>7} sections aborted, {:>5.0} s",
            row.seen.len(),
            aborts(row),
            row.seconds,
        ),
        false => format!("FAILED  {name:<26} {}", row.faults.join("\n        ")),
    }
}

/// Writes the page; what stands below its table stays.
pub fn write(rows: &[Row]) -> Result<()> {
    let path = tools::root().join("docs/kernels.md");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let rest = before.find("\n## ").map_or("", |at| &before[at..]);
    fs::write(&path, page(rows)? + rest).with_context(|| format!("write {}", path.display()))?;
    println!("wrote docs/kernels.md");
    Ok(())
}

fn page(rows: &[Row]) -> Result<String> {
    let mut page = String::from(
        "# Other kernels\n\n\
         Made by `cargo lab vm --record DIR --write`: Debian's cloud kernels in QEMU 10, the programs in an initramfs. A cell is\n\
         ok if the machine was the one it is called, every step ended as it had to, and the kernel aborted sections by the\n\
         hundred in each mode that has them. `cargo lab vm --control` shows that each demand can turn red.\n\n",
    );
    writeln!(
        page,
        "{} of the {} cells of the matrix were run, each in full unless it says `few`:\n",
        rows.len(),
        cell::all().len()
    )?;
    page += "| Linux | glibc | CPUs | rseq (kernel, libc) | steps | seconds | hotplug | sections aborted | day, commit | result |\n\
             |---|---|---|---|--:|--:|--:|--:|---|---|\n";
    for row in rows {
        let facts = row.facts();
        let (release, sizes) = match &facts {
            Some(facts) => {
                let debug = if facts.rseq_debug { ", rseq_debug" } else { "" };
                let sizes = format!("{} B, {} B{debug}", facts.feature_size, facts.rseq_size);
                (facts.release.split(['-', '+']).next().unwrap_or_default().to_owned(), sizes)
            }
            None => (row.cell.kernel.version.to_owned(), "?".to_owned()),
        };
        let toggles: u64 = row.seen.iter().map(|seen| seen.toggles).sum();
        let toggles = if toggles > 0 { toggles.to_string() } else { "-".into() };
        let result = if row.faults.is_empty() { "ok".into() } else { row.faults.join("; ") };
        writeln!(
            page,
            "| {release} | {} | {} | {sizes} | {}{} | {:.0} | {toggles} | {} | {}, {} | {result} |",
            row.cell.glibc.version,
            cpus(row.cell.shape),
            if row.run.is_quick { "few: " } else { "" },
            row.seen.len(),
            row.seconds,
            aborts(row),
            row.run.day,
            row.run.commit,
        )?;
    }
    Ok(page)
}

fn cpus(shape: Shape) -> String {
    match shape {
        Shape::Cpus(count) => count.to_string(),
        Shape::Holes => "2 of 16".into(),
        Shape::Numa => "4 on 2 nodes".into(),
    }
}

fn aborts(row: &Row) -> u64 {
    row.seen.iter().filter_map(|seen| seen.fixups).sum()
}
