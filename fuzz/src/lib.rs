//! What the fuzz targets share: how bytes become sequences, and how a sequence becomes a test.
//!
//! `cargo xtask fuzz` runs them. What replays a sequence and judges it lies with the tests of alloc-core and
//! alloc-preload.

#[path = "../../alloc-preload/tests/fuzzed/c_abi.rs"]
pub mod c_abi;
#[path = "../../alloc-core/tests/fuzzed/conf.rs"]
pub mod conf;
#[path = "../../alloc-core/tests/support/cpus.rs"]
pub mod cpus;
#[path = "../../alloc-core/tests/fuzzed/heap.rs"]
pub mod heap;
#[path = "../../alloc-preload/tests/fuzzed/library.rs"]
pub mod library;
#[path = "../../alloc-core/tests/fuzzed/objects.rs"]
pub mod objects;
#[path = "../../alloc-core/tests/fuzzed/operations.rs"]
pub mod operations;
#[path = "../../alloc-core/tests/fuzzed/schedules.rs"]
pub mod schedules;
mod steps;
#[path = "../../alloc-core/tests/support/mod.rs"]
pub mod support;
#[path = "../../alloc-core/tests/fuzzed/tiers.rs"]
pub mod tiers;
#[path = "../../alloc-core/tests/fuzzed/reference.rs"]
pub mod reference;

use arbitrary::{Arbitrary, Result, Unstructured};
use std::fmt;

/// The environment variable that asks a target for a defect, by its name.
pub const DEFECT: &str = "RSALLOC_FUZZ_DEFECT";

/// The environment variable that names the librsalloc.so of the target `c_abi`.
pub const LIBRARY: &str = "RSALLOC_FUZZ_LIBRARY";

fn library_path() -> std::path::PathBuf {
    let path = std::env::var_os(LIBRARY);
    path.unwrap_or_else(|| panic!("{LIBRARY} names no librsalloc.so; run by: cargo xtask fuzz"))
        .into()
}

/// Sequences are cut off here, so that a run stays short.
const OPS_MAX: usize = 1000;

/// A step of a sequence.
pub trait Step: fmt::Debug + Sized {
    /// What the test uses, which is kept with the module that replays the sequence.
    const USES: &[&str];

    /// The step that comes next in the bytes.
    fn read(u: &mut Unstructured) -> Result<Self>;

    /// Whether it costs page faults rather than work of the allocator: a long run takes few of them.
    fn is_heavy(&self) -> bool;
}

/// A sequence of steps.
pub struct Case<Op>(pub Vec<Op>);

/// Steps until the bytes are used up, so that a change of bytes keeps the steps before it.
impl<'a, Op: Step> Arbitrary<'a> for Case<Op> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut ops = Vec::new();
        while !u.is_empty() && ops.len() < OPS_MAX {
            ops.push(Op::read(u)?);
        }
        Ok(Case(ops))
    }
}

/// As a test to paste.
impl<Op: Step> fmt::Debug for Case<Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "#[test]\nfn found_by_fuzzing() {{")?;
        for names in Op::USES {
            writeln!(f, "    use {names};")?;
        }
        writeln!(f, "    replay(\n        &[")?;
        for op in &self.0 {
            writeln!(f, "            {op:?},")?;
        }
        write!(f, "        ],\n        None,\n    );\n}}")
    }
}

/// A size: mostly small, sometimes a large span, sometimes next to a limit.
pub fn size(u: &mut Unstructured) -> Result<usize> {
    Ok(match u8::arbitrary(u)? % 16 {
        0..=6 => u.int_in_range(0..=1024)?,
        7..=9 => u.int_in_range(1025..=32 << 10)?,
        10..=11 => u.int_in_range((32 << 10) + 1..=256 << 10)?,
        12..=13 => *u.choose(&EDGES)?,
        14 => u.int_in_range(256 << 10..=4 << 20)?,
        _ => u.int_in_range(4 << 20..=40 << 20)?,
    })
}

const EDGES: [usize; 18] = [
    0,
    8,
    9,
    128,
    129,
    1024,
    1025,
    32 << 10,
    (32 << 10) + 1,
    64 << 10,
    256 << 10,
    (256 << 10) + 1,
    512 << 10,
    32 << 20,
    (32 << 20) + 1,
    isize::MAX as usize,
    isize::MAX as usize + 1,
    usize::MAX,
];

/// How many objects an array has.
pub fn count(u: &mut Unstructured) -> Result<usize> {
    Ok(match u8::arbitrary(u)? % 16 {
        0..=13 => u.int_in_range(0..=40)?,
        14 => u.int_in_range(0..=4096)?,
        _ => *u.choose(&[1 << 32, isize::MAX as usize, usize::MAX])?,
    })
}

/// An alignment, good or bad: none that the address space may or may not hold.
pub fn alignment(u: &mut Unstructured) -> Result<usize> {
    const TOP: usize = 1 << 63;
    Ok(match u8::arbitrary(u)? % 16 {
        0..=9 => 1 << u.int_in_range(0..=16)?,
        10..=11 => 1 << u.int_in_range(17..=26)?,
        12..=13 => u.int_in_range(0..=100_000)?,
        _ => *u.choose(&[0, 1 << 47, TOP / 2, TOP / 2 + 1, TOP - 1, TOP, TOP + 1, usize::MAX])?,
    })
}

/// A size of an object of a class.
pub fn class_size(u: &mut Unstructured) -> Result<usize> {
    Ok(size(u)? % ((256 << 10) + 1))
}

/// The number of some live object.
pub fn pick(u: &mut Unstructured) -> Result<usize> {
    Ok(usize::from(u16::arbitrary(u)?))
}

/// The budget of a shard, from none to plenty.
pub fn cache(u: &mut Unstructured) -> Result<usize> {
    Ok(1 << u.int_in_range(0..=22)?)
}

/// The first call to the OS that is refused, and how many are.
pub fn refusal(u: &mut Unstructured) -> Result<(u64, u64)> {
    Ok((u.int_in_range(0..=15)?, u.int_in_range(1..=64)?))
}
