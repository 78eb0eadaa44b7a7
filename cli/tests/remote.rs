//! Commands for a running process: what they do, and that its threads notice nothing.

mod command_line;

#[path = "../src/read/mod.rs"]
#[allow(dead_code, unused_imports, reason = "a part of it is used here")]
mod read;
#[path = "../src/remote/mod.rs"]
#[allow(dead_code, reason = "as above")]
mod remote;

use command_line::common::Mode;
use command_line::*;
use remote::tracee::Tracee;
use rsalloc_core::internals::config::Key;
use rsalloc_core::internals::engine::command::Operation;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Threads that allocate, write and look at what they wrote, keep numbers in registers of floating point, sleep, and never stop. Asked
/// by a byte, the first thread validates the heap and says how it is: `+` sound, `-` not. Any fault of a thread ends it. `alone` has one
/// thread, `storm` eight, a timer whose handler allocates, and children that allocate and end.
const BUSY: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/time.h>
    #include <sys/wait.h>
    #include <time.h>
    #include <unistd.h>
    enum { SLOTS = 512 };
    static __thread struct { unsigned char *start; size_t size; unsigned char byte; } slots[SLOTS];
    static void turn(unsigned *seed) {
        int i = rand_r(seed) % SLOTS;
        for (size_t at = 0; slots[i].start && at < slots[i].size; at += 61)
            if (slots[i].start[at] != slots[i].byte) abort();
        free(slots[i].start);
        size_t size = 1 + rand_r(seed) % (rand_r(seed) % 100 ? 600 : 200000);
        if (!(slots[i].start = malloc(size))) abort();
        slots[i].size = size;
        slots[i].byte = *seed;
        memset(slots[i].start, slots[i].byte, size);
    }
    static void *allocates(void *arg) {
        unsigned seed = (size_t)arg;
        for (;;) {
            double sum = 0.25;
            long count = 0;
            for (int k = 0; k < 1000; k++) { turn(&seed); sum += 0.5; count++; }
            if (sum != 500.25 || count != 1000) abort();
        }
    }
    static void *computes(void *arg) {
        double a = 1.0, b = 3.0, c = 7.0;
        for (;;) {
            double x = a, y = b, z = c;
            for (int k = 0; k < 100000; k++) { x += 1.0; y += 2.0; z += 3.0; }
            if (x != 100001.0 || y != 200003.0 || z != 300007.0) abort();
        }
    }
    static void *sleeps(void *arg) {
        unsigned seed = 99;
        for (;;) {
            struct timespec time = {0, 3000000}, left;
            errno = 0;
            if (nanosleep(&time, &left) || errno) abort();
            if (poll(0, 0, 2) || errno) abort();
            turn(&seed);
        }
    }
    static volatile int signals, children;
    static void handler(int number) {
        int before = errno;
        char *object = malloc(100 + signals % 3000);
        memset(object, 1, 100);
        free(object);
        signals++;
        errno = before;
    }
    static void forks(unsigned *seed) {
        pid_t child = fork();
        if (child == 0) {
            for (int k = 0; k < 50; k++) turn(seed);
            _exit(7);
        }
        int status = 0;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
        if (child < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 7) abort();
        children++;
    }
    int main(int argc, char **argv) {
        int (*check)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "rsalloc_check");
        if (!check) return 3;
        int is_storm = argv[1][0] == 's', threads = argv[1][0] == 'a' ? 0 : is_storm ? 8 : 3;
        for (long i = 0; i < threads; i++) {
            pthread_t thread;
            void *(*work[])(void *) = {allocates, computes, sleeps};
            pthread_create(&thread, 0, is_storm ? allocates : work[i], (void *)i);
        }
        if (is_storm) {
            sigaction(SIGALRM, &(struct sigaction) { .sa_handler = handler, .sa_flags = SA_RESTART }, 0);
            setitimer(ITIMER_REAL, &(struct itimerval) { {0, 1000}, {0, 1000} }, 0);
        }
        char byte = '!';
        for (unsigned seed = 7;;) {
            write(1, &byte, 1);
            for (;;) {
                struct pollfd in = {0, POLLIN, 0};
                if (poll(&in, 1, 0) > 0) break;
                for (int k = 0; k < 100; k++) turn(&seed);
                if (is_storm) forks(&seed);
            }
            if (read(0, &byte, 1) != 1) return 0;
            byte = check() ? '-' : '+';
        }
    }
"#;

struct Busy(Running);

impl Busy {
    fn start(mode: Mode, name: &str) -> Self {
        Self::with(mode, name, "")
    }

    /// With an argument of the program's.
    fn with(mode: Mode, name: &str, argument: &str) -> Self {
        let program = common::compile("cc", name, BUSY, &["-O1", "-w", "-pthread"]).unwrap();
        let mut command = Command::new(program);
        common::in_mode(command.arg(argument), mode);
        Busy(Running::talker(&mut command))
    }

    /// The place where its threads carry commands out.
    fn place(&self) -> remote::Place {
        let heap = read::find(&read::Target::Process(self.pid())).unwrap().unwrap();
        heap.command_place().unwrap().1
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }

    #[track_caller]
    fn assert_sound(&mut self) {
        let mut answer = [0];
        self.0.0.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        let read = self.0.0.stdout.as_mut().unwrap().read(&mut answer).unwrap();
        assert!(read == 1 && answer == *b"+", "{answer:?}, {:?}", self.0.0.try_wait());
    }
}

/// A line of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

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

/// Commands of all kinds, one after the other.
fn operation(number: usize) -> (Operation, usize) {
    match number % 8 {
        0 | 2 | 4 => (Operation::Release, 0),
        1 => (Operation::Set(Key::Dirty), [1 << 20, 8 << 20][number / 8 % 2]),
        3 => (Operation::Set(Key::Cache), [0, 100 << 10][number / 8 % 2]),
        5 => (Operation::StartProfile, 4096),
        6 => (Operation::Set(Key::Guard), [0, 50][number / 8 % 2]),
        _ => (Operation::StopProfile, 0),
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

/// The addresses of the code that `address` lies in.
fn code_around(pid: u32, address: u64) -> std::ops::Range<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut ranges = maps.lines().filter_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
    });
    ranges.find(|range| range.contains(&address)).unwrap()
}

/// A thread is stopped at one instruction of the allocator after the other, fast paths and slow ones, and carries out a command at
/// each. In sections at their beginning only: a step aborts them (`sections_are_aborted` has the rest).
#[test]
fn commands_come_at_any_instruction() {
    let _alone = ALONE.lock();
    for mode in [Mode::Rseq, Mode::Atomic, Mode::Guarded] {
        let mut busy = Busy::with(mode, &format!("stepped-{mode:?}"), "alone");
        let (pid, place) = (busy.pid(), busy.place());
        let code = code_around(pid, place.entry);
        let (begin, mut at, mut answers) = (Instant::now(), HashSet::new(), Vec::new());
        while begin.elapsed() < Duration::from_secs(3) || at.len() < PLACES {
            let done = answers.len();
            assert!(
                begin.elapsed() < Duration::from_secs(90),
                "{mode:?}: {} places, {done} commands",
                at.len()
            );
            let code = code.clone();
            // The tracer is the thread, which ends each time.
            let stepped = std::thread::spawn(move || {
                step_and_command(pid, &place, &code, &mut at, &mut answers);
                (at, answers)
            });
            (at, answers) = stepped.join().unwrap();
            busy.assert_sound();
        }
        assert_eq!((status(pid, "TracerPid"), status(pid, "SigBlk")), ("0".into(), "0".repeat(16)));
        let refused = answers.iter().filter(|&&answer| answer < 0).count();
        println!("{mode:?}: commands at {} instructions, {refused} refused", at.len());
        assert!(refused < answers.len() / 4);
    }
}

/// Instructions at which a command was carried out, at least.
const PLACES: usize = 600;
/// Steps in a row.
const STEPS: usize = 1000;

/// Stops the first thread and has it take steps, with a command at each instruction in `code` that is not `at` yet.
fn step_and_command(
    pid: u32,
    place: &remote::Place,
    code: &std::ops::Range<u64>,
    at: &mut HashSet<u64>,
    answers: &mut Vec<isize>,
) {
    let Ok(mut tracee) = Tracee::seize(pid, pid as i32) else { panic!("cannot attach to {pid}") };
    assert!(tracee.stop().is_ok(), "{pid} does not stop");
    for _ in 0..STEPS {
        let instruction = tracee.step().expect("it lives");
        if code.contains(&instruction) && at.insert(instruction) {
            let (operation, argument) = operation(answers.len());
            match tracee.run_stopped(place, operation.word(), argument).unwrap() {
                Ok(answer) => answers.push(answer),
                Err(why) => panic!("at {instruction:#x}: {why}"),
            }
        }
    }
    tracee.detach();
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
