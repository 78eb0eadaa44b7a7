//! What is measured: the figures of a sample, each of which gets a table.
//!
//! Each suite's sample implements [`Figures`].

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What one run of a row cost. Serialised, it is a line of the CSV file, flat.
pub trait Figures: Serialize + DeserializeOwned + 'static {
    /// The tables, in order; a limit is on the first.
    const METRICS: &'static [Metric<Self>];
}

/// A figure of a sample that gets a table.
pub struct Metric<S> {
    /// The table's title.
    pub title: &'static str,
    /// Digits after the decimal point.
    pub digits: usize,
    /// What sums up the rows.
    pub summary: Summary,
    /// The name of the file that it is drawn in, without `.svg`.
    pub plot: Option<&'static str>,
    /// The figure.
    pub of: fn(&S) -> f64,
}

/// What sums up the rows of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Summary {
    /// Nothing.
    None,
    /// The geometric mean of each allocator's multiples of the best peer's figure.
    GeometricMean,
}

/// A row of the comparison.
#[derive(Clone, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What one operation is.
    pub unit: String,
    /// What happens in it.
    pub what: String,
}
