//! Rows of the Rust front that are built on libraries from crates.io.
//!
//! The program `front` runs them when it is built with the feature `applications`. Each checks what it computed, so that
//! a lost object is noticed; inputs are generated, the same for every allocator. Names and descriptions are in
//! `benches::named`, so that they can be read without building this package.

mod parsing;
mod search;
mod service;
mod text;

use benches::named::{APPLICATIONS, attach};
use benches::rows::{Row, one};

/// All rows, in the order of the table.
pub fn rows() -> Vec<Row> {
    attach(
        APPLICATIONS,
        &[
            ("serde-json", || one(parsing::Records::new(5000))),
            ("simd-json", || one(parsing::Simd::new(5000))),
            ("regex", || one(text::Patterns::new())),
            ("syn", || one(parsing::Source::new(400))),
            ("axum", || one(service::Api::new(16))),
            ("moka", || service::Cached::group(8)),
            ("tantivy", || one(search::Documents::new(2000))),
        ],
    )
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
