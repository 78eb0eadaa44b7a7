//! What one Rust file uses, read from its tokens: comments and strings do not count, macros do.

use anyhow::anyhow;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::path::Path;

/// One file.
pub struct Source<'a> {
    module: &'a str,
    lines: Vec<&'a str>,
    uses: Vec<(usize, String)>,
    unsafe_lines: Vec<usize>,
    asm_lines: Vec<usize>,
    /// Line of each, and the line where the outermost call around it begins.
    orderings: Vec<(usize, usize)>,
}

/// The module of the file at `path` below `src`: its folder, or its own name.
pub fn module_of(path: &Path) -> &str {
    let first = path.components().next().and_then(|first| first.as_os_str().to_str());
    let first = first.unwrap_or_default();
    first.split_once('.').map_or(first, |(stem, _)| stem)
}

impl<'a> Source<'a> {
    /// Reads the text of the file at `path` below `src`.
    pub fn parse(path: &'a Path, text: &'a str) -> anyhow::Result<Self> {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folders = path.components().count() - 1;
        // lib.rs is the crate itself; module.rs and module/mod.rs lie one below it.
        let depth = folders + usize::from(!matches!(stem, "lib" | "main" | "mod"));
        let mut source = Source {
            module: module_of(path),
            lines: text.lines().collect(),
            uses: vec![],
            unsafe_lines: vec![],
            asm_lines: vec![],
            orderings: vec![],
        };
        let tokens: TokenStream = text.parse().map_err(|error| anyhow!("{error}"))?;
        source.scan(tokens, depth, None);
        Ok(source)
    }

    /// The module it belongs to.
    pub fn module(&self) -> &str {
        self.module
    }

    /// Lines and names of the crate's items that it names by `crate::` or `super::`.
    pub fn uses(&self) -> impl Iterator<Item = (usize, &str)> {
        self.uses.iter().map(|(line, name)| (*line, name.as_str()))
    }

    /// Lines with `unsafe`.
    pub fn unsafe_lines(&self) -> &[usize] {
        &self.unsafe_lines
    }

    /// Lines with an assembly macro.
    pub fn asm_lines(&self) -> &[usize] {
        &self.asm_lines
    }

    /// Lines with an atomic `Ordering::` and no comment that says "Ordering:" there or within `reach`
    /// lines above the call it belongs to.
    pub fn orderings_without_comment(&self, reach: usize) -> Vec<usize> {
        let argued = |&(line, call): &(usize, usize)| {
            let from = call.saturating_sub(reach + 1);
            self.lines[from..line].iter().any(|text| {
                let comment = text.split_once("//").map_or("", |(_, comment)| comment);
                comment.split_once("Ordering:").is_some_and(|(_, rest)| !rest.starts_with(':'))
            })
        };
        self.orderings.iter().filter(|place| !argued(place)).map(|(line, _)| *line).collect()
    }

    /// `depth`: how many modules lie between these tokens and the crate. `call`: the line on which the
    /// outermost parentheses around them open.
    fn scan(&mut self, tokens: TokenStream, depth: usize, call: Option<usize>) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut i = 0;
        while i < tokens.len() {
            if let Some(len) = test_item(&tokens[i..]) {
                i += len;
                continue;
            }
            match &tokens[i] {
                TokenTree::Group(group) => {
                    let module = i >= 2 && is(&tokens[i - 2], "mod");
                    let call = match group.delimiter() {
                        Delimiter::Brace => None,
                        _ => call.or(Some(group.span_open().start().line)),
                    };
                    self.scan(group.stream(), depth + usize::from(module), call);
                }
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    match ident.to_string().as_str() {
                        "unsafe" => self.unsafe_lines.push(line),
                        "asm" | "global_asm" | "naked_asm" if next_is(&tokens, i, '!') => {
                            self.asm_lines.push(line);
                        }
                        "Ordering" => self.ordering(&tokens[i..], line, call.unwrap_or(line)),
                        "crate" => self.path(&tokens[i..], 0, line),
                        "super" if !after_path(&tokens, i) => self.path(&tokens[i..], depth, line),
                        _ => {}
                    }
                }
                _ => {}
            }
            i += 1;
        }
    }

    fn ordering(&mut self, tokens: &[TokenTree], line: usize, call: usize) {
        let Some(variant) = after_colons(tokens) else { return };
        // core::cmp::Ordering has the same name.
        if !["Less", "Equal", "Greater"].iter().any(|name| is(variant, name)) {
            self.orderings.push((line, call));
        }
    }

    /// Follows a path from `crate` (`depth` 0) or from the first `super` (`depth` levels to climb).
    fn path(&mut self, mut tokens: &[TokenTree], mut depth: usize, line: usize) {
        while depth > 0 && is(&tokens[0], "super") {
            depth -= 1;
            if depth > 0 {
                if tokens.len() < 4 {
                    return;
                }
                tokens = &tokens[3..];
            }
        }
        if depth > 0 {
            return; // It stays inside the module.
        }
        match after_colons(tokens) {
            // An exported macro lives at the root wherever it stands: its text counts, not its name.
            Some(TokenTree::Ident(_)) if next_is(tokens, 3, '!') => {}
            // `crate::internals::a` is another name of `crate::a`.
            Some(internals) if is(internals, "internals") => self.path(&tokens[3..], 0, line),
            Some(TokenTree::Ident(name)) => self.uses.push((line, name.to_string())),
            Some(TokenTree::Group(group)) => self.group(group),
            Some(_) => self.uses.push((line, "*".to_owned())),
            None => {}
        }
    }

    /// The first names in `{a::b, c}` of a use.
    fn group(&mut self, group: &Group) {
        let mut first = true;
        for token in group.stream() {
            match &token {
                TokenTree::Ident(name) if first => {
                    self.uses.push((name.span().start().line, name.to_string()));
                }
                _ => {}
            }
            first = matches!(&token, TokenTree::Punct(comma) if comma.as_char() == ',');
        }
    }
}

/// How many tokens an item under `#[cfg(test)]` has, if one begins here.
pub fn test_item(tokens: &[TokenTree]) -> Option<usize> {
    let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = tokens else { return None };
    let text = attribute.stream().to_string().replace(' ', "");
    if hash.as_char() != '#' || text != "cfg(test)" {
        return None;
    }
    let end = tokens[2..].iter().position(|token| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    });
    end.map(|end| end + 3)
}

/// The token after `name ::`.
fn after_colons(tokens: &[TokenTree]) -> Option<&TokenTree> {
    match tokens {
        [_, TokenTree::Punct(a), TokenTree::Punct(b), next, ..]
            if a.as_char() == ':' && b.as_char() == ':' =>
        {
            Some(next)
        }
        _ => None,
    }
}

fn after_path(tokens: &[TokenTree], i: usize) -> bool {
    i >= 1 && matches!(&tokens[i - 1], TokenTree::Punct(punct) if punct.as_char() == ':')
}

fn next_is(tokens: &[TokenTree], i: usize, sign: char) -> bool {
    matches!(tokens.get(i + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

/// Whether the token is this word.
pub fn is(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}
