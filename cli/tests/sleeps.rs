//! Commands for a thread that sleeps: the sleep goes on for what is left of it, or the command says that it does not.

mod command_line;

use command_line::common::Mode;
use command_line::*;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Sleeps 20 ms at a time. Asked by a byte, answers how many sleeps ended with EINTR, then how many were too short.
const SLEEPER: &str = r#"
    #include <errno.h>
    #include <poll.h>
    #include <stdlib.h>
    #include <time.h>
    #include <unistd.h>
    static double now(void) {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return time.tv_sec + time.tv_nsec / 1e9;
    }
    int main(void) {
        unsigned char counts[2] = {0};
        free(malloc(100000));
        if (write(1, "!", 1) != 1) return 1;
        for (;;) {
            struct pollfd in = {0, POLLIN, 0};
            char byte;
            if (poll(&in, 1, 0) > 0) {
                if (read(0, &byte, 1) != 1) return 0;
                if (write(1, counts, 2) != 2) return 1;
            }
            double begin = now();
            struct timespec time = {0, 20000000};
            if (nanosleep(&time, 0)) counts[0] += errno == EINTR;
            else counts[1] += now() - begin < 0.02;
        }
    }
"#;

/// More than a thread waits for a command that may be dead.
const LATE_MS: u64 = 400;
const SAID: &str = "ends with EINTR";

struct Sleeper(Running);

impl Sleeper {
    fn start(name: &str) -> Self {
        let program = common::compile("cc", name, SLEEPER, &["-O1"]).unwrap();
        let mut command = Command::new(program);
        common::in_mode(&mut command, Mode::Rseq);
        Sleeper(Running::talker(&mut command))
    }

    fn command(&self) -> Command {
        rsalloc(&["release", &self.0.0.id().to_string()])
    }

    /// Whether a command has attached to it.
    fn is_traced(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.0.id())).unwrap();
        !status.contains("TracerPid:\t0\n")
    }

    /// Sleeps that ended with EINTR, and those that were too short.
    fn counts(&mut self) -> (u8, u8) {
        let mut counts = [0; 2];
        self.0.0.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        self.0.0.stdout.as_mut().unwrap().read_exact(&mut counts).unwrap();
        (counts[0], counts[1])
    }
}

fn says_it(stderr: &[u8]) -> bool {
    String::from_utf8_lossy(stderr).contains(SAID)
}

#[test]
fn sleeps_go_on_or_the_command_says_that_they_do_not() {
    let mut sleeper = Sleeper::start("sleeper");
    let mut said = 0;
    for round in 0..300 {
        let output = sleeper.command().output().unwrap();
        assert!(output.status.success(), "{round}: {output:?}");
        said += u8::from(says_it(&output.stderr));
        std::thread::sleep(Duration::from_micros(100 * (round % 7)));
    }
    assert_eq!(sleeper.counts(), (said, 0));
}

/// The control: a command that is stopped for longer than the thread waits for it.
#[test]
fn a_command_that_is_held_up_says_that_a_sleep_ended() {
    let mut sleeper = Sleeper::start("sleeper-late");
    let (mut said, mut rounds) = (0, 0);
    while said < 2 {
        rounds += 1;
        assert!(rounds < 150, "no command of {rounds} was stopped at the right moment");
        let mut command = sleeper.command();
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let begin = Instant::now();
        while !sleeper.is_traced() && begin.elapsed() < Duration::from_secs(10) {}
        std::thread::sleep(Duration::from_micros(50 * (rounds % 24)));
        // SAFETY: signals for a child that is not collected yet.
        unsafe { libc::kill(command.id() as i32, libc::SIGSTOP) };
        std::thread::sleep(Duration::from_millis(LATE_MS));
        // SAFETY: as above.
        unsafe { libc::kill(command.id() as i32, libc::SIGCONT) };
        said += u8::from(says_it(&command.wait_with_output().unwrap().stderr));
    }
    assert_eq!(sleeper.counts(), (said, 0));
}
