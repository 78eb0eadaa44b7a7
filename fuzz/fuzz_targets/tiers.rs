//! Sequences of operations of the tiers on fake CPUs; migration is one of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rsalloc_fuzz::objects::Defect;
use rsalloc_fuzz::{Case, DEFECT, tiers};

fuzz_target!(|case: Case<tiers::Op>| {
    tiers::replay(&case.0, Defect::wanted(DEFECT));
});
