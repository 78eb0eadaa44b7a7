//! The heap profile beside the dynamic linker: stacks are read while libraries come and go.

mod common;

use std::process::Command;

/// Threads allocate with a profile at a small interval while a library is loaded, allocates in its constructor and in its
/// function, and is unloaded again: no stack may be read with the linker's lock held, nor from what is unmapped.
#[test]
fn libraries_come_and_go_beside_sampled_allocations() {
    let arguments = ["-w", "-O1", "-shared", "-fPIC"];
    let plugin = common::compile("cc", "profiled-plugin.so", PLUGIN, &arguments).unwrap();
    let arguments = ["-w", "-O1", "-ldl", "-pthread"];
    let host = common::compile("cc", "profiled-host", HOST, &arguments).unwrap();
    for (mode, conf) in [
        (common::Mode::Rseq, "profile:1k"),
        (common::Mode::OwnRegistration, "profile:1k"),
        (common::Mode::Atomic, "mode:atomic,profile:1k"),
        (common::Mode::Hardened, "hardened:1,profile:1k"),
        (common::Mode::Guarded, "guard:10,profile:1k"),
    ] {
        let mut command = Command::new(&host);
        common::in_mode(command.arg(&plugin), mode);
        let output = command.env("RSALLOC_CONF", conf).output().unwrap();
        assert!(output.status.success(), "{mode:?}, {conf}: {output:?}");
    }
}

const PLUGIN: &str = r#"
#include <stdlib.h>
static void *volatile kept[32];
__attribute__((noinline)) static void fill(int n) {
    for (int i = 0; i < 32; i++) { kept[i] = malloc(n + 100 * i); if (!kept[i]) abort(); }
    for (int i = 0; i < 32; i++) free(kept[i]);
}
__attribute__((constructor)) static void at_load(void) { fill(16); }
void *work(int n) { fill(n); return malloc(3000); }
__attribute__((destructor)) static void at_unload(void) { fill(500); }
"#;

const HOST: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s\n", __LINE__, #x); _exit(1); } } while (0)
static volatile int stop;
static void *allocate(void *seed) {
    unsigned random = (long)seed;
    char *live[64] = {};
    long rounds = 0;
    for (; !stop; rounds++) {
        random = random * 1664525 + 1013904223;
        int at = random >> 26, size = 1 + (random >> 8) % 9000;
        if (live[at]) CHECK(live[at][0] == at);
        free(live[at]);
        CHECK(live[at] = malloc(size));
        live[at][0] = at;
    }
    for (int i = 0; i < 64; i++) free(live[i]);
    return (void *)rounds;
}
int main(int n, char **arguments) {
    alarm(30);
    pthread_t threads[3];
    for (long i = 0; i < 3; i++) CHECK(!pthread_create(&threads[i], 0, allocate, (void *)(i + 1)));
    for (int round = 0; round < 150; round++) {
        void *plugin = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        CHECK(plugin);
        void *(*work)(int) = dlsym(plugin, "work");
        CHECK(work);
        void *kept = work(round);
        dlclose(plugin);
        CHECK(!dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD));
        free(kept);
    }
    stop = 1;
    for (int i = 0; i < 3; i++) {
        void *rounds;
        CHECK(!pthread_join(threads[i], &rounds));
        CHECK((long)rounds > 100);
    }
    int (*check)(void) = dlsym(RTLD_DEFAULT, "rsalloc_check"), (*end)(void) = dlsym(RTLD_DEFAULT, "rsalloc_profile_stop");
    CHECK(check && end);
    CHECK(!end());
    CHECK(!check());
    return 0;
}
"#;
