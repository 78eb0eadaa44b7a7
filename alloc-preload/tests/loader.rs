//! The dynamic linker's lock: no allocation and no free asks for it.
//!
//! `dlopen` holds the lock while a plugin's constructor runs. A constructor that starts a thread and joins it
//! hangs for good if that thread asks the dynamic linker anything. A program that hangs is ended by SIGALRM
//! after [`LIMIT`] seconds, which only a failing run takes.

mod common;

use std::path::Path;
use std::process::Command;

const LIMIT: u32 = 20;

/// Every form of new and delete, each for the first time in its process, in a thread that a plugin's
/// constructor joins. In the first host the C++ runtime comes in with the plugin; the second one has it.
#[test]
fn a_constructor_joins_a_thread_that_allocates() {
    let arguments = ["-std=c++17", "-shared", "-fPIC", "-O0", "-w", "-pthread", "-Wl,-z,now"];
    let plugins = [
        ("all forms", FORMS),
        // In processes of their own, so that each is the first to need what the others may have found.
        ("sized delete", "void *p = operator new(100); operator delete(p, 100);"),
        ("nothrow new", "CHECK(operator new(100, std::nothrow));"),
        ("nothrow new that fails", "CHECK(!operator new(SIZE_MAX / 2, std::nothrow));"),
    ];
    for (index, (what, forms)) in plugins.into_iter().enumerate() {
        let source = PLUGIN.replace("FORMS", forms);
        let name = format!("loader-plugin-{index}.so");
        let Some(plugin) = common::compile("g++", &name, &source, &arguments) else { return };
        let host = HOST.replace("LIMIT", &LIMIT.to_string());
        let c = common::compile("cc", "loader-host", &host, &["-w", "-ldl", "-pthread"]).unwrap();
        let arguments = ["-w", "-ldl", "-pthread", "-Wl,--no-as-needed"];
        let cxx = common::compile("g++", "loader-host-cxx", &host, &arguments).unwrap();
        // Where only a plugin brings the runtime, a failure may have to look for it.
        let hosts = [c, cxx];
        let hosts = if what.contains("fails") { &hosts[1..] } else { &hosts[..] };
        for host in hosts {
            for mode in common::ALL {
                run_in(mode, host, &plugin, what);
            }
        }
    }
}

/// A runtime that comes with a plugin may go with it: what was found in it is not used afterwards.
#[test]
#[cfg_attr(not(sections), ignore = "this build leaves the operators to the runtime")]
fn an_unloaded_runtime_is_not_called() {
    let runtime = |which: u32| {
        let source = format!(
            "typedef unsigned long size;
            void *_Znwm(size n) {{ return (void *){which}; }}
            void *_ZnwmSt11align_val_t(size n, size a) {{ return (void *){which}; }}
            void *_ZnwmRKSt9nothrow_t(size n, void *t) {{ return (void *){which}; }}
            void *_ZnwmSt11align_val_tRKSt9nothrow_t(size n, size a, void *t) {{ return (void *){which}; }}"
        );
        let arguments = ["-w", "-shared", "-fPIC", "-Wl,-soname,libc++abi.so.1"];
        common::compile("cc", &format!("loader-runtime-{which}.so"), &source, &arguments).unwrap()
    };
    let (first, second) = (runtime(16), runtime(32));
    let source = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdint.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s\n", __LINE__, #x); return 1; } } while (0)
        void *(*new)(size_t), *(*aligned)(size_t, size_t), *(*nothrow)(size_t, char *), *(*both)(size_t, size_t, char *);
        static int fails(uintptr_t answer) {
            char tag;
            CHECK((uintptr_t)new(SIZE_MAX / 2) == answer);
            CHECK((uintptr_t)aligned(SIZE_MAX / 2, 64) == answer);
            CHECK((uintptr_t)nothrow(SIZE_MAX / 2, &tag) == answer);
            CHECK((uintptr_t)both(SIZE_MAX / 2, 64, &tag) == answer);
            return 0;
        }
        int main(int n, char **arguments) {
            int scope = n > 3 ? RTLD_GLOBAL : RTLD_LOCAL;
            new = dlsym(RTLD_DEFAULT, "_Znwm");
            aligned = dlsym(RTLD_DEFAULT, "_ZnwmSt11align_val_t");
            nothrow = dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
            both = dlsym(RTLD_DEFAULT, "_ZnwmSt11align_val_tRKSt9nothrow_t");
            CHECK(new && aligned && nothrow && both);
            void *runtime = dlopen(arguments[1], RTLD_NOW | scope);
            CHECK(runtime);
            if (fails(16)) return 1;
            uintptr_t code = (uintptr_t)dlsym(runtime, "_Znwm") & -4096ul;
            dlclose(runtime);
            CHECK(!dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD));
            /* The next one must not lie where this one was. */
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
            CHECK(mmap((void *)code, 4096, PROT_NONE, flags, -1, 0) == (void *)code);
            runtime = dlopen(arguments[2], RTLD_NOW | scope);
            CHECK(runtime);
            return fails(32);
        }
    "#;
    let host = common::compile("cc", "loader-runtime-host", source, &["-w", "-ldl"]).unwrap();
    for (mode, scope) in
        common::ON_RSALLOC.into_iter().flat_map(|m| [(m, None), (m, Some("global"))])
    {
        let mut command = Command::new(&host);
        command.arg(first.as_path()).arg(second.as_path()).args(scope);
        common::in_mode(&mut command, mode);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{mode:?}, {scope:?}: {output:?}");
    }
}

/// A plugin whose own runtime is linked in, in a program without one: nothing can be found.
#[test]
#[cfg_attr(not(sections), ignore = "this build leaves the operators to the runtime")]
fn nothrow_new_needs_no_runtime() {
    let source = r#"
        #include <dlfcn.h>
        #include <stdint.h>
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) {
            void *(*nothrow)(size_t, char *) = dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
            void *(*array)(size_t, char *) = dlsym(RTLD_DEFAULT, "_ZnamRKSt9nothrow_t");
            void *(*aligned)(size_t, size_t, char *) = dlsym(RTLD_DEFAULT, "_ZnwmSt11align_val_tRKSt9nothrow_t");
            void *(*both)(size_t, size_t, char *) = dlsym(RTLD_DEFAULT, "_ZnamSt11align_val_tRKSt9nothrow_t");
            char tag, *p;
            for (size_t n = 1; n < 100000; n += n / 2 + 1) {
                if (!(p = nothrow(n, &tag))) return 1;
                p[n - 1] = 1; free(p);
                if (!(p = array(n, &tag))) return 2;
                p[n - 1] = 1; free(p);
                if (!(p = aligned(n, 256, &tag)) || (uintptr_t)p % 256) return 3;
                p[n - 1] = 1; free(p);
                if (!(p = both(n, 256, &tag)) || (uintptr_t)p % 256) return 4;
                p[n - 1] = 1; free(p);
            }
            if (nothrow(SIZE_MAX / 2, &tag) || array(SIZE_MAX, &tag)) return 5;
            if (aligned(SIZE_MAX / 2, 64, &tag) || both(SIZE_MAX, 64, &tag)) return 6;
            return 0;
        }
    "#;
    let program = common::compile("cc", "loader-no-runtime", source, &["-w", "-ldl"]).unwrap();
    for mode in common::ON_RSALLOC {
        let mut command = Command::new(&program);
        common::in_mode(&mut command, mode);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{mode:?}: {output:?}");
    }
}

/// The library marks itself as one that `dlclose` leaves alone.
#[test]
fn the_library_cannot_be_unloaded() {
    let source = r#"
        #include <dlfcn.h>
        int main(int n, char **arguments) {
            void *library = dlopen(arguments[1], RTLD_NOW);
            if (!library) return 1;
            dlclose(library);
            return dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) ? 0 : 2;
        }
    "#;
    let program = common::compile("cc", "loader-unload", source, &["-w", "-ldl"]).unwrap();
    // A second one, in front of libc's, that refuses to pin.
    let source = r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        void *dlopen(const char *name, int flags) {
            void *(*next)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");
            return flags & RTLD_NODELETE ? 0 : next(name, flags);
        }
    "#;
    let refuses = common::compile("cc", "loader-refuses.so", source, &["-w", "-shared", "-fPIC"]);
    for preload in [None, refuses] {
        let mut command = Command::new(&program);
        command.arg(common::library()).env_remove("RSALLOC_CONF");
        preload.map(|library| command.env("LD_PRELOAD", library));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn run_in(mode: common::Mode, host: &Path, plugin: &Path, what: &str) {
    let mut command = Command::new(host);
    common::in_mode(command.arg(plugin), mode);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{what} in {} on {mode:?}: {output:?}", host.display());
}

const HOST: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int main(int n, char **arguments) {
    alarm(LIMIT);
    void *plugin = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!plugin) { fprintf(stderr, "%s\n", dlerror()); return 99; }
    return *(int *)dlsym(plugin, "failed_line");
}
"#;

const PLUGIN: &str = r#"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <initializer_list>
#include <pthread.h>
#define CHECK(x) do { if (!(x)) { failed_line = __LINE__; fprintf(stderr, "%s\n", #x); } } while (0)
extern "C" { int failed_line; }
static void *thread(void *) {
    std::align_val_t al{64};
    FORMS
    return 0;
}
__attribute__((constructor)) static void at_load() {
    pthread_t t;
    CHECK(!pthread_create(&t, 0, thread, 0));
    CHECK(!pthread_join(t, 0));
}
"#;

const FORMS: &str = r#"
for (size_t n : {1, 100, 5000, 300000}) {
    operator delete(operator new(n));                    operator delete[](operator new[](n));
    operator delete(operator new(n), n);                 operator delete[](operator new[](n), n);
    operator delete(operator new(n, std::nothrow));      operator delete[](operator new[](n, std::nothrow));
    operator delete(operator new(n), std::nothrow);      operator delete[](operator new[](n), std::nothrow);
    operator delete(operator new(n, al), al);            operator delete[](operator new[](n, al), al);
    operator delete(operator new(n, al), n, al);         operator delete[](operator new[](n, al), n, al);
    operator delete(operator new(n, al, std::nothrow), al);
    operator delete[](operator new[](n, al, std::nothrow), al);
    operator delete(operator new(n, al), al, std::nothrow);
    operator delete[](operator new[](n, al), al, std::nothrow);
    free(realloc(malloc(n), 2 * n));                     free(calloc(n, 2));
    void *p; CHECK(!posix_memalign(&p, 64, n));          free(p);
}
"#;
