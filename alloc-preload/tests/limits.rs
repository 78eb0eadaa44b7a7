//! `limit` and `limit_hard`: what a process has resident stays below, or its requests are refused, and it is told why.
//!
//! What is resident has the pages of files too, some 2 MiB, which no limit is about.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `swing MIB`: holds so much at once, in objects of one size after the other, and frees all between; says the most that was resident
/// (MiB). `fill`: allocates until it gets null, says so, frees all, and does it again; four threads at once.
const PROGRAM: &str = r#"
    #include <errno.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/resource.h>
    static const size_t sizes[] = {48, 100000, 300, 20000, 1000, 700000, 3000, 40000};
    static void swing(size_t peak) {
        for (int round = 0; round < 16; round++) {
            size_t size = sizes[round % 8], live = 0;
            void *last = 0, **object;
            for (; live + size <= peak; live += size, last = object) {
                if (!(object = malloc(size))) { puts("null"); exit(2); }
                memset(object, round, size);
                *object = last;
            }
            for (; last; last = object) { object = *(void **)last; free(last); }
        }
    }
    static void *fill(void *arg) {
        for (int round = 0; round < 8; round++) {
            size_t size = sizes[(round + (size_t)arg) % 8];
            void *last = 0, **object;
            errno = 0;
            while ((object = malloc(size))) {
                memset(object, round, size);
                *object = last;
                last = object;
                errno = 0;
            }
            if (errno != ENOMEM) { puts("errno"); exit(3); }
            for (; last; last = object) { object = *(void **)last; free(last); }
        }
        return 0;
    }
    int main(int argc, char **argv) {
        if (argc > 1) swing((size_t)atoi(argv[1]) << 20);
        else {
            pthread_t threads[4];
            for (long i = 0; i < 4; i++) pthread_create(&threads[i], 0, fill, (void *)i);
            for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
            void *object = malloc(1 << 20);
            if (!object) { puts("no service"); return 4; }
        }
        struct rusage use;
        getrusage(RUSAGE_SELF, &use);
        printf("%ld\n", use.ru_maxrss >> 10);
    }
"#;

fn program(name: &str) -> PathBuf {
    common::compile("cc", name, PROGRAM, &["-O1", "-w", "-pthread"]).unwrap()
}

fn run(program: &PathBuf, conf: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    common::in_mode(&mut command, common::Mode::Rseq);
    command.args(arguments).env("RSALLOC_CONF", conf).output().unwrap()
}

#[track_caller]
fn most_resident(output: &Output) -> usize {
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.trim().parse();
    number.unwrap_or_else(|_| panic!("{}: {text}{}", output.status, stderr(output)))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// 64 MiB of live objects need 83 MiB of pages at most, by their size classes.
#[test]
fn the_heap_gives_back_before_it_grows_beyond_its_limit() {
    let program = program("limit-soft");
    let free = most_resident(&run(&program, "", &["64"]));
    assert!(free >= 95, "without a limit the program has more: {free} MiB");
    let bounded = run(&program, "limit:86m", &["64"]);
    assert!(most_resident(&bounded) <= 89, "{} MiB", most_resident(&bounded));
    assert_eq!(stderr(&bounded), "");
}

/// A group of processes with a limit of memory, which the kernel holds by ending them.
struct Group {
    folder: PathBuf,
    limit: &'static str,
}

impl Group {
    /// In cgroup v1 or v2; none where this process may not make one.
    fn make() -> Option<Self> {
        let folders =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        folders.into_iter().find_map(|(parent, limit)| {
            let folder = Path::new(parent).join(format!("rsalloc-test-{}", std::process::id()));
            std::fs::create_dir(&folder).ok()?;
            let group = Group { folder, limit };
            group.folder.join(limit).exists().then_some(group)
        })
    }

    fn run(&self, mib: usize, program: &Path, conf: &str) -> Output {
        std::fs::write(self.folder.join(self.limit), (mib << 20).to_string()).unwrap();
        let mut command = Command::new("sh");
        common::in_mode(&mut command, common::Mode::Rseq);
        let script = r#"echo $$ > "$0" && exec "$@""#;
        command.args(["-c", script]).arg(self.folder.join("cgroup.procs")).arg(program).arg("64");
        command.env("RSALLOC_CONF", conf).output().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// The kernel ends the process without the setting.
#[test]
fn a_program_that_fits_its_container_survives_there() {
    let Some(group) = Group::make() else {
        return common::skip("limits: this process may not make a control group with a limit");
    };
    let program = program("limit-group");
    let killed = group.run(92, &program, "");
    assert_eq!(killed.status.signal(), Some(libc::SIGKILL), "control: {}", killed.status);
    let survives = group.run(92, &program, "limit:95%");
    assert!(most_resident(&survives) < 92);
}

#[test]
fn what_cannot_be_given_back_is_named_once() {
    let output = run(&program("limit-told"), "limit:40m", &["64"]);
    most_resident(&output);
    let told = stderr(&output);
    assert!(told.starts_with("rsalloc: the heap has "), "{told}");
    assert!(told.contains("that it cannot give back, above limit, which leaves it "), "{told}");
    assert!(told.lines().nth(1).unwrap().ends_with("objects of 48 bytes"), "{told}");
    assert_eq!(told.matches("cannot give back").count(), 1, "{told}");
}

#[test]
fn beyond_the_hard_limit_there_is_null_and_then_service_again() {
    let output = run(&program("limit-hard"), "limit_hard:64m", &[]);
    let most = most_resident(&output);
    assert!((56..=70).contains(&most), "{most} MiB");
    let told = stderr(&output);
    assert!(told.contains(" bytes refused by limit_hard, which leaves the heap 6"), "{told}");
    assert_eq!(told.matches("out of memory").count(), 1, "once for a burst: {told}");
    assert!((2..=5).contains(&told.lines().count()), "{told}");
}

/// A program that tries how much it can get is not told that its heap is full.
#[test]
fn a_refused_giant_is_no_shortage() {
    let source = r#"
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/resource.h>
        int main(void) {
            struct rlimit limit = {1 << 30, 1 << 30};
            setrlimit(RLIMIT_AS, &limit);
            printf("%d\n", malloc((size_t)1 << 32) != 0);
        }
    "#;
    let program = common::compile("cc", "limit-giant", source, &["-O0", "-w"]).unwrap();
    let output = run(&program, "", &[]);
    assert_eq!((most_resident(&output), stderr(&output)), (0, String::new()));
}
