//! Rows of the Rust front on a data frame.
//!
//! The program `front` runs them when it is built with the feature `queries`. Each checks its answers against what the
//! generated input says. Names and descriptions are in `benches::named`.

mod frame;

use benches::named::{QUERIES, attach};
use benches::rows::{Row, one};

/// All rows, in the order of the table.
pub fn rows() -> Vec<Row> {
    attach(QUERIES, &[("polars", || one(frame::Visits::new(100_000)))])
}

#[cfg(test)]
mod tests {
    use benches::measure::{Budget, run};
    use std::time::Duration;

    /// Each row once, in small.
    #[test]
    fn every_row_runs() {
        for row in super::rows() {
            let measured = run(&row, Budget::Operations(1), Duration::ZERO).expect(row.name);
            assert!(measured.operations >= 1, "{measured:?}");
        }
    }
}
