//! The `rsalloc` command: what it answers, its exit codes, its one-line errors.

mod command_line;

use command_line::*;
use common::filter::{self, LIARS, NO_ADVICE, NO_FENCE, Rule};
use common::library;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn the_command_itself_has_no_heap() {
    let mut command = rsalloc(&["--version"]);
    let output = command.env("RSALLOC_CONF", "verbose:1,stats_at_exit:text").output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"rsalloc "), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn run_starts_the_program_with_the_library_first() {
    let out =
        answer(rsalloc(&["run"]).args(["--conf", "verbose:0", "--conf", "index:cpu_id"]).args([
            "--lib",
            library().to_str().unwrap(),
            "env",
        ]));
    let library = library().to_str().unwrap();
    assert!(out.lines().any(|l| l == format!("LD_PRELOAD={library}")), "{out}");
    assert!(out.lines().any(|l| l == "RSALLOC_CONF=verbose:0,index:cpu_id"), "{out}");
}

#[test]
fn run_keeps_what_the_environment_holds() {
    let other = common::compile("cc", "other.so", "int rsalloc_test_other;", &["-shared", "-fPIC"]);
    let other = other.unwrap();
    let mut command = with_library("run", &["--own", "--", "env"]);
    command.env("LD_PRELOAD", &other).env("RSALLOC_CONF", "verbose:0");
    command.env("GLIBC_TUNABLES", "glibc.malloc.check=0");
    let out = answer(&mut command);
    let preload = common::preload(&[library(), &other]).into_string().unwrap();
    assert!(out.lines().any(|l| l == format!("LD_PRELOAD={preload}")), "{out}");
    assert!(out.lines().any(|l| l == "RSALLOC_CONF=verbose:0"), "{out}");
    let tunables = "GLIBC_TUNABLES=glibc.malloc.check=0:glibc.pthread.rseq=0";
    assert!(out.lines().any(|l| l == tunables), "{out}");
}

#[test]
fn check_says_how_memory_is_given_back() {
    let check = |rules: &[Rule]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rsalloc"));
        command.args(["check", "--json", "--lib", library().to_str().unwrap()]);
        filter::install(&mut command, rules);
        let output = command.output().unwrap();
        let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (seen["report"]["gives_back"].clone(), seen["report"]["membarrier"].clone())
    };
    assert_eq!(check(&[]), ("madvise".into(), true.into()));
    for (rules, word) in LIARS {
        assert_eq!(check(rules), (word.into(), (!rules.contains(&NO_FENCE)).into()));
    }
    let mut command = Command::new("/bin/true");
    command.env("LD_PRELOAD", library()).env("RSALLOC_CONF", "verbose:1");
    filter::install(&mut command, &[NO_ADVICE]);
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(said.contains("madvise gives no memory back here: mmap does"), "{said}");
}

#[test]
fn record_writes_a_trace_and_hands_the_exit_code_back() {
    let folder = fresh_folder("recorded");
    let target = common::scratch().join("recorder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "record", "--target-dir"]).arg(&target);
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    let library = target.join("debug/librsalloc_record.so");
    let record = |arguments: &[&str]| {
        let mut command = rsalloc(&["record", "--lib", library.to_str().unwrap()]);
        command.args(arguments).current_dir(&folder).output().unwrap()
    };
    let output = record(&["--", "sh", "-c", "exit 42"]);
    assert_eq!(output.status.code(), Some(42));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sh.trace: ") && said.contains(" calls of 1 threads"), "{said}");
    // The name is the program's, not that of a shell that a link leads to.
    assert!(std::fs::read(folder.join("sh.trace")).unwrap().starts_with(b"rsalloct"));

    let nothing = record(&["--only", "no-such-program", "-o", "sh.trace", "--", "sh", "-c", ""]);
    assert_eq!(nothing.status.code(), Some(3));
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(said.contains("nothing was recorded: no process of no-such-program"), "{said}");
    assert!(!folder.join("sh.trace").exists(), "an old trace would be taken for this program's");

    let nowhere = record(&["-o", "no/folder/x", "--", "sh", "-c", ""]);
    assert_eq!(nowhere.status.code(), Some(3));
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(said.contains("there is no folder") && said.lines().count() == 1, "{said}");
}

#[test]
fn run_hands_hyphens_on_and_the_exit_code_back() {
    assert_eq!(answer(&mut with_library("run", &["echo", "-n", "--json", "-x"])), "--json -x");
    assert_eq!(answer(&mut with_library("run", &["--", "echo", "a", "--", "b"])), "a -- b\n");
    let output = with_library("run", &["sh", "-c", "exit 42"]).output().unwrap();
    assert_eq!(output.status.code(), Some(42));
}

#[test]
fn run_names_settings_of_other_allocators() {
    let said = |conf: &str| {
        let mut command = with_library("run", &["--conf", conf, "--", "sh", "-c", "exit 7"]);
        command.env("MALLOC_CONF", "dirty_decay_ms:0,prof:true").env("MALLOC_ARENA_MAX", "2");
        error(&mut command, 7)
    };
    let line = said("verbose:off");
    for part in [
        "rsalloc: no effect on rsalloc: MALLOC_ARENA_MAX (needs nothing: caches are per CPU), ",
        "MALLOC_CONF dirty_decay_ms (set dirty:BYTES), ",
        "MALLOC_CONF prof (set profile:on); see docs/migrating.md",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let line = said("dirty:0,profile:1m");
    assert!(!line.contains("MALLOC_CONF"), "{line}");
    let mut quiet = with_library("run", &["echo", "x"]);
    assert_eq!(answer(quiet.env_remove("MALLOC_CONF").env_remove("MALLOC_ARENA_MAX")), "x\n");
}

#[test]
fn run_finds_the_library_beside_itself_and_in_lib() {
    let multiarch = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    for place in ["bin", "lib", "lib64", &multiarch] {
        let root = fresh_folder(&format!("installed-{}", place.replace('/', "-")));
        for folder in ["bin", "lib"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        let command = root.join("bin/rsalloc");
        common::copy_program(Path::new(env!("CARGO_BIN_EXE_rsalloc")), &command);
        let line = error(Command::new(&command).args(["run", "true"]), 3);
        assert!(line.contains("librsalloc.so") && line.contains("--lib"), "{line}");
        let copy = root.join(place).join("librsalloc.so.0");
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(library(), &copy).unwrap();
        let out = answer(clean(Command::new(&command).args(["run", "env"])));
        assert!(out.contains(&format!("LD_PRELOAD={}\n", copy.display())), "{out}");

        // What `cargo install` leaves beside its programs: without a library here, that of the build is taken.
        std::fs::remove_file(&copy).unwrap();
        std::fs::write(root.join(".crates.toml"), "[v1]\n").unwrap();
        let out = answer(clean(Command::new(&command).args(["run", "env"])));
        assert!(out.contains("/deps/librsalloc_preload.so\n"), "{out}");
    }
}

#[test]
fn run_says_why_a_program_cannot_be_served() {
    let line = error(&mut with_library("run", &["no-such-program"]), 127);
    assert_eq!(line, "rsalloc: no-such-program: program not found");
    let text = common::scratch().join("a-text");
    std::fs::write(&text, "text").unwrap();
    let line = error(&mut with_library("run", &[text.to_str().unwrap()]), 126);
    assert_eq!(line, format!("rsalloc: {}: not an executable file", text.display()));

    let source = "int main(void) { return 0; }";
    let plain = common::compile("cc", "plain-program", source, &[]).unwrap();
    answer(&mut with_library("run", &[plain.to_str().unwrap()]));
    let fixed = common::compile("cc", "static-program", source, &["-static"]).unwrap();
    let line = error(&mut with_library("run", &[fixed.to_str().unwrap()]), 126);
    assert!(line.ends_with("is statically linked: LD_PRELOAD has no effect on it"), "{line}");

    let script = common::scratch().join("script-of-static");
    std::fs::write(&script, format!("#!{} -x\n", fixed.display())).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let line = error(&mut with_library("run", &[script.to_str().unwrap()]), 126);
    assert!(line.contains("static-program is statically linked"), "{line}");
}

/// What musl's dynamic linker loads is a library of its own; which one is for it, its own record of needed libraries says.
#[test]
fn run_takes_a_library_for_the_programs_libc() {
    let linker = "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1";
    let source = "int main(void) { return 0; }";
    let program = common::compile("cc", "musl-program", source, &[linker]).unwrap();
    let program = program.to_str().unwrap();
    let none = "runs on musl, and no librsalloc.so.0 for musl is installed: name one by --lib";
    let root = fresh_folder("musl-installed");
    let multiarch = root.join(format!("lib/{}-linux-musl", std::env::consts::ARCH));
    std::fs::create_dir_all(&multiarch).unwrap();
    std::fs::create_dir(root.join("bin")).unwrap();
    let command = root.join("bin/rsalloc");
    common::copy_program(Path::new(env!("CARGO_BIN_EXE_rsalloc")), &command);
    let run = || {
        let mut run = Command::new(&command);
        clean(run.args(["run", program]));
        run
    };
    let line = error(&mut run(), 126);
    assert!(line.contains(none) && line.contains("docs/platforms.md"), "{line}");
    // Control: one for glibc beside the command is not taken for it.
    std::fs::copy(library(), root.join("bin/librsalloc.so.0")).unwrap();
    assert!(error(&mut run(), 126).contains(none));
    let line = error(&mut with_library("run", &[program]), 3);
    let said = format!(" is for glibc, and {program} runs on musl: --lib takes a librsalloc.so.0");
    assert!(line.contains(&said), "{line}");

    // As musl's own linker names its libc in what it makes.
    let libc =
        common::compile("cc", "musl-libc.so", "", &["-shared", "-nostdlib", "-Wl,-soname,libc.so"]);
    let libc = libc.unwrap();
    let source = "int rsalloc_print_settings(int fd) { return fd; }";
    let flags = ["-shared", "-fPIC", "-nostdlib", "-Wl,--no-as-needed", libc.to_str().unwrap()];
    let fake = common::compile("cc", "musl-librsalloc.so", source, &flags).unwrap();
    let line = error(&mut rsalloc(&["run", "--lib", fake.to_str().unwrap(), "true"]), 3);
    assert!(line.contains(" is for musl, and ") && line.contains(" runs on glibc: "), "{line}");
    std::fs::copy(&fake, multiarch.join("librsalloc.so.0")).unwrap();
    for mut run in [run(), rsalloc(&["run", "--lib", fake.to_str().unwrap(), program])] {
        let output = run.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // It starts, as far as this machine goes: without musl the kernel finds no dynamic linker.
        let is_started = match Path::new("/lib/ld-musl-x86_64.so.1").exists() {
            true => !said.contains("rsalloc: "),
            false => said.contains("cannot run"),
        };
        assert!(is_started && !said.contains("--lib"), "{said}");
    }
}

#[test]
fn run_names_a_setuid_program() {
    let source = "int main(void) { return 0; }";
    let program = common::compile("cc", "setuid-program", source, &[]).unwrap();
    // Another user's, and setuid: only root can make such a file.
    if std::os::unix::fs::chown(&program, Some(12345), None).is_err() {
        return common::note("run of a setuid program: only root can make one");
    }
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let line = error(&mut with_library("run", &[program.to_str().unwrap()]), 126);
    assert!(line.contains("is setuid"), "{line}");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    answer(&mut with_library("run", &[program.to_str().unwrap()]));
}

#[test]
fn check_without_pid_names_each_mode() {
    let report = |options: &[&str], code| {
        let options = [&["--json"], options].concat();
        let output = with_library("check", &options).output().unwrap();
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{seen}");
        assert_eq!(seen["active"], true, "{seen}");
        assert_eq!(seen["file"], library().to_str().unwrap());
        assert!(seen["report"]["os_page_bytes"].as_u64().unwrap() >= 4096);
        assert!(seen["report"]["shards"].as_u64().unwrap() >= 1);
        (seen["report"]["mode"].clone(), seen["report"]["reason"].clone())
    };
    assert_eq!(report(&[], 0), ("rseq_libc".into(), "none".into()));
    assert_eq!(report(&["--own"], 0), ("rseq_own".into(), "libc_did_not_register".into()));
    assert_eq!(report(&["--atomic"], 1), ("atomic".into(), "configured".into()));
    let text = answer(&mut with_library("check", &[]));
    assert!(text.starts_with("rsalloc is active in process "), "{text}");
    assert!(text.contains("by rseq as libc registered it"), "{text}");
    let output = with_library("check", &["--atomic"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("atomic path, no rseq: the configuration asks for it"), "{text}");
}

#[test]
fn check_of_a_process() {
    let served = Running::cat(&mut with_library("run", &["--atomic", "cat"]));
    let output = rsalloc(&["check", &served.pid()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("rsalloc is active in process {}", served.pid())), "{text}");

    let plain = Running::cat(clean(&mut Command::new("cat")));
    let output = rsalloc(&["check", &plain.pid()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text, format!("rsalloc is not active in process {}\n", plain.pid()));
}

#[test]
fn check_of_a_process_whose_library_is_renamed_or_gone() {
    let copy = fresh_folder("moved-library").join("librsalloc-test.so");
    std::fs::copy(library(), &copy).unwrap();
    let served = Running::cat(&mut rsalloc(&["run", "--lib", copy.to_str().unwrap(), "--", "cat"]));
    answer(&mut rsalloc(&["check", &served.pid()]));
    std::fs::remove_file(&copy).unwrap();
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return common::note("check of a process whose library was deleted: only root may open it");
    }
    let text = answer(&mut rsalloc(&["check", &served.pid()]));
    assert!(text.contains("librsalloc-test.so (deleted)"), "{text}");
}

#[test]
fn check_and_stats_say_when_they_cannot_tell() {
    for command in ["check", "stats"] {
        let line = error(&mut rsalloc(&[command, "4194999"]), 3);
        assert_eq!(line, "rsalloc: there is no process 4194999");
        let output = rsalloc(&[command, "not-a-number"]).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
    }
    let plain = Running::cat(clean(&mut Command::new("cat")));
    let line = error(&mut rsalloc(&["stats", &plain.pid()]), 3);
    assert_eq!(line, format!("rsalloc: rsalloc is not active in process {}", plain.pid()));
}

#[test]
fn stats_at_exit_goes_where_it_is_told() {
    let mut command = with_library("run", &["--conf", "stats_at_exit:text", "true"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("mode: ") && text.contains("live_bytes "), "{text}");
    let output = with_library("run", &["--conf", "stats_at_exit:json", "true"]).output().unwrap();
    serde_json::from_slice::<Value>(&output.stderr).unwrap();
    let output = with_library("run", &["--conf", "stats_at_exit:/no/such/x", "true"]).output();
    let text = String::from_utf8(output.unwrap().stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("rsalloc: cannot write the statistics to /no/such/x"), "{text}");
    assert!(answer(&mut with_library("run", &["true"])).is_empty());
}

#[test]
fn conf_lists_values_and_their_origin() {
    let options = ["--json", "--conf", "mode:atomic,cache:65536"];
    let seen: Value = serde_json::from_str(&answer(&mut with_library("conf", &options))).unwrap();
    let of = |key: &str| {
        let mut all = seen.as_array().unwrap().iter();
        let found = all.find(|s| s["key"] == key).unwrap_or_else(|| panic!("{key} in {seen}"));
        (found["value"].clone(), found["origin"].clone())
    };
    assert_eq!(of("mode"), ("atomic".into(), "RSALLOC_CONF".into()));
    assert_eq!(of("cache"), ("65536".into(), "RSALLOC_CONF".into()));
    assert_eq!(of("stats_at_exit"), ("off".into(), "default".into()));
    let text = answer(&mut with_library("conf", &[]));
    assert!(text.lines().any(|l| l.starts_with("mode ") && l.contains(" default ")), "{text}");
}

#[test]
fn conf_of_a_process() {
    let settings = "dirty:5000000000,hardened:yes,stats_at_exit:/dev/null";
    let served = Running::cat(&mut with_library("run", &["--conf", settings, "cat"]));
    let text = answer(&mut rsalloc(&["conf", &served.pid()]));
    let fields: Vec<Vec<_>> =
        text.lines().map(|line| line.split_ascii_whitespace().take(4).collect()).collect();
    let has = |wanted: &[&str]| fields.iter().any(|line| line.starts_with(wanted));
    assert!(has(&["dirty", "5000000000", "RSALLOC_CONF"]), "{text}");
    assert!(has(&["hardened", "on", "RSALLOC_CONF"]), "{text}");
    assert!(has(&["stats_at_exit", "(a", "file)", "RSALLOC_CONF"]), "{text}");
    assert!(has(&["guard", "1000", "RSALLOC_CONF"]), "brought along by hardened: {text}");
    let plain = Running::cat(clean(&mut Command::new("cat")));
    let line = error(&mut rsalloc(&["conf", &plain.pid()]), 3);
    assert_eq!(line, format!("rsalloc: rsalloc is not active in process {}", plain.pid()));
}

#[test]
fn options_for_a_start_are_refused_for_a_running_process() {
    for command in ["check", "stats", "conf"] {
        let line = error(&mut rsalloc(&[command, "--atomic", "1"]), 3);
        assert!(line.contains("'--atomic' cannot be used with '[PID|"), "{line}");
    }
}

#[test]
fn unknown_keys_are_named() {
    let output = with_library("run", &["--conf", "no_such_key:1", "true"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("rsalloc: ") && text.contains("no_such_key"), "{text}");
    assert!(output.status.success());
}

#[test]
fn a_library_that_ld_preload_cannot_name() {
    let folder = fresh_folder("a folder");
    let copy = folder.join("librsalloc.so");
    std::fs::copy(library(), &copy).unwrap();
    let line = error(&mut rsalloc(&["run", "--lib", copy.to_str().unwrap(), "true"]), 3);
    assert!(line.contains("splits at spaces and colons"), "{line}");
    let line = error(&mut rsalloc(&["run", "--lib", "/no/such.so", "true"]), 3);
    assert!(line.starts_with("rsalloc: no library /no/such.so"), "{line}");
}

/// A program that a test runs is not busy while other tests make it again.
#[test]
fn helper_programs_are_run_while_they_are_made() {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for turn in 0..5 {
                    let source = format!("int main(void) {{ return {thread}{turn} < 0; }}");
                    let made = common::compile("cc", "made-again", &source, &[]).unwrap();
                    assert!(Command::new(made).status().unwrap().success());
                }
            });
        }
    });
}
