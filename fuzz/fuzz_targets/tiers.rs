//! Sequences of operations of the tiers on fake CPUs; migration is one of them.
#![no_main]

#[allow(dead_code, reason = "shared: each target uses a part")]
#[path = "../../alloc-core/tests/fuzzed/objects.rs"]
mod objects;
#[path = "../../alloc-core/tests/support/mod.rs"]
mod support;
#[path = "../../alloc-core/tests/fuzzed/tiers.rs"]
mod tiers;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use objects::Defect;
use rsalloc_fuzz::{Case, Step, cache, class_size, pick, refusal};
use tiers::{CPUS, Op, replay};

impl Step for Op {
    const MODULE: &str = "tiers";

    fn read(u: &mut Unstructured) -> Result<Op> {
        Ok(match u8::arbitrary(u)? % 32 {
            0..=6 => Op::Allocate { size: class_size(u)? },
            7..=13 => Op::Free { pick: pick(u)? },
            14..=17 => Op::Burst { size: class_size(u)?, count: u.int_in_range(2..=600)? },
            18..=21 => Op::FreeMany { pick: pick(u)?, count: u.int_in_range(2..=600)? },
            22..=25 => Op::Migrate { cpu: u.int_in_range(0..=CPUS - 1)? },
            26 => Op::Drain,
            27 => Op::Release,
            28 => Op::Cache { bytes: cache(u)? },
            29 => {
                let (first, count) = refusal(u)?;
                Op::Refuse { first, count }
            }
            _ => Op::Check,
        })
    }
}

fuzz_target!(|case: Case<Op>| replay(&case.0, Defect::wanted(rsalloc_fuzz::DEFECT)));
