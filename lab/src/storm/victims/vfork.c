/* AMOUNT children of vfork, which share the memory and allocate in it, while other threads do so too;
 * one child in eight execs at the end, one leaves its objects to its parent, one vforks again, one forks.
 */
#include "storm.h"
#include "workers.h"

enum { LEFT = 16 };

static void reap(pid_t child) {
    int status = 0;
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    if (status) fail("a child ended with status", (size_t)status);
}

/* What the child does; not inlined, so that its frame is not the caller's. */
__attribute__((noinline)) static void live(uint64_t *state, struct object *left) {
    struct object own[SLOTS] = {0};
    for (int i = 0; i < 400; i++) step(state, own, SLOTS, i % 64 ? 1 << 12 : 1 << 19);
    drop_all(own, SLOTS);
    for (int i = 0; i < LEFT; i++) {
        drop(&left[i]);
        left[i] = make(state, size_below(state, 1 << 12));
    }
}

__attribute__((noinline)) static void vfork_one(size_t number, uint64_t *state, struct object *left) {
    pid_t child = vfork();
    if (child == 0) {
        deny_sections(number);
        live(state, left);
        if (number % 8 == 0) {
            execl("/proc/self/exe", "child", NULL);
            _exit(9);
        }
        if (number % 8 == 1) {
            pid_t inner = vfork();
            if (inner == 0) {
                deny_sections(number);
                live(state, left);
                _exit(0);
            }
            int status = 0;
            if (waitpid(inner, &status, 0) != inner || status) _exit(8);
            live(state, left);
        }
        if (number % 8 == 2) {
            pid_t inner = fork();
            if (inner == 0) {
                pthread_t thread = start(work, (void *)77);
                for (int i = 0; i < 8; i++) live(state, left);
                stop = 1;
                pthread_join(thread, NULL);
                validate("the validator found a defect in the child of a child");
                _exit(0);
            }
            int status = 0;
            if (waitpid(inner, &status, 0) != inner || status) _exit(7);
        }
        _exit(0);
    }
    /* Our own, at once: the ids must be right again. */
    live(state, left);
    reap(child);
}

static void *vforker(void *argument) {
    size_t first = ((size_t *)argument)[0], end = ((size_t *)argument)[1];
    uint64_t state = seed_of(first);
    struct object left[LEFT] = {0};
    for (size_t number = first; number < end; number += 2) {
        vfork_one(number, &state, left);
        if (number % 50 == 0) say("at %zu\n", number);
    }
    drop_all(left, LEFT);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 2) return 0; /* what a child execs */
    size_t goal = amount(argc, argv);
    free(malloc(1));
    say("at 0\n");
    pthread_t workers[WORKERS];
    for (uintptr_t i = 0; i < WORKERS; i++) workers[i] = start(work, (void *)(i + 1));
    /* Two at once, so that one's end is not the other's. */
    size_t even[] = {0, goal}, odd[] = {1, goal};
    pthread_t other = start(vforker, odd);
    vforker(even);
    pthread_join(other, NULL);
    if (is_seen() && !announces(100000)) fail("no child is left, and sections stay closed", goal);
    stop = 1;
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
    malloc_trim(0);
    validate("the validator found a defect at the end");
    CHECK(steps > 1000);
    say("done: %zu children of vfork, beside %zu steps of %d threads\n", goal, steps, WORKERS);
    return 0;
}
