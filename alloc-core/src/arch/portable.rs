//! Architectures without sections in this build: the atomic path serves everything.

/// No sections here.
pub const HAS_SECTIONS: bool = false;

compile_error!("rsalloc has its sections for x86-64 only so far");
