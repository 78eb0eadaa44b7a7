//! `cargo xtask layers`: the rules about which code stands where.
//!
//! 1. A module of alloc-core uses only the modules that docs/layers.txt lets it use.
//!    Where the document has an order inside a module (`inside`), its files keep that too.
//! 2. `unsafe` and assembly stand only in the modules named there.
//! 3. Each `Ordering::` has a comment that says what it pairs with.
//!
//! Code under `#[cfg(test)]` is exempt from 1 to 3: a test may build the tiers above.

mod inside;
mod order;
mod source;

use anyhow::{Context, bail};
use order::Order;
use source::Source;
use std::path::{Path, PathBuf};

/// The crates whose code ends up in a program.
const CRATES: [&str; 3] = ["alloc-core", "alloc-global", "alloc-preload"];

/// How many lines above an `Ordering::`, or the call it is an argument of, its comment may stand.
const COMMENT_REACH: usize = 3;

/// Runs the command.
pub fn main() -> anyhow::Result<()> {
    let document = std::fs::read_to_string(tools::root().join("docs/layers.txt"))
        .context("read docs/layers.txt")?;
    let order = Order::parse(&document)?;
    let (mut files, mut faults) = (0, Vec::new());
    for name in CRATES {
        let folder = tools::root().join(name).join("src");
        for path in code_files(&folder)? {
            let relative = path.strip_prefix(&folder)?;
            let shown = format!("{name}/src/{}", relative.display());
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {shown}"))?;
            let found = if path.extension().is_some_and(|extension| extension == "rs") {
                let source = Source::parse(relative, &text).with_context(|| shown.clone())?;
                let mut found = examine(&order, name, &source);
                if let Some(inside) = order.inside(source.module()).filter(|_| name == "alloc-core")
                {
                    found.extend(inside.faults(source.module(), relative, &text)?);
                }
                found
            } else {
                foreign_assembly(&order, name, relative)
            };
            faults.extend(found.into_iter().map(|fault| format!("{shown}{fault}")));
            files += 1;
        }
    }
    if files == 0 {
        bail!("no source files found: nothing was checked");
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{files} files keep the order of docs/layers.txt");
    Ok(())
}

/// What is wrong in one Rust file, each as ":line: what".
fn examine(order: &Order, crate_name: &str, source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    let core = crate_name == "alloc-core";
    let module = source.module();
    if core && !order.knows(module) {
        faults.push(format!(": module {module} is not in docs/layers.txt"));
    }
    if core {
        for (line, used) in source.uses() {
            if let Err(reason) = order.may_use(module, used) {
                faults.push(format!(":{line}: {reason}"));
            }
        }
        for line in source.unsafe_lines().iter().filter(|_| !order.may_be_unsafe(module)) {
            faults.push(format!(
                ":{line}: unsafe in module {module}, which docs/layers.txt keeps safe"
            ));
        }
    }
    for line in source.asm_lines().iter().filter(|_| !order.may_have_asm(crate_name, module)) {
        faults.push(format!(":{line}: assembly outside the modules docs/layers.txt names for it"));
    }
    for line in source.orderings_without_comment(COMMENT_REACH) {
        faults.push(format!(
            ":{line}: no `// Ordering: ...` on it or within {COMMENT_REACH} lines above"
        ));
    }
    faults
}

/// What is wrong with an assembly file: the place, or nothing.
fn foreign_assembly(order: &Order, crate_name: &str, relative: &Path) -> Vec<String> {
    let inside = order.may_have_asm(crate_name, source::module_of(relative));
    let fault = ": assembly outside the modules docs/layers.txt names for it".to_owned();
    if inside { vec![] } else { vec![fault] }
}

/// All Rust and assembly files below `folder`, test files left out, in a stable order.
fn code_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            files.extend(code_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "s" || e == "S") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = "top lib\ntier engine\ntier slab\ntier rseq\nleaf sync\nobserver stats\n\
                         unsafe slab rseq\nasm rseq\n";

    fn faults(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(Path::new(path), text).expect("it parses");
        examine(&Order::parse(ORDER).expect("it parses"), "alloc-core", &source)
    }

    #[test]
    fn code_that_keeps_the_rules_passes() {
        let text = "use crate::{rseq::area, sync};\n\
                    fn f() {\n// Ordering: Acquire, pairs with g\nx.load(Ordering::Acquire);\n\
                    // SAFETY: no.\nunsafe { g() } }\n\
                    crate::some_macro!();\n#[cfg(test)]\nmod tests { use crate::engine; use super::super::engine as e; }";
        assert_eq!(faults("slab.rs", text), Vec::<String>::new());
        assert_eq!(faults("rseq/x86_64.rs", "core::arch::asm!(\"nop\")"), Vec::<String>::new());
    }

    #[test]
    fn a_use_upwards_fails_however_it_is_written() {
        for text in [
            "use crate::engine;",
            "use crate::engine::allocate as a;",
            "use crate::{sync, engine::{a, b}};",
            "use super::engine;",
            "use super::{engine};",
            "fn f() { crate::engine::allocate(1) }",
            "mod inner { use super::super::engine; }",
            "macro_rules! m { () => { $crate::engine::x() } }",
            "fn f() { g!(crate::engine::x()) }",
            "fn f(a: A, b: fn() -> crate::engine::B) { }",
            "use crate::stats;",
            "use crate::Stats;",
        ] {
            assert_eq!(faults("slab.rs", text).len(), 1, "{text}: {:?}", faults("slab.rs", text));
        }
        assert_eq!(faults("slab/bitmap.rs", "use super::super::engine;").len(), 1);
        assert!(faults("slab/bitmap.rs", "use super::engine;").is_empty(), "that is slab::engine");
        assert!(faults("slab.rs", "// crate::engine\nfn f() { \"crate::engine\"; }").is_empty());
    }

    #[test]
    fn unsafe_outside_its_modules_fails() {
        for text in ["unsafe { f() }", "unsafe fn f() {}", "#[unsafe(no_mangle)] fn f() {}"] {
            assert_eq!(
                faults("stats.rs", text),
                [":1: unsafe in module stats, which docs/layers.txt keeps safe"]
            );
        }
    }

    #[test]
    fn assembly_outside_its_module_fails() {
        for text in ["asm!(\"nop\")", "core::arch::global_asm!(\"\")", "naked_asm!(\"\")"] {
            assert_eq!(faults("slab.rs", text).len(), 1, "{text}");
        }
        let order = Order::parse(ORDER).unwrap();
        assert_eq!(foreign_assembly(&order, "alloc-core", Path::new("slab/pop.s")).len(), 1);
        assert_eq!(foreign_assembly(&order, "alloc-preload", Path::new("rseq/pop.S")).len(), 1);
        assert!(foreign_assembly(&order, "alloc-core", Path::new("rseq/pop.s")).is_empty());
    }

    #[test]
    fn an_ordering_without_its_comment_fails() {
        for text in [
            "x.load(Ordering::Acquire);",
            "// Ordering: Acquire, too far\n\n\n\nx.load(Ordering::Acquire);",
            "x.load(Ordering::Acquire); // Ordering::Acquire",
            "use core::sync::atomic::Ordering::*;",
        ] {
            assert_eq!(faults("slab.rs", text).len(), 1, "{text}: {:?}", faults("slab.rs", text));
        }
        for text in [
            "x.load(Ordering::Acquire); // Ordering: Acquire, pairs with g",
            "// Ordering: AcqRel and Acquire, pairs with g\nx.cas(\na,\nb,\nc,\nOrdering::AcqRel);",
            "match a.cmp(b) { Ordering::Less => {} }",
            "use core::sync::atomic::Ordering;",
        ] {
            assert!(faults("slab.rs", text).is_empty(), "{text}: {:?}", faults("slab.rs", text));
        }
    }

    #[test]
    fn a_module_without_a_place_fails() {
        assert_eq!(faults("attic.rs", ""), [": module attic is not in docs/layers.txt"]);
    }

    #[test]
    fn the_documents_order_parses() {
        let text = std::fs::read_to_string(tools::root().join("docs/layers.txt")).unwrap();
        let order = Order::parse(&text).unwrap();
        assert!(order.may_use("engine", "cpu_cache").is_ok());
        assert!(order.may_use("os", "page_heap").is_err());
    }
}
