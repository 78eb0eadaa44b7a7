/* Threads that allocate without pause beside what a victim is about; include it after storm.h.
 */
enum { WORKERS = 4, SLOTS = 100 };

static atomic_int stop;
static atomic_size_t steps;

static void *work(void *number) {
    struct object own[SLOTS] = {0};
    uint64_t state = seed_of((uintptr_t)number);
    size_t count = 0;
    run_behind();
    for (; !stop; count++) step(&state, own, SLOTS, count % 64 ? 1 << 12 : 1 << 19);
    drop_all(own, SLOTS);
    atomic_fetch_add(&steps, count);
    return NULL;
}
