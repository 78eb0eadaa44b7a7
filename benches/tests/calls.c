/* Calls with known counts; `argv[1]` says which. Prints nothing and checks what the allocator gives. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 1000 };

/* 7 calls a round, of which one resizes; nothing stays. */
static void rounds(void) {
    for (int i = 0; i < ROUNDS; i++) {
        char *a = malloc(1 + i), *b = calloc(3, 5);
        void *c = NULL;
        if (posix_memalign(&c, 256, 100)) abort();
        memset(a, 1, 1 + i);
        a = realloc(a, 5000);
        free(a), free(b), free(c), free(NULL);
    }
}

static void *passed[ROUNDS];
static pthread_barrier_t barrier;

/* Frees what the main thread made, and makes what that frees. */
static void *other(void *unused) {
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) free(passed[i]), passed[i] = malloc(100);
    pthread_barrier_wait(&barrier);
    rounds();
    return NULL;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "rounds")) rounds();
    if (!strcmp(what, "left"))
        for (int i = 0; i < 10; i++)
            if (!malloc(1 << 20)) abort();
    if (!strcmp(what, "threads")) {
        pthread_t thread;
        pthread_barrier_init(&barrier, NULL, 2);
        for (int i = 0; i < ROUNDS; i++) passed[i] = malloc(50);
        pthread_create(&thread, NULL, other, NULL);
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < ROUNDS; i++) free(passed[i]);
        rounds();
        pthread_join(thread, NULL);
    }
    if (!strcmp(what, "fork")) {
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            rounds();
            /* A program that is replaced finds the file there. */
            execl("/proc/self/exe", "calls", "rounds", NULL);
        }
        waitpid(child, &status, 0);
        if (status) abort();
        rounds();
    }
    if (!strcmp(what, "killed")) {
        rounds();
        raise(SIGKILL);
    }
    if (!strcmp(what, "closed")) {
        for (int i = 3; i < 100; i++) close(i);
        for (int i = 0; i < 10; i++) rounds();
    }
    _exit(0); /* Without libc's own frees. */
}
