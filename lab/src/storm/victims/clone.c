/* AMOUNT children of clone(CLONE_VM), which share the memory and allocate in it, while other threads do so too;
 * every other one with CLONE_VFORK. They end in all ways: return, _exit, exec, by a signal; one starts another one,
 * one in eight has a word of its own cleared at its end. At the end, sections must be in use again. Then the same
 * with CROWD children at once that have a thread pointer of their own, as processes and as threads.
 */
#include "storm.h"
#include "workers.h"

enum { LEFT = 16, STACK = 1 << 18, OBJECTS = 400 };

struct child {
    size_t number;
    uint64_t state;
    struct object left[LEFT];
    char *stack, *inner;
    pid_t word;
};

static void live(struct child *child) {
    struct object own[SLOTS] = {0};
    for (int i = 0; i < OBJECTS; i++) step(&child->state, own, SLOTS, i % 64 ? 1 << 12 : 1 << 19);
    drop_all(own, SLOTS);
    for (int i = 0; i < LEFT; i++) {
        drop(&child->left[i]);
        child->left[i] = make(&child->state, size_below(&child->state, 1 << 12));
    }
}

static void reap(pid_t pid, int wanted) {
    int status = 0;
    CHECK(pid > 0);
    while (waitpid(pid, &status, 0) != pid) CHECK(errno == EINTR);
    if (status != wanted) fail("a child ended with status", (size_t)status);
}

static int grandchild(void *argument) {
    live(argument);
    return 0;
}

static int run(void *argument) {
    struct child *child = argument;
    deny_sections(child->number);
    live(child);
    switch (child->number / 2 % 8) {
    case 0: execl("/proc/self/exe", "child", NULL); _exit(9);
    case 1: {
        int flags = CLONE_VM | SIGCHLD | (child->number / 16 % 2 ? CLONE_VFORK : 0);
        reap(clone(grandchild, child->inner + STACK, flags, child), 0);
        live(child);
        return 0;
    }
    case 2: kill(getpid(), SIGKILL); _exit(9);
    case 3: _exit(0);
    case 4: return 7;
    default: return 0;
    }
}

static void clone_one(struct child *child) {
    int flags = CLONE_VM | SIGCHLD | (child->number % 2 ? CLONE_VFORK : 0);
    size_t way = child->number / 2 % 8;
    if (way == 5) flags |= CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID;
    pid_t pid = clone(run, child->stack + STACK, flags, child, NULL, NULL, &child->word);
    /* The child has this thread's TLS, so nothing here may allocate meanwhile. */
    reap(pid, way == 2 ? SIGKILL : way == 4 ? 7 << 8 : 0);
    if (child->word) fail("the word was not cleared", child->number);
    live(child);
}

static void *cloner(void *argument) {
    size_t first = ((size_t *)argument)[0], end = ((size_t *)argument)[1];
    struct child child = {.state = seed_of(first), .stack = malloc(STACK), .inner = malloc(STACK)};
    CHECK(child.stack && child.inner);
    for (size_t turn = first; turn < end; turn += 2) {
        /* Both flags and all ways in each of the two threads. */
        child.number = turn / 2 * 2 + (turn / 2 + turn) % 2;
        clone_one(&child);
        if (turn % 50 == 0) say("at %zu\n", turn);
    }
    drop_all(child.left, LEFT);
    free(child.stack);
    free(child.inner);
    return NULL;
}

/* More than the allocator has words to watch. */
enum { CROWD = 300, CROWD_STACK = 1 << 16 };
static atomic_int is_open;

static int run_in_crowd(void *number) {
    uint64_t state = seed_of((uintptr_t)number);
    struct object own[SLOTS] = {0};
    while (!is_open) sched_yield();
    for (int i = 0; i < OBJECTS; i++) step(&state, own, SLOTS, 1 << 12);
    drop_all(own, SLOTS);
    return 0;
}

/* The memory of a thread, made as pthread_create makes it; never freed. */
static char *make_tls(void) {
    void *(*make)(void *) = (void *(*)(void *))(uintptr_t)dlsym(RTLD_DEFAULT, "_dl_allocate_tls");
    CHECK(make);
    char *pointer = make(NULL), *mine = (char *)__builtin_thread_pointer();
    CHECK(pointer);
    *(void **)pointer = *(void **)(pointer + 16) = pointer;
    memcpy(pointer + 24, mine + 24, 32); /* the guards of the stack and of pointers */
    return pointer;
}

static void crowd(int flags) {
    static pid_t pids[CROWD], words[CROWD];
    static char stacks[CROWD][CROWD_STACK];
    int is_thread = flags & CLONE_THREAD;
    is_open = 0;
    for (uintptr_t i = 0; i < CROWD; i++) {
        words[i] = 1;
        pids[i] = clone(run_in_crowd, stacks[i] + CROWD_STACK, flags | CLONE_VM | CLONE_SETTLS, (void *)i, NULL,
                        make_tls(), &words[i]);
        CHECK(pids[i] > 0);
    }
    is_open = 1;
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of(CROWD);
    for (int i = 0; i < OBJECTS; i++) step(&state, own, SLOTS, 1 << 12);
    for (int i = 0; i < CROWD; i++) {
        if (!is_thread) reap(pids[i], 0);
        while (is_thread && *(volatile pid_t *)&words[i]) sched_yield();
    }
    drop_all(own, SLOTS);
    if (is_seen() && !announces(100000)) fail("no child of a crowd is left, and sections stay closed", (size_t)flags);
}

int main(int argc, char **argv) {
    if (argc < 2) return 0; /* what a child execs */
    size_t goal = amount(argc, argv);
    free(malloc(1));
    say("at 0\n");
    CHECK(clone(NULL, &goal, CLONE_VM, NULL) == -1 && errno == EINVAL);
    CHECK(clone(run, NULL, CLONE_VM, NULL) == -1 && errno == EINVAL);
    if (is_seen()) CHECK(announces(100000));
    pthread_t workers[WORKERS];
    for (uintptr_t i = 0; i < WORKERS; i++) workers[i] = start(work, (void *)(i + 1));
    /* Two at once, so that one's end is not the other's. */
    size_t even[] = {0, goal}, odd[] = {1, goal};
    pthread_t other = start(cloner, odd);
    cloner(even);
    pthread_join(other, NULL);
    stop = 1;
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
    if (is_seen() && !announces(100000)) fail("no child is left, and sections stay closed", goal);
    crowd(SIGCHLD);
    crowd(CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_SETTID |
          CLONE_CHILD_CLEARTID);
    malloc_trim(0);
    validate("the validator found a defect at the end");
    CHECK(steps > 1000);
    say("done: %zu children of clone and two crowds, beside %zu steps of %d threads\n", goal, steps, WORKERS);
    return 0;
}
