//! No probes: their notes are assembly.

pub fn is_wanted() -> bool {
    false
}

pub fn alloc(_object: usize, _size: usize, _weight: u64) {}

pub fn free(_object: usize) {}
