//! Numbers and tables that the code also has: size classes, sections, instructions, the order of locks, the settings.

use super::Fault;
use super::tree::{File, Tree};
use regex_lite::Regex;

const CLASSES: &str = "alloc-core/src/size_class.rs";
const UNITS: &str = "alloc-core/src/units.rs";
const RANKS: &str = "alloc-core/src/sync/rank.rs";
const RANKS_DOCUMENT: &str = "docs/adr/0006-locks-and-handlers.md";
const SETTINGS: &str = "alloc-core/src/config/key.rs";
const SETTINGS_DOCUMENT: &str = "docs/configure.md";
const GOLDEN: &str = "docs/golden.md";

/// What documents say otherwise than the code.
pub fn faults(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    let found = [
        classes(tree),
        sections(tree),
        instructions(tree),
        ranks(tree),
        settings(tree),
        titles(tree),
    ];
    for result in found {
        match result {
            Ok(found) => faults.extend(found),
            // A source that reads otherwise than these rules expect: the rule must follow it.
            Err(missing) => faults.push(missing),
        }
    }
    faults
}

type Found = Result<Vec<Fault>, Fault>;

fn classes(tree: &Tree) -> Found {
    let count = number(tree, CLASSES, r"pub const CLASSES: usize = (\d+);")?;
    let kib = number(tree, UNITS, r"pub const OBJECT_MAX_BYTES: usize = (\d+) << 10;")?;
    Ok([
        compare(tree, r"heads\[(\d+)\]", count),
        compare(tree, r"(\d+) size classes", count - 1),
        compare(tree, r"(?:largest class is|spans above) (\d+) KiB", kib),
    ]
    .concat())
}

fn sections(tree: &Tree) -> Found {
    // Each function with a section has a row there, which `cargo xtask golden` sees to.
    let (inner, entries): (Vec<_>, Vec<_>) =
        golden(tree).partition(|(name, _)| name.starts_with("sections::"));
    let all = inner.len() + entries.len();
    Ok([
        compare(tree, r"(\d+) sections", all),
        compare(tree, r"[Aa]ll (\d+) entries", entries.len()),
    ]
    .concat())
}

/// Where documents state the instructions of a hot path.
fn instructions(tree: &Tree) -> Found {
    let mut faults = Vec::new();
    for (entry, pattern) in [
        ("malloc", r"(?i)malloc (\d+), free \d+, sized free"),
        ("free", r"(?i)malloc \d+, free (\d+), sized free"),
        ("free_sized", r"(?i)free \d+, sized free (\d+)"),
        ("malloc", r"`malloc\(40\)`[^.]*takes (\d+) instructions"),
        ("free", r"`free\(p\)` takes (\d+) instructions"),
        ("posix_memalign", r"`posix_memalign`[^.]*, (\d+) instructions"),
    ] {
        let row = golden(tree).find(|(name, _)| *name == entry);
        let Some((_, count)) = row else { return Err(format!("{GOLDEN}: no row for {entry}")) };
        faults.extend(compare(tree, pattern, count));
    }
    Ok(faults)
}

/// The entries of the golden table and their instructions.
fn golden(tree: &Tree) -> impl Iterator<Item = (&str, usize)> {
    let text = tree.get(GOLDEN).map_or("", |file| &file.text);
    text.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name, cells.next()?.parse().ok()?))
    })
}

/// The order of locks: each name of the document's line in the order of the ranks in the code.
fn ranks(tree: &Tree) -> Found {
    let code = &get(tree, RANKS)?.text;
    let rank = Regex::new(r"pub const (?:fn )?(\w+)[^{;]*(?:=|\{\s*)\s*Rank\(\(?([\d <]+)")
        .expect("a pattern");
    let mut ranks: Vec<(u64, String)> = rank
        .captures_iter(code)
        .filter_map(|found| Some((value(&found[2])?, found[1].to_lowercase())))
        .collect();
    ranks.sort();
    let document = get(tree, RANKS_DOCUMENT)?;
    let line = document.text.lines().find(|line| line.contains(" < ")).unwrap_or_default();
    let said =
        line.split(" < ").map(|name| name.split(" by ").next().unwrap_or_default().to_lowercase());
    let said: Vec<String> =
        said.map(|name| name.trim_end_matches('s').replace("slab classe", "slab")).collect();
    let real: Vec<_> =
        ranks.iter().map(|(_, name)| name.trim_end_matches('s').to_owned()).collect();
    match said == real && real.len() > 3 {
        true => Ok(Vec::new()),
        false => Ok(vec![format!("{RANKS_DOCUMENT}: the ranks are {}", real.join(" < "))]),
    }
}

/// `N` or `N << M`.
fn value(text: &str) -> Option<u64> {
    match text.split_once("<<") {
        None => text.trim().parse().ok(),
        Some((number, shift)) => {
            Some(number.trim().parse::<u64>().ok()? << shift.trim().parse::<u32>().ok()?)
        }
    }
}

/// The table of settings: the keys in their order, their defaults, the words they take.
fn settings(tree: &Tree) -> Found {
    let code = &get(tree, SETTINGS)?.text;
    let key = Regex::new(
        r#"KeyInfo \{\s*name: "(\w+)",\s*shape: Shape::(\w+)([^\n]*),\s*default: ([^\n]+),"#,
    );
    let document = get(tree, SETTINGS_DOCUMENT)?;
    let heading = document.text.find("| key |").unwrap_or(document.text.len());
    let mut rows =
        document.text[heading..].lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut faults = Vec::new();
    let mut count = 0;
    for info in key.expect("a pattern").captures_iter(code) {
        count += 1;
        let (name, shape, words, default) = (&info[1], &info[2], &info[3], &info[4]);
        let Some(row) = rows.find(|row| row.contains(&format!("| `{name}` |"))) else {
            faults.push(format!(
                "{SETTINGS_DOCUMENT}: no row for the setting {name}, or not in the code's order"
            ));
            continue;
        };
        let said = row.split('|').nth(2).unwrap_or_default().trim().trim_matches('`');
        let real = default_of(shape, default);
        if said != real {
            faults
                .push(format!("{SETTINGS_DOCUMENT}: the default of {name} is {real}, not {said}"));
        }
        for word in words.split('"').skip(1).step_by(2).filter(|word| !row.contains(*word)) {
            faults.push(format!(
                "{SETTINGS_DOCUMENT}: {name} takes {word}, which its row does not say"
            ));
        }
    }
    let listed =
        document.text[heading..].lines().skip(2).take_while(|line| line.starts_with('|')).count();
    if count < 3 || listed != count {
        faults.push(format!("{SETTINGS_DOCUMENT}: {listed} settings, the code has {count}"));
    }
    Ok(faults)
}

/// A default as one writes it in `RSALLOC_CONF`.
fn default_of(shape: &str, default: &str) -> String {
    let number = value(default);
    match (shape, number) {
        ("Switch" | "Exit", Some(0)) => "off".into(),
        ("Switch", Some(_)) => "on".into(),
        (_, Some(number)) if number > 0 && number % (1 << 20) == 0 => format!("{}m", number >> 20),
        (_, Some(number)) => number.to_string(),
        // The variant of an enum: its name in small letters.
        (_, None) => {
            let variant = default
                .rsplit("::")
                .next()
                .unwrap_or(default)
                .split(' ')
                .next()
                .unwrap_or_default();
            let mut word = String::new();
            for letter in variant.chars() {
                if letter.is_uppercase() && !word.is_empty() {
                    word.push('_');
                }
                word.extend(letter.to_lowercase());
            }
            word
        }
    }
}

/// Decisions: each number once, in name and heading. A number that is reserved may be missing.
fn titles(tree: &Tree) -> Found {
    let mut faults = Vec::new();
    let mut last = 0;
    for file in tree.documents().filter(|file| file.path.starts_with("docs/adr/")) {
        let number: u32 =
            file.stem().split('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
        if number <= last {
            faults.push(format!("{}: another decision has this number", file.path));
        } else if !file.text.starts_with(&format!("# {number}. ")) {
            faults.push(format!("{}: its heading begins with another number", file.path));
        }
        last = number.max(last);
    }
    Ok(faults)
}

fn get<'a>(tree: &'a Tree, path: &str) -> Result<&'a File, Fault> {
    tree.get(path).ok_or_else(|| format!("{path} is gone: the rule that reads it must follow"))
}

fn number(tree: &Tree, path: &str, pattern: &str) -> Result<usize, Fault> {
    let found = Regex::new(pattern).expect("a pattern").captures(&get(tree, path)?.text);
    let found = found.and_then(|found| found[1].parse().ok());
    found.ok_or_else(|| format!("{path}: no {pattern}: the rule that reads it must follow"))
}

/// Places where a document that is no note of its day says another number than `real`.
fn compare(tree: &Tree, pattern: &str, real: usize) -> Vec<Fault> {
    let pattern = Regex::new(pattern).expect("a pattern");
    let mut faults = Vec::new();
    for file in tree.documents().filter(|file| !file.is_note()) {
        for found in pattern.captures_iter(&file.text) {
            if found[1].parse() != Ok(real) {
                faults.push(format!("{}: \"{}\", the code has {real}", file.path, &found[0]));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN_TEXT: &str = "| `malloc` | 16 | 18 |\n| `free` | 19 | 20 |\n| `free_sized` | 16 | 16 |\n\
                               | `posix_memalign` | 28 | 28 |\n| `sections::pop_cpu` | 14 | 14 |\n";
    const RANKS_TEXT: &str = "pub const FORK: Rank = Rank(1);\npub const HUGE: Rank = Rank(1 << 10);\n\
                              pub const fn slab(class: usize) -> Rank {\n    Rank((1 << 9) + class as u32)\n}\n\
                              pub const fn segment(index: usize) -> Rank {\n    Rank((1 << 12) + index as u32)\n}\n";
    const SETTINGS_TEXT: &str = "KeyInfo {\n    name: \"mode\",\n    shape: Shape::Words(&[\"auto\", \"atomic\"]),\n\
         default: Mode::Auto as usize,\n}\nKeyInfo {\n    name: \"dirty\",\n    shape: Shape::Number,\n    default: 1 << 20,\n}\n\
         KeyInfo {\n    name: \"membarrier\",\n    shape: Shape::Switch,\n    default: 1,\n}\n";
    const SETTINGS_TABLE: &str = "| key | default | |\n|---|---|---|\n| `mode` | `auto` | `atomic`: never |\n\
                          | `dirty` | `1m` | bytes |\n| `membarrier` | `on` | |\n";
    const RANKS_LINE: &str =
        "# 6. Locks\n\nFORK < slab classes by number < HUGE < segments by number\n";

    fn found(changes: &[(&str, &str)]) -> Vec<Fault> {
        let mut files = vec![
            (CLASSES, "pub const CLASSES: usize = 98;"),
            (UNITS, "pub const OBJECT_MAX_BYTES: usize = 256 << 10;"),
            (RANKS, RANKS_TEXT),
            (RANKS_DOCUMENT, RANKS_LINE),
            (SETTINGS, SETTINGS_TEXT),
            (SETTINGS_DOCUMENT, SETTINGS_TABLE),
            (GOLDEN, GOLDEN_TEXT),
        ];
        for change in changes {
            files.retain(|file| file.0 != change.0);
            files.push(*change);
        }
        faults(&Tree::of(&files))
    }

    #[test]
    fn documents_that_agree_pass() {
        let text = "97 size classes, heads[98], the largest class is 256 KiB, 5 sections, all 4 entries, malloc 16, free 19, sized free 16";
        assert_eq!(found(&[("docs/a.md", text)]), Vec::<Fault>::new());
    }

    #[test]
    fn a_number_that_differs_fails() {
        let texts = [
            "96 size classes",
            "heads[97]",
            "7 sections",
            "all 3 entries",
            "`free(p)` takes 20 instructions",
        ];
        for text in texts {
            assert_eq!(found(&[("docs/a.md", text)]).len(), 1, "{text}");
        }
        assert_eq!(found(&[("docs/a.md", "malloc 17, free 19, sized free 16")]).len(), 1);
    }

    #[test]
    fn another_order_of_locks_fails() {
        let line =
            RANKS_LINE.replace("FORK < slab classes by number", "slab classes by number < FORK");
        assert_eq!(found(&[(RANKS_DOCUMENT, &line)]).len(), 1);
        assert_eq!(found(&[(RANKS, &RANKS_TEXT.replace("1 << 10", "1 << 13"))]).len(), 1);
    }

    #[test]
    fn a_setting_that_differs_fails() {
        for (old, new) in [
            ("`1m`", "`2m`"),
            ("`on`", "`off`"),
            ("atomic", "locked"),
            ("| `dirty` | `1m` | bytes |\n", ""),
        ] {
            assert!(
                !found(&[(SETTINGS_DOCUMENT, &SETTINGS_TABLE.replace(old, new))]).is_empty(),
                "{old}"
            );
        }
        let more = format!("{SETTINGS_TABLE}| `cache` | 0 | |\n");
        assert_eq!(found(&[(SETTINGS_DOCUMENT, &more)]).len(), 1);
    }

    #[test]
    fn a_decision_under_another_number_fails() {
        let found = |files: &[(&str, &str)]| titles(&Tree::of(files)).unwrap().len();
        let first = ("docs/adr/0001-a.md", "# 1. A");
        assert_eq!(found(&[first, ("docs/adr/0003-b.md", "# 3. B")]), 0);
        assert_eq!(found(&[first, ("docs/adr/0003-b.md", "# 2. B")]), 1);
        assert_eq!(found(&[first, ("docs/adr/0001-b.md", "# 1. B")]), 1);
        assert_eq!(found(&[first, ("docs/adr/b.md", "# 2. B")]), 1);
    }

    #[test]
    fn a_source_that_is_gone_is_a_fault() {
        assert!(faults(&Tree::of(&[])).len() >= 4);
    }
}
