// Counts what each caller of malloc allocates and still holds, exactly: the measure for sampled profiles. Preloaded before the
// allocator, whose functions it calls. The counts are in the file that EXACT names, at each instant.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SITES = 1 << 14, OBJECTS = 1 << 23 };
struct site { uint64_t caller, objects, bytes, live_objects, live_bytes; };
struct object { uintptr_t address; uint32_t site; uint64_t size; };

static struct site *sites;
static struct object *objects;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void open_tables(void) {
    const char *name = getenv("EXACT");
    int file = name ? open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (file < 0 || ftruncate(file, SITES * sizeof *sites)) return;
    void *own = mmap(0, OBJECTS * sizeof *objects, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *shared = mmap(0, SITES * sizeof *sites, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    // A program that it starts would count as well.
    unsetenv("EXACT");
    unsetenv("LD_PRELOAD");
    objects = own;
    sites = shared;
}

static size_t hash(uintptr_t key) { return (key * UINT64_C(0x9e3779b97f4a7c15)) >> 20; }

// Open addressing; a deleted entry stays and has no size.
static struct object *find(uintptr_t address) {
    for (size_t at = hash(address) % OBJECTS;; at = (at + 1) % OBJECTS)
        if (objects[at].address == address || !objects[at].address) return &objects[at];
}

static void *note(void *address, size_t size, void *caller) {
    if (!address || !sites) return address;
    int before = errno;
    pthread_mutex_lock(&lock);
    size_t at = hash((uintptr_t)caller) % SITES;
    while (sites[at].caller && sites[at].caller != (uintptr_t)caller) at = (at + 1) % SITES;
    struct site *site = &sites[at];
    site->caller = (uintptr_t)caller;
    site->objects++, site->live_objects++;
    site->bytes += size, site->live_bytes += size;
    struct object *object = find((uintptr_t)address);
    *object = (struct object){(uintptr_t)address, at + 1, size};
    pthread_mutex_unlock(&lock);
    errno = before;
    return address;
}

static void forget(void *address) {
    if (!address || !sites) return;
    int before = errno;
    pthread_mutex_lock(&lock);
    struct object *object = find((uintptr_t)address);
    if (object->address && object->site) {
        struct site *site = &sites[object->site - 1];
        site->live_objects--, site->live_bytes -= object->size;
        object->site = 0;
    }
    pthread_mutex_unlock(&lock);
    errno = before;
}

#define CALLER __builtin_return_address(0)
#define FUNCTIONS(EACH) \
    EACH(void, free, void *) \
    EACH(void *, malloc, size_t) \
    EACH(void *, calloc, size_t, size_t) \
    EACH(void *, realloc, void *, size_t) \
    EACH(void *, aligned_alloc, size_t, size_t) \
    EACH(int, posix_memalign, void **, size_t, size_t) \
    EACH(void *, _Znwm, size_t) \
    EACH(void *, _Znam, size_t) \
    EACH(void, _ZdlPv, void *) \
    EACH(void, _ZdaPv, void *) \
    EACH(void, _ZdlPvm, void *, size_t) \
    EACH(void, _ZdaPvm, void *, size_t)

#define DECLARE(result, name, ...) static result (*real_##name)(__VA_ARGS__);
FUNCTIONS(DECLARE)

// `free` comes first: a dlsym that finds nothing calls it.
#define RESOLVE(result, name, ...) *(void **)&real_##name = dlsym(RTLD_NEXT, #name);
static void resolve(void) {
    if (!real__ZdaPvm) { FUNCTIONS(RESOLVE) }
}

void *malloc(size_t size) {
    resolve();
    return note(real_malloc(size), size, CALLER);
}
void *calloc(size_t count, size_t size) {
    resolve();
    return note(real_calloc(count, size), count * size, CALLER);
}
void *realloc(void *old, size_t size) {
    resolve();
    // Taken out before: another thread may get the address at once.
    forget(old);
    return note(real_realloc(old, size), size, CALLER);
}
void free(void *address) {
    if (!real_free) resolve();
    forget(address);
    real_free(address);
}
void *aligned_alloc(size_t align, size_t size) {
    resolve();
    return note(real_aligned_alloc(align, size), size, CALLER);
}
int posix_memalign(void **to, size_t align, size_t size) {
    resolve();
    int failed = real_posix_memalign(to, align, size);
    if (!failed) note(*to, size, CALLER);
    return failed;
}
void *_Znwm(size_t size) {
    resolve();
    return note(real__Znwm(size), size, CALLER);
}
void *_Znam(size_t size) {
    resolve();
    return note(real__Znam(size), size, CALLER);
}
void _ZdlPv(void *address) {
    resolve();
    forget(address);
    real__ZdlPv(address);
}
void _ZdaPv(void *address) {
    resolve();
    forget(address);
    real__ZdaPv(address);
}
void _ZdlPvm(void *address, size_t size) {
    resolve();
    forget(address);
    real__ZdlPvm(address, size);
}
void _ZdaPvm(void *address, size_t size) {
    resolve();
    forget(address);
    real__ZdaPvm(address, size);
}
