/* A crash inside malloc: the allocator's metadata is made unreadable again and again, so that it faults in
 * its middle, locks held. The handler, on a stack of its own, makes it readable and allocates, frees,
 * resizes, now and then forks, and may crash itself, since another thread hides it again; then the call that
 * crashed goes on. AMOUNT crashes, by three threads.
 */
#include "storm.h"
#include <sys/mman.h>

/* The first page of a segment: its lock and the entries of its pages, which are always mapped. */
enum { THREADS = 3, SLOTS = 100, METADATA = 1 << 16 };
static const uintptr_t SEGMENT = 64 << 20;

static size_t goal;
static atomic_size_t crashes, forks, hidden;
static atomic_uintptr_t segment;

/* Of each thread: how many handlers stand on each other, and what each of them has. */
enum { DEPTH = 4 };
static _Thread_local struct object handlers[DEPTH][SLOTS];
static _Thread_local uint64_t handlers_state[DEPTH];
static _Thread_local int depth;

static void protect(int how) { CHECK(mprotect((void *)segment, METADATA, how) == 0); }

static size_t size(uint64_t *state) {
    uint64_t dice = next(state) >> 8;
    if (dice % 256 == 0) return (size_t)33 << 20;
    if (dice % 16 == 0) return size_below(state, 1 << 22);
    return size_below(state, 1 << 15);
}

static void turn(uint64_t *state, struct object *table) {
    struct object *o = &table[next(state) % SLOTS];
    if (!o->p)
        *o = make(state, size(state));
    else if (next(state) % 3 == 0)
        resize(o, size(state));
    else
        drop(o);
}

static void on_crash(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    uintptr_t at = (uintptr_t)info->si_addr;
    if (at - segment >= METADATA) fail("a crash that was not ordered, at", at);
    int saved = errno;
    protect(PROT_READ | PROT_WRITE);
    size_t crash = atomic_fetch_add(&crashes, 1);
    if (depth == DEPTH) return;
    int mine = depth++;
    for (int i = 0; i < 30; i++) turn(&handlers_state[mine], handlers[mine]);
    if (crash % 64 == 0) {
        pid_t child = fork();
        if (child == 0) {
            for (int i = 0; i < 100; i++) turn(&handlers_state[mine], handlers[mine]);
            drop_all(handlers[mine], SLOTS);
            _exit(0);
        }
        int status = 0;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (status) fail("a child of a handler ended with status", (size_t)status);
        forks++;
    }
    depth--;
    errno = saved;
}

static void *work(void *number) {
    static _Thread_local char stack[1 << 18];
    stack_t aside = {.ss_sp = stack, .ss_size = sizeof stack};
    CHECK(sigaltstack(&aside, NULL) == 0);
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of((uintptr_t)number);
    for (int i = 0; i < DEPTH; i++) handlers_state[i] = seed_of((uintptr_t)number + 100 + (uintptr_t)i * 10);
    while (crashes < goal) {
        turn(&state, own);
        if (next(&state) % 16 == 0) {
            /* Any other thread may be the one that crashes. */
            hidden++;
            protect(PROT_NONE);
        }
    }
    drop_all(own, SLOTS);
    for (int i = 0; i < DEPTH; i++) drop_all(handlers[i], SLOTS);
    return NULL;
}

int main(int argc, char **argv) {
    goal = amount(argc, argv);
    /* A small object lies in a segment, whose metadata is in front. */
    unsigned char *some = malloc(100);
    segment = (uintptr_t)some & -SEGMENT;
    struct sigaction action = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    say("at 0\n");
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = start(work, (void *)i);
    for (size_t said = 0; crashes < goal;) {
        usleep(100000);
        /* Silence says that nothing goes on. */
        if (crashes != said) say("at %zu\n", said = crashes);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    protect(PROT_READ | PROT_WRITE);
    free(some);
    malloc_trim(0);
    validate("the validator found a defect at the end");
    say("done: %zu crashes inside the allocator, %zu forks in handlers\n", crashes, forks);
    return 0;
}
