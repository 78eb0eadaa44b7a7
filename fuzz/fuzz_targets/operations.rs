//! Sequences of the public operations; the whole heap is validated at the end of each.
#![no_main]

#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "../../alloc-core/tests/fuzzed/objects.rs"]
mod objects;
#[path = "../../alloc-core/tests/fuzzed/operations.rs"]
mod operations;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use objects::Defect;
use operations::{Op, replay};
use rsalloc_fuzz::{Case, Step, cache, pick, refusal, size};

impl Step for Op {
    const MODULE: &str = "operations";

    fn read(u: &mut Unstructured) -> Result<Op> {
        Ok(match u8::arbitrary(u)? % 32 {
            0..=4 => Op::Allocate { size: size(u)? },
            5..=7 => Op::Aligned { size: size(u)?, shift: u.int_in_range(0..=26)? },
            8..=10 => Op::Zeroed { size: size(u)?, shift: u.int_in_range(0..=18)? },
            11..=13 => Op::Reallocate { pick: pick(u)?, size: size(u)? },
            14..=15 => Op::ReallocateSized { pick: pick(u)?, size: size(u)? },
            16..=19 => Op::Free { pick: pick(u)? },
            20..=22 => Op::FreeSized { pick: pick(u)? },
            23..=24 => Op::Burst { size: size(u)?, count: u.int_in_range(2..=600)? },
            25..=26 => Op::FreeMany { pick: pick(u)?, count: u.int_in_range(2..=600)? },
            27 if bool::arbitrary(u)? => Op::FreeNull { size: size(u)? },
            27 => Op::Release,
            28 => Op::Cache { bytes: cache(u)? },
            29..=30 => {
                let (first, count) = refusal(u)?;
                Op::Refuse { first, count }
            }
            31 if bool::arbitrary(u)? => Op::Exhaust,
            _ => Op::Check,
        })
    }
}

fuzz_target!(|case: Case<Op>| replay(&case.0, Defect::wanted(rsalloc_fuzz::DEFECT)));
