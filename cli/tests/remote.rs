//! Commands for a running process: what they do, and that its threads notice nothing.

mod busy;
mod command_line;

#[path = "../src/read/mod.rs"]
#[allow(dead_code, unused_imports, reason = "a part of it is used here")]
mod read;
#[path = "../src/remote/mod.rs"]
#[allow(dead_code, reason = "as above")]
mod remote;

use busy::{Busy, operation, status};
use command_line::common::Mode;
use command_line::*;
use rsalloc_core::internals::engine::command::Operation;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Tests that command from this process: one has sections ignored for a while.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn threads_notice_nothing_of_commands() {
    let _alone = ALONE.lock();
    for mode in [Mode::Rseq, Mode::OwnRegistration, Mode::Atomic, Mode::Guarded] {
        let mut busy = Busy::start(mode, &format!("busy-{mode:?}"));
        let pid = busy.pid();
        let heap = read::find(&read::Target::Process(pid)).unwrap().unwrap();
        let (_, place) = heap.command_place().unwrap();
        let mut given_back = 0;
        for round in 0..200 {
            given_back += remote::command(pid, &place, Operation::Release, 0).unwrap_or(0);
            if round % 50 == 0 {
                busy.assert_sound();
            }
        }
        busy.assert_sound();
        assert!(given_back > 1 << 20, "{mode:?}: {given_back}");
        assert_eq!((status(pid, "TracerPid"), status(pid, "SigBlk")), ("0".into(), "0".repeat(16)));
    }
}

/// Eight threads, handlers and forks; a thread that cannot be used at an instant, or locks that are busy, are an answer too.
#[test]
fn a_storm_goes_on_under_commands() {
    let _alone = ALONE.lock();
    for mode in [Mode::Rseq, Mode::OwnRegistration, Mode::Atomic] {
        let mut busy = Busy::with(mode, &format!("storm-{mode:?}"), "storm");
        let (pid, place) = (busy.pid(), busy.place());
        let (begin, mut done, mut number) = (Instant::now(), 0, 0);
        while begin.elapsed() < Duration::from_secs(3) || done < 50 {
            let (operation, argument) = operation(number);
            done += usize::from(remote::command(pid, &place, operation, argument).is_ok());
            number += 1;
            if number % 100 == 0 {
                busy.assert_sound();
            }
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "{mode:?}: {done} of {number} commands"
            );
        }
        busy.assert_sound();
        assert_eq!((status(pid, "TracerPid"), status(pid, "SigBlk")), ("0".into(), "0".repeat(16)));
        assert!(2 * done > number, "{mode:?}: {done} of {number} commands");
    }
}

/// One thread that does nothing but allocate and free, so that it is inside a section most of the time. It sees an object that it gets
/// twice at once.
const PAIRS: &str = r#"
    #include <stdlib.h>
    #include <unistd.h>
    int main(void) {
        write(1, "!", 1);
        for (;;) {
            long *object[8];
            for (long i = 0; i < 8; i++) { object[i] = malloc(40); object[i][0] = i; object[i][4] = ~i; }
            for (long i = 0; i < 8; i++) if (object[i][0] != i || object[i][4] != ~i) abort();
            for (long i = 0; i < 8; i++) free(object[i]);
        }
    }
"#;

/// Programs in which sections are not aborted, at most.
const CONTROLS: usize = 20;

/// Has the program run up to so many commands at random instants; how many met a section, and whether it survived.
fn command_pairs(program: &Path, commands: usize) -> (usize, bool) {
    use remote::sequence::sections::FOUND;
    let mut command = Command::new(program);
    common::in_mode(&mut command, Mode::Rseq);
    let mut running = Running::talker(&mut command);
    let pid = running.0.id();
    let heap = read::find(&read::Target::Process(pid)).unwrap().unwrap();
    let (_, place) = heap.command_place().unwrap();
    // Ordering: Relaxed, this thread's own and its workers', which it joins.
    let before = FOUND.load(Ordering::Relaxed);
    let is_alive = (0..commands).all(|_| {
        remote::command(pid, &place, Operation::Release, 0).is_ok() || is_alive(&mut running)
    });
    let found = FOUND.load(Ordering::Relaxed) - before; // Ordering: Relaxed, as above.
    let survived = is_alive && is_alive_for(&mut running, Duration::from_millis(50));
    let _ = running.0.kill();
    (found, survived)
}

fn is_alive(running: &mut Running) -> bool {
    matches!(running.0.try_wait(), Ok(None))
}

fn is_alive_for(running: &mut Running, time: Duration) -> bool {
    std::thread::sleep(time);
    is_alive(running)
}

/// The kernel does not abort a section that a command interrupts: it sees the thread go on elsewhere.
#[test]
fn sections_are_aborted() {
    use remote::sequence::sections::IGNORED;
    let _alone = ALONE.lock();
    let program = common::compile("cc", "pairs", PAIRS, &["-O1", "-w", "-fno-builtin"]).unwrap();
    let commands = std::env::var("RSALLOC_COMMANDS").map_or(2000, |count| count.parse().unwrap());
    let (found, survived) = command_pairs(&program, commands);
    assert!(survived, "after {found} sections");
    assert!(found > commands / 50, "{found} of {commands} commands met a section");
    // Ordering: Relaxed, read by threads that this one starts later.
    IGNORED.store(true, Ordering::Relaxed);
    // What a late commit breaks depends on where the program's objects lie: some runs are not harmed.
    let mut missed = 0;
    let is_harmed = (0..CONTROLS).any(|_| {
        let (found, survived) = command_pairs(&program, 1000);
        missed += found;
        !survived
    });
    IGNORED.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
    assert!(is_harmed, "control: {missed} sections were not aborted, and nothing broke");
}

/// What the thread has then, the kernel restores by the frame: registers of floating point and the signal mask too.
#[test]
fn a_thread_finishes_alone_when_the_command_dies() {
    for round in 0..8 {
        let mut busy = Busy::start(Mode::Rseq, "busy-alone");
        let pid = busy.pid();
        let mut command =
            rsalloc(&["release", &pid.to_string()]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(2000 * round));
        command.kill().unwrap();
        command.wait().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        busy.assert_sound();
        assert_eq!((status(pid, "TracerPid"), status(pid, "SigBlk")), ("0".into(), "0".repeat(16)));
        let text = answer(&mut rsalloc(&["release", &pid.to_string()]));
        assert!(text.contains("given back"), "{text}");
    }
}

#[test]
fn a_stopped_process_is_commanded_and_stays_stopped() {
    let mut busy = Busy::start(Mode::Rseq, "busy-stopped");
    let pid = busy.pid();
    let is_stopped = || status(pid, "State").starts_with('T');
    // SAFETY: a child of this test.
    unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
    while !is_stopped() {
        std::thread::yield_now();
    }
    let text = answer(&mut rsalloc(&["release", &pid.to_string()]));
    assert!(text.contains("given back"), "{text}");
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(is_stopped());
    // SAFETY: as above.
    unsafe { libc::kill(pid as i32, libc::SIGCONT) };
    busy.assert_sound();
}

/// The program of docs/operate.md whose slabs are kept by the few of their objects that are cached.
#[test]
fn a_release_says_all_that_went_back() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operate/burst.py");
    let mut command = Command::new("/usr/bin/python3");
    common::in_mode(command.args([script, "copy"]), Mode::Rseq);
    if !Path::new("/usr/bin/python3").exists() {
        return common::note(
            "what a release says of a python program: there is no /usr/bin/python3",
        );
    }
    // Where the thread was moved between its allocations and frees, decay may have left nothing to give back.
    let (said, gone, given_back) = (0..5)
        .map(|_| {
            let running = Running::talker(&mut command);
            let said = answer(&mut rsalloc(&["release", "--json", &running.pid()]));
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            let bytes = |value: &serde_json::Value| value.as_u64().unwrap();
            let resident = |side: &str| bytes(&said[side]["resident_bytes"]);
            let gone = resident("before").saturating_sub(resident("after"));
            let given_back = bytes(&said["given_back_bytes"]);
            (said, gone, given_back)
        })
        .find(|&(_, gone, _)| gone > 100 << 20)
        .expect("in five runs no release gave 100 MiB back");
    // Metadata and stacks of objects go too, and are not counted.
    assert!(given_back >= gone - gone / 8, "{said}");
}

#[test]
fn settings_change_and_say_from_where() {
    let mut busy = Busy::start(Mode::Rseq, "busy-set");
    let pid = busy.pid().to_string();
    let text = answer(&mut rsalloc(&["set", &pid, "dirty:8m,cache:100k", "stats_at_exit:text"]));
    let bounds = answer(&mut rsalloc(&[
        "set",
        &pid,
        "limit:90%,limit_hard:4g,guard:100,profile:on,profile:off",
    ]));
    let lines = "limit: off -> 90%\nlimit_hard: off -> 4294967296\nguard: 0 -> 100\nprofile: 0 -> 524288\nprofile: 524288 -> 0\n";
    assert_eq!(bounds, lines);
    let lines = "dirty: 1048576 -> 8388608\ncache: 0 -> 102400\nstats_at_exit: off -> text\n";
    assert_eq!(text, lines);
    let conf = answer(&mut rsalloc(&["conf", &pid]));
    let dirty = conf.lines().find(|line| line.starts_with("dirty")).unwrap();
    assert!(dirty.contains("8388608") && dirty.contains("set from outside"), "{dirty}");
    for (setting, says) in [
        ("limit_hard:auto", "bad value 'limit_hard:auto'"),
        ("mode:atomic", "mode cannot be changed so while a program runs"),
        ("dirty:x", "bad value 'dirty:x'"),
        ("nothing:1", "unknown key 'nothing:1'"),
        ("stats_at_exit:/tmp/file", "stats_at_exit cannot be changed so"),
    ] {
        let error = error(&mut rsalloc(&["set", &pid, setting]), 3);
        assert!(error.contains(says), "{error}");
    }
    busy.assert_sound();
}
