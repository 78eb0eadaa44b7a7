//! Heap profiles: read from a process, given symbols, written as files and pictures.

pub mod flame;
mod folded;
mod frames;
mod outputs;
mod symbols;
mod top;

pub use outputs::Outputs;
pub use symbols::Symbols;
