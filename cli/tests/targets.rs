//! Every command that looks into a process, for processes that it cannot serve: one clear line each, and its exit status.

mod command_line;

use command_line::common;
use command_line::*;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The commands for process `pid`; what they write is in `folder`.
fn commands(pid: &str, folder: &Path) -> Vec<Vec<String>> {
    let page = folder.join("report.html").display().to_string();
    let profile = folder.join("heap.pb.gz").display().to_string();
    let commands: [&[&str]; 13] = [
        &["check", pid],
        &["check", "--json", pid],
        &["stats", pid],
        &["stats", "--json", pid],
        &["stats", "--watch", "0.01", pid],
        &["conf", pid],
        &["metrics", pid],
        &["top", "--once", pid],
        &["report", pid, "-o", &page],
        &["report", pid, "--seconds", "0.02", "-o", &page],
        &["profile", pid, "--seconds", "0.02", "-o", &profile],
        &["set", pid, "dirty:4m"],
        &["release", pid],
    ];
    commands.map(|words| words.iter().map(|&word| word.to_owned()).collect()).into()
}

fn command(words: &[String]) -> Command {
    rsalloc(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Each command but `check`, which has an answer of its own then, ends with 3 and this line.
#[track_caller]
fn all_say(pid: &str, folder: &Path, line: &str) {
    for words in commands(pid, folder).iter().filter(|words| words[0] != "check") {
        assert_eq!(error(&mut command(words), 3), format!("rsalloc: {line}"), "{words:?}");
    }
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "nothing is written");
}

#[test]
fn a_process_that_is_not_there() {
    let folder = fresh_folder("targets-missing");
    all_say("4194999", &folder, "there is no process 4194999");
    let line = error(&mut rsalloc(&["check", "4194999"]), 3);
    assert_eq!(line, "rsalloc: there is no process 4194999");
    for words in [["set", "x", "dirty:4m"], ["release", "x", "--json"], ["top", "x", "--once"]] {
        let line = error(&mut rsalloc(&words), 3);
        assert!(line.contains('x'), "{line}");
    }
}

#[test]
fn a_process_of_which_only_the_exit_status_is_left() {
    let folder = fresh_folder("targets-zombie");
    let mut zombie = Command::new("true").spawn().unwrap();
    let pid = zombie.id().to_string();
    let stat = format!("/proc/{pid}/stat");
    while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    let line = format!("process {pid} has ended; only its exit status is left (a zombie)");
    all_say(&pid, &folder, &line);
    assert_eq!(error(&mut rsalloc(&["check", &pid]), 3), format!("rsalloc: {line}"));
    zombie.wait().unwrap();
}

#[test]
fn a_process_without_rsalloc() {
    let folder = fresh_folder("targets-plain");
    let plain = Running::cat(clean(&mut Command::new("cat")));
    let pid = plain.pid();
    let line = format!("rsalloc is not active in process {pid}");
    all_say(&pid, &folder, &line);
    let output = rsalloc(&["check", &pid]).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(2), Vec::new()));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{line}\n"));
}

/// Variables that the process has not touched stay in their file, whatever looks for rsalloc there.
#[test]
fn a_process_is_no_larger_for_being_looked_at() {
    let folder = fresh_folder("targets-large");
    let source = "char data[16 << 20] = {1}; long write(int, char *, long); int getchar(void); int main(void) { write(1, data, 1); getchar(); }";
    let program = common::compile("cc", "large-variables", source, &["-O0", "-w"]).unwrap();
    let plain = Running::talker(clean(&mut Command::new(program)));
    let pid = plain.pid();
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let before = resident();
    all_say(&pid, &folder, &format!("rsalloc is not active in process {pid}"));
    let grown = resident().saturating_sub(before);
    assert!(grown < 1 << 10, "{grown} KiB more than {before}");
}

/// It is root's, and the command another user's.
#[test]
fn a_process_of_another_user() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return common::note("commands for another user's process: only root can become one");
    }
    let folder = fresh_folder("targets-foreign");
    let served = Running::cat(&mut with_library("run", &["cat"]));
    let pid = served.pid();
    let line = format!(
        "rsalloc: may not look into process {pid}: ask as its user or as root (ptrace rules)"
    );
    for words in commands(&pid, &folder) {
        // The user may write to no folder of the test's, which is no fault here.
        let words = words.iter().map(|word| match word.starts_with('/') {
            true => "/tmp/rsalloc-never".to_owned(),
            false => word.clone(),
        });
        let words: Vec<String> = words.collect();
        let mut command = command(&words);
        assert_eq!(error(command.uid(65534).gid(65534), 3), line, "{words:?}");
    }
    // Control: root's commands are obeyed.
    for words in commands(&pid, &folder) {
        let output = match words.iter().any(|word| word == "--watch") {
            true => continue,
            false => command(&words).output().unwrap(),
        };
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}

/// Programs with nothing but a block, as other versions have it.
const PLANTED: &str = r#"
    #include <unistd.h>
    long block[22] = { 0x00636f6c6c617372L, 176L << 32 | VERSION, 1L << 32, 1, 2, 5L << 32 };
    int main(void) {
        write(1, "!", 1);
        char byte;
        read(0, &byte, 1);
        return 0;
    }
"#;

#[test]
fn a_process_of_another_version() {
    let folder = fresh_folder("targets-versions");
    let planted = |name: &str, version: &str| {
        let source = PLANTED.replace("VERSION", version);
        let program = common::compile("cc", name, &source, &["-O0", "-w"]).unwrap();
        Running::talker(clean(&mut Command::new(program)))
    };
    let newer = planted("targets-newer", "9");
    let file = common::scratch().join("targets-newer");
    let line = format!(
        "process {}, {}: the report of rsalloc is of version 9, and this command reads up to 3",
        newer.pid(),
        file.display()
    );
    all_say(&newer.pid(), &folder, &line);
    assert_eq!(error(&mut rsalloc(&["check", &newer.pid()]), 3), format!("rsalloc: {line}"));

    let older = planted("targets-older", "2");
    for words in commands(&older.pid(), &folder) {
        if words[0] == "check" {
            assert!(!answer(&mut command(&words)).is_empty(), "{words:?}");
            continue;
        }
        let line = error(&mut command(&words), 3);
        assert!(
            line.contains("is of an older version")
                || line.contains("has another version of rsalloc")
                || line.contains("runs an older version of rsalloc"),
            "{words:?}: {line}"
        );
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "nothing is written");
}

/// Processes end at any instant of a command: it is done, or says in one line that they have.
#[test]
fn a_process_that_ends_meanwhile() {
    let folder = fresh_folder("targets-ending");
    let (mut done, mut said_so) = (0, 0);
    for turn in 0..8 {
        for words in commands("PID", &folder) {
            let mut served = Running::cat(&mut with_library("run", &["cat"]));
            let pid = served.pid();
            let words: Vec<String> = words.iter().map(|word| word.replace("PID", &pid)).collect();
            let mut under_way = command(&words);
            under_way.stdout(Stdio::null()).stderr(Stdio::piped());
            let under_way = under_way.spawn().unwrap();
            std::thread::sleep(Duration::from_micros(700 * turn * turn));
            served.0.kill().unwrap();
            let output = under_way.wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            match output.status.code() {
                // A profile says what it does, a report and a watch that the process has ended.
                Some(0) => done += 1,
                Some(2) if words[0] == "check" => {}
                Some(3) => {
                    let lines: Vec<_> = said.lines().collect();
                    let last = lines.last().copied().unwrap_or_default();
                    let is_said = ["ended", "there is no process", "is not active", "sampling"];
                    assert!(is_said.iter().any(|words| last.contains(words)), "{words:?}: {said}");
                    assert!(lines.len() <= if words[0] == "profile" { 2 } else { 1 }, "{said}");
                    said_so += 1;
                }
                other => panic!("{words:?}: {other:?}: {said}"),
            }
            std::io::stdout().flush().unwrap();
        }
    }
    assert!(done > 0 && said_so > 0, "{done} were done, {said_so} said that it had ended");
    println!("{done} commands were done, {said_so} said that the process had ended");
}
