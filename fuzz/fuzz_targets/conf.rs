//! Texts from outside, such as RSALLOC_CONF.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use rsalloc_fuzz::conf;
use rsalloc_fuzz::objects::Defect;
use std::fmt;

struct Text<'a>(&'a [u8]);

impl<'a> Arbitrary<'a> for Text<'a> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        u.bytes(u.len()).map(Text)
    }
}

/// As a test to paste.
impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.escape_ascii();
        write!(f, "#[test]\nfn found_by_fuzzing() {{\n    conf::replay(b\"{text}\", None);\n}}")
    }
}

fuzz_target!(|text: Text| conf::replay(text.0, Defect::wanted(rsalloc_fuzz::DEFECT)));
