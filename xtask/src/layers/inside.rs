//! The order inside a module, as docs/layers.txt says it by `inside` lines, and what breaks it.
//!
//! A file of such a module uses files of lower lines only, so there is no circle. Found are paths from `crate::` and
//! `super::`, with all names of their groups, and paths that begin with a module declared in the file.

use super::source::{is, test_item};
use anyhow::anyhow;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::HashMap;
use std::path::Path;

/// The lines of one module: a higher number is lower down.
#[derive(Default)]
pub struct Inside {
    lines: HashMap<String, usize>,
}

/// What the module's own file is called in the document.
const OWN: &str = "mod";

impl Inside {
    /// Adds a line of the document; false if it names a file a second time.
    pub fn add(&mut self, number: usize, files: &[&str]) -> bool {
        files.iter().all(|file| self.lines.insert((*file).to_owned(), number).is_none())
    }

    /// What breaks the order in the file at `path` below the crate's `src`, of module `module`: each as ":line: what".
    pub fn faults(&self, module: &str, path: &Path, text: &str) -> anyhow::Result<Vec<String>> {
        let place = place_of(module, path);
        let name = file_of(&place);
        let Some(&own) = self.lines.get(&name) else {
            return Ok(vec![format!(
                ": {module}/{name} is in no `inside` line of docs/layers.txt"
            )]);
        };
        let tokens: TokenStream = text.parse().map_err(|error| anyhow!("{error}"))?;
        let mut scan = Scan { module, place, uses: vec![], declared: vec![] };
        scan.declarations(tokens.clone());
        scan.paths(tokens, 0);
        let mut faults = Vec::new();
        for (line, used) in scan.uses {
            let used = self.owner_of(&used);
            let below = self.lines.get(&used).is_some_and(|&line| line > own);
            if used != name && !below {
                faults.push(format!(":{line}: {module}/{name} uses {used}, which is not below it"));
            }
        }
        faults.dedup();
        Ok(faults)
    }

    /// The file that a path inside the module leads to.
    fn owner_of(&self, path: &[String]) -> String {
        let longest = (1..=path.len()).rev().map(|len| file_of(&path[..len]));
        longest.into_iter().find(|file| self.lines.contains_key(file)).unwrap_or(OWN.to_owned())
    }
}

fn file_of(place: &[String]) -> String {
    if place.is_empty() { OWN.to_owned() } else { place.join("/") }
}

/// The module path of a file inside the module: a/b.rs and a/b/mod.rs are ["a", "b"].
fn place_of(module: &str, path: &Path) -> Vec<String> {
    let inner = path.strip_prefix(module).unwrap_or(path).with_extension("");
    let mut place: Vec<_> = inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if place.last().is_some_and(|last| last == "mod") {
        place.pop();
    }
    place
}

struct Scan<'a> {
    module: &'a str,
    place: Vec<String>,
    uses: Vec<(usize, Vec<String>)>,
    declared: Vec<String>,
}

impl Scan<'_> {
    /// Finds `mod name;`.
    fn declarations(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for three in tokens.windows(3) {
            if let [keyword, TokenTree::Ident(name), TokenTree::Punct(end)] = three
                && is(keyword, "mod")
                && end.as_char() == ';'
            {
                self.declared.push(name.to_string());
            }
        }
    }

    /// `depth`: how many modules lie between these tokens and the file.
    fn paths(&mut self, tokens: TokenStream, depth: usize) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut i = 0;
        while i < tokens.len() {
            if let Some(len) = test_item(&tokens[i..]) {
                i += len;
                continue;
            }
            match &tokens[i] {
                // `pub(super)` is no use.
                TokenTree::Group(_) if i >= 1 && is(&tokens[i - 1], "pub") => {}
                TokenTree::Group(group) => {
                    let is_module = i >= 2 && is(&tokens[i - 2], "mod");
                    self.paths(group.stream(), depth + usize::from(is_module));
                }
                TokenTree::Ident(first) if i == 0 || !is_colon(&tokens[i - 1]) => {
                    let first = first.to_string();
                    let begins = first == "crate" || first == "super" || first == "self";
                    let leads_on = tokens.get(i + 1).is_some_and(is_colon);
                    if leads_on && (begins || depth == 0 && self.declared.contains(&first)) {
                        let mut names = Vec::new();
                        i += walk(&tokens[i..], &mut vec![], &mut names);
                        names.into_iter().for_each(|(line, path)| self.found(line, &path, depth));
                        continue;
                    }
                }
                _ => {}
            }
            i += 1;
        }
    }

    /// Takes down a path if it stays in the module.
    fn found(&mut self, line: usize, path: &[String], depth: usize) {
        let (mut at, mut rest) = (self.place.clone(), path);
        at.extend((0..depth).map(|_| String::new()));
        match path.first().map(String::as_str) {
            Some("crate") => match path.get(1) {
                Some(module) if module == self.module => {
                    at.clear();
                    rest = &path[2..];
                }
                _ => return,
            },
            _ => {
                while let Some((first, others)) = rest.split_first() {
                    match first.as_str() {
                        "self" => {}
                        "super" if at.pop().is_none() => return, // Out of the module.
                        "super" => {}
                        _ => break,
                    }
                    rest = others;
                }
                if at.len() > self.place.len() {
                    return; // It stays in the file.
                }
            }
        }
        at.extend(rest.iter().cloned());
        self.uses.push((line, at));
    }
}

/// Follows a path from its first name through its groups; how many tokens it has.
fn walk(
    tokens: &[TokenTree],
    prefix: &mut Vec<String>,
    names: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let TokenTree::Ident(name) = &tokens[0] else { return 1 };
    prefix.push(name.to_string());
    let follows = tokens.len() >= 4 && is_colon(&tokens[1]) && is_colon(&tokens[2]);
    let len = match follows.then(|| &tokens[3]) {
        Some(TokenTree::Ident(_)) => 3 + walk(&tokens[3..], prefix, names),
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<_> = group.stream().into_iter().collect();
            for part in inner.split(|token| is_punct(token, ',')).filter(|part| !part.is_empty()) {
                walk(part, &mut prefix.clone(), names);
            }
            4
        }
        _ => {
            names.push((name.span().start().line, prefix.clone()));
            1
        }
    };
    prefix.pop();
    len
}

fn is_colon(token: &TokenTree) -> bool {
    is_punct(token, ':')
}

fn is_punct(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        let mut inside = Inside::default();
        for (number, files) in
            [&["mod"][..], &["a"], &["b/x", "b/y"], &["b"], &["c"]].iter().enumerate()
        {
            assert!(inside.add(number, files));
        }
        inside.faults("cache", Path::new(path), text).expect("it parses").len()
    }

    #[test]
    fn what_is_below_may_be_used() {
        for (path, text) in [
            ("cache/mod.rs", "mod a; mod b; use a::f; use b::x::{self, g}; use crate::cache::c;"),
            (
                "cache/a.rs",
                "use super::b::{x, y::g}; use super::c; use crate::other; use super::super::other;",
            ),
            (
                "cache/b/x.rs",
                "use super::Item; use crate::cache::c::f; use super::super::c; fn f() { self::g() }",
            ),
            ("cache/b/mod.rs", "mod x; mod y; pub use crate::cache::c;"),
            (
                "cache/c.rs",
                "#[cfg(test)] mod tests { use super::super::a; } mod inner { use super::f; }",
            ),
        ] {
            assert_eq!(faults(path, text), 0, "{path}: {text}");
        }
    }

    #[test]
    fn what_is_not_below_may_not() {
        for (path, text) in [
            ("cache/a.rs", "use super::f;"),
            ("cache/a.rs", "use crate::cache::f;"),
            ("cache/c.rs", "use super::a;"),
            ("cache/c.rs", "use super::{b::{x}};"),
            ("cache/c.rs", "fn f() { crate::cache::a::g() }"),
            ("cache/c.rs", "mod inner { use super::super::a; }"),
            ("cache/b/x.rs", "use super::y;"),
            ("cache/b/x.rs", "use super::super::a::f;"),
            ("cache/b/mod.rs", "mod x; use x::f;"),
            ("cache/b/mod.rs", "mod x; fn f() { self::x::g() }"),
            ("cache/new.rs", ""),
        ] {
            assert_eq!(faults(path, text), 1, "{path}: {text}");
        }
    }
}
