//! Sequences of calls of the C interface, through the functions that librsalloc.so exports.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rsalloc_fuzz::objects::Defect;
use rsalloc_fuzz::{Case, DEFECT, c_abi};

fuzz_target!(|case: Case<c_abi::Op>| {
    c_abi::replay(&case.0, Defect::wanted(DEFECT));
});
