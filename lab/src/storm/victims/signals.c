/* Timers at 10 kHz in each thread, whose handlers use the whole interface while the thread does so too.
 *
 * AMOUNT seconds, in rounds; after each round every object is freed and nothing may be missing.
 */
#include "storm.h"

enum { THREADS = 12, SLOTS = 200, EXCHANGE = 64, ROUNDS = 4 };

static struct {
    atomic_flag busy;
    struct object object;
} exchange[EXCHANGE];

static atomic_size_t steps, handled, validated;
static atomic_int stop;

/* Of each thread: what its handler has, and whether it may come. */
static _Thread_local struct object handlers[SLOTS / 4];
static _Thread_local uint64_t handlers_state;

/* Mostly small; now and then a span of its own, rarely a mapping of its own. */
static size_t size(uint64_t *state) {
    uint64_t dice = next(state) >> 8;
    if (dice % 1024 == 0) return ((size_t)33 << 20) + dice % (1 << 20);
    if (dice % 64 == 0) return size_below(state, 1 << 22);
    return size_below(state, 1 << 14);
}

static void turn(uint64_t *state, struct object *table, size_t slots) {
    uint64_t dice = next(state);
    struct object *o = &table[dice % slots];
    switch ((dice >> 32) % 8) {
    case 0:
    case 1: {
        /* What one makes, another one frees. */
        __auto_type e = &exchange[(dice >> 40) % EXCHANGE];
        if (!atomic_flag_test_and_set(&e->busy)) {
            struct object mine = *o;
            *o = e->object, e->object = mine;
            atomic_flag_clear(&e->busy);
        }
        break;
    }
    case 2:
        if (o->p) {
            resize(o, size(state));
            break;
        } /* else as below */
        __attribute__((fallthrough));
    default:
        if (o->p)
            drop(o);
        else
            *o = make(state, size(state));
    }
}

static void on_signal(int number) {
    (void)number;
    int saved = errno;
    for (int i = 0; i < 4; i++) turn(&handlers_state, handlers, SLOTS / 4);
    atomic_fetch_add(&handled, 1);
    errno = saved;
}

static void *work(void *number) {
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of((uintptr_t)number);
    handlers_state = seed_of((uintptr_t)number + 1000);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec often = {{0, 100000}, {0, 100000}};
    CHECK(timer_settime(timer, 0, &often, NULL) == 0);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
    size_t count = 0;
    for (; !stop; count++) turn(&state, own, SLOTS);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    CHECK(timer_delete(timer) == 0);
    atomic_fetch_add(&steps, count);
    drop_all(own, SLOTS);
    drop_all(handlers, SLOTS / 4);
    return NULL;
}

static size_t round_of(double until, uint64_t seed, double begin) {
    pthread_t threads[THREADS];
    stop = 0;
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = start(work, (void *)(seed + i));
    while (now() < until) {
        /* The validator and the drain stop the shards under all of this. */
        usleep(50000);
        validate("the validator found a defect");
        validated++;
        usleep(50000);
        malloc_trim(0);
        say("at %.0f\n", now() - begin);
    }
    stop = 1;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < EXCHANGE; i++) drop(&exchange[i].object);
    malloc_trim(0);
    validate("the validator found a defect with all objects freed");
    return mallinfo2().uordblks;
}

int main(int argc, char **argv) {
    double seconds = (double)amount(argc, argv), begin = now();
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    free(malloc(1));
    say("at 0\n");
    size_t in_use = 0;
    for (uint64_t i = 0; i < ROUNDS; i++) {
        size_t left = round_of(begin + seconds * (double)(i + 1) / ROUNDS, i * 100, begin);
        /* The first round leaves what libc keeps for its threads. */
        if (i > 0 && left != in_use) fail("objects were lost or invented: bytes in use", left - in_use);
        in_use = left;
    }
    CHECK(steps > 1000 && handled > 1000);
    say("done: %zu handlers on %zu steps of %d threads, %zu validations\n", handled, steps, THREADS, validated);
    return 0;
}
