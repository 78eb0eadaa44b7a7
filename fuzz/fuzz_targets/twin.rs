//! The sections' assembly against their plain twins, from any state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rsalloc_fuzz::objects::Defect;
use rsalloc_fuzz::{Case, DEFECT, twin};

fuzz_target!(|case: Case<twin::Op>| {
    twin::replay(&case.0, Defect::wanted(DEFECT));
});
