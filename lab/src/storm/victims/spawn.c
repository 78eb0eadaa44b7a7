/* AMOUNT programs started by posix_spawn and by vfork and exec in turn, by two threads, while others
 * allocate without pause.
 */
#include "storm.h"
#include <spawn.h>

enum { WORKERS = 4, SLOTS = 100 };

static atomic_int stop;
static atomic_size_t steps, started;
static size_t goal;

static void *work(void *number) {
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of((uintptr_t)number);
    size_t count = 0;
    run_behind();
    for (; !stop; count++) step(&state, own, SLOTS, count % 64 ? 1 << 12 : 1 << 20);
    drop_all(own, SLOTS);
    atomic_fetch_add(&steps, count);
    return NULL;
}

__attribute__((noinline)) static pid_t by_vfork(char **arguments) {
    pid_t child = vfork();
    if (child == 0) {
        execv("/proc/self/exe", arguments);
        _exit(9);
    }
    return child;
}

static void *starter(void *argument) {
    (void)argument;
    char *arguments[] = {"child", NULL};
    size_t number;
    while ((number = atomic_fetch_add(&started, 1)) < goal) {
        pid_t child = -1;
        if (number % 2)
            child = by_vfork(arguments);
        else
            CHECK(posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ) == 0);
        int status = 0;
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (status) fail("a child ended with status", (size_t)status);
        if (number % 50 == 0) say("at %zu\n", number);
    }
    return NULL;
}

/* What is started: uses the heap a little. */
static int child(void) {
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of(1);
    for (int i = 0; i < 300; i++) step(&state, own, SLOTS, 1 << 12);
    drop_all(own, SLOTS);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) return child();
    goal = amount(argc, argv);
    pthread_t workers[WORKERS];
    for (uintptr_t i = 0; i < WORKERS; i++) workers[i] = start(work, (void *)(i + 1));
    pthread_t other = start(starter, NULL);
    starter(NULL);
    pthread_join(other, NULL);
    stop = 1;
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
    validate("the validator found a defect at the end");
    CHECK(steps > 1000);
    say("done: %zu programs started, beside %zu steps of %d threads\n", goal, steps, WORKERS);
    return 0;
}
