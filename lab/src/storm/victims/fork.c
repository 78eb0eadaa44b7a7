/* Two threads fork, AMOUNT times in all, while others allocate without pause. The child has a whole heap:
 * it finds its objects, allocates, starts a thread, and every fourth one forks again.
 */
#include "storm.h"

enum { WORKERS = 2, FORKERS = 2, SLOTS = 100 };

static atomic_int stop;
static atomic_size_t forks, steps, grandchildren;
static size_t goal;

static void *work(void *number) {
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of((uintptr_t)number);
    size_t count = 0;
    /* Large ones too: the page heap must be busy as well. */
    for (; !stop; count++) step(&state, own, SLOTS, count % 64 ? 1 << 14 : 1 << 20);
    drop_all(own, SLOTS);
    atomic_fetch_add(&steps, count);
    return NULL;
}

static void *work_a_little(void *number) {
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of((uintptr_t)number);
    for (int i = 0; i < 60; i++) step(&state, own, SLOTS, 1 << 16);
    drop_all(own, SLOTS);
    return NULL;
}

static void live(size_t number, struct object *mine, int depth);

static void fork_one(size_t number, struct object *mine, int depth) {
    pid_t child = fork();
    if (child == 0) {
        live(number, mine, depth);
        _exit(0);
    }
    CHECK(child > 0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (status) fail("a child ended with status", (size_t)status);
}

/* The life of a child. */
static void live(size_t number, struct object *mine, int depth) {
    if (number % 16 == 0) validate("the validator found a defect in a child");
    for (int i = 0; i < 8; i++) drop(&mine[i]);
    work_a_little((void *)number);
    pthread_t thread = start(work_a_little, (void *)(number + 1));
    if (depth && number % 4 == 0) {
        uint64_t state = seed_of(number);
        for (int i = 0; i < 8; i++) mine[i] = make(&state, size_below(&state, 1 << 16));
        fork_one(number, mine, 0);
    }
    pthread_join(thread, NULL);
    if (number % 16 == 8) {
        malloc_trim(0);
        validate("the validator found a defect in a child at its end");
    }
}

static void *forker(void *seed) {
    uint64_t state = seed_of((uintptr_t)seed);
    size_t number;
    while ((number = atomic_fetch_add(&forks, 1)) < goal) {
        struct object mine[8];
        for (int i = 0; i < 8; i++) mine[i] = make(&state, size_below(&state, 1 << 16));
        fork_one(number, mine, 1);
        if (number % 4 == 0) grandchildren++;
        for (int i = 0; i < 8; i++) drop(&mine[i]);
        if (number % 100 == 0) say("at %zu\n", number);
    }
    return NULL;
}

int main(int argc, char **argv) {
    goal = amount(argc, argv);
    pthread_t workers[WORKERS], forkers[FORKERS];
    for (uintptr_t i = 0; i < WORKERS; i++) workers[i] = start(work, (void *)(i + 1));
    for (uintptr_t i = 0; i < FORKERS; i++) forkers[i] = start(forker, (void *)(i + 10));
    for (int i = 0; i < FORKERS; i++) pthread_join(forkers[i], NULL);
    stop = 1;
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
    validate("the validator found a defect in the parent");
    CHECK(steps > 1000);
    say("done: %zu forks and %zu by children, beside %zu steps of %d threads\n", goal, grandchildren, steps, WORKERS);
    return 0;
}
