//! Sequences of the public operations; the whole heap is validated at the end of each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rsalloc_fuzz::objects::Defect;
use rsalloc_fuzz::{Case, DEFECT, operations};

fuzz_target!(|case: Case<operations::Op>| {
    operations::replay(&case.0, Defect::wanted(DEFECT));
});
