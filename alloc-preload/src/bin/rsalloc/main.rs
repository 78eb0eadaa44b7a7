//! The `rsalloc` command.
fn main() {}
