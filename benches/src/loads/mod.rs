//! What the rows do, in modules: `single` (one thread), `passing` (objects freed on another thread), `mixed` (programs
//! in small); loads of the literature at their sizes: `waves`, `handing` (batches freed on another thread), `tables`.
//!
//! A step is a fixed piece of work of some ten thousand operations, so that reading the clock between steps costs
//! nothing.

pub mod handing;
pub mod mixed;
pub mod passing;
pub mod single;
pub mod tables;
pub mod waves;

use crate::client::Client;

/// The work of one thread of a row.
pub trait Load: Send {
    /// Builds what the steps work on; runs on the load's thread, off the clock.
    fn start(&mut self, _client: &mut Client) {}

    /// Does a piece of work; the number of operations it was.
    fn step(&mut self, client: &mut Client) -> u64;

    /// Frees what is still live, off the clock, when all threads have made their last step.
    fn finish(&mut self, client: &mut Client);
}
