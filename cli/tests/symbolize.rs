//! `rsalloc symbolize`: functions, lines and inlined functions of programs with and without debug information.

mod command_line;

use command_line::*;
use common::compile;
use rsalloc_pprof::{Amount, HeapProfile, HeapSample, Mapping, Profile};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says where a call returns to that an inlined function makes, and what is mapped.
const PROGRAM: &str = r#"
#include <cstdio>
namespace site {
struct Store {
    void *caller;
    __attribute__((noinline)) void keep() { caller = __builtin_return_address(0); asm volatile(""); }
};
Store store;
static inline __attribute__((always_inline)) void inner(int n) {
    store.keep();
    asm volatile("" :: "r"(n));
}
__attribute__((noinline)) void outer(int n) {
    inner(n);
    asm volatile("" :: "r"(n));
}
}
int main() {
    site::outer(1);
    printf("%p\n", site::store.caller);
    FILE *maps = fopen("/proc/self/maps", "r");
    for (char line[4096]; fgets(line, sizeof line, maps);) fputs(line, stdout);
}
"#;

/// A program, built and run once.
struct Built {
    program: PathBuf,
    build_id: String,
    profile: Profile,
}

impl Built {
    fn new(name: &str, flags: &[&str]) -> Option<Self> {
        let flags = [&["-g", "-O1", "-Wl,--build-id"], flags].concat();
        let program = compile("c++", name, PROGRAM, &flags)?;
        let said = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
        let number = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
        let caller = number(said.lines().next().unwrap().strip_prefix("0x").unwrap());
        let map = said.lines().find(|l| l.contains("r-xp") && l.ends_with(name)).unwrap();
        let fields: Vec<_> = map.split_ascii_whitespace().collect();
        let (start, end) = fields[0].split_once('-').unwrap();
        let notes = Command::new("readelf").arg("-n").arg(&program).output().unwrap();
        let notes = String::from_utf8(notes.stdout).unwrap();
        let id = notes.lines().find_map(|l| l.trim().strip_prefix("Build ID: ")).unwrap();
        let mapping = Mapping {
            start: number(start),
            end: number(end),
            file_offset: number(fields[2]),
            file: program.to_str().unwrap().into(),
            build_id: id.into(),
            ..Mapping::default()
        };
        let one = Amount { objects: 1, bytes: 4 << 20 };
        let sample = HeapSample { stack: vec![caller], allocated: one, live: one };
        let heap = HeapProfile {
            mappings: vec![mapping],
            samples: vec![sample],
            ..HeapProfile::default()
        };
        Some(Self { build_id: id.into(), program, profile: heap.to_pprof() })
    }

    /// Splits the debug information off into a folder as distributions have it; what is left has no symbols.
    fn strip(&self, folder: &Path) {
        let (first, rest) = self.build_id.split_at(2);
        let place = folder.join(".build-id").join(first);
        std::fs::create_dir_all(&place).unwrap();
        let debug = place.join(format!("{rest}.debug"));
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("objcopy").arg("--only-keep-debug").arg(&self.program).arg(debug));
        run(Command::new("strip").arg("-s").arg(&self.program));
    }

    /// What the command makes of the profile: function and line, innermost first.
    fn symbolized(&self, options: &[&str]) -> Vec<(String, String)> {
        let folder =
            fresh_folder(&format!("symbolize-{}", self.program.file_name().unwrap().display()));
        let (from, to) = (folder.join("from.pb.gz"), folder.join("to.pb.gz"));
        self.profile.write(std::fs::File::create(&from).unwrap()).unwrap();
        let mut command =
            rsalloc(&["symbolize", from.to_str().unwrap(), "-o", to.to_str().unwrap()]);
        assert!(command.args(options).status().unwrap().success());
        let profile = Profile::read(&std::fs::read(to).unwrap()).unwrap();
        let lines = profile.locations[0].lines.iter().map(|line| {
            let function = &profile.functions[line.function];
            let file = function.file.rsplit('/').next().unwrap();
            (function.name.clone(), format!("{file}:{}", line.line))
        });
        lines.collect()
    }
}

fn wanted(name: &str) -> Vec<(String, String)> {
    let line = |text: &str| 1 + PROGRAM.lines().position(|l| l.trim() == text).unwrap();
    vec![
        ("site::inner(int)".into(), format!("{name}.cc:{}", line("store.keep();"))),
        ("site::outer(int)".into(), format!("{name}.cc:{}", line("inner(n);"))),
    ]
}

/// Names without their parameters: with and without debug information they are spelled differently.
fn bare(lines: Vec<(String, String)>) -> Vec<(String, String)> {
    let bare =
        |name: String| name.split('(').next().unwrap().trim_start_matches("site::").to_owned();
    lines.into_iter().map(|(name, place)| (bare(name), place)).collect()
}

#[test]
fn functions_lines_and_inlined_functions() {
    // Where the program lies is the linker's choice: at its place in the file, or elsewhere.
    for (name, flags) in [("symbols-pie", &["-pie", "-fPIE"][..]), ("symbols-fixed", &["-no-pie"])]
    {
        let Some(built) = Built::new(name, flags) else { return };
        assert_eq!(bare(built.symbolized(&[])), bare(wanted(name)), "{name}");
        assert_eq!(built.symbolized(&["--no-symbols"]), []);
    }
}

#[test]
fn debug_files_are_found_by_build_id() {
    for (name, flags) in [("split-pie", &["-pie", "-fPIE"][..]), ("split-fixed", &["-no-pie"])] {
        let Some(built) = Built::new(name, flags) else { return };
        let folder = fresh_folder(&format!("debug-{name}"));
        built.strip(&folder);
        assert_eq!(built.symbolized(&[]), [], "stripped");
        let option = ["--debug-dir", folder.to_str().unwrap()];
        assert_eq!(bare(built.symbolized(&option)), bare(wanted(name)), "{name}");
        // On another machine: the debug file alone.
        std::fs::remove_file(&built.program).unwrap();
        assert_eq!(
            bare(built.symbolized(&option)),
            bare(wanted(name)),
            "{name}, the program is gone"
        );
        // Another build of the program in its place is not taken for it.
        let flags = [flags, &["-DOTHER", "-O0"]].concat();
        compile("c++", name, PROGRAM, &[&["-g", "-Wl,--build-id"], &*flags].concat()).unwrap();
        assert_eq!(built.symbolized(&[]), [], "{name}, rebuilt");
    }
}

#[test]
fn lines_of_text_get_symbols() {
    // A place is told by its distance from where the file is loaded; a fixed program is loaded at 4 MiB.
    for (name, flags, at) in
        [("text-pie", &["-pie", "-fPIE"][..], 0), ("text-fixed", &["-no-pie"], 4 << 20)]
    {
        let Some(built) = Built::new(name, flags) else { return };
        lines_get_symbols(name, &built, at);
    }
}

fn lines_get_symbols(name: &str, built: &Built, loaded_at: u64) {
    let (location, mapping) = (&built.profile.locations[0], &built.profile.mappings[0]);
    let offset = match loaded_at {
        0 => location.address - mapping.start + mapping.file_offset,
        start => location.address - start,
    };
    let text = fresh_folder("symbolize-text").join("report");
    let line = format!("rsalloc:   {}+{offset:#x}", built.program.display());
    std::fs::write(&text, format!("rsalloc: double free\n{line}\n")).unwrap();
    let said = answer(&mut rsalloc(&["symbolize", text.to_str().unwrap()]));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "rsalloc: double free"));
    let names = lines[1].strip_prefix(&line).unwrap();
    assert!(names.contains("inner") && names.contains(" < ") && names.contains("outer"), "{said}");
    let call = wanted(name).remove(0).1;
    assert!(names.contains(&call), "{said}");
}

#[test]
fn what_is_no_profile_is_said_in_a_line() {
    let file = fresh_folder("symbolize-bad").join("bad");
    let name = file.to_str().unwrap();
    std::fs::write(&file, [0x1f, 0x8b, 1, 2, 3, 0xff]).unwrap();
    let line = error(&mut rsalloc(&["symbolize", name]), 3);
    assert_eq!(
        line,
        format!("rsalloc: {name} is neither a profile (damaged gzip data) nor a text")
    );
    let line = error(&mut rsalloc(&["symbolize", "/no/such/file"]), 3);
    assert!(line.starts_with("rsalloc: cannot read /no/such/file: "), "{line}");
    let line = error(&mut rsalloc(&["symbolize", "--debug-dir", "/no/such", name]), 3);
    assert_eq!(line, "rsalloc: there is no folder /no/such");
    std::fs::write(&file, "a text").unwrap();
    let line = error(&mut rsalloc(&["symbolize", "--top", name]), 3);
    assert!(line.contains("is a text, not a profile"), "{line}");
}
