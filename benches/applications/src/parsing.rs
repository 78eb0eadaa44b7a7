//! Parsers: JSON into structures and into values, Rust source into a syntax tree.

use benches::client::Client;
use benches::loads::Load;
use benches::rng::Rng;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use syn::visit_mut::VisitMut;

#[derive(Serialize, Deserialize)]
struct Record {
    id: usize,
    name: String,
    size: usize,
    tags: Vec<String>,
    nested: Nested,
}

#[derive(Serialize, Deserialize)]
struct Nested {
    share: f64,
    note: Option<String>,
}

/// A JSON array of so many records.
fn document(records: usize) -> String {
    let mut rng = Rng::new(3);
    let record = |id| {
        let (size, share) = (rng.below(1 << 20), rng.below(1000));
        Record {
            id,
            name: format!("record {id}"),
            size,
            tags: (0..rng.below(6)).map(|tag| format!("tag-{tag}-{share}")).collect(),
            nested: Nested { share: share as f64 / 8.0, note: Some("text".repeat(share % 4)) },
        }
    };
    serde_json::to_string(&(0..records).map(record).collect::<Vec<_>>()).expect("it is data")
}

/// serde_json: a document read into structures, written again, dropped.
pub struct Records {
    text: String,
    records: usize,
}

impl Records {
    /// A document of so many records.
    pub fn new(records: usize) -> Self {
        Records { text: document(records), records }
    }
}

impl Load for Records {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let records: Vec<Record> = serde_json::from_str(&self.text).expect("what was written");
        assert_eq!(records.len(), self.records);
        let written = serde_json::to_string(&records).expect("it is data");
        assert!(written == self.text, "a record was changed");
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// simd-json: a document read into values, dropped.
pub struct Simd {
    text: Vec<u8>,
    records: usize,
}

impl Simd {
    /// A document of so many records.
    pub fn new(records: usize) -> Self {
        Simd { text: document(records).into_bytes(), records }
    }
}

impl Load for Simd {
    fn step(&mut self, _client: &mut Client) -> u64 {
        use simd_json::prelude::*;
        // It parses in place.
        let mut text = self.text.clone();
        let value = simd_json::to_owned_value(&mut text).expect("what was written");
        assert_eq!(value.as_array().map(|records| records.len()), Some(self.records));
        assert_eq!(value[self.records - 1]["id"], self.records - 1);
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}

/// A compiler-like pass: source parsed by syn, all names changed, written as tokens and as text.
pub struct Source {
    text: String,
    functions: usize,
}

impl Source {
    /// A file of so many functions.
    pub fn new(functions: usize) -> Self {
        let mut text = String::new();
        for i in 0..functions {
            write!(
                text,
                "/// Function {i}.\npub fn function_{i}<T: Clone + Into<u64>>(items: &[T], limit: usize) -> Option<u64> {{
    let mut sum = 0_u64;
    for (index, item) in items.iter().enumerate().filter(|(index, _)| index % {} == 0) {{
        match (index, sum) {{
            (0, _) => sum += 1,
            (i, s) if i > limit && s > {i} => return Some(s + item.clone().into()),
            _ => {{ let value: u64 = item.clone().into(); sum = sum.wrapping_mul(31) ^ (value << {}); }}
        }}
    }}
    if sum == 0 {{ None }} else {{ Some(sum + [1, 2, {i}].iter().map(|n| n * 2).sum::<u64>()) }}
}}\n\n",
                i % 7 + 1,
                i % 60
            )
            .expect("a string takes all");
        }
        Source { text, functions }
    }

    /// The file, the file with other names, and that as text.
    fn renamed(&self) -> (syn::File, syn::File, String) {
        let before: syn::File = syn::parse_str(&self.text).expect("it is Rust");
        let mut after = before.clone();
        Rename.visit_file_mut(&mut after);
        let written = quote::ToTokens::to_token_stream(&after).to_string();
        (before, after, written)
    }
}

/// Appends a letter to each name.
struct Rename;

impl VisitMut for Rename {
    fn visit_ident_mut(&mut self, name: &mut syn::Ident) {
        *name = syn::Ident::new(&format!("{name}x"), name.span());
    }
}

impl Load for Source {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let (before, after, written) = self.renamed();
        assert!(before != after, "the copy was changed too");
        assert_eq!(written.matches("fn function_").count(), self.functions);
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_their_records() {
        let mut text = document(3).into_bytes();
        let records: Vec<Record> = serde_json::from_slice(&text).unwrap();
        let names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(names, ["record 0", "record 1", "record 2"]);
        assert!(document(200).contains("\"note\":\"texttext\""));
        let value = simd_json::to_owned_value(&mut text).unwrap();
        assert_eq!(value[2]["name"], "record 2");
    }

    #[test]
    fn every_name_is_changed_and_the_text_is_the_tree() {
        let (before, after, written) = Source::new(2).renamed();
        assert_eq!(syn::parse_str::<syn::File>(&written).unwrap(), after);
        let syn::Item::Fn(function) = &before.items[1] else { panic!("not a function") };
        assert_eq!(function.sig.ident, "function_1");
        let syn::Item::Fn(function) = &after.items[1] else { panic!("not a function") };
        assert_eq!(function.sig.ident, "function_1x");
        assert!(written.contains("sumx = sumx . wrapping_mulx (31)"), "{written}");
    }
}
