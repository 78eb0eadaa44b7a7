//! `cargo xtask imports`: which functions of other libraries each exported function can reach.
//!
//! Promises to fail when an exported function of librsalloc.so reaches an import that docs/imports.txt does not
//! list for its family, or no longer reaches one that is listed; and, whatever is listed, when an allocation or
//! a free reaches the dynamic linker: a thread may hold its lock while it waits for the allocation.

mod graph;
mod rules;

use anyhow::{Context, bail};
use graph::Graph;
use rules::{Family, Rules};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Examine this library instead of a fresh build
    #[arg(long)]
    library: Option<PathBuf>,
}

/// Runs the command.
pub fn main(arguments: Arguments) -> anyhow::Result<()> {
    let library = match arguments.library {
        Some(library) => library,
        None => {
            tools::build_release(&["rsalloc-preload"])?;
            tools::library()?
        }
    };
    let document = tools::root().join("docs/imports.txt");
    let document = std::fs::read_to_string(document).context("read docs/imports.txt")?;
    let rules = Rules::parse(&document)?;
    let (table, faults) = examine(&library, &rules)?;
    print!("{table}");
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// A table of what each family reaches, and what is wrong with it.
fn examine(library: &Path, rules: &Rules) -> anyhow::Result<(String, Vec<String>)> {
    let graph = Graph::read(library)?;
    let mut faults = Vec::new();
    let mut table = String::new();
    let listed: BTreeSet<&str> = rules.families.iter().flat_map(Family::entries).collect();
    for entry in graph.entries().filter(|entry| !listed.contains(entry)) {
        faults.push(format!("{entry} is exported, but docs/imports.txt has no family for it"));
    }
    for name in rules.failures.iter().filter(|name| !graph.has(name)) {
        faults.push(format!(
            "{name} is named as the way of a failure, but there is no such function"
        ));
    }
    let cut: Vec<&str> = rules.failures.iter().map(String::as_str).collect();
    for family in &rules.families {
        let mut reached = BTreeMap::new();
        let mut stored = BTreeMap::new();
        for entry in family.entries() {
            match graph.reach(entry, &cut) {
                Ok(reach) => {
                    reached.extend(reach.imports);
                    stored.extend(reach.stored);
                }
                Err(error) => faults.push(error.to_string()),
            }
        }
        let words: Vec<_> = reached.keys().map(String::as_str).collect();
        let count = family.entries().count();
        table += &format!("{} ({count} entries) reaches {}\n", family.name, words.join(" "));
        faults.extend(compare(family, &reached, &stored));
    }
    Ok((table, faults))
}

/// In what a family differs from what is listed; each name with a way to it.
fn compare(
    family: &Family,
    reached: &BTreeMap<String, String>,
    stored: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let name = &family.name;
    for (import, way) in reached {
        if is_loaders(import) && !family.may_load {
            faults.push(format!("{name} reaches the dynamic linker: {way} -> {import}"));
        } else if !family.reaches.contains(import) {
            faults.push(format!("{name} reaches {import}, which is not listed: {way} -> {import}"));
        }
    }
    for import in family.reaches.iter().filter(|import| !reached.contains_key(*import)) {
        faults.push(format!("{name} does not reach {import}, which is listed"));
    }
    for (function, way) in stored {
        if !family.stored.contains(function) {
            faults.push(format!(
                "{name} goes on through writable memory, which is not listed: {way}"
            ));
        }
    }
    for function in family.stored.iter().filter(|function| !stored.contains_key(*function)) {
        faults.push(format!("{name} does not go on through memory in {function}, which is listed"));
    }
    faults
}

/// Whether a function may take a lock of the dynamic linker: its interface, thread-local storage that is not
/// static, and what pins or walks libraries.
fn is_loaders(import: &str) -> bool {
    import.starts_with("dl")
        // It finds a module without a lock: AS-Safe by glibc's manual.
        || import.starts_with("_dl_") && import != "_dl_find_object"
        || import.starts_with("__libc_dl")
        || import == "__tls_get_addr"
        || import == "__cxa_thread_atexit_impl"
        || import.starts_with("_Unwind_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use graph::ARRAYS;
    use std::process::Command;

    const RULES: &str = "family allocation\nentries malloc\nreaches memset\n\
        family load may-load\nentries .init_array .fini_array\nreaches dlsym\n";

    /// The faults of a small library in C whose `malloc` is `body`.
    fn faults(name: &str, body: &str, rules: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("a.c"), folder.path().join(name));
        let text = format!(
            "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stddef.h>\n#include <string.h>\n\
             #define COLD __attribute__((noinline, cold)) static\n\
             static char heap[1 << 16];\nstatic void *found;\n\
             __attribute__((constructor)) static void load(void) {{ found = dlsym(RTLD_NEXT, \"x\"); }}\n{body}\n"
        );
        std::fs::write(&source, text).unwrap();
        let mut cc = Command::new("cc");
        cc.args([
            "-O1",
            "-w",
            "-fno-builtin",
            "-fno-plt",
            "-nostartfiles",
            "-shared",
            "-fPIC",
            "-o",
        ]);
        tools::output(cc.arg(&library).arg(&source)).unwrap();
        examine(&library, &Rules::parse(rules).unwrap()).unwrap().1
    }

    const GOOD: &str = "COLD void *slow(size_t n) { return memset(heap, 0, n); }
        void *malloc(size_t n) { return n < 100 ? heap : slow(n); }";

    #[test]
    fn a_library_that_reaches_what_is_listed_passes() {
        assert_eq!(faults("good.so", GOOD, RULES), Vec::<String>::new());
    }

    #[test]
    fn a_call_of_the_dynamic_linker_fails_listed_or_not() {
        let body =
            GOOD.replace("return memset(heap, 0, n)", "dlsym(0, \"y\"); return memset(heap, 0, n)");
        let found = faults("bad.so", &body, RULES);
        assert_eq!(found, ["allocation reaches the dynamic linker: malloc -> slow -> dlsym"]);
        let listed = RULES.replace("reaches memset", "reaches memset dlsym");
        assert_eq!(faults("bad.so", &body, &listed), found);
    }

    #[test]
    fn a_call_through_a_register_a_static_or_a_table_fails() {
        let ways = [
            // The address is taken here and called there.
            "COLD void *call(void *(*f)(void *, const char *)) { return f(0, \"y\"); }
             void *malloc(size_t n) { return n < 100 ? memset(heap, 0, n) : call(dlsym); }",
            "COLD void *look(size_t n) { return dlsym(0, \"y\"); }
             static void *(*const table[])(size_t) = {look, look};
             void *malloc(size_t n) { return n < 100 ? memset(heap, 0, n) : table[n & 1](n); }",
            "COLD void *look(size_t n) { return dlsym(0, \"y\"); }
             static void *(*volatile slot)(size_t) = look;
             void *malloc(size_t n) { return n < 100 ? memset(heap, 0, n) : slot(n); }",
        ];
        for way in ways {
            let found = faults("way.so", way, RULES);
            assert!(
                found.iter().any(|fault| fault.contains("the dynamic linker")),
                "{found:?} {way}"
            );
        }
    }

    #[test]
    fn an_import_too_many_or_too_few_and_an_entry_without_a_family_fail() {
        let body = format!("{GOOD}\nvoid free(void *p) {{ memcpy(heap, p, 8); }}");
        assert_eq!(
            faults("more.so", &body, RULES),
            ["free is exported, but docs/imports.txt has no family for it"]
        );
        let both = RULES.replace("entries malloc", "entries malloc free");
        assert_eq!(
            faults("more.so", &body, &both),
            ["allocation reaches memcpy, which is not listed: free -> memcpy"]
        );
        let fewer = RULES.replace("reaches memset", "reaches memset memcpy");
        assert_eq!(
            faults("fewer.so", GOOD, &fewer),
            ["allocation does not reach memcpy, which is listed"]
        );
    }

    #[test]
    fn what_only_a_failure_reaches_is_cut_off_by_its_name() {
        let body = GOOD.replace("{ return memset", "{ if (n > 9999) fails(); return memset");
        let body = format!("COLD void fails(void) {{ dlsym(0, \"y\"); }}\n{body}");
        assert_eq!(
            faults("cut.so", &body, &format!("failure fails\n{RULES}")),
            Vec::<String>::new()
        );
        assert_eq!(faults("cut.so", &body, RULES).len(), 1);
        let found = faults("cut.so", &body, &format!("failure fails\nfailure gone\n{RULES}"));
        assert!(found.len() == 1 && found[0].contains("no such function"), "{found:?}");
    }

    #[test]
    fn the_arrays_are_entries_too() {
        assert!(ARRAYS.iter().all(|array| RULES.contains(array)));
        let without = RULES.replace("entries .init_array .fini_array", "entries .fini_array");
        let found = faults("array.so", GOOD, &without);
        assert_eq!(
            found,
            [
                ".init_array is exported, but docs/imports.txt has no family for it",
                "load does not reach dlsym, which is listed"
            ]
        );
    }
}
