//! A program that is commanded while its threads work.

#![allow(dead_code, reason = "each test uses a part")]

use crate::command_line::common::{self, Mode};
use crate::command_line::*;
use crate::{read, remote};
use rsalloc_core::internals::config::Key;
use rsalloc_core::internals::engine::command::Operation;
use std::io::{Read, Write};
use std::process::Command;

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

/// The program.
pub struct Busy(pub Running);

impl Busy {
    /// With three threads and the first.
    pub fn start(mode: Mode, name: &str) -> Self {
        Self::with(mode, name, "")
    }

    /// With an argument of the program's: `alone` or `storm`.
    pub fn with(mode: Mode, name: &str, argument: &str) -> Self {
        let program = common::compile("cc", name, BUSY, &["-O1", "-w", "-pthread"]).unwrap();
        let mut command = Command::new(program);
        common::in_mode(command.arg(argument), mode);
        Busy(Running::talker(&mut command))
    }

    /// The place where its threads carry commands out.
    pub fn place(&self) -> remote::Place {
        let heap = read::find(&read::Target::Process(self.pid())).unwrap().unwrap();
        heap.command_place().unwrap().1
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.0.id()
    }

    /// Fails unless the program finds its heap sound.
    #[track_caller]
    pub fn assert_sound(&mut self) {
        let mut answer = [0];
        self.0.0.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        let read = self.0.0.stdout.as_mut().unwrap().read(&mut answer).unwrap();
        assert!(read == 1 && answer == *b"+", "{answer:?}, {:?}", self.0.0.try_wait());
    }
}

/// A line of /proc/PID/status.
pub fn status(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// Commands of all kinds, one after the other.
pub fn operation(number: usize) -> (Operation, usize) {
    match number % 8 {
        0 | 2 | 4 => (Operation::Release, 0),
        1 => (Operation::Set(Key::Dirty), [1 << 20, 8 << 20][number / 8 % 2]),
        3 => (Operation::Set(Key::Cache), [0, 100 << 10][number / 8 % 2]),
        5 => (Operation::StartProfile, 4096),
        6 => (Operation::Set(Key::Guard), [0, 50][number / 8 % 2]),
        _ => (Operation::StopProfile, 0),
    }
}
