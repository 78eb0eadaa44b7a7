/* A mixed load for AMOUNT seconds, with threads that come and go: what one makes, others resize and free.
 *
 * The bytes alive stay about the same, so the memory must too: the harness reads it at each `at`.
 */
#include "storm.h"

enum { WORKERS = 8, SLOTS = 10000, LARGE = 8, ROUND = 200 };

struct slot {
    atomic_flag busy;
    struct object object;
};

static struct slot slots[SLOTS + LARGE];
static atomic_size_t live;
static atomic_size_t steps;
static atomic_int stop;

static void turn(uint64_t *state) {
    uint64_t dice = next(state);
    int is_large = (dice >> 32) % 2048 == 0;
    struct slot *slot = &slots[is_large ? SLOTS + dice % LARGE : dice % SLOTS];
    if (atomic_flag_test_and_set(&slot->busy)) return;
    struct object *o = &slot->object;
    size_t before = o->p ? o->len : 0;
    size_t size = is_large ? (size_t)256 << (10 + dice / 4096 % 5) : size_below(state, 1 << 15);
    if (!o->p)
        *o = make(state, size);
    else if ((dice >> 48) % 4 == 0)
        resize(o, size);
    else
        drop(o);
    atomic_fetch_add(&live, (o->p ? o->len : 0) - before);
    atomic_flag_clear(&slot->busy);
}

static void *work(void *number) {
    uint64_t state = seed_of((uintptr_t)number);
    uint64_t rounds = 50 + next(&state) % 500;
    struct object own[50] = {0};
    for (uint64_t i = 0; i < rounds && !stop; i++) {
        for (int j = 0; j < ROUND; j++) turn(&state);
        for (int j = 0; j < 20; j++) step(&state, own, 50, 1 << 12);
        atomic_fetch_add(&steps, ROUND + 20);
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
    drop_all(own, 50);
    return NULL;
}

/* One of the eight places: a thread after the other. */
static void *place(void *number) {
    uintptr_t count = 0;
    while (!stop) pthread_join(start(work, (void *)((uintptr_t)number * 1000000 + count++)), NULL);
    return (void *)count;
}

int main(int argc, char **argv) {
    double seconds = (double)amount(argc, argv), begin = now();
    pthread_t places[WORKERS];
    for (uintptr_t i = 0; i < WORKERS; i++) places[i] = start(place, (void *)i);
    for (double at = 0; at <= seconds; at++) {
        while (now() < begin + at) usleep(20000);
        say("at %.0f live %zu\n", at, live);
    }
    stop = 1;
    size_t threads = 0;
    for (int i = 0; i < WORKERS; i++) {
        void *count;
        pthread_join(places[i], &count);
        threads += (uintptr_t)count;
    }
    validate("the validator found a defect at the end");
    for (int i = 0; i < SLOTS + LARGE; i++) drop(&slots[i].object);
    malloc_trim(0);
    validate("the validator found a defect with all objects freed");
    say("done: %zu steps by %zu threads\n", steps, threads);
    return 0;
}
