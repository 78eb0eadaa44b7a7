//! The rows of the Rust front: name, unit, what happens, and the load.

use crate::heap::{Churn, Growth, Same};
use crate::programs::{Ast, Json, KeyValue, SortStrings, TreeChurn};
use benches::rows::{Row, one, row};

/// All rows, in the order of the table.
pub static ROWS: &[Row] = &[
    row("alloc-16", "alloc+dealloc", "one object of 16 B in a loop", || one(Same::new(16, 8))),
    row("alloc-1024", "alloc+dealloc", "one object of 1 KiB in a loop", || one(Same::new(1024, 8))),
    row("alloc-64-64", "alloc+dealloc", "one object of 64 B, aligned to 64, in a loop", || {
        one(Same::new(64, 64))
    }),
    row("alloc-churn", "alloc+dealloc", "random up to 512 B, 10,000 live", || {
        one(Churn::new(10_000, 512))
    }),
    row("vec-push", "push", "vectors of bytes pushed to 64 KiB", || one(Growth)),
    row("json", "document", "a JSON document of 5,000 values parsed and dropped", || {
        one(Json::new(5000))
    }),
    row("tree", "insert+remove", "a BTreeMap of 20,000 strings, churned", || {
        one(TreeChurn::new(20_000))
    }),
    row("ast", "tree", "an expression of 2,047 boxed nodes built, folded, dropped", || one(Ast)),
    row("sort", "sort", "20,000 strings built and sorted by rayon", || {
        one(SortStrings::new(20_000))
    }),
    row("tokio-kv", "request", "a key-value server on tokio, 16 connections", || {
        one(KeyValue::new(16))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use benches::measure::{Budget, run};
    use std::time::Duration;

    /// Each row once, in small.
    #[test]
    fn every_row_runs() {
        for row in ROWS {
            let measured = run(row, Budget::Operations(1), Duration::ZERO).expect(row.name);
            assert!(measured.operations >= 1, "{measured:?}");
        }
    }
}
