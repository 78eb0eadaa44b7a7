//! What others see of the process: its address space, what is locked in memory, and where the heap lies.

mod common;

use common::Mode;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PROGRAM: &str = r##"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* A value of /proc/self/status in KiB, read without malloc. */
static long status(const char *name) {
    static char text[8192];
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t len = read(file, text, sizeof text - 1);
    close(file);
    text[len > 0 ? len : 0] = 0;
    char *line = strstr(text, name);
    return line ? strtol(line + strlen(name) + 1, 0, 10) : -1;
}

static void fill(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++) {
        char *object = malloc(size);
        if (!object) { printf("no object %zu\n", i); exit(1); }
        memset(object, 1, size);
    }
}

int main(int count, char **arguments) {
    const char *part = arguments[1];
    cpu_set_t cpu;
    CPU_ZERO(&cpu);
    CPU_SET(sched_getcpu(), &cpu);
    sched_setaffinity(0, sizeof cpu, &cpu);
    if (!strcmp(part, "locked")) {
        if (mlockall(MCL_CURRENT | MCL_FUTURE)) { printf("mlockall: %s\n", strerror(errno)); return 1; }
        fill(2600, 1000);
        printf("%ld\n", status("VmLck:"));
    } else if (!strcmp(part, "limited")) {
        struct rlimit limit = {8 << 20, 8 << 20};
        setrlimit(RLIMIT_MEMLOCK, &limit);
        if (!getuid() && setuid(65534)) { printf("setuid: %s\n", strerror(errno)); return 1; }
        if (mlockall(MCL_CURRENT | MCL_FUTURE)) { printf("mlockall: %s\n", strerror(errno)); return 1; }
        fill(500, 1000);
        printf("%ld\n", status("VmLck:"));
    } else if (!strcmp(part, "late")) {
        free(malloc(100));
        size_t now = status("VmSize:") << 10;
        struct rlimit limit = {now + (16 << 20), now + (16 << 20)};
        setrlimit(RLIMIT_AS, &limit);
        long blocks = 0;
        while (malloc(65536)) blocks++;
        printf("%ld\n", blocks * 64);
    } else if (!strcmp(part, "data")) {
        fill(10000, 1000);
        printf("%ld\n", status("VmData:"));
    } else {
        unsigned char *bytes = (unsigned char *)getauxval(AT_RANDOM);
        printf("%lx %lx\n", (unsigned long)malloc(100), bytes[8] | bytes[9] << 8 | (unsigned long)bytes[10] << 16);
    }
}
"##;

fn program() -> &'static Path {
    static PROGRAM_PATH: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM_PATH.get_or_init(|| common::compile("cc", "space", PROGRAM, &["-O1"]).expect("cc"))
}

fn command(mode: Mode, part: &str) -> Command {
    let mut command = Command::new(program());
    common::in_mode(command.arg(part), mode);
    command
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

fn kib(mode: Mode, part: &str) -> u64 {
    output(&mut command(mode, part)).trim().parse().unwrap()
}

const PLAIN: [Mode; 3] = [Mode::Rseq, Mode::OwnRegistration, Mode::Atomic];

/// 2.6 MB of objects in a process that locks all that it maps.
#[test]
fn a_locked_process_has_little_more_than_its_objects() {
    let glibc = kib(Mode::Glibc, "locked");
    for mode in PLAIN {
        let ours = kib(mode, "locked");
        assert!(ours < glibc + 4096, "{mode:?}: {ours} KiB, {glibc} on glibc");
    }
}

#[test]
fn eight_mib_of_locked_memory_are_enough_to_start() {
    for mode in [Mode::Glibc, Mode::Rseq, Mode::OwnRegistration, Mode::Atomic] {
        assert!(kib(mode, "limited") <= 8192, "{mode:?}");
    }
}

/// RLIMIT_AS, set 16 MiB above what is mapped.
#[test]
fn a_limit_that_is_set_after_the_start_binds() {
    for mode in [Mode::Glibc, Mode::Rseq, Mode::OwnRegistration, Mode::Atomic] {
        let handed_out = kib(mode, "late");
        assert!((8 << 10..=18 << 10).contains(&handed_out), "{mode:?}: {handed_out} KiB");
    }
}

/// A core file has all writable private memory: its length is no more than that.
#[test]
fn ten_megabytes_of_data_are_not_much_more_in_a_core_file() {
    let glibc = kib(Mode::Glibc, "data");
    for mode in PLAIN {
        let ours = kib(mode, "data");
        assert!(ours < glibc + (9 << 10), "{mode:?}: {ours} KiB, {glibc} on glibc");
    }
}

/// An address of the heap, and the bytes of AT_RANDOM of which libc's pointer guard begins.
fn address(is_randomised: bool) -> (u64, u64) {
    let mut command = command(Mode::Rseq, "address");
    // SAFETY: one system call.
    unsafe {
        command.pre_exec(move || {
            if !is_randomised {
                libc::personality(libc::ADDR_NO_RANDOMIZE as _);
            }
            Ok(())
        })
    };
    let text = output(&mut command);
    let mut numbers = text.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// gdb, rr and `setarch -R` ask for the same addresses in each run.
#[test]
fn addresses_are_fixed_if_the_user_wants_them_so() {
    assert_eq!(address(false).0, address(false).0);
}

#[test]
fn addresses_tell_nothing_of_the_pointer_guard() {
    const SEGMENT_SHIFT: u32 = 26;
    let runs = [(); 4].map(|()| address(true));
    assert!(runs.iter().any(|run| run.0 != runs[0].0), "the same four times: {runs:x?}");
    let slots = runs.map(|(address, _)| (address - (16 << 40)) >> SEGMENT_SHIFT);
    // Neither the number itself nor one at a fixed distance, as the slot of the first segment would be.
    let distance = |run: usize| slots[run].wrapping_sub(runs[run].1) % (1 << 19);
    assert!((1..4).any(|run| distance(run) != distance(0)), "{runs:x?}");
}

const THREADS: &str = r##"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *churn(void *argument) {
    char *live[64] = {0};
    for (int n = 0; n < 3000; n++) {
        size_t size = 16 + n * 37 % 5000;
        free(live[n % 64]);
        live[n % 64] = malloc(size);
        memset(live[n % 64], *(char *)argument, size);
    }
    for (int n = 0; n < 64; n++) free(live[n]);
    return 0;
}

int main(void) {
    pthread_t threads[4];
    char names[4] = {1, 2, 3, 4};
    for (int round = 0; round < 3; round++) {
        for (int n = 0; n < 4; n++) pthread_create(&threads[n], 0, churn, &names[n]);
        for (int n = 0; n < 4; n++) pthread_join(threads[n], 0);
    }
    puts("done");
}
"##;

/// Preloaded into a C program that was built with ThreadSanitizer, whose runtime allows few addresses. It runs; what it
/// reports is not asked for, since it can't be told of hand-overs there (README).
#[test]
fn a_program_with_thread_sanitizer_runs() {
    let arguments = ["-g", "-O1", "-fsanitize=thread"];
    let program = common::compile("cc", "sanitized-threads", THREADS, &arguments).expect("cc");
    for mode in PLAIN {
        let mut command = Command::new(&program);
        common::in_mode(command.env("TSAN_OPTIONS", "report_bugs=0"), mode);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{mode:?}: {output:?}");
        assert_eq!(output.stdout, b"done\n");
    }
}
