//! Programs under the command as under a container's first process: signals, exit statuses, what is left behind.

mod command_line;

use command_line::*;
use common::library;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `rsalloc stats`, `record` and `profile`, which stay above the program.
fn supervisors() -> Vec<Vec<String>> {
    let mut all =
        vec![vec!["stats".to_owned(), "--lib".into(), library().to_str().unwrap().into()]];
    let profile = common::scratch().join("supervised.pb.gz");
    let options =
        ["profile", "--lib", library().to_str().unwrap(), "-o", profile.to_str().unwrap()];
    all.push(options.map(Into::into).into());
    let recorder = recorder();
    let trace = common::scratch().join("supervised-%p.trace");
    all.push(
        ["record", "--lib", recorder.to_str().unwrap(), "-o", trace.to_str().unwrap()]
            .map(Into::into)
            .into(),
    );
    all
}

fn recorder() -> std::path::PathBuf {
    let target = common::scratch().join("recorder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "record", "--target-dir"]).arg(&target);
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    target.join("debug/librsalloc_record.so")
}

fn shell(supervisor: &[String], script: &str) -> Command {
    let mut command = rsalloc(&[]);
    command.args(supervisor).args(["--", "sh", "-c", script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts it, and waits for its first line.
fn started(command: &mut Command) -> (Child, String) {
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn send(pid: i32, signal: i32) {
    // SAFETY: a child that is not collected, or its group.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// How it ends, which it does soon.
fn ended(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn signals_reach_the_program_and_its_status_comes_back() {
    // Under nohup(1) the tests run with SIGHUP ignored, and no shell can change that for itself.
    // SAFETY: a plain call.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    const CATCHES: &str = "trap 'echo caught; exit 9' SIGNAL; echo $$; n=0; while [ $((n += 1)) -lt 3000 ]; do sleep 0.01; done";
    const IS_ENDED: &str = "echo $$; n=0; while [ $((n += 1)) -lt 3000 ]; do sleep 0.01; done";
    for supervisor in supervisors() {
        for (name, signal) in [
            ("TERM", libc::SIGTERM),
            ("INT", libc::SIGINT),
            ("HUP", libc::SIGHUP),
            ("USR1", libc::SIGUSR1),
        ] {
            let (child, program) =
                started(&mut shell(&supervisor, &CATCHES.replace("SIGNAL", name)));
            send(child.id() as i32, signal);
            let output = ended(child);
            assert_eq!(output.status.code(), Some(9), "{supervisor:?}, {name}: {output:?}");
            assert!(!is_alive(&program), "{name}: the program is an orphan");

            let (child, program) = started(&mut shell(&supervisor, IS_ENDED));
            send(child.id() as i32, signal);
            assert_eq!(ended(child).status.code(), Some(128 + signal), "{supervisor:?}, {name}");
            assert!(!is_alive(&program), "{name}: the program is an orphan");
        }
    }
}

/// Runs a script in a shell, reopens descriptors if it is told to, and ends with a status, as most programs do: by `exit`.
const ENDS: &str = r#"
    #include <fcntl.h>
    #include <stdlib.h>
    #include <unistd.h>
    int main(int argc, char **argv) {
        system(argv[1]);
        for (int fd = 3; argc > 3 && fd < 20; fd++) dup2(open(argv[3], O_WRONLY | O_CREAT, 0600), fd);
        return atoi(argv[2]);
    }
"#;

fn ends(name: &str, arguments: &[&str]) -> Command {
    let program = common::compile("cc", name, ENDS, &["-w"]).unwrap();
    let mut command = with_library("stats", &["--", program.to_str().unwrap()]);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The first process of a namespace gets what others leave, as in a container: it collects them, and ends with the program.
#[test]
fn the_first_process_of_a_container_collects_what_others_leave() {
    let script = "for i in 1 2 3 4 5; do (sleep 0.0$i &) ; done; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status; echo";
    let inner = ends("ends-first", &[script, "4"]);
    let mut command = Command::new("unshare");
    command
        .args(["--fork", "--pid", "--mount-proc", "--"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let output = clean(command.stdin(Stdio::null())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("unshare: ") {
        return common::note(&format!("the first process of a container: {said}"));
    }
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), &b"\n"[..]), "{said}");
    assert!(has_statistics(&said), "{said}");
}

fn has_statistics(said: &str) -> bool {
    said.lines().any(|line| line.trim_start().starts_with("live ")) && !said.contains("rsalloc: ")
}

#[test]
fn descendants_leave_nothing_and_a_read_only_file_system_is_enough() {
    let temporary = fresh_folder("temporary");
    // `env` ends by `exit`, so each writes its statistics; the last one after the command has ended.
    let script = "for i in 1 2 3 4 5; do env true; done; (sleep 0.2; env >/dev/null) & echo on";
    let mut command = ends("ends-with-descendants", &[script, "6"]);
    command.env("TMPDIR", &temporary);
    let remount = || {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        let (no, root) = (std::ptr::null(), c"/".as_ptr());
        // SAFETY: system calls, on names that end with a zero. Where they are refused, files could be written.
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS) == 0 {
                libc::mount(no, root, no, libc::MS_REC | libc::MS_PRIVATE, no.cast());
                libc::mount(no, root, no, flags, no.cast());
            }
        }
        Ok(())
    };
    // SAFETY: system calls only.
    unsafe { command.pre_exec(remount) };
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(6), &b"on\n"[..]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(has_statistics(&said), "{said}");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

/// The descriptor's number may serve the program for a file of its own by then.
#[test]
fn a_descriptor_that_the_program_uses_for_itself_is_left_alone() {
    let file = fresh_folder("own-files").join("file");
    let output = ends("ends-with-files", &["", "2"]).output().unwrap();
    assert!(has_statistics(&String::from_utf8_lossy(&output.stderr)), "nothing is tested");
    let output = ends("ends-with-files", &["", "2", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(has_statistics(&String::from_utf8_lossy(&output.stderr)), "seen from outside");
    assert_eq!(std::fs::read(&file).unwrap(), b"");
}

/// Each way in which a program ends, what of it the program itself prints, and its status.
#[test]
fn whatever_ends_a_program_its_statistics_are_told() {
    let source = r#"
        #include <signal.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        #include <sys/syscall.h>
        int main(int argc, char **argv) {
            memset(malloc(1 << 20), 1, 1 << 20);
            if (vfork() == 0) _exit(0);
            if (fork() == 0) raise(SIGKILL);
            switch (argv[1][0]) {
            case 'e': exit(3);
            case '_': _exit(3);
            case 'E': _Exit(3);
            case 'q': quick_exit(3);
            case 's': syscall(SYS_exit_group, 3);
            case 'a': abort();
            case 't': raise(SIGTERM);
            }
        }
    "#;
    let program = common::compile("cc", "ends-so", source, &["-w"]).unwrap();
    for (how, prints, code) in [
        ("exit", true, 3),
        ("_exit", true, 3),
        ("Exit", true, 3),
        ("quick_exit", true, 3),
        ("syscall", false, 3),
        ("abort", false, 128 + libc::SIGABRT),
        ("term", false, 128 + libc::SIGTERM),
    ] {
        let mut alone = with_library("run", &["--conf", "stats_at_exit:text", "--"]);
        let output = alone.arg(&program).arg(how).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.matches("live_bytes").count(), usize::from(prints), "{how}: {said}");
        let output = with_library("stats", &["--"]).arg(&program).arg(how).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{how}: {said}");
        assert!(has_statistics(&said) && said.contains("   1 object\n"), "{how}: {said}");
    }
}

/// As in a handler on the smallest stack that programs give one; and which process tells, by the ids in its JSON.
#[test]
fn statistics_at_the_end_need_little_stack_and_are_of_their_own_process() {
    let source = r#"
        #include <signal.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <sys/syscall.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static void end(int number) { _exit(3); }
        int main(int argc, char **argv) {
            memset(malloc(1 << 20), 1, 1 << 20);
            switch (argv[1][0]) {
            case 'h': {
                char *pages = mmap(0, 12288, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                mprotect(pages, 4096, PROT_NONE);
                sigaltstack(&(stack_t) { .ss_sp = pages + 4096, .ss_size = 8192 }, 0);
                sigaction(SIGUSR1, &(struct sigaction) { .sa_handler = end, .sa_flags = SA_ONSTACK }, 0);
                raise(SIGUSR1);
            }
            case 'v':
                if (vfork() == 0) exit(1);
                _exit(3);
            case 'r':
                if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) _exit(1);
                wait(0);
                _exit(3);
            }
        }
    "#;
    let program = common::compile("cc", "ends-on-little", source, &["-w"]).unwrap();
    let file = fresh_folder("ends-on-little-files").join("file");
    for conf in ["text", "json", file.to_str().unwrap()] {
        let conf = format!("stats_at_exit:{conf}");
        let mut alone = with_library("run", &["--conf", &conf, "--"]);
        let output = alone.arg(&program).arg("handler").output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{conf}: {output:?}");
    }
    for (how, tell) in [("vfork", 1), ("raw fork", 2)] {
        let mut alone = with_library("run", &["--conf", "stats_at_exit:json", "--"]);
        alone.arg(&program).arg(how).stdin(Stdio::null()).stderr(Stdio::piped());
        let child = alone.spawn().unwrap();
        let pid = format!("\"pid\":{},", child.id());
        let said = String::from_utf8(ended(child).stderr).unwrap();
        assert_eq!(said.matches("\"pid\":").count(), tell, "{how}: {said}");
        assert!(said.contains(&pid), "{how}: {pid} {said}");
    }
}

/// GNU's tools close it in a handler of `exit`; others close what they do not need, and use the number.
#[test]
fn statistics_are_told_though_the_program_closes_standard_error() {
    let source = r#"
        #include <fcntl.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static void close_it(void) { close(2); }
        int main(int argc, char **argv) {
            memset(malloc(1 << 20), 1, 1 << 20);
            if (argv[1][0] == 'h') atexit(close_it);
            if (argv[1][0] == 'a') {
                for (int fd = 2; fd < 1024; fd++) close(fd);
                int file = open(argv[2], O_CREAT | O_RDWR, 0600);
                for (int fd = 3; fd < 1024; fd++) dup2(file, fd);
                close(2);
            }
            return 0;
        }
    "#;
    let program = common::compile("cc", "closes-stderr", source, &["-w"]).unwrap();
    let other = fresh_folder("closes-stderr-files").join("other");
    let mut sort =
        with_library("run", &["--conf", "stats_at_exit:json", "--", "sort", "/dev/null"]);
    let said = String::from_utf8(sort.output().unwrap().stderr).unwrap();
    assert!(said.contains("\"live_bytes\":"), "sort: {said:?}");
    for (how, form, told) in
        [("handler", "json", true), ("handler", "text", true), ("all", "json", false)]
    {
        let conf = format!("stats_at_exit:{form}");
        let mut command = with_library("run", &["--conf", &conf, "--"]);
        let output = command.arg(&program).arg(how).arg(&other).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), said.contains("live_bytes") || said.contains("live ")),
            (Some(0), told),
            "{how}: {said:?}"
        );
    }
    assert_eq!(std::fs::read(&other).unwrap(), b"", "the number is the program's by now");
}

/// The signal would end the program, by another status than its own.
#[test]
fn a_reader_of_standard_error_that_is_gone_ends_no_program() {
    let source = r#"
        #include <stdlib.h>
        #include <string.h>
        #include <signal.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            char byte;
            read(0, &byte, 1);
            if (argv[1][0] == 'm') while (malloc(1000)) {}
            sigset_t pending;
            sigpending(&pending);
            if (sigismember(&pending, SIGPIPE)) return 4;
            if (argv[1][0] == 'w') write(2, "!", 1);
            return 3;
        }
    "#;
    let program = common::compile("cc", "has-no-reader", source, &["-w"]).unwrap();
    // Its own write is the control: the signal is its own business.
    for (how, conf, status) in [
        ("end", "stats_at_exit:json", (Some(3), None)),
        ("end", "stats_at_exit:text", (Some(3), None)),
        ("memory", "limit_hard:16m", (Some(3), None)),
        ("write", "stats_at_exit:json", (None, Some(libc::SIGPIPE))),
    ] {
        let mut command = with_library("run", &["--conf", conf, "--"]);
        command.arg(&program).arg(how).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stderr.take());
        drop(child.stdin.take());
        let ended = child.wait().unwrap();
        assert_eq!(
            (ended.code(), std::os::unix::process::ExitStatusExt::signal(&ended)),
            status,
            "{how}, {conf}"
        );
    }
}

#[test]
fn another_library_is_refused() {
    let other = common::compile("cc", "not-ours.so", "int other;", &["-shared", "-fPIC"]).unwrap();
    let text = common::scratch().join("not-a-library");
    std::fs::write(&text, "text").unwrap();
    for (library, why) in
        [(&other, "is another library"), (&text, "is no library for this machine")]
    {
        let library = library.to_str().unwrap();
        let full = Path::new(library).canonicalize().unwrap();
        for command in ["run", "stats"] {
            let line = error(&mut rsalloc(&[command, "--lib", library, "--", "true"]), 3);
            assert_eq!(
                line,
                format!("rsalloc: {} {why}: --lib takes a librsalloc.so.0", full.display())
            );
        }
        let line = error(&mut rsalloc(&["record", "--lib", library, "--", "true"]), 3);
        assert_eq!(
            line,
            format!("rsalloc: {} {why}: --lib takes a librsalloc_record.so", full.display())
        );
    }
}

#[test]
fn the_command_says_its_name_and_its_statuses() {
    let version = answer(&mut rsalloc(&["--version"]));
    assert_eq!(version, format!("rsalloc {}\n", env!("CARGO_PKG_VERSION")));
    let help = answer(&mut rsalloc(&["--help"]));
    assert!(help.contains("Exit status: 0 done; 3 could not be done"), "{help}");
    // Each command is in the list of the first page, and says its own.
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.split_whitespace().next());
    let commands: Vec<_> = commands.filter(|name| *name != "help").collect();
    assert_eq!(commands.len(), 12, "{commands:?}");
    for name in commands {
        let help = answer(&mut rsalloc(&[name, "--help"]));
        assert!(help.contains("Exit status: "), "{name}: {help}");
    }
    let stats = answer(&mut rsalloc(&["stats", "--help"]));
    assert!(stats.contains("Exit status: 0 shown"), "{stats}");
    for words in
        ["Refilled and flushed are small objects", "are not counted", "`rsalloc profile` estimates"]
    {
        assert!(stats.contains(words), "{stats}");
    }
    for wrong in
        [&["no-such-command"][..], &["stats"], &["stats", "--no-such-option"], &["run"], &[]]
    {
        let line = error(&mut rsalloc(wrong), 3);
        assert!(line.starts_with("rsalloc: ") && line.ends_with("see rsalloc --help"), "{line}");
    }
}

/// What comes through a pipe that is closed early is no error.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let served = Running::cat(&mut with_library("run", &["cat"]));
    let mut command = rsalloc(&["stats", "--watch", "0.01", &served.pid()]);
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    watching.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = ended(watching);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
