//! `publish:PATH`: statistics for readers that may not trace the process.

mod command_line;

use command_line::*;
use rsalloc_core::internals::publish::words::WORDS;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Holds 20,000 objects of 100 bytes (a child of it: 40,000 more), goes on with slow calls for half a second, says its process id,
/// and waits. Argument: what it does besides.
const HOLDER: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <time.h>
    #include <unistd.h>
    static void take(int count) { while (count--) memset(malloc(100), 1, 100); }
    static void call(void) {
        for (int i = 0; i < 50; i++) {
            free(memset(malloc(1 << 20), 1, 1 << 20));
            nanosleep(&(struct timespec) { .tv_nsec = 10000000 }, 0);
        }
    }
    static void say_and_wait(void) {
        char byte, line[32];
        write(1, line, sprintf(line, "%d\n", getpid()));
        while (read(0, &byte, 1) == 1) {}
    }
    int main(int argc, char **argv) {
        take(20000);
        if (strcmp(argv[1], "fork") == 0 && fork() == 0) {
            take(40000);
            call();
            say_and_wait();
            _exit(0);
        }
        call();
        say_and_wait();
        return 0;
    }
"#;

/// A holder that publishes to `path`, and the ids that it and its child said.
fn holder(path: &Path, what: &str) -> (Running, Vec<String>) {
    let program = common::compile("cc", "publish-holder", HOLDER, &["-O0", "-w"]).unwrap();
    let conf = format!("publish:{}", path.display());
    let mut command = with_library("run", &["--conf", &conf, "--"]);
    let mut running = Running::started(command.arg(program).arg(what));
    let ids = (0..1 + usize::from(what == "fork")).map(|_| running.line()).collect();
    (running, ids)
}

fn stats(of: &str) -> Value {
    serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", of]))).unwrap()
}

fn file_of(folder: &Path, pid: &str) -> PathBuf {
    folder.join(format!("{pid}.rsalloc"))
}

/// What no call of the loop at the end changes.
fn small_objects(stats: &Value) -> Value {
    let classes = stats["classes"].as_array().unwrap();
    let holds = classes.iter().find(|class| class["size"] == 112).unwrap();
    assert!(holds["live"].as_u64() >= Some(20_000), "{holds}");
    classes.iter().map(|class| class["live"].clone()).collect()
}

#[test]
fn any_user_reads_what_the_process_says_and_nothing_is_left() {
    let folder = fresh_folder("publish-read");
    let (running, pids) = holder(&folder.join("%p.rsalloc"), "");
    let pid = &pids[0];
    assert_eq!(running.pid(), *pid);
    let path = file_of(&folder, pid);
    let (inside, outside) = (stats(path.to_str().unwrap()), stats(pid));
    assert_eq!(small_objects(&inside), small_objects(&outside));
    assert_eq!(inside["report"], outside["report"]);
    assert_eq!((&inside["pid"], &inside["program"]), (&outside["pid"], &outside["program"]));
    assert_eq!(inside["published"]["writer"], "runs");
    let age =
        inside["time_ms"].as_u64().unwrap() - inside["published"]["renewed_ms"].as_u64().unwrap();
    assert!(age < 60_000, "{age} ms");
    assert!(inside["process"]["resident_bytes"].as_u64() > Some(1 << 20), "{inside}");
    let settings = answer(&mut rsalloc(&["conf", path.to_str().unwrap()]));
    assert!(settings.contains("publish"), "{settings}");

    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        let as_other = |arguments: &[&str]| {
            let mut command = rsalloc(arguments);
            command.uid(65534).gid(65534);
            command
        };
        assert!(
            error(&mut as_other(&["stats", pid]), 3).contains("may not look into"),
            "the control"
        );
        let text = answer(&mut as_other(&["stats", path.to_str().unwrap()]));
        assert!(text.contains(&format!("by process {pid}, as of ")), "{text}");
        let list = answer(&mut as_other(&["top", "--once", folder.to_str().unwrap()]));
        assert!(list.contains("1 process on rsalloc") && list.contains(pid.as_str()), "{list}");
        let metrics = answer(&mut as_other(&["metrics", folder.to_str().unwrap()]));
        assert!(metrics.contains(&format!("rsalloc_live_bytes{{pid=\"{pid}\"")), "{metrics}");
        assert!(metrics.contains("rsalloc_published_timestamp_seconds{"), "{metrics}");
    } else {
        common::note("a published file as another user reads it: only root can become one");
    }
    let one = answer(&mut rsalloc(&["top", "--once", path.to_str().unwrap()]));
    assert!(one.contains("published at"), "{one}");
    drop(running);
    assert!(!path.exists(), "a process that ends in order removes its file");
}

#[test]
fn a_forked_child_publishes_for_itself_or_not_at_all() {
    let folder = fresh_folder("publish-fork");
    let (running, pids) = holder(&folder.join("%p.rsalloc"), "fork");
    let parent = running.pid();
    let child = pids.iter().find(|pid| **pid != parent).unwrap();
    let live = |pid: &str| {
        let stats = stats(file_of(&folder, pid).to_str().unwrap());
        assert_eq!(stats["pid"].to_string(), pid);
        let classes = stats["classes"].as_array().unwrap();
        classes.iter().find(|class| class["size"] == 112).unwrap()["live"].as_u64().unwrap()
    };
    assert!((20_000..21_000).contains(&live(&parent)), "{}", live(&parent));
    assert!(live(child) >= 60_000, "{}", live(child));
    drop(running);

    let path = folder.join("one.rsalloc");
    let (running, _) = holder(&path, "fork");
    let stats = stats(path.to_str().unwrap());
    assert_eq!(stats["pid"].to_string(), running.pid());
    let classes = small_objects(&stats);
    let most = classes.as_array().unwrap().iter().filter_map(Value::as_u64).max();
    assert!(most < Some(21_000), "the parent's numbers: {most:?}");
}

#[test]
fn the_file_of_a_process_that_is_gone_says_so() {
    let folder = fresh_folder("publish-gone");
    let (mut running, pids) = holder(&folder.join("%p.rsalloc"), "");
    let path = file_of(&folder, &pids[0]);
    let (path, in_folder) = (path.to_str().unwrap(), folder.to_str().unwrap());
    assert!(answer(&mut rsalloc(&["metrics", in_folder])).contains("rsalloc_live_bytes{"));

    // As it is behind a restore: the process began after the file was renewed.
    let bytes = std::fs::read(path).unwrap();
    let mut words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
    for slot in [16, 16 + (WORDS - 16) / 2] {
        words[slot] = words[slot].saturating_sub(3_600_000);
    }
    let old = folder.join("old");
    std::fs::write(&old, words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>())
        .unwrap();
    let said = stats(old.to_str().unwrap());
    assert_eq!((&said["published"]["writer"], &said["process"]), (&"gone".into(), &Value::Null));
    std::fs::remove_file(&old).unwrap();

    running.0.kill().unwrap();
    running.0.wait().unwrap();
    let text = answer(&mut rsalloc(&["stats", path]));
    assert!(text.contains("which has ended"), "{text}");
    assert!(!answer(&mut rsalloc(&["metrics", in_folder])).contains("rsalloc_live_bytes{"));
    let list = answer(&mut rsalloc(&["top", "--once", in_folder]));
    assert!(list.contains("0 processes on rsalloc"), "{list}");
    // A file that holds something else is neither replaced nor read.
    let other = folder.join("other");
    std::fs::write(&other, "precious").unwrap();
    let said = said_by_true(&other);
    assert_eq!(
        said,
        format!(
            "rsalloc: cannot publish to {}: there is another file, or a folder",
            other.display()
        )
    );
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
    // One that a process left is.
    let left = folder.join("left");
    std::fs::copy(path, &left).unwrap();
    assert_eq!(said_by_true(&left), "");
    assert!(!left.exists());
    std::fs::write(folder.join("cut"), &bytes[..1000]).unwrap();
    let cut = folder.join("cut");
    assert!(
        error(&mut rsalloc(&["stats", cut.to_str().unwrap()]), 3).contains("no published file")
    );
}

/// What /bin/true that is to publish to `path` says; it succeeds.
fn said_by_true(path: &Path) -> String {
    let conf = format!("publish:{}", path.display());
    let output = with_library("run", &["--conf", &conf, "true"]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap().trim_end().to_owned()
}

#[test]
fn what_cannot_be_published_is_one_line() {
    let said = said_by_true(Path::new("/nowhere/file"));
    assert_eq!(said, "rsalloc: cannot publish to /nowhere/file: there is no such folder");
    let mut read_only = Command::new("unshare");
    let script =
        "mount -t tmpfs -o ro none /mnt && LD_PRELOAD=$0 RSALLOC_CONF=publish:/mnt/file exec true";
    read_only.args(["--mount", "sh", "-c", script]).arg(common::library());
    let output = clean(&mut read_only).output().unwrap();
    if !output.status.success() {
        return common::note("a read-only file system: this user cannot mount one");
    }
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "rsalloc: cannot publish to /mnt/file: the file system is read-only\n");
}

/// Slow calls of many threads at once, while readers look: each answer is whole.
#[test]
fn readers_see_whole_statistics_while_threads_work() {
    let folder = fresh_folder("publish-busy");
    let path = folder.join("busy.rsalloc");
    let script = "import threading, time\nend = time.time() + 2\ndef work():\n  while time.time() < end: [bytearray(100 + i % 3000) for i in range(2000)]\nts = [threading.Thread(target=work) for _ in range(4)]\n[t.start() for t in ts]\nprint(1, flush=True)\n[t.join() for t in ts]";
    let conf = format!("publish:{}", path.display());
    let mut command = with_library("run", &["--conf", &conf, "--", "python3", "-c", script]);
    let mut running = Running::started(command.env("PYTHONMALLOC", "malloc"));
    running.line();
    let mut renewals = std::collections::BTreeSet::new();
    while let Ok(output) = rsalloc(&["stats", "--json", path.to_str().unwrap()]).output()
        && output.status.success()
    {
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        let number = |name: &str| seen["stats"][name].as_u64().unwrap();
        assert_eq!(
            number("cached_bytes"),
            number("shard_cached_bytes") + number("depot_cached_bytes"),
            "{seen}"
        );
        renewals.insert(seen["published"]["renewed_ms"].as_u64().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(renewals.len() >= 5, "renewed {} times in 2 s", renewals.len());
}

/// What a shell says that has `publish:PATH` and the library only for what it runs as `$RUN PROGRAM`.
fn said_by_shell(path: &Path, script: &str) -> String {
    let conf = format!("publish:{}", path.display());
    let run = format!("env LD_PRELOAD={} RSALLOC_CONF={conf}", common::library().display());
    let mut command = Command::new("bash");
    let output = clean(command.args(["-c", script]).env("RUN", run).arg(path)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap().trim_end().to_owned()
}

#[test]
fn what_is_no_published_file_is_neither_removed_nor_waited_for() {
    let folder = fresh_folder("publish-foreign");
    for (name, make) in [
        ("fifo", "mkfifo $0"),
        ("empty", ": >$0"),
        ("short", "echo 1234 >$0"),
        ("zeroes", "head -c 100 /dev/zero >$0"),
        ("long", "(printf rsallocP; head -c 100000 /dev/zero) >$0"),
        ("link", "ln -s nowhere $0"),
        ("device", "mknod $0 c 1 3"),
        ("folder", "mkdir $0"),
    ] {
        let path = folder.join(name);
        let script =
            format!("{make}; a=$(stat -c %i $0); timeout 10 $RUN true; test $a = $(stat -c %i $0)");
        let said = said_by_shell(&path, &script);
        assert!(said.ends_with(&format!("{name}: there is another file, or a folder")), "{said}");
    }
    let relative = said_by_true(Path::new("relative"));
    assert!(relative.ends_with("relative: the path does not begin with /"), "{relative}");
}

#[test]
fn a_limit_of_file_sizes_kills_nothing() {
    let path = fresh_folder("publish-limited").join("file");
    let said = said_by_shell(&path, "ulimit -f 16; $RUN true; test ! -e $0");
    assert!(said.ends_with("file: the limit of a file's size (ulimit -f) is too small"), "{said}");
    let script = "ulimit -f 1; ${RUN/publish:/stats_at_exit:} true; test ! -e $0";
    let said = said_by_shell(&path, script);
    assert!(said.contains("cannot write the statistics"), "{said}");
}

#[test]
fn the_file_of_another_process_stays() {
    let path = fresh_folder("publish-shared").join("file");
    let other = "file: another process publishes there; see %p";
    let said =
        said_by_shell(&path, "$RUN bash -c 'test -f $0 && /bin/true; test -f $0' $0; test ! -e $0");
    assert!(said.ends_with(other), "{said}");
    // A process that becomes another program has its own file replaced, and what a process left is.
    let script = "$RUN bash -c 'exec test -f $0' $0; $RUN sh -c 'kill -9 $$'; test -f $0; $RUN /bin/true; test ! -e $0";
    let said =
        said_by_shell(&path, &format!("set -m; ({script}) 2>&1 | grep rsalloc; test ! -e $0"));
    assert_eq!(said, "");
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return common::note("the file of another namespace: only root can make one");
    }
    // Both have the id 1.
    let script = "unshare --pid --fork $RUN sh -c 'kill -9 $$; exec cat' </dev/null & \
        while ! test -s $0; do sleep 0.02; done; unshare --pid --fork $RUN true; test -s $0";
    let script = script.replace("kill -9 $$; exec cat' </dev/null", "sleep 1; true'");
    let said = said_by_shell(&path, &format!("{script}; kill %1; wait; true"));
    assert!(said.contains(other), "{said}");
}
