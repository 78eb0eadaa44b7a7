/* What the victims share: objects with marks, random numbers, and how they speak with the harness.
 *
 * A victim prints `at N` as it goes on (the first `at 0` when the allocator has been used, so that its
 * mode can be asked for from outside) and `done: what it did` at the end. Whatever is wrong ends it with
 * one line. Nothing here but the object functions calls malloc, so signal handlers may use all of it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Ends the process with one line; also in a child, a handler or a thread. */
__attribute__((noreturn, unused)) static void fail(const char *what, size_t value) {
    char line[200];
    int len = snprintf(line, sizeof line, "%s (%zu)\n", what, value);
    if (write(2, line, (size_t)len) < 0) _exit(4);
    _exit(3);
}

#define CHECK(condition) ((condition) ? (void)0 : fail("not so: " #condition, (size_t)errno))

__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...) {
    char line[300];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (write(1, line, (size_t)len) != len) fail("the harness does not listen", 0);
    /* The harness may still want to ask the process. */
    if (strncmp(format, "done:", 5) == 0)
        while (read(0, line, 1) > 0) {}
}

__attribute__((unused)) static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

__attribute__((unused)) static uint64_t amount(int argc, char **argv) {
    if (argc < 2) fail("usage: victim AMOUNT", 0);
    return strtoull(argv[1], NULL, 10);
}

/* xorshift64* */
__attribute__((unused)) static uint64_t next(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

__attribute__((unused)) static uint64_t seed_of(uint64_t number) { return (number + 1) * 0x9e3779b97f4a7c15ull; }

/* As many sizes in each octave from 1 to `max`, a power of two. */
__attribute__((unused)) static size_t size_below(uint64_t *state, size_t max) {
    unsigned octave = (unsigned)(next(state) % (uint64_t)__builtin_ctzll(max));
    return ((size_t)1 << octave) + (next(state) & (((size_t)1 << octave) - 1));
}

/* Whether libc's area is the one that sections announce themselves in, which shows that they are in use. */
__attribute__((unused)) static int is_seen(void) {
    const char *settings = getenv("RSALLOC_CONF");
    return __rseq_size && !(settings && strstr(settings, "atomic"));
}

/* Whether one of some calls announced a section: the kernel clears what is announced now and then. */
__attribute__((unused, noinline)) static int announces(int calls) {
    volatile struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    for (int i = 0; i < calls; i++) {
        *(volatile uint64_t *)&area->rseq_cs = 0;
        free(malloc(40));
        if (*(volatile uint64_t *)&area->rseq_cs) return 1;
    }
    return 0;
}

/* For a child that the kernel has not registered: it must not run sections, where that can be seen. */
__attribute__((unused)) static void deny_sections(size_t number) {
    if (is_seen() && announces(20)) fail("a child runs sections", number);
}

/* An object and what must be in it; `p` null: none. */
struct object {
    unsigned char *p;
    size_t len;
    uint64_t seed;
};

/* The bytes that are looked at: the first 64, the last 8, and some between (in the largest few). */
static size_t after(size_t i, size_t len) {
    size_t step = i < 63 ? 1 : len > (1 << 20) ? 65521 : 509;
    return i + 8 >= len || i + step < len - 8 ? i + (i + 8 >= len ? 1 : step) : len - 8;
}

static unsigned char byte_of(uint64_t seed, size_t i) { return (unsigned char)(seed + i * 31 + (i >> 8)); }

__attribute__((unused)) static void fill(struct object o) {
    for (size_t i = 0; i < o.len; i = after(i, o.len)) o.p[i] = byte_of(o.seed, i);
}

/* `len`: how much of it has to be right. */
static void verify_first(struct object o, size_t len, const char *when) {
    size_t i = 0;
    for (; i < o.len && i < len; i = after(i, o.len))
        if (o.p[i] != byte_of(o.seed, i)) fail(when, i);
}

__attribute__((unused)) static void verify(struct object o) { verify_first(o, o.len, "wrong byte in an object of mine"); }

static int all_zero(const unsigned char *p, size_t len) {
    for (size_t i = 0; i < len; i = after(i, len))
        if (p[i]) return 0;
    return 1;
}

/* An object of `len` bytes by one of the four ways; with a null `p` if memory is out. */
__attribute__((unused)) static struct object try_make(uint64_t *state, size_t len) {
    uint64_t seed = next(state);
    struct object o = {NULL, len, seed};
    size_t align = (size_t)16 << (seed >> 60);
    switch ((seed >> 32) % 8) {
    case 0:
        o.p = calloc(1, len);
        if (o.p && !all_zero(o.p, len)) fail("calloc gave what is not zero", len);
        break;
    case 1:
        o.p = aligned_alloc(align, len);
        if ((uintptr_t)o.p % align) fail("not aligned", align);
        break;
    case 2: o.p = realloc(NULL, len); break;
    default: o.p = malloc(len);
    }
    if (o.p) {
        if (malloc_usable_size(o.p) < len) fail("usable size too small", len);
        fill(o);
    }
    return o;
}

__attribute__((unused)) static struct object make(uint64_t *state, size_t len) {
    struct object o = try_make(state, len);
    if (!o.p) fail("out of memory", len);
    return o;
}

__attribute__((unused)) static void drop(struct object *o) {
    if (!o->p) return;
    verify(*o);
    /* A second holder of the object finds a wrong byte. */
    o->p[0] ^= 0x5a;
    free(o->p);
    o->p = NULL;
}

/* Returns 0 if memory is out; the object is as before then. */
__attribute__((unused)) static int try_resize(struct object *o, size_t len) {
    verify(*o);
    unsigned char *p = realloc(o->p, len);
    if (!p) {
        verify(*o);
        return 0;
    }
    size_t kept = len < o->len ? len : o->len, i = 0;
    for (; i < kept; i = after(i, o->len))
        if (p[i] != byte_of(o->seed, i)) fail("wrong byte after realloc", i);
    o->p = p, o->len = len;
    fill(*o);
    return 1;
}

__attribute__((unused)) static void resize(struct object *o, size_t len) {
    if (!try_resize(o, len)) fail("out of memory in realloc", len);
}

/* One step of a mixed load on a table of objects. */
__attribute__((unused)) static void step(uint64_t *state, struct object *table, size_t slots, size_t max) {
    uint64_t dice = next(state);
    struct object *o = &table[dice % slots];
    if (!o->p)
        *o = make(state, size_below(state, max));
    else if ((dice >> 40) % 4 == 0)
        resize(o, size_below(state, max));
    else
        drop(o);
}

__attribute__((unused)) static void drop_all(struct object *table, size_t slots) {
    for (size_t i = 0; i < slots; i++) drop(&table[i]);
}

/* The whole heap, by its own validator; glibc has none. */
__attribute__((unused)) static void validate(const char *when) {
    int (*check)(void) = (int (*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "rsalloc_check");
    if (check && check()) fail(when, 0);
}

/* The calling thread works on, but others come first. */
__attribute__((unused)) static void run_behind(void) { setpriority(PRIO_PROCESS, 0, 10); }

__attribute__((unused)) static pthread_t start(void *(*body)(void *), void *argument) {
    pthread_t thread;
    int error = pthread_create(&thread, NULL, body, argument);
    if (error) fail("pthread_create", (size_t)error);
    return thread;
}
