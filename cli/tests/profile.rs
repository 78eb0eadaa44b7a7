//! `rsalloc profile`: processes that are sampled from their start, for a time, or never; how programs under it end; what is
//! left in the process.

mod command_line;

use command_line::*;
use common::{compile, note};
use rsalloc_pprof::{Measure, Profile};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

/// See there. Each test has a copy of its own: one that is written to cannot be started.
fn program(name: &str) -> PathBuf {
    compile("cc", name, include_str!("profiled/leak.c"), &["-g", "-O1", "-pthread"]).unwrap()
}

fn read(path: &Path) -> Profile {
    Profile::read(&std::fs::read(path).unwrap()).unwrap()
}

/// The sum of what `measure` says of the stacks through a function.
fn through(profile: &Profile, function: &str, measure: Measure) -> i64 {
    let at = profile.sample_types.iter().position(|kind| kind.kind == measure.name()).unwrap();
    let is_there = |location: &usize| {
        let lines = &profile.locations[*location].lines;
        lines.iter().any(|line| profile.functions[line.function].name == function)
    };
    let samples = profile.samples.iter().filter(|sample| sample.locations.iter().any(is_there));
    samples.map(|sample| sample.values[at]).sum()
}

/// A profile of `rounds` of the program's work: 200 MB through `churn` and 20 MB that `leak` keeps, in each.
#[track_caller]
fn assert_work(profile: &Profile, rounds: i64) {
    let is_near = |function: &str, measure, wanted: i64| {
        let seen = through(profile, function, measure);
        // 20 MB in objects of 1,000 bytes with 4 KiB between samples: a deviation is 1.4 %, and the chance of 10 % is 1e-12.
        assert!(
            (seen - wanted).abs() <= wanted / 10,
            "{function}: {seen}, not {wanted}: {profile:?}"
        );
    };
    is_near("churn", Measure::AllocatedBytes, 200_000_000 * rounds);
    is_near("leak", Measure::AllocatedBytes, 20_000_000 * rounds);
    is_near("leak", Measure::LiveBytes, 20_000_000 * rounds);
    is_near("leak", Measure::LiveObjects, 20_000 * rounds);
    is_near("main", Measure::LiveBytes, 20_000_000 * rounds);
    assert_eq!(through(profile, "churn", Measure::LiveBytes), 0);
}

#[test]
fn a_program_is_profiled_from_its_start_to_its_end() {
    let (program, folder) = (program("profiled-ends"), fresh_folder("profile-ends"));
    for (end, code) in [("exit", 3), ("_exit", 4), ("abort", 128 + 6), ("thread", 7)] {
        let file = folder.join(format!("{end}.pb.gz"));
        let options = [
            "--interval",
            "4k",
            "-o",
            file.to_str().unwrap(),
            "--",
            program.to_str().unwrap(),
            end,
        ];
        let done = with_library("profile", &options).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{end}: {said}");
        assert!(
            said.lines().count() == 1 && said.contains(file.to_str().unwrap()),
            "{end}: {said}"
        );
        let profile = read(&file);
        assert_eq!(profile.period, 4096);
        match end {
            "thread" => assert!(through(&profile, "last", Measure::LiveBytes) > 18_000_000),
            _ => assert_work(&profile, 1),
        }
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 4, "nothing else is left");
}

/// A profile under way: it has said that it samples.
struct Profiler(Child, BufReader<ChildStderr>);

impl Profiler {
    fn start(running: &Running, options: &[&str]) -> Self {
        let mut command = rsalloc(&["profile", &running.pid()]);
        let mut child = command.args(options).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(
            line.starts_with(&format!("rsalloc: sampling process {}", running.pid())),
            "{line}"
        );
        Self(child, said)
    }

    /// Exit status, and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.1.read_to_string(&mut rest).unwrap();
        (self.0.wait().unwrap().code(), rest)
    }
}

#[test]
fn a_process_is_sampled_for_a_time_and_then_no_more() {
    let (program, folder) = (program("profiled-later"), fresh_folder("profile-later"));
    let mut running =
        Running::talker(&mut with_library("run", &[program.to_str().unwrap(), "later"]));
    let work = |running: &mut Running| {
        running.0.stdin.as_mut().unwrap().write_all(b"w").unwrap();
        running.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    };
    work(&mut running);
    for round in 0..2 {
        let file = folder.join(format!("{round}.pb.gz"));
        let options = ["--interval", "4k", "--seconds", "100", "-o", file.to_str().unwrap()];
        let profiler = Profiler::start(&running, &options);
        work(&mut running);
        // Ctrl-C ends it early; the profile is written all the same.
        // SAFETY: no preconditions.
        unsafe { libc::kill(profiler.0.id() as i32, libc::SIGINT) };
        let (status, said) = profiler.end();
        assert_eq!(status, Some(0), "{said}");
        assert_work(&read(&file), 1);
        // Off again: what comes now is not in the next profile.
        work(&mut running);
        let conf = answer(&mut rsalloc(&["conf", &running.pid()]));
        let setting = conf.lines().find(|line| line.starts_with("profile ")).unwrap();
        assert_eq!(setting.split_whitespace().nth(1), Some("0"), "{conf}");
    }
    let file = folder.join("nothing.pb.gz");
    let profiler = Profiler::start(&running, &["--seconds", "0.1", "-o", file.to_str().unwrap()]);
    assert_eq!(profiler.end().0, Some(0));
    assert_eq!(through(&read(&file), "main", Measure::AllocatedBytes), 0);
}

#[test]
fn a_process_that_is_sampled_by_its_configuration_is_only_read() {
    let (program, folder) = (program("profiled-conf"), fresh_folder("profile-conf"));
    let running = Running::talker(&mut with_library(
        "run",
        &["--conf", "profile:4k", program.to_str().unwrap()],
    ));
    let [file, folded, svg] = ["heap.pb.gz", "folded", "heap.svg"].map(|name| folder.join(name));
    let names = [&file, &folded, &svg].map(|path| path.to_str().unwrap());
    for _ in 0..2 {
        let options = [
            "profile",
            &running.pid(),
            "-o",
            names[0],
            "--folded",
            names[1],
            "--svg",
            names[2],
            "--top",
        ];
        let done = rsalloc(&options).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success() && said.contains("is sampled already, one in 4.0 KiB"),
            "{said}"
        );
        assert_work(&read(&file), 1);
        let top = String::from_utf8(done.stdout).unwrap();
        let site = top.lines().find(|line| line.contains("leak (profiled-conf.c:")).unwrap();
        let share: f64 = site.trim().split(' ').next().unwrap().parse().unwrap();
        assert!(share > 95.0 && site.contains("< ") && site.contains("main"), "{top}");
        let text = std::fs::read_to_string(&folded).unwrap();
        let stack = text.lines().find(|line| line.contains(";leak")).unwrap();
        let bytes: i64 = stack.rsplit(' ').next().unwrap().parse().unwrap();
        assert!((18_000_000..22_000_000).contains(&bytes) && stack.contains("main;"), "{text}");
        assert!(!text.contains("churn"), "nothing of it is live: {text}");
        let picture = std::fs::read_to_string(&svg).unwrap();
        assert!(picture.contains("<title>leak\nprofiled-conf.c:"), "{picture}");
    }
    let done = rsalloc(&["profile", &running.pid(), "--by", "allocated", "--folded", "-"])
        .output()
        .unwrap();
    assert!(String::from_utf8(done.stdout).unwrap().contains(";churn "), "by what was allocated");
}

#[test]
fn go_reads_the_profile_of_a_process() {
    let (program, folder) = (program("profiled-go"), fresh_folder("profile-go"));
    let file = folder.join("heap.pb.gz");
    let options =
        ["--interval", "4k", "-o", file.to_str().unwrap(), "--", program.to_str().unwrap(), "exit"];
    assert_eq!(with_library("profile", &options).status().unwrap().code(), Some(3));
    let mut go = Command::new("go");
    go.args(["tool", "pprof", "-symbolize=none", "-top"]).arg(&file).env("PPROF_TMPDIR", &folder);
    let Ok(top) = go.output() else {
        return common::skip("a profile by `go tool pprof`: there is no go");
    };
    let text = String::from_utf8_lossy(&top.stdout);
    let row: Vec<&str> =
        text.lines().find(|line| line.ends_with(" leak")).unwrap().split_whitespace().collect();
    assert!(top.status.success() && text.contains("Type: inuse_space"), "{text}");
    assert!(matches!(&row[0][..2], "17" | "18" | "19" | "20"), "20 MB are 19.07 MiB: {text}");
}

#[test]
fn a_deleted_program_keeps_its_symbols() {
    let (program, folder) = (program("profiled-deleted"), fresh_folder("profile-deleted"));
    let running = Running::talker(&mut with_library(
        "run",
        &["--conf", "profile:4k", program.to_str().unwrap()],
    ));
    std::fs::remove_file(&program).unwrap();
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return note("a profile of a program that was deleted: only root may open it");
    }
    let file = folder.join("heap.pb.gz");
    let done =
        rsalloc(&["profile", &running.pid(), "-o", file.to_str().unwrap()]).output().unwrap();
    assert!(done.status.success());
    assert_work(&read(&file), 1);
}

#[test]
fn a_core_file_has_the_profile() {
    let (program, folder) = (program("profiled-core"), fresh_folder("profile-core"));
    let running = Running::talker(&mut with_library(
        "run",
        &["--conf", "profile:4k", program.to_str().unwrap()],
    ));
    let name = folder.join("core");
    match Command::new("gcore").arg("-o").arg(&name).arg(running.pid()).output() {
        Ok(done) if done.status.success() => {}
        _ => return note("a profile of a core file: there is no gcore, or it may not trace"),
    }
    let (core, file) = (folder.join(format!("core.{}", running.pid())), folder.join("heap.pb.gz"));
    let options = ["profile", core.to_str().unwrap(), "-o", file.to_str().unwrap()];
    drop(running);
    let done = rsalloc(&options).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_work(&read(&file), 1);
}

#[test]
fn what_cannot_be_profiled_is_said_in_a_line() {
    let line = error(&mut rsalloc(&["profile", "4194999"]), 3);
    assert_eq!(line, "rsalloc: there is no process 4194999");
    let plain = Running::cat(clean(&mut Command::new("cat")));
    let line = error(&mut rsalloc(&["profile", &plain.pid()]), 3);
    assert_eq!(line, format!("rsalloc: rsalloc is not active in process {}", plain.pid()));
    let served = Running::cat(&mut with_library("run", &["cat"]));
    let line = error(&mut rsalloc(&["profile", &served.pid(), "-o", "/no/such/heap.pb.gz"]), 3);
    assert_eq!(line, "rsalloc: there is no folder /no/such");
    let line = error(&mut rsalloc(&["profile", &served.pid(), "--interval", "1"]), 3);
    assert!(line.contains("--interval") && line.contains("256 to 1g"), "{line}");
    let line = error(&mut rsalloc(&["profile", &served.pid(), "--debug-dir", "/no/such"]), 3);
    assert_eq!(line, "rsalloc: there is no folder /no/such");
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        let mut command = rsalloc(&["profile", &served.pid(), "-o", "/tmp/never"]);
        let line = error(std::os::unix::process::CommandExt::uid(&mut command, 65534), 3);
        assert!(line.contains("ask as its user or as root"), "{line}");
    } else {
        note("a profile of another user's process: only root can try it");
    }
    let line = error(&mut with_library("profile", &["--", "no-such-program"]), 127);
    assert_eq!(line, "rsalloc: no-such-program: program not found");
}

#[test]
fn a_process_that_ends_meanwhile_is_said_to() {
    let (program, folder) = (program("profiled-gone"), fresh_folder("profile-gone"));
    let file = folder.join("heap.pb.gz");
    std::fs::write(&file, "an older one").unwrap();
    let running = Running::talker(&mut with_library("run", &[program.to_str().unwrap(), "later"]));
    let pid = running.pid();
    let profiler = Profiler::start(&running, &["--seconds", "100", "-o", file.to_str().unwrap()]);
    drop(running);
    let (status, said) = profiler.end();
    let wanted = "ended, or started another program, before its profile was read";
    assert_eq!((status, said), (Some(3), format!("rsalloc: process {pid} {wanted}\n")));
    assert_eq!(std::fs::read(&file).unwrap(), b"an older one");
}

/// Keeps 30 MB, says so and waits; with an argument it goes on until it gets null.
const HOARDER: &str = r#"
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    static void **last;
    __attribute__((noinline)) static int hoard(size_t size) {
        void **object = malloc(size);
        if (!object) return 0;
        memset(object, 1, size);
        *object = last;
        last = object;
        return 1;
    }
    __attribute__((noinline)) static void little(void) {
        for (int i = 0; i < 500; i++) hoard(10000);
    }
    __attribute__((noinline)) static void much(int all) {
        for (int i = 0; i < 25000 || all; i++) if (!hoard(1000)) return;
    }
    int main(int argc, char **argv) {
        little();
        much(argc > 1);
        write(1, "!", 1);
        char byte;
        while (read(0, &byte, 1) == 1) {}
        return 0;
    }
"#;

#[test]
fn sites_are_named_when_memory_is_out() {
    let program = compile("cc", "hoards", HOARDER, &["-g", "-O1"]).unwrap();
    let told = |conf: &str| {
        let mut command = with_library("run", &["--conf", conf, "--"]);
        command.arg(&program).arg("all").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let plain = told("limit_hard:64m");
    assert!(plain.contains("out of memory") && !plain.contains("by samples"), "{plain}");
    let profiled = told("limit_hard:64m,profile:64k");
    let sites: Vec<&str> =
        profiled.lines().filter(|line| line.contains(", by samples, from ")).collect();
    assert!((2..=4).contains(&sites.len()), "{profiled}");
    let mebibytes = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap();
    // What is left of 64 MiB beside 5 MB from `little`, of which about 80 samples were taken: 11 % is a deviation.
    assert!((40.0..64.0).contains(&mebibytes(sites[0])), "{profiled}");
    assert!((2.0..8.0).contains(&mebibytes(sites[1])), "{profiled}");
    assert!(sites.iter().all(|line| line.len() < 256), "{profiled}");
    // With symbols, also those of the callers, whose module is not named again.
    let file = fresh_folder("out-of-memory").join("log");
    std::fs::write(&file, &profiled).unwrap();
    let symbols = answer(&mut rsalloc(&["symbolize", file.to_str().unwrap()]));
    let named: Vec<&str> =
        symbols.lines().filter(|line| line.contains(", by samples, from ")).collect();
    for (line, caller) in named.iter().zip(["much", "little"]) {
        let at = |name: &str| {
            line.find(&format!("{name} (")).unwrap_or_else(|| panic!("{name} in {line}"))
        };
        assert!(at("hoard") < at(caller) && at(caller) < at("main"), "{line}");
    }
}

#[test]
fn top_shows_the_sites_of_a_process_that_is_sampled() {
    let program = compile("cc", "hoards-for-top", HOARDER, &["-g", "-O1"]).unwrap();
    for (conf, is_sampled) in [("profile:64k", true), ("", false)] {
        let mut command = with_library("run", &["--conf", conf, "--"]);
        let running = Running::talker(command.arg(&program));
        let screen = answer(&mut rsalloc(&["top", "--once", &running.pid()]));
        let sites: Vec<&str> =
            screen.lines().filter(|line| line.contains("hoard (hoards-for-top.c:")).collect();
        assert_eq!(
            (screen.contains("SITE, BY SAMPLES"), sites.len()),
            (is_sampled, 2 * usize::from(is_sampled)),
            "{screen}"
        );
        if is_sampled {
            let (much, little) = (sites[0], sites[1]);
            assert!(
                much.contains(" < much < main") && little.contains(" < little < main"),
                "{screen}"
            );
            let live =
                |line: &str| line.trim_start().split('M').next().unwrap().parse::<f64>().unwrap();
            assert!(
                (15.0..35.0).contains(&live(much)) && (2.0..9.0).contains(&live(little)),
                "{screen}"
            );
        }
    }
}
