//! No sanitizer.
//!
//! Stands in for the engine's module of this name.

pub fn add_root(_address: usize, _len: usize) {}
pub fn mapping_begins(_address: usize, _len: usize) {}
pub fn mapping_ends(_address: usize, _len: usize) {}
pub fn object_taken(_address: usize) {}
pub fn objects_taken(_addresses: &[usize]) {}
pub fn object_given_up(_address: usize) {}
pub fn pages_taken(_address: usize, _pages: usize) {}
pub fn pages_given_up(_address: usize, _pages: usize) {}
