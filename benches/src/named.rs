//! Names and descriptions of the Rust front's rows, which `lab` reads without building the programs.

use crate::loads::Load;
use crate::rows::Row;

/// A row without its loads.
pub struct Named {
    /// Its name on the command line.
    pub name: &'static str,
    /// What one operation is.
    pub unit: &'static str,
    /// What happens, in a few words.
    pub what: &'static str,
    /// The package whose version belongs to the description; empty: none.
    pub package: &'static str,
}

const CALLS: &str = "alloc+dealloc";

/// The rows of benches/front.
pub const FRONT: &[Named] = &[
    named("alloc-16", CALLS, "one object of 16 B in a loop", ""),
    named("alloc-1024", CALLS, "one object of 1 KiB in a loop", ""),
    named("alloc-64-64", CALLS, "one object of 64 B, aligned to 64, in a loop", ""),
    named("alloc-churn", CALLS, "random up to 512 B, 10,000 live", ""),
    named("vec-push", "push", "vectors of bytes pushed to 64 KiB", ""),
    named("json", "document", "a JSON document of 5,000 values parsed and dropped", "serde_json"),
    named("tree", "insert+remove", "a BTreeMap of 20,000 strings, churned", ""),
    named("ast", "tree", "an expression of 2,047 boxed nodes built, folded, dropped", ""),
    named("sort", "sort", "20,000 strings built and sorted", "rayon"),
    named("tokio-kv", "request", "a key-value server, 16 connections", "tokio"),
];

/// The rows of benches/applications.
pub const APPLICATIONS: &[Named] = &[
    named("serde-json", "document", "5,000 JSON records into structures and back", "serde_json"),
    named("simd-json", "document", "5,000 JSON records into values, dropped", "simd-json"),
    named("regex", "pass", "12 expressions compiled, captures in 1,000 lines", "regex"),
    named("syn", "file", "400 functions parsed, all names changed, written", "syn"),
    named("axum", "request", "a JSON service, 16 connections, orders posted and read", "axum"),
    named("moka", "look-up", "a cache of 10,000 values, 8 threads", "moka"),
    named("tantivy", "index", "2,000 texts indexed in memory, 40 words looked up", "tantivy"),
];

/// The rows of benches/queries.
pub const QUERIES: &[Named] =
    &[named("polars", "query", "100,000 rows filtered, joined, grouped, sorted", "polars")];

const fn named(
    name: &'static str,
    unit: &'static str,
    what: &'static str,
    package: &'static str,
) -> Named {
    Named { name, unit, what, package }
}

/// What does the work of a row: its name, and what builds the loads.
pub type Work = (&'static str, fn() -> Vec<Box<dyn Load>>);

/// The rows of `table`, each with the loads of its name.
///
/// # Panics
/// Unless both have the same names in the same order.
pub fn attach(table: &[Named], loads: &[Work]) -> Vec<Row> {
    assert_eq!(table.len(), loads.len(), "each row has loads");
    let rows = table.iter().zip(loads).map(|(row, &(name, loads))| {
        assert_eq!(row.name, name, "names are in the order of the table");
        Row { name: row.name, unit: row.unit, what: row.what, loads }
    });
    rows.collect()
}
