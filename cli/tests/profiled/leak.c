// Allocates 200,000 objects of 1,000 bytes in `churn` and frees them, and keeps 20,000 in `leak`; then says so, and waits. With
// an argument it ends by itself: exit, _exit, abort, or in a thread behind the first one's end.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *volatile kept[20000];

__attribute__((noinline)) static void leak(int at) { kept[at] = malloc(1000); }

__attribute__((noinline)) static void churn(void) {
    void *volatile object = malloc(1000);
    free(object);
}

static void work(void) {
    for (int i = 0; i < 200000; i++) {
        churn();
        if (i % 10 == 0) leak(i / 10);
    }
}

static void *last(void *unused) {
    usleep(100000);
    work();
    exit(7);
}

int main(int argc, char **argv) {
    const char *end = argc > 1 ? argv[1] : "";
    if (!strcmp(end, "thread")) {
        pthread_t thread;
        pthread_create(&thread, 0, last, 0);
        pthread_exit(0);
    }
    // What is allocated before a profile is switched on is not in it.
    if (!strcmp(end, "later")) {
        putchar('!');
        fflush(stdout);
        while (getchar() == 'w') {
            work();
            putchar('!');
            fflush(stdout);
        }
        return 0;
    }
    work();
    if (!strcmp(end, "exit")) exit(3);
    if (!strcmp(end, "_exit")) _exit(4);
    if (!strcmp(end, "abort")) abort();
    putchar('!');
    fflush(stdout);
    getchar();
}
