//! Misuse, found and named: one small program for each, in the default mode, hardened, and with guard pages.
//!
//! Each program says what comes next before it does it, so the last thing said is when the misuse was found.
//! `docs/misuse.md` holds the table of [`CASES`]; `RSALLOC_WRITE_TABLE=1 cargo test -p rsalloc-preload --test
//! misuse` rewrites it.

mod common;

use common::{Mode, library};
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// When a misuse is found, and the fixed text of the line; none: it is not.
type Outcome = Option<(&'static str, &'static str)>;

struct Case {
    /// Name of the program.
    name: &'static str,
    /// What it does wrong, for the table.
    misuse: &'static str,
    /// The program: C, where `then` says what comes next.
    source: &'static str,
    default: Outcome,
    hardened: Outcome,
    guard: Outcome,
}

const ONCE: &str = "at once";
const FREE: &str = "at its free";
const HOME: &str = "when it comes home";

const DOUBLE: &str = "double free";
const INNER: &str = "a pointer into the middle of an object";
const FOREIGN: &str = "a pointer that rsalloc did not allocate";
const PAST: &str = "write past the end of an object";
/// What the fault handler says where the architecture does not tell reads from writes.
const FAULTS: [(&str, &str); 3] = [
    (PAST, "access past the end of an object"),
    (READ_PAST, "access past the end of an object"),
    (BEFORE, "access before the start of an object"),
];
const SIZE: &str = "sized free with another size than allocated";
const ALIGN: &str = "aligned free with another alignment than allocated";
const READ_PAST: &str = "read past the end of an object";
const BEFORE: &str = "write before the start of an object";
const AFTER_FREE: &str = "use after free";

const CASES: &[Case] = &[
    Case {
        name: "double",
        misuse: "double free",
        source: "char *p = malloc(40); free(p); free(p);",
        default: Some((HOME, DOUBLE)),
        hardened: Some((ONCE, DOUBLE)),
        guard: Some((ONCE, DOUBLE)),
    },
    Case {
        name: "double_far",
        misuse: "double free, thousands of other frees between",
        source: "char *p = malloc(40), *q[9000]; for (int i = 0; i < 9000; i++) q[i] = malloc(40);
            free(p); for (int i = 0; i < 5000; i++) free(q[i]); free(p);",
        default: Some((HOME, DOUBLE)),
        hardened: Some((ONCE, DOUBLE)),
        guard: Some((ONCE, DOUBLE)),
    },
    Case {
        name: "double_threads",
        misuse: "double free by two threads at the same instant",
        source: "shared = malloc(40); pthread_t a, b; pthread_create(&a, 0, racer, 0);
            pthread_create(&b, 0, racer, 0); pthread_join(a, 0); pthread_join(b, 0);",
        default: Some((HOME, DOUBLE)),
        hardened: Some((ONCE, DOUBLE)),
        guard: Some((ONCE, DOUBLE)),
    },
    Case {
        name: "double_large",
        misuse: "double free of a large object (above 256 KiB)",
        source: "char *p = malloc(300000); free(p); free(p);",
        default: Some((ONCE, DOUBLE)),
        hardened: Some((ONCE, DOUBLE)),
        guard: Some((ONCE, DOUBLE)),
    },
    Case {
        name: "double_huge",
        misuse: "double free of a huge object (above 32 MiB), whose mapping is gone",
        source: "char *p = malloc(40 << 20); free(p); free(p);",
        default: Some((ONCE, FOREIGN)),
        hardened: Some((ONCE, FOREIGN)),
        guard: Some((ONCE, FOREIGN)),
    },
    Case {
        name: "inner",
        misuse: "free of a pointer into an object",
        source: "char *p = malloc(100); free(p + 16);",
        default: Some((HOME, INNER)),
        hardened: Some((ONCE, INNER)),
        guard: Some((ONCE, INNER)),
    },
    Case {
        name: "inner_odd",
        misuse: "free of an unaligned pointer into an object",
        source: "char *p = malloc(100); free(p + 1);",
        default: Some((HOME, INNER)),
        hardened: Some((ONCE, INNER)),
        guard: Some((ONCE, INNER)),
    },
    Case {
        name: "inner_large",
        misuse: "free of a pointer into a large object",
        source: "char *p = malloc(300000); free(p + 70000);",
        default: Some((ONCE, INNER)),
        hardened: Some((ONCE, INNER)),
        guard: Some((ONCE, INNER)),
    },
    Case {
        name: "inner_huge",
        misuse: "free of a pointer into a huge object",
        source: "char *p = malloc(40 << 20); free(p + 5000000);",
        default: Some((ONCE, INNER)),
        hardened: Some((ONCE, INNER)),
        guard: Some((ONCE, INNER)),
    },
    Case {
        name: "stack",
        misuse: "free of a stack pointer",
        source: "char bytes[64]; free(bytes + 16);",
        default: Some((ONCE, FOREIGN)),
        hardened: Some((ONCE, FOREIGN)),
        guard: Some((ONCE, FOREIGN)),
    },
    Case {
        name: "static",
        misuse: "free of a static, or of memory from mmap",
        source: "static char bytes[64]; free(bytes);",
        default: Some((ONCE, FOREIGN)),
        hardened: Some((ONCE, FOREIGN)),
        guard: Some((ONCE, FOREIGN)),
    },
    Case {
        name: "nullish",
        misuse: "free of a member of a null struct (address 8)",
        source: "free((char *)8);",
        default: Some((ONCE, FOREIGN)),
        hardened: Some((ONCE, FOREIGN)),
        guard: Some((ONCE, FOREIGN)),
    },
    Case {
        name: "never",
        misuse: "free of an object that was never allocated",
        source: "char *p; for (int i = 0; i < 300; i++) p = malloc(40); /* past the guarded ones */
            free((char *)((size_t)p & ~0xffff) + 48 * 1000);",
        default: Some((HOME, DOUBLE)),
        hardened: Some((ONCE, "free of an object that was never allocated")),
        guard: Some((HOME, DOUBLE)),
    },
    Case {
        name: "realloc_freed",
        misuse: "realloc of a freed object",
        source: "char *p = malloc(40); free(p); p = realloc(p, 5000);",
        default: Some((HOME, DOUBLE)),
        hardened: Some((ONCE, "realloc of a freed object")),
        guard: Some((ONCE, "realloc of a freed object")),
    },
    Case {
        name: "realloc_freed_large",
        misuse: "realloc of a freed large object",
        source: "char *p = malloc(300000); free(p); p = realloc(p, 500000);",
        default: Some((ONCE, "realloc of a freed object")),
        hardened: Some((ONCE, "realloc of a freed object")),
        guard: Some((ONCE, "realloc of a freed object")),
    },
    Case {
        name: "realloc_inner",
        misuse: "realloc of a pointer into an object",
        source: "char *p = malloc(100); p = realloc(p + 16, 5000);",
        default: Some((HOME, INNER)),
        hardened: Some((ONCE, INNER)),
        guard: Some((ONCE, INNER)),
    },
    Case {
        name: "realloc_foreign",
        misuse: "realloc of a static or a stack pointer",
        source: "static char bytes[64]; char *p = realloc(bytes, 100); use(p != 0);",
        default: Some((ONCE, FOREIGN)),
        hardened: Some((ONCE, FOREIGN)),
        guard: Some((ONCE, FOREIGN)),
    },
    Case {
        name: "size_foreign",
        misuse: "malloc_usable_size of a static or a stack pointer",
        source: "static char bytes[64]; use(malloc_usable_size(bytes));",
        default: Some((ONCE, FOREIGN)),
        hardened: Some((ONCE, FOREIGN)),
        guard: Some((ONCE, FOREIGN)),
    },
    Case {
        name: "size_freed",
        misuse: "malloc_usable_size of a freed object",
        source: "char *p = malloc(40); free(p); use(malloc_usable_size(p));",
        default: None,
        hardened: Some((ONCE, "malloc_usable_size of a freed object")),
        guard: Some((ONCE, "malloc_usable_size of a freed object")),
    },
    Case {
        name: "sized_large",
        misuse: "sized free with a larger size than allocated",
        source: "char *warm = malloc(1000), *p = malloc(16); free_sized(p, 1000);",
        default: Some((HOME, SIZE)),
        hardened: Some((ONCE, SIZE)),
        guard: Some((ONCE, SIZE)),
    },
    Case {
        name: "sized_small",
        misuse: "sized free with a smaller size than allocated (harmless to the heap)",
        source: "char *p = malloc(1000); free_sized(p, 16);",
        default: None,
        hardened: Some((ONCE, SIZE)),
        guard: None,
    },
    Case {
        name: "sized_byte",
        misuse: "sized free that is wrong by one byte, of the same class",
        source: "char *p = malloc(40); free_sized(p, 41);",
        default: None,
        hardened: Some((ONCE, SIZE)),
        guard: None,
    },
    Case {
        name: "aligned",
        misuse: "aligned free with a larger alignment than allocated",
        source: "char *warm = aligned_alloc(4096, 96), *p = aligned_alloc(32, 96);
            free_aligned_sized(p, 4096, 96);",
        default: Some((HOME, SIZE)),
        hardened: Some((ONCE, ALIGN)),
        guard: Some((ONCE, SIZE)),
    },
    Case {
        name: "past",
        misuse: "write of one byte past the end, where the size class ends too",
        source: "char *p = at_end(48); p[48] = 1; then(\"at its free\"); free(p);",
        default: None,
        hardened: Some((FREE, PAST)),
        guard: Some((ONCE, PAST)),
    },
    Case {
        name: "past_zero",
        misuse: "a string's zero past the end, inside the size class",
        source: "char *p = malloc(40); memset(p, 'x', 40); p[40] = 0; then(\"at its free\"); free(p);",
        default: None,
        hardened: Some((FREE, PAST)),
        guard: None,
    },
    Case {
        name: "past_realloc",
        misuse: "write past the end, then realloc",
        source: "char *p = malloc(40); p[40] = 0; then(\"at its realloc\"); p = realloc(p, 41);",
        default: None,
        hardened: Some(("at its realloc", PAST)),
        guard: None,
    },
    Case {
        name: "past_large",
        misuse: "write past the end of a large or huge object",
        source: "char *p = malloc(300000); p[300000] = 1; then(\"at its free\"); free(p);",
        default: None,
        hardened: Some((FREE, PAST)),
        guard: None,
    },
    Case {
        name: "past_read",
        misuse: "read past the end",
        source: "char *p = at_end(48); use(p[48]); then(\"at its free\"); free(p);",
        default: None,
        hardened: None,
        guard: Some((ONCE, READ_PAST)),
    },
    Case {
        name: "before",
        misuse: "write before the start",
        source: "char *q[6]; for (int i = 0; i < 6; i++) q[i] = malloc(48);
            char *p = q[5]; int apart = q[1] - q[0] > 2000 || q[0] - q[1] > 2000;
            for (int i = 0; i < 6; i++) if (apart && (size_t)q[i] % 4096 == 0) p = q[i];
            memset(p - 8, 1, 8); then(\"at its neighbour's free\"); for (int i = 0; i < 6; i++) free(q[i]);",
        default: None,
        hardened: Some(("at its neighbour's free", PAST)),
        guard: Some((ONCE, BEFORE)),
    },
    Case {
        name: "read_after",
        misuse: "read after free",
        source: "char *p = malloc(40); free(p); use(p[3]);",
        default: None,
        hardened: None,
        guard: Some((ONCE, AFTER_FREE)),
    },
    Case {
        name: "write_after",
        misuse: "write after free",
        source: "char *p = malloc(40); free(p); p[3] = 1; then(\"when it is handed out\");
            use(malloc(40) != 0);",
        default: None,
        hardened: Some(("when it is handed out", "write after free")),
        guard: Some((ONCE, AFTER_FREE)),
    },
    Case {
        name: "poisoned",
        misuse: "following a pointer out of a freed object (hardened: a fault, without a line)",
        source: "char **p = malloc(40); p[0] = \"x\"; free(p); use(*p[0]);",
        default: None,
        hardened: Some((ONCE, "")),
        guard: Some((ONCE, AFTER_FREE)),
    },
];

const FRAME: &str = r#"
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
__attribute__((weak)) void free_sized(void *, size_t);
__attribute__((weak)) void free_aligned_sized(void *, size_t, size_t);
static void then(const char *when) { write(1, when, strlen(when)); write(1, "\n", 1); }
static volatile size_t used;
static void use(size_t value) { used = value; }
static void *shared;
static _Atomic int here;
static void *racer(void *none) { here++; while (here < 2) {} free(shared); return none; }
/* A guarded object lies at one of the ends of its page. */
static char *at_end(size_t n) {
    char *p = 0;
    for (int i = 0; i < 4 && (!p || ((size_t)p + n) % 4096); i++) p = malloc(n);
    return p;
}
"#;

/// The program with all cases, which takes the name of one.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut source = FRAME.to_owned();
        let mut calls = String::new();
        for case in CASES {
            writeln!(source, "static void case_{}(void) {{ {} }}", case.name, case.source).unwrap();
            writeln!(calls, "if (!strcmp(v[1], \"{0}\")) case_{0}(); else", case.name).unwrap();
        }
        write!(
            source,
            "int main(int n, char **v) {{ (void)n; {calls} return 9;
            then(\"{HOME}\"); malloc_trim(0); then(\"never\"); return 0; }}",
        )
        .unwrap();
        common::compile("cc", "misuse", &source, &["-O0", "-w", "-pthread"]).unwrap()
    })
}

fn run(library: &Path, conf: &str, case: &str, blind_to: &str) -> Output {
    let mut command = Command::new(program());
    command.arg(case).env("LD_PRELOAD", library).env_remove("GLIBC_TUNABLES");
    command.env("RSALLOC_CONF", conf).env("RSALLOC_BLIND", blind_to);
    command.output().unwrap()
}

/// What a run showed: when, and the line's text without program and address.
fn seen(output: &Output) -> (Option<(String, String)>, Option<i32>) {
    let said = String::from_utf8_lossy(&output.stdout);
    let line = String::from_utf8_lossy(&output.stderr);
    let when = said.lines().last().unwrap_or(ONCE).to_owned();
    let what = line.strip_prefix("rsalloc: ").and_then(|rest| rest.split(": 0x").next());
    // A fault's line says as well whether it was a read or a write.
    let what = what.unwrap_or(&line).split(" (").next().unwrap_or_default().to_owned();
    let found = (!output.status.success()).then_some((when, what));
    (found, output.status.signal())
}

/// Runs a case and says what is not as expected.
fn deviation(library: &Path, conf: &str, case: &Case, expected: Outcome) -> Option<String> {
    let output = run(library, conf, case.name, "");
    let (found, signal) = seen(&output);
    let found = found.as_ref().map(|(when, what)| (when.as_str(), what.as_str()));
    // Every fault is at once; of what is not, only canaries speak of writes.
    let is_fault = |(when, what): (&str, &str)| {
        what.is_empty() || when == ONCE && [AFTER_FREE, PAST, READ_PAST, BEFORE].contains(&what)
    };
    let wanted = expected.map(|o| if is_fault(o) { libc::SIGSEGV } else { libc::SIGABRT });
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_frame = |line: &&str, what| line.starts_with(&format!("rsalloc: {what} by "));
    let frames = |what| stderr.lines().filter(|line| is_frame(line, what)).count();
    let (allocated_by, freed_by) = (frames("allocated"), frames("freed"));
    let lines = stderr.lines().count() - allocated_by - freed_by;
    let wanted_lines = usize::from(expected.is_some_and(|(_, what)| !what.is_empty()));
    let named = match expected {
        Some((ONCE, what)) if !cfg!(sections) && signal == Some(libc::SIGSEGV) => {
            let told = FAULTS.iter().find(|(precise, _)| *precise == what);
            Some((ONCE, told.map_or(what, |(_, access)| access)))
        }
        expected => expected,
    };
    // A fault on a guard page comes with stacks, which lead through the program to its start.
    let is_named_fault = cfg!(sections) && wanted_lines == 1 && wanted == Some(libc::SIGSEGV);
    let is_freed = named.is_some_and(|(_, what)| what == AFTER_FREE);
    let stacks = (allocated_by >= 3, freed_by >= 3);
    let good = (found, signal, lines) == (named, wanted, wanted_lines)
        && stacks == (is_named_fault, is_named_fault && is_freed);
    (!good).then(|| format!("{}, {conf}: {expected:?}, but {output:?}", case.name))
}

fn assert_all(confs: &[&str], column: fn(&Case) -> Outcome) {
    let runs = confs.iter().flat_map(|conf| CASES.iter().map(move |case| (conf, case)));
    let deviations: Vec<_> =
        runs.filter_map(|(conf, case)| deviation(library(), conf, case, column(case))).collect();
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
}

#[test]
fn misuse_is_named_in_the_default_mode() {
    assert_all(&[""], default);
}

#[test]
fn misuse_is_named_in_the_other_modes() {
    // The index that the entries do not know.
    let index = if cfg!(feature = "mm_cid") { "index:cpu_id" } else { "index:mm_cid" };
    assert_all(&["mode:atomic", index], without_entries);
}

fn default(case: &Case) -> Outcome {
    if cfg!(sections) { case.default } else { without_entries(case) }
}

/// As by default, but for sized frees, for which slow calls look the object up: a larger size is found at once.
fn without_entries(case: &Case) -> Outcome {
    match case.default {
        Some((HOME, SIZE)) => Some((ONCE, SIZE)),
        outcome => outcome,
    }
}

#[test]
fn hardened() {
    let confs = ["hardened:1,guard:0", "hardened:1,guard:0,mode:atomic"];
    assert_all(&confs, |case| case.hardened);
}

#[test]
fn misuse_is_named_by_guard_pages() {
    assert_all(&["guard:1", "guard:1,mode:atomic"], |case| case.guard);
}

/// The control: without its check, a misuse is not named, so the tests above would be red.
#[test]
fn blind_to_one_check_that_misuse_goes_unnamed() {
    let library = common::library_with(&["blind"]);
    type Column = fn(&Case) -> Outcome;
    let columns: [(&str, Column); 3] = [
        ("", default),
        ("hardened:1,guard:0", |case| case.hardened),
        ("guard:1", |case| case.guard),
    ];
    let mut checked = 0;
    for (conf, column) in columns {
        for case in CASES {
            let Some((_, text)) = column(case) else { continue };
            assert_eq!(deviation(&library, conf, case, column(case)), None, "seeing");
            let (found, signal) = seen(&run(&library, conf, case.name, text));
            // Foreign pointers and faults are not checks that could be left out: there is nothing to go on with.
            if text == FOREIGN || signal == Some(libc::SIGSEGV) {
                continue;
            }
            assert_ne!(found.map(|(_, what)| what).as_deref(), Some(text), "{}, {conf}", case.name);
            checked += 1;
        }
    }
    assert!(checked >= 30, "{checked} checks were switched off");
}

/// The heap's own links never lie inside objects: freed ones keep their bytes, and writing to them breaks
/// nothing.
#[test]
fn freed_objects_hold_only_the_programs_bytes() {
    let source = r#"
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        extern int rsalloc_check(void) __attribute__((weak));
        enum { SIZES = 18, EACH = 600 };
        static const int size[SIZES] = {1, 8, 16, 24, 40, 64, 100, 128, 200, 333, 512, 1000, 1024,
            2000, 4096, 5000, 9000, 20000};
        static unsigned char *object[SIZES][EACH];
        int main(void) {
            long freed = 0;
            for (int s = 0; s < SIZES; s++) for (int i = 0; i < EACH; i++)
                memset(object[s][i] = malloc(size[s]), 1 + (s * EACH + i) % 250, size[s]);
            /* One of each three stays, so that no slab gets empty and goes back to the OS. */
            for (int s = 0; s < SIZES; s++) for (int i = 0; i < EACH; i++) if (i % 3) free(object[s][i]);
            for (int s = 0; s < SIZES; s++) for (int i = 0; i < EACH; i++) if (i % 3) {
                for (int b = 0; b < size[s]; b++)
                    if (object[s][i][b] != 1 + (s * EACH + i) % 250) {
                        printf("byte %d of a freed object of %d changed\n", b, size[s]);
                        return 1;
                    }
                memset(object[s][i], 0xff, size[s]);
                freed++;
            }
            if (rsalloc_check && rsalloc_check()) { puts("the heap is not whole"); return 1; }
            for (int s = 0; s < SIZES; s++) for (int i = 0; i < EACH; i++)
                if (!memset(malloc(size[s]), 0, size[s])) return 1;
            if (rsalloc_check && rsalloc_check()) { puts("the heap is not whole"); return 1; }
            printf("%ld freed objects keep their bytes\n", freed);
            return 0;
        }
    "#;
    let program = common::compile("cc", "misuse-bytes", source, &["-O0", "-w"]).unwrap();
    let run = |mode| {
        let mut command = Command::new(&program);
        common::in_mode(&mut command, mode);
        if mode == Mode::Hardened {
            // Without guards: a freed object that has one can't be read at all.
            command.env("RSALLOC_CONF", "hardened:1,guard:0");
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for mode in [Mode::Rseq, Mode::OwnRegistration, Mode::Atomic] {
        assert_eq!(
            run(mode),
            (Some(0), "7200 freed objects keep their bytes\n".into()),
            "{mode:?}"
        );
    }
    // The controls: an allocator with links in its objects, and one that overwrites what is freed.
    for mode in [Mode::Glibc, Mode::Hardened] {
        let (code, said) = run(mode);
        assert!(code == Some(1) && said.contains("changed"), "{mode:?}: {said}");
    }
}

/// The handler of `guard` passes on what is not its own.
#[test]
fn other_faults_reach_the_earlier_handler() {
    let source = r#"
        #include <dlfcn.h>
        #include <signal.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static void mine(int s, siginfo_t *i, void *c) { write(1, "mine", 4); _exit(i->si_addr == 0 ? 7 : 8); }
        static void plain(int s) { write(1, "plain", 5); _exit(9); }
        int main(int n, char **v) {
            struct sigaction a = {0};
            if (!strcmp(v[1], "mine")) { a.sa_sigaction = mine; a.sa_flags = SA_SIGINFO; }
            if (!strcmp(v[1], "plain")) a.sa_handler = plain;
            if (!strcmp(v[1], "ignore")) a.sa_handler = SIG_IGN;
            sigaction(SIGSEGV, &a, 0);
            if (!dlopen(v[2], RTLD_NOW)) return 1;
            if (!strcmp(v[3], "fault")) *(volatile int *)0 = 1;
            kill(getpid(), SIGSEGV);
            return 0;
        }
    "#;
    let program = common::compile("cc", "misuse-handler", source, &["-O0", "-w"]).unwrap();
    let end = |handler: &str, how: &str| {
        let mut command = Command::new(&program);
        command.arg(handler).arg(library()).arg(how).env("RSALLOC_CONF", "guard:1");
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{handler}, {how}: {output:?}");
        (output.status.code(), output.status.signal(), String::from_utf8(output.stdout).unwrap())
    };
    for how in ["fault", "kill"] {
        assert_eq!(end("none", how), (None, Some(libc::SIGSEGV), String::new()));
        assert_eq!(end("plain", how), (Some(9), None, "plain".into()));
    }
    assert_eq!(end("mine", "fault"), (Some(7), None, "mine".into()));
    assert_eq!(end("ignore", "fault"), (None, Some(libc::SIGSEGV), String::new()));
    assert_eq!(end("ignore", "kill"), (Some(0), None, String::new()));
}

#[test]
fn the_table_in_the_documents_is_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/misuse.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- table -->\n", "<!-- end -->");
    let (head, rest) = text.split_once(begin).unwrap();
    let (table, tail) = rest.split_once(end).unwrap();
    let expected = table_text();
    if std::env::var_os("RSALLOC_WRITE_TABLE").is_some() {
        std::fs::write(&path, format!("{head}{begin}{expected}{end}{tail}")).unwrap();
    } else {
        assert_eq!(table, expected, "docs/misuse.md; RSALLOC_WRITE_TABLE=1 rewrites it");
    }
}

fn table_text() -> String {
    let mut table =
        "| misuse | default | hardened | guard | message |\n|---|---|---|---|---|\n".to_owned();
    for case in CASES {
        let outcomes = [case.default, case.hardened, case.guard];
        let mut texts: Vec<_> = outcomes.iter().flatten().map(|(_, text)| *text).collect();
        let mut said = std::collections::BTreeSet::new();
        texts.retain(|text| !text.is_empty() && said.insert(*text));
        let [default, hardened, guard] =
            outcomes.map(|outcome| outcome.map_or("not found", |(when, _)| when));
        let messages = texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ");
        writeln!(table, "| {} | {default} | {hardened} | {guard} | {messages} |", case.misuse)
            .unwrap();
    }
    table
}
