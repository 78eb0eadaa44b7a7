/* Threads, timers' handlers, moves between CPUs and forks, all of which allocate: hammer THREADS ROUNDS PERIOD_US. `hammer THREADS 0 0`
 * has neither timers nor forks, is in a session of its own, and ends by SIGTERM.
 *
 * An object that is handed out twice loses its mark: the process aborts. At the end the allocator's own validator runs; without one
 * the heap counts as broken, unless HAMMER_ON_LIBC is set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OBJECTS = 64, BYTES = 48, THREADS_MAX = 64, CHILD_OBJECTS = 100 };

static atomic_long handled, ended;
static atomic_ulong next_mark = 1;
static long rounds, period_us;
static volatile sig_atomic_t is_over;
static int cpus;

static void mark(void *object, unsigned long number) {
    volatile unsigned long *words = object;
    words[0] = number;
    words[3] = ~number;
}

static void verify(void *object, unsigned long number) {
    static const char text[] = "an object was handed out twice\n";
    volatile unsigned long *words = object;
    if (words[0] != number || words[3] != ~number) {
        if (write(2, text, sizeof text - 1) < 0) _exit(3);
        abort();
    }
}

/* Takes what the interrupted call was about to take, and gives it back in the other order. */
static void on_signal(int signal) {
    (void)signal;
    unsigned long number = atomic_fetch_add(&next_mark, 2) | 1UL << 62;
    void *first = malloc(BYTES), *second = malloc(BYTES);
    if (!first || !second) _exit(4);
    mark(first, number);
    mark(second, number + 1);
    verify(first, number);
    free(first);
    verify(second, number + 1);
    free(second);
    handled++;
}

static void on_end(int signal) {
    (void)signal;
    is_over = 1;
}

static timer_t start_timer(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer)) _exit(5);
    struct timespec period = {0, period_us * 1000};
    struct itimerspec each = {period, period};
    timer_settime(timer, 0, &each, 0);
    return timer;
}

static void *run(void *argument) {
    long thread = (long)argument;
    timer_t timer = period_us ? start_timer() : 0;
    void *objects[OBJECTS];
    unsigned long number = (unsigned long)thread << 40;
    for (long round = 0; (!rounds || round < rounds) && !is_over; round++, number += OBJECTS) {
        for (int i = 0; i < OBJECTS; i++) {
            objects[i] = malloc(BYTES);
            if (!objects[i]) _exit(4);
            mark(objects[i], number + i);
        }
        for (int i = 0; i < OBJECTS; i++) {
            verify(objects[i], number + i);
            free(objects[i]);
        }
        if (round % 64 == 0) sched_yield();
        if (round % 512 == 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET((thread + round / 512) % cpus, &set);
            sched_setaffinity(0, sizeof set, &set);
        }
    }
    if (period_us) timer_delete(timer);
    ended++;
    return 0;
}

static void child(void) {
    void *objects[CHILD_OBJECTS];
    for (int i = 0; i < CHILD_OBJECTS; i++) objects[i] = malloc(1 + i * 9);
    for (int i = 0; i < CHILD_OBJECTS; i++) free(objects[i]);
    _exit(0);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    int threads = atoi(arguments[1]);
    rounds = atol(arguments[2]);
    period_us = atol(arguments[3]);
    cpus = (int)sysconf(_SC_NPROCESSORS_CONF);
    if (threads < 1 || threads > THREADS_MAX) return 2;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    signal(SIGTERM, on_end);
    if (!rounds) setsid();
    pthread_t ids[THREADS_MAX];
    for (long i = 0; i < threads; i++) {
        if (pthread_create(&ids[i], 0, run, (void *)(i + 1))) return 5;
    }
    int forks = 0;
    if (rounds) do {
        pid_t pid = fork();
        if (!pid) child();
        int status = 0;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
            fprintf(stderr, "a child ended with %x\n", (unsigned)status);
            return 6;
        }
        forks++;
        usleep(20000);
    } while (ended < threads);
    for (int i = 0; i < threads; i++) pthread_join(ids[i], 0);
    int (*check)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "rsalloc_check");
    if (check ? check() : !getenv("HAMMER_ON_LIBC")) {
        fprintf(stderr, "the heap is broken\n");
        return 7;
    }
    printf("%d threads, %ld signals, %d forks\n", threads, (long)handled, forks);
    return 0;
}
