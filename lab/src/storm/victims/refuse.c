/* What happens when the OS refuses: null and ENOMEM, nothing lost, and everything works again afterwards.
 *
 * AMOUNT MiB of each size are asked for. How it ends is the second argument: `refused` (some request of each
 * size must be), `refused-commit` (the same, by a kernel that does not overcommit: in a machine of its own),
 * `crowded` (the kernel's areas run out), `frugal` (rounds that fit only if memory goes back), `served`
 * (nothing may be refused).
 */
#include "storm.h"
#include <fcntl.h>
#include <sys/mman.h>

enum { SLOTS = 50, THREADS = 2, HEAD = sizeof(void *) * 3 };

static atomic_int stop;
static atomic_size_t refused, served;

/* Objects in a list that lies in the objects. */
struct node {
    struct node *next;
    size_t len, seed;
};

static struct object tail_of(struct node *n) {
    return (struct object){(unsigned char *)n + HEAD, n->len - HEAD, n->seed};
}

static void *one_of(size_t size, size_t turn) {
    errno = 0;
    void *p = turn % 3 == 0 ? malloc(size) : turn % 3 == 1 ? calloc(1, size) : aligned_alloc(64, (size + 63) / 64 * 64);
    if (!p && errno != ENOMEM) fail("refused without ENOMEM", (size_t)errno);
    return p;
}

static struct node *push(struct node *list, void *p, size_t len, size_t seed) {
    struct node *n = p;
    n->next = list, n->len = len, n->seed = seed;
    fill(tail_of(n));
    return n;
}

/* Takes objects of `size` until one is refused or `most` bytes are there, then frees them all. */
static void fill_up(size_t size, size_t most, const char *how) {
    struct node *list = NULL;
    size_t count = 0, freed = 0, before = refused;
    for (; count * size < most; count++) {
        void *p = one_of(size, count);
        if (!p) break;
        list = push(list, p, size, count);
    }
    if (count * size < most) {
        refused++;
        /* What is refused leaves everything as it was. */
        if (list) {
            struct node *grown = realloc(list, list->len + (64 << 20));
            if (grown) list = grown;
            else if (errno != ENOMEM) fail("realloc refused without ENOMEM", (size_t)errno);
        }
        /* A mapping may be refused where memory is there. */
        if (how[0] != 'c' && calloc(most, 1)) fail("calloc gave more than there is", most);
    }
    if (how[0] == 'r' && refused == before) fail("nothing was refused at this size", size);
    for (struct node *next; list; list = next, freed++) {
        verify(tail_of(list));
        next = list->next;
        free(list);
    }
    if (freed != count) fail("objects are missing", count - freed);
    served += count;
    /* At once everything works again. */
    uint64_t state = seed_of(size);
    struct object own[SLOTS] = {0};
    for (int i = 0; i < 500; i++) step(&state, own, SLOTS, 1 << 13);
    drop_all(own, SLOTS);
}

/* Others live through it as well; what they are refused they do without. */
static void *bystander(void *number) {
    uint64_t state = seed_of((uintptr_t)number);
    struct object own[SLOTS] = {0};
    while (!stop) {
        struct object *o = &own[next(&state) % SLOTS];
        if (!o->p) {
            *o = try_make(&state, size_below(&state, 1 << 16));
            refused += !o->p;
        } else if (next(&state) % 3 == 0)
            refused += !try_resize(o, size_below(&state, 1 << 16));
        else
            drop(o);
        if (next(&state) % 64 == 0) usleep(1000);
    }
    drop_all(own, SLOTS);
    return NULL;
}

/* Cuts a reserved range into as many areas as the kernel allows, but for a few. */
static char *range;
static const size_t pages = 1 << 20;

static void crowd(void) {
    size_t page = 0;
    range = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(range != MAP_FAILED);
    while (page < pages && mprotect(range + page * 4096, 4096, PROT_READ) == 0) page += 2;
    CHECK(page < pages && errno == ENOMEM);
    for (int i = 0; i < 10; i++) CHECK(mprotect(range + (page -= 2) * 4096, 4096, PROT_NONE) == 0);
}

/* The validator needs memory itself. */
static void lift(const char *how) {
    if (range) CHECK(munmap(range, pages * 4096) == 0);
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &all) == 0 || how[0] != 'r');
    if (strcmp(how, "refused-commit") != 0) return;
    int policy = open("/proc/sys/vm/overcommit_memory", O_WRONLY | O_CLOEXEC);
    CHECK(policy >= 0 && write(policy, "0", 1) == 1 && close(policy) == 0);
}

int main(int argc, char **argv) {
    size_t most = amount(argc, argv) << 20;
    const char *how = argc > 2 ? argv[2] : "refused";
    static const size_t sizes[] = {256, 5000, 100000, 3 << 20, 40 << 20};
    if (how[0] == 'c') crowd();
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = start(bystander, (void *)i);
    say("at 0\n");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fill_up(sizes[i], most, how);
        say("at %zu\n", i);
    }
    stop = 1;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    if (how[0] == 's' || how[0] == 'f')
        if (refused) fail("refused, with memory there", refused);
    malloc_trim(0);
    lift(how);
    validate("the validator found a defect at the end");
    if (mallinfo2().uordblks > 64 << 10) fail("bytes are still in use", mallinfo2().uordblks);
    say("done: %zu refused of %zu\n", refused, refused + served);
    return 0;
}
