//! The sections' assembly against their reference implementations, from any state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rsalloc_fuzz::objects::Defect;
use rsalloc_fuzz::{Case, DEFECT, reference};

fuzz_target!(|case: Case<reference::Op>| {
    reference::replay(&case.0, Defect::wanted(DEFECT));
});
