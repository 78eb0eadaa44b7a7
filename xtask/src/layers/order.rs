//! The order of the modules, as docs/layers.txt says it.
//!
//! Its grammar stands at the head of that document.

use super::inside::Inside;
use anyhow::bail;
use std::collections::{HashMap, HashSet};

/// What may use what.
#[derive(Default)]
pub struct Order {
    modules: HashMap<String, Place>,
    also: HashSet<(String, String)>,
    may_be_unsafe: HashSet<String>,
    asm: HashSet<String>,
    inside: HashMap<String, Inside>,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    /// Its line in the document: a higher number is lower down.
    Tier(usize),
    /// As above.
    Leaf(usize),
    Observer,
}

impl Order {
    /// Reads the document.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut order = Order::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<_> = line.split_whitespace().collect();
            let Some((kind, names)) = words.split_first() else { continue };
            let place = match *kind {
                "top" => Place::Top,
                "leaf" => Place::Leaf(number),
                "observer" => Place::Observer,
                "tier" => Place::Tier(number),
                "unsafe" => {
                    order.may_be_unsafe.extend(names.iter().map(ToString::to_string));
                    continue;
                }
                "asm" => {
                    order.asm.extend(names.iter().map(ToString::to_string));
                    continue;
                }
                "inside" => {
                    let Some((module, files)) = names.split_first() else {
                        bail!("`inside` names a module and its files: {line}");
                    };
                    let inside = order.inside.entry(module.to_string()).or_default();
                    if !inside.add(number, files) {
                        bail!("docs/layers.txt names a file of {module} twice: {line}");
                    }
                    continue;
                }
                "also" => {
                    let [from, to] = names else { bail!("`also` names two modules: {line}") };
                    order.also.insert((from.to_string(), to.to_string()));
                    continue;
                }
                _ => bail!("docs/layers.txt: unknown word {kind}"),
            };
            for name in names {
                if order.modules.insert(name.to_string(), place).is_some() {
                    bail!("docs/layers.txt names module {name} twice");
                }
            }
        }
        let also = order.also.iter().flat_map(|(from, to)| [from, to]);
        let asm = order.asm.iter().filter(|name| !name.contains('/'));
        let inside = order.inside.keys();
        for name in order.may_be_unsafe.iter().chain(asm).chain(also).chain(inside) {
            if !order.knows(name) {
                bail!("docs/layers.txt gives module {name} a right but no place");
            }
        }
        Ok(order)
    }

    /// Whether the document has the module.
    pub fn knows(&self, module: &str) -> bool {
        self.modules.contains_key(module)
    }

    /// The order inside a module, if the document has one.
    pub fn inside(&self, module: &str) -> Option<&Inside> {
        self.inside.get(module)
    }

    /// Whether `unsafe` may stand in the module.
    pub fn may_be_unsafe(&self, module: &str) -> bool {
        self.may_be_unsafe.contains(module)
    }

    /// Whether assembly may stand in the module of that crate.
    pub fn may_have_asm(&self, crate_name: &str, module: &str) -> bool {
        match crate_name {
            "alloc-core" => self.asm.contains(module),
            _ => self.asm.contains(&format!("{crate_name}/{module}")),
        }
    }

    /// Whether module `from` may use `to`; the error says why not.
    pub fn may_use(&self, from: &str, to: &str) -> Result<(), String> {
        if from == to || self.also.contains(&(from.to_owned(), to.to_owned())) {
            return Ok(());
        }
        let Some(&own) = self.modules.get(from) else { return Ok(()) }; // Reported as unlisted.
        let Some(&other) = self.modules.get(to) else {
            return if own == Place::Top {
                Ok(()) // Its own items.
            } else {
                Err(format!("{from} uses crate::{to}, which is no module below it"))
            };
        };
        let allowed = match (own, other) {
            (_, Place::Top) => false,
            (Place::Top | Place::Observer, _) => true,
            (Place::Tier(_), Place::Leaf(_)) => true,
            (Place::Leaf(_), Place::Tier(_)) | (_, Place::Observer) => false,
            (Place::Tier(own), Place::Tier(other)) | (Place::Leaf(own), Place::Leaf(other)) => {
                own <= other
            }
        };
        if allowed { Ok(()) } else { Err(format!("{from} uses {to}, which is not below it")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "top lib # the crate\ntier a b\ntier c\nleaf x y\nleaf z\nobserver o p\nalso x c\nasm x w/y";

    #[test]
    fn what_may_use_what() {
        let order = Order::parse(TEXT).unwrap();
        for (from, to) in [
            "a b", "b a", "a c", "a x", "c y", "x y", "y z", "o a", "o p", "o x", "lib a", "lib o",
            "lib X", "x c",
        ]
        .map(|pair| pair.split_once(' ').unwrap())
        {
            assert_eq!(order.may_use(from, to), Ok(()), "{from} {to}");
        }
        for (from, to) in ["c a", "x a", "z x", "y c", "a o", "x o", "a lib", "o lib", "a X"]
            .map(|pair| pair.split_once(' ').unwrap())
        {
            assert!(order.may_use(from, to).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn a_broken_document_is_an_error() {
        for text in [
            "tier a\nleaf a",
            "floor a",
            "unsafe a",
            "also a",
            "tier a\nalso a b",
            "tier a\ninside",
            "tier a\ninside a b\ninside a b",
            "inside a b",
        ] {
            assert!(Order::parse(text).is_err(), "{text}");
        }
    }
}
