//! The rows of the Rust front: for each name of `benches::named` the loads.

/// All rows, in the order of the table.
#[cfg(feature = "applications")]
pub use applications::rows;

/// All rows, in the order of the table.
#[cfg(feature = "queries")]
pub use queries::rows;

/// All rows, in the order of the table.
#[cfg(not(any(feature = "applications", feature = "queries")))]
pub fn rows() -> Vec<benches::rows::Row> {
    use crate::heap::{Churn, Growth, Same};
    use crate::programs::{Ast, Json, KeyValue, SortStrings, TreeChurn};
    use benches::named::{FRONT, attach};
    use benches::rows::one;

    attach(
        FRONT,
        &[
            ("alloc-16", || one(Same::new(16, 8))),
            ("alloc-1024", || one(Same::new(1024, 8))),
            ("alloc-64-64", || one(Same::new(64, 64))),
            ("alloc-churn", || one(Churn::new(10_000, 512))),
            ("vec-push", || one(Growth)),
            ("json", || one(Json::new(5000))),
            ("tree", || one(TreeChurn::new(20_000))),
            ("ast", || one(Ast)),
            ("sort", || one(SortStrings::new(20_000))),
            ("tokio-kv", || one(KeyValue::new(16))),
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
