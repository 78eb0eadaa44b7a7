//! `include/rsalloc.h` against the library: each declared function is exported under a version and the other way round, the
//! structure has the fields of the statistics, and a C and a C++ program that ask everything run, linked and preloaded.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const HEADER: &str = include_str!("../include/rsalloc.h");

/// Not a function: what `rsalloc stats PID` reads.
const PUBLISHED_BLOCK: &str = "rsalloc_report";

/// The words of the header in which `with` follows a name of ours.
fn names(text: &str, with: char) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.match_indices("rsalloc_").filter(|(at, _)| !text[..*at].ends_with(is_name));
    let ends = words.map(|(at, _)| {
        let len = text[at..].find(|c| !is_name(c)).unwrap_or(text.len() - at);
        (&text[at..at + len], &text[at + len..])
    });
    ends.filter(|(_, rest)| rest.starts_with(with)).map(|(name, _)| name).collect()
}

/// The header without its comments.
fn code() -> String {
    let mut parts = HEADER.split("/*");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once("*/")).fold(first, |all, (_, code)| all + code)
}

#[test]
fn the_header_declares_what_is_exported() {
    let code = code();
    let exports = include_str!("../exports.txt");
    let exported = exports.lines().filter(|line| line.starts_with("rsalloc_"));
    let exported: BTreeSet<_> = exported
        .map(|line| line.split_once(" RSALLOC_").expect("a function of ours without a version").0)
        .filter(|name| *name != PUBLISHED_BLOCK)
        .collect();
    assert_eq!(names(&code, '('), exported);
    let map = include_str!("../exports.map").split_once('{').unwrap().1;
    let mut versioned = names(map, ';');
    assert!(versioned.remove(PUBLISHED_BLOCK));
    assert_eq!(versioned, exported);
}

#[test]
fn the_structure_has_the_fields_of_the_statistics_in_their_order() {
    let code = code();
    let body = code.split_once("struct rsalloc_stats {").unwrap().1.split_once('}').unwrap().0;
    let fields = body.split(';').filter_map(|field| field.trim().strip_prefix("size_t "));
    let known: Vec<_> = rsalloc_core::stats().entries().map(|(name, _)| name).collect();
    // A new field comes last, in both: programs that are compiled know the places of the others.
    assert_eq!(fields.collect::<Vec<_>>(), known);
}

#[test]
fn the_header_has_the_version_of_the_library() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(HEADER.contains(&format!("#define RSALLOC_VERSION \"{version}\"")));
    for (name, number) in ["MAJOR", "MINOR", "PATCH"].iter().zip(version.split('.')) {
        assert!(HEADER.contains(&format!("#define RSALLOC_VERSION_{name} {number}\n")), "{name}");
    }
}

const ASKS_ALL: &str = r#"
#include <rsalloc.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define EXPECT(what) do { if (!(what)) { fprintf(stderr, "line %d: %s\n", __LINE__, #what); exit(1); } } while (0)
int main(int argc, char **argv) {
    char text[64], small[3] = "xx";
    struct rsalloc_stats stats, before;
    size_t known;
    errno = 77;
    EXPECT(strcmp(rsalloc_version(), RSALLOC_VERSION) == 0);
    EXPECT(rsalloc_is_per_cpu() == (argc < 2));

    known = rsalloc_read_stats(&before, sizeof before);
    EXPECT(known == sizeof before);
    char *object = (char *)malloc(100 << 20);
    EXPECT(object != NULL);
    memset(object, 1, 100 << 20);
    /* A caller that knows more fields, and one that knows fewer. */
    struct { struct rsalloc_stats known; size_t more; } newer;
    memset(&newer, 1, sizeof newer);
    EXPECT(rsalloc_read_stats(&newer.known, sizeof newer) == known && newer.more == 0);
    EXPECT(newer.known.live_bytes >= before.live_bytes + (100 << 20) && newer.known.large_count > 0);
    memset(&stats, 1, sizeof stats);
    rsalloc_read_stats(&stats, 2 * sizeof(size_t));
    EXPECT(stats.metadata_bytes > 0 && stats.live_bytes == 0x0101010101010101);

    EXPECT(rsalloc_set("dirty:512m") == 0);
    EXPECT(rsalloc_get("dirty", text, sizeof text) == 9 && strcmp(text, "536870912") == 0);
    EXPECT(rsalloc_get("dirty", small, sizeof small) == 9 && strcmp(small, "53") == 0);
    EXPECT(rsalloc_get("dirty", NULL, 0) == 9 && rsalloc_get("no_such", text, sizeof text) == -1);
    EXPECT(rsalloc_set("no_such:1") == ENOENT && rsalloc_set("dirty:many") == EINVAL);
    EXPECT(rsalloc_set("mode:atomic") == EPERM && rsalloc_set("stats_at_exit:/tmp/no") == EPERM);
    /* Set by RSALLOC_CONF. */
    EXPECT(rsalloc_set("cache:1m") == EACCES);

    free(object);
    rsalloc_release();
    rsalloc_read_stats(&stats, sizeof stats);
    EXPECT(stats.live_bytes < newer.known.live_bytes && stats.dirty_bytes == 0);

    EXPECT(rsalloc_profile_stop() == ESRCH && rsalloc_profile_start(1) == EINVAL);
    EXPECT(rsalloc_profile_start(0) == 0 && rsalloc_profile_start(0) == EALREADY);
    EXPECT(rsalloc_profile_stop() == 0);
    EXPECT(rsalloc_check() == 0);
    EXPECT(errno == 77);

    EXPECT(rsalloc_print_stats(1, 17) == EINVAL);
    for (int format = RSALLOC_TEXT; format <= RSALLOC_OPENMETRICS; format++)
        EXPECT(rsalloc_print_stats(1, format) == 0);
    rsalloc_print_settings(1);
    (void)argv;
    return 0;
}
"#;

/// Runs it on the library, in both modes, and looks at what it printed.
fn ask(program: &Path, preload: bool) {
    for (conf, arguments) in [("cache:2m", &[][..]), ("cache:2m,mode:atomic", &["atomic"][..])] {
        if arguments.is_empty() && !cfg!(sections) {
            continue;
        }
        let mut command = Command::new(program);
        command.args(arguments).env("RSALLOC_CONF", conf).env_remove("LD_PRELOAD");
        if preload {
            command.env("LD_PRELOAD", common::library());
        } else {
            command.env("LD_LIBRARY_PATH", common::library().parent().unwrap());
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{conf}: {}\n{said}{errors}", output.status);
        for part in
            ["mode: ", "\"live_bytes\":", "\nrsalloc_live_bytes ", "# EOF\n", "\ncache\t2097152\t"]
        {
            assert!(said.contains(part), "no {part:?} in\n{said}");
        }
    }
}

fn arguments(more: &[&'static str]) -> Vec<&'static str> {
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include");
    [&[include, "-Wall", "-Wextra", "-Werror", "-O1"], more].concat()
}

#[test]
fn a_c_program_asks_everything() {
    // The soname is what the program asks for.
    let library = common::library();
    let soname = library.with_file_name("librsalloc.so.0");
    let _ = std::os::unix::fs::symlink("librsalloc.so", &soname);
    let linked = ["-std=c11", library.to_str().unwrap()];
    let source = format!("#define _GNU_SOURCE\n{ASKS_ALL}");
    let mut words = arguments(&[]);
    words.extend(linked);
    ask(&common::compile("cc", "asks-linked", &source, &words).unwrap(), false);

    let weak = format!("#define _GNU_SOURCE\n#define RSALLOC_WEAK\n{ASKS_ALL}");
    let program = common::compile("cc", "asks-weakly", &weak, &arguments(&["-std=c11"])).unwrap();
    ask(&program, true);
}

#[test]
fn a_program_that_is_not_on_rsalloc_sees_null() {
    let source = "#define RSALLOC_WEAK\n#include <rsalloc.h>\nint main(void) { return rsalloc_release != 0; }";
    let program = common::compile("cc", "asks-for-null", source, &arguments(&[])).unwrap();
    assert!(Command::new(&program).env_remove("LD_PRELOAD").status().unwrap().success());
    let preloaded = Command::new(&program).env("LD_PRELOAD", common::library()).status().unwrap();
    assert_eq!(preloaded.code(), Some(1));
}

#[test]
fn the_header_is_c_plus_plus_too() {
    let source = format!("#define RSALLOC_WEAK\n{ASKS_ALL}");
    let words = arguments(&["-Wno-address", "-Wno-maybe-uninitialized"]);
    if let Some(program) = common::compile("c++", "asks-in-cxx", &source, &words) {
        ask(&program, true);
    }
}
