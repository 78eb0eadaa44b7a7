//! docs/imports.txt: families of exported functions and what each may reach.

use anyhow::{Context, bail};
use std::collections::BTreeSet;

/// The document.
#[derive(Default)]
pub struct Rules {
    /// In the order of the document.
    pub families: Vec<Family>,
    /// Functions that run only after an allocation has failed: what they reach is not counted.
    pub failures: BTreeSet<String>,
}

/// Exported functions that may reach the same imports.
#[derive(Default)]
pub struct Family {
    /// For messages.
    pub name: String,
    /// Whether it may call the dynamic linker.
    pub may_load: bool,
    entries: BTreeSet<String>,
    /// The imports that it reaches, no more and no fewer.
    pub reaches: BTreeSet<String>,
    /// Functions on its way that go on through an address in writable memory.
    pub stored: BTreeSet<String>,
}

impl Family {
    /// The exported functions, and the arrays of the dynamic linker by their section's name.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(String::as_str)
    }
}

impl Rules {
    /// Reads the document, whose head describes its lines.
    pub fn parse(document: &str) -> anyhow::Result<Rules> {
        let mut rules = Rules::default();
        for (index, line) in document.lines().enumerate() {
            let mut words = line.split('#').next().unwrap_or("").split_whitespace();
            let Some(kind) = words.next() else { continue };
            let words = words.map(str::to_owned);
            let place = || format!("docs/imports.txt, line {}: {line}", index + 1);
            match kind {
                "failure" => rules.failures.extend(words),
                "family" => {
                    let words: Vec<_> = words.collect();
                    let (name, may_load) = match &words[..] {
                        [name] => (name, false),
                        [name, word] if word == "may-load" => (name, true),
                        _ => bail!("{}: a family has one name", place()),
                    };
                    rules.families.push(Family {
                        name: name.clone(),
                        may_load,
                        ..Family::default()
                    });
                }
                "entries" | "reaches" | "stored" => {
                    let family = rules.families.last_mut();
                    let family = family.with_context(|| format!("{}: no family yet", place()))?;
                    match kind {
                        "entries" => family.entries.extend(words),
                        "reaches" => family.reaches.extend(words),
                        _ => family.stored.extend(words),
                    }
                }
                _ => bail!("{}: unknown word", place()),
            }
        }
        if rules.families.is_empty() {
            bail!("docs/imports.txt names no family: nothing would be checked");
        }
        Ok(rules)
    }
}
