//! C++ programs: all forms of new and delete, exceptions and new-handlers, replaced operators.
//!
//! Needs g++; without it nothing here is tested, which is said (and is a failure on a CI machine).

mod common;

use std::process::Command;

#[test]
fn every_form_of_new_and_delete() {
    runs_in_each_mode("cxx-forms", FORMS, &["-std=c++17"]);
}

#[test]
fn a_failed_new_calls_the_handler_and_throws() {
    runs_in_each_mode("cxx-failures", FAILURES, &["-std=c++17"]);
}

#[test]
fn a_program_that_replaces_only_new_and_delete() {
    runs_in_each_mode("cxx-replaced", REPLACED, &["-std=c++17", "-DWITH_DELETE"]);
}

#[test]
fn a_program_that_replaces_only_new() {
    runs_in_each_mode("cxx-replaced-new", REPLACED, &["-std=c++17"]);
}

#[test]
fn containers_strings_and_threads() {
    runs_in_each_mode("cxx-containers", CONTAINERS, &["-std=c++17", "-pthread"]);
}

#[test]
fn with_the_runtime_linked_in() {
    let arguments = ["-std=c++17", "-static-libstdc++", "-static-libgcc"];
    runs_in_each_mode("cxx-static-forms", FORMS, &arguments);
    runs_in_each_mode("cxx-static-failures", FAILURES, &arguments);
}

/// The runtime comes in with a plugin only, so it is not in the global scope.
#[test]
fn a_plugin_in_a_c_program() {
    let Some(plugin) = common::compile(
        "g++",
        "cxx-plugin.so",
        &format!("#define main plugin_main\nextern \"C\" int plugin_main();\n{FAILURES}"),
        &["-std=c++17", "-shared", "-fPIC", "-O0", "-w"],
    ) else {
        return;
    };
    let source = r#"
        #include <dlfcn.h>
        int main(int n, char **arguments) {
            void *plugin = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
            return plugin ? ((int (*)(void))dlsym(plugin, "plugin_main"))() : 99;
        }
    "#;
    let program = common::compile("cc", "cxx-plugin-host", source, &["-w", "-ldl"]).unwrap();
    run_in_each_mode(&program, &[plugin.as_os_str()]);
}

/// The constructors of other libraries may run before the preloaded library's own.
#[test]
fn a_nothrow_new_that_fails_in_another_librarys_constructor() {
    let arguments = ["-std=c++17", "-shared", "-fPIC", "-O0", "-w"];
    let Some(library) = common::compile("g++", "libcxx-early.so", EARLY_LIBRARY, &arguments) else {
        return;
    };
    let library = library.to_str().unwrap();
    let arguments = ["-std=c++17", "-O0", "-w", "-Wl,--no-as-needed", library];
    let program = common::compile("g++", "cxx-early", EARLY_PROGRAM, &arguments).unwrap();
    run_in_each_mode(&program, &[]);
}

const EARLY_LIBRARY: &str = r#"
#include <new>
int nulls;
__attribute__((constructor)) static void early() {
    std::align_val_t al{64};
    nulls += !operator new(77777, std::nothrow);
    nulls += !operator new[](77777, std::nothrow);
    nulls += !operator new(77777, al, std::nothrow);
    nulls += !operator new[](77777, al, std::nothrow);
}
"#;

const EARLY_PROGRAM: &str = r#"
#include <cstdlib>
#include <new>
extern int nulls;
void *operator new(std::size_t n) { if (n == 77777) throw std::bad_alloc(); return malloc(n); }
void *operator new(std::size_t n, std::align_val_t al) { if (n == 77777) throw std::bad_alloc(); return aligned_alloc((std::size_t)al, n); }
void operator delete(void *p) noexcept { free(p); }
void operator delete(void *p, std::align_val_t) noexcept { free(p); }
int main() { return nulls == 4 ? 0 : 1; }
"#;

fn runs_in_each_mode(name: &str, source: &str, arguments: &[&str]) {
    // -O0: an optimiser may leave pairs of new and delete out.
    let arguments = [arguments, &["-O0", "-w"]].concat();
    if let Some(program) = common::compile("g++", name, source, &arguments) {
        run_in_each_mode(&program, &[]);
    }
}

/// The programs end with 0, or with the line of the check that failed on stderr.
fn run_in_each_mode(program: &std::path::Path, arguments: &[&std::ffi::OsStr]) {
    for mode in common::ALL {
        let mut command = Command::new(program);
        command.args(arguments);
        common::in_mode(&mut command, mode);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{} on {mode:?}: {} {}",
            program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr),
        );
    }
}

const FORMS: &str = r#"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s\n", __LINE__, #x); return 1; } } while (0)
int main() {
    for (int round = 0; round < 200; round++)
    for (size_t n : {0, 1, 7, 8, 9, 16, 24, 100, 1000, 5000, 40000, 300000}) {
        if (round > 20 && n > 10000) continue;
        auto fill = [&](void *p) { memset(p, round, n); return p; };
        void *p;
        CHECK(p = fill(operator new(n)));      operator delete(p);
        CHECK(p = fill(operator new(n)));      operator delete(p, n);
        CHECK(p = fill(operator new(n)));      operator delete(p, std::nothrow);
        CHECK(p = fill(operator new(n)));      free(p);
        CHECK(p = fill(operator new[](n)));    operator delete[](p);
        CHECK(p = fill(operator new[](n)));    operator delete[](p, n);
        CHECK(p = fill(operator new[](n)));    operator delete[](p, std::nothrow);
        CHECK(p = fill(operator new(n, std::nothrow)));   operator delete(p, n);
        CHECK(p = fill(operator new[](n, std::nothrow))); operator delete[](p, n);
        CHECK(p = fill(malloc(n)));            operator delete(p);
        for (size_t a : {8, 16, 32, 64, 4096, 65536}) {
            std::align_val_t al{a};
            auto good = [&](void *q) { return q && (uintptr_t)q % a == 0; };
            CHECK(good(p = fill(operator new(n, al))));   operator delete(p, al);
            CHECK(good(p = fill(operator new(n, al))));   operator delete(p, n, al);
            CHECK(good(p = fill(operator new(n, al))));   operator delete(p, al, std::nothrow);
            CHECK(good(p = fill(operator new(n, al))));   free(p);
            CHECK(good(p = fill(operator new[](n, al)))); operator delete[](p, al);
            CHECK(good(p = fill(operator new[](n, al)))); operator delete[](p, n, al);
            CHECK(good(p = fill(operator new[](n, al)))); operator delete[](p, al, std::nothrow);
            CHECK(good(p = fill(operator new(n, al, std::nothrow))));   operator delete(p, n, al);
            CHECK(good(p = fill(operator new[](n, al, std::nothrow)))); operator delete[](p, n, al);
        }
    }
    void *none = nullptr;
    operator delete(none); operator delete[](none); operator delete(none, 8); operator delete[](none, 8);
    operator delete(none, std::align_val_t{64}); operator delete(none, 8, std::align_val_t{64});
    return 0;
}
"#;

const FAILURES: &str = r#"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s\n", __LINE__, #x); return 1; } } while (0)
static int calls;
static void gives_up() { if (++calls % 3 == 0) std::set_new_handler(nullptr); }
struct Own {};
static void throws_own() { ++calls; throw Own(); }
template <class F> static int caught(F f) {
    try { f(); return 0; }
    catch (const std::bad_alloc &) { return 1; }
    catch (const Own &) { return 2; }
}
int main() {
    // Not nearer to SIZE_MAX: libstdc++ itself overflows when it rounds that up to the alignment.
    volatile size_t sizes[] = {SIZE_MAX - 4096, SIZE_MAX / 2 + 1, SIZE_MAX / 2, (size_t)1 << 47};
    std::align_val_t al{64};
    for (size_t n : sizes) {
        std::set_new_handler(nullptr);
        CHECK(caught([&] { operator new(n); }) == 1);
        CHECK(caught([&] { operator new[](n); }) == 1);
        CHECK(caught([&] { operator new(n, al); }) == 1);
        CHECK(caught([&] { operator new[](n, al); }) == 1);
        CHECK(!operator new(n, std::nothrow));
        CHECK(!operator new[](n, std::nothrow));
        CHECK(!operator new(n, al, std::nothrow));
        CHECK(!operator new[](n, al, std::nothrow));
        calls = 0;
        std::set_new_handler(gives_up);
        CHECK(caught([&] { operator new(n); }) == 1 && calls == 3);
        std::set_new_handler(gives_up);
        CHECK(caught([&] { operator new[](n, al); }) == 1 && calls == 6);
        std::set_new_handler(gives_up);
        CHECK(!operator new(n, std::nothrow) && calls == 9);
        std::set_new_handler(throws_own);
        CHECK(caught([&] { operator new(n); }) == 2 && calls == 10);
        CHECK(caught([&] { operator new[](n); }) == 2 && calls == 11);
        CHECK(caught([&] { operator new(n, al); }) == 2 && calls == 12);
        // What a handler throws is caught by the forms that do not throw.
        CHECK(!operator new(n, std::nothrow) && calls == 13);
        CHECK(!operator new[](n, al, std::nothrow) && calls == 14);
    }
    std::set_new_handler(nullptr);
    // And memory is still there.
    delete[] new char[100000];
    return 0;
}
"#;

/// The objects that these operators give are no objects of malloc: they lie inside one. A sized
/// delete that did not come back to the program's own would free inner pointers.
const REPLACED: &str = r#"
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <memory>
#include <new>
#include <string>
#include <vector>
#define CHECK(x) do { if (!(x)) { fprintf(stderr, "line %d: %s\n", __LINE__, #x); return 1; } } while (0)
static long made, freed;
static bool refuses;
#ifdef WITH_DELETE
void *operator new(std::size_t n) { ++made; if (refuses) throw std::bad_alloc(); char *p = (char *)malloc(n + 64); *(long *)p = 77; return p + 64; }
void operator delete(void *p) noexcept {
    if (!p) return;
    ++freed; char *q = (char *)p - 64; if (*(long *)q != 77) abort(); *(long *)q = 0; free(q);
}
#else
// More than was asked for, so that the size is not the object's.
void *operator new(std::size_t n) { ++made; if (refuses) throw std::bad_alloc(); return malloc(4 * n + 1000); }
#endif
int main() {
    // Makes the cache of this size large and empty, or a wrong object would not fit and go back to its slab.
    for (int i = 0; i < 2000; i++) if (!malloc(100)) return 1;
    for (int round = 0; round < 1000; round++) {
        void *p;
        p = operator new(100);      operator delete(p, 100);
        p = operator new[](100);    operator delete[](p, 100);
        p = operator new[](100);    operator delete[](p);
        p = operator new(100, std::nothrow);   operator delete(p);
        p = operator new[](100, std::nothrow); operator delete[](p, std::nothrow);
        p = operator new(100, std::align_val_t{64}); operator delete(p, 100, std::align_val_t{64});
        std::vector<std::string> v(20, std::string(100, 'x'));
        auto q = std::make_unique<int[]>(50);
    }
    CHECK(made >= 5000 + 22000);
    refuses = true;
    CHECK(!operator new(100, std::nothrow) && !operator new[](100, std::nothrow));
    refuses = false;
#ifdef WITH_DELETE
    CHECK(made - freed < 20);
#endif
    // A size class that had been handed the wrong objects would show here.
    std::vector<char *> live;
    for (int i = 0; i < 5000; i++) { char *p = (char *)malloc(100); for (int k = 0; k < 100; k++) p[k] = i; live.push_back(p); CHECK(malloc_usable_size(p) < 200); }
    for (int i = 0; i < 5000; i++) for (int k = 0; k < 100; k++) CHECK(live[i][k] == (char)i);
    return 0;
}
"#;

const CONTAINERS: &str = r#"
#include <cstdio>
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>
struct alignas(128) Wide { char bytes[300]; };
static long work(int seed) {
    std::map<std::string, std::vector<int>> map;
    std::unordered_map<int, std::shared_ptr<Wide>> wide;
    for (int i = 0; i < 20000; i++) {
        map[std::to_string((i * 7919 + seed) % 3000)].push_back(i);
        wide[i % 500] = std::make_shared<Wide>();
        if ((uintptr_t)wide[i % 500].get() % 128) return -1;
        if (i % 1000 == 0) map.erase(map.begin(), std::next(map.begin(), map.size() / 2));
    }
    std::vector<int> all;
    for (auto &e : map) all.insert(all.end(), e.second.begin(), e.second.end());
    std::stable_sort(all.begin(), all.end());
    long sum = 0;
    for (int x : all) sum = sum * 31 + x;
    return sum < 0 ? -sum : sum;
}
int main() {
    long alone = work(1), sums[4] = {0};
    std::vector<std::thread> threads;
    for (auto &s : sums) threads.emplace_back([&s] { s = work(1); });
    for (auto &t : threads) t.join();
    for (long s : sums) if (s != alone || s == -1) { fprintf(stderr, "%ld, not %ld\n", s, alone); return 1; }
    return 0;
}
"#;
