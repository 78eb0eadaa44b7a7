/* AMOUNT threads alive at once, each having allocated and freed (with `idle` behind it: having done nothing).
 *
 * The harness reads the memory when all of them sleep, and again after a trim: `at N`.
 */
#include "storm.h"

enum { SLOTS = 50, STACK = 64 << 10 };

static atomic_size_t asleep;
static atomic_int is_idle;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int is_over;

static void *work(void *number) {
    /* The same stack in both cases. */
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of((uintptr_t)number);
    if (!is_idle) {
        for (int i = 0; i < 300; i++) step(&state, own, SLOTS, 1 << 12);
        drop_all(own, SLOTS);
    }
    pthread_mutex_lock(&mutex);
    asleep++;
    while (!is_over) pthread_cond_wait(&wake, &mutex);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

int main(int argc, char **argv) {
    size_t count = amount(argc, argv);
    is_idle = argc > 2;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_t *threads = malloc(count * sizeof *threads);
    for (size_t i = 0; i < count; i++) {
        int error = pthread_create(&threads[i], &attributes, work, (void *)i);
        if (error) fail("pthread_create", (size_t)error);
        /* A few run at once, not all of them. */
        while (asleep + 8 < i) sched_yield();
    }
    while (asleep < count) usleep(1000);
    say("at %zu asleep\n", count);
    usleep(200000);
    malloc_trim(0);
    say("at %zu trimmed\n", count);
    /* Until the harness has read. */
    usleep(300000);
    validate("the validator found a defect");
    pthread_mutex_lock(&mutex);
    is_over = 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);
    for (size_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
    free(threads);
    validate("the validator found a defect at the end");
    say("done: %zu threads\n", count);
    return 0;
}
