//! A profiler's view: from a signal anywhere inside the library, the stack is whole up to `main`.

mod common;

use common::Mode;
use std::process::Command;

/// `cargo xtask sweep` compares the caller at every instruction; this is libgcc's unwinder, which debuggers,
/// profilers and C++ runtimes use, on whatever a timer hits.
#[test]
fn no_sample_inside_the_allocator_is_cut_short() {
    let arguments = ["-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror"];
    let program = common::compile("cc", "unwinding", SAMPLES, &arguments).unwrap();
    for mode in [Mode::Rseq, Mode::OwnRegistration, Mode::Atomic] {
        let mut command = Command::new(&program);
        common::in_mode(&mut command, mode);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{mode:?}: {} {text}", output.status);
        assert!(text.contains("0 cut short"), "{mode:?}: {text}");
    }
}

const SAMPLES: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unwind.h>

enum { WANTED = 300, MOST_SECONDS = 60 };

int main(void);
static uintptr_t from, to;
static volatile int inside, cut, all;

static int bounds(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size, (void)unused;
    if (!strstr(info->dlpi_name, "librsalloc")) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_flags & PF_X) {
            from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            to = from + info->dlpi_phdr[i].p_memsz;
        }
    return 1;
}

static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *found) {
    if (_Unwind_FindEnclosingFunction((void *)(_Unwind_GetIP(context) - 1)) == (void *)main) *(int *)found = 1;
    return _URC_NO_REASON;
}

static void sample(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    int found = 0;
    all++;
    if (at < from || at >= to) return;
    _Unwind_Backtrace(frame, &found);
    inside++;
    cut += !found;
}

int main(void) {
    static void *kept[256];
    dl_iterate_phdr(bounds, NULL);
    int found = 0;
    _Unwind_Backtrace(frame, &found);
    if (!from || !found) return 2;
    struct sigaction action = {.sa_sigaction = sample, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGPROF, &action, NULL);
    struct itimerval each = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_PROF, &each, NULL);
    for (size_t turn = 0; inside < WANTED && all < MOST_SECONDS * 1000; turn++) {
        void **slot = &kept[turn * 2654435761u % 256];
        free(*slot);
        *slot = turn % 5 ? malloc(turn % 777) : turn % 3 ? calloc(1, turn % 2000) : memalign(64, turn % 500);
    }
    setitimer(ITIMER_PROF, &(struct itimerval){0}, NULL);
    printf("%d samples, %d inside, %d cut short\n", all, inside, cut);
    return inside < WANTED ? 3 : cut ? 4 : 0;
}
"#;
