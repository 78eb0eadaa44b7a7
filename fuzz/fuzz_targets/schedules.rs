//! Schedules of threads that take turns; the whole heap is validated at the end of each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rsalloc_fuzz::objects::Defect;
use rsalloc_fuzz::{Case, DEFECT, schedules};

fuzz_target!(|case: Case<schedules::Op>| {
    schedules::replay(&case.0, Defect::wanted(DEFECT));
});
