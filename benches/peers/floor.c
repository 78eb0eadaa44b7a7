// The floor of a row: an allocator that does next to nothing. After the start of the program malloc returns the next
// object of a ring and free returns at once; what is live in rows of one thread and one size fits the ring. Not for any
// other program: objects are handed out again while they are in use.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void __libc_free(void *);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

enum { SMALL = 64, SMALLS = 2048, LARGE = 64 << 10, LARGES = 4, START = 10000 };

static struct {
    char small[SMALLS][SMALL];
    char large[LARGES][LARGE];
} ring __attribute__((aligned(4096)));

// Below 0 the program starts: its objects live long, and are the C library's.
static int next = -START;

void *malloc(size_t size) {
    int at = next++;
    if (__builtin_expect(at < 0 || size > LARGE, 0)) return __libc_malloc(size);
    return size <= SMALL ? ring.small[at & (SMALLS - 1)] : ring.large[at & (LARGES - 1)];
}

void free(void *object) {
    if (__builtin_expect((uintptr_t)object - (uintptr_t)&ring < sizeof ring, 1)) return;
    __libc_free(object);
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    void *object = malloc(bytes);
    return object ? memset(object, 0, bytes) : NULL;
}

void *realloc(void *object, size_t size) {
    if ((uintptr_t)object - (uintptr_t)&ring >= sizeof ring) return __libc_realloc(object, size);
    void *larger = malloc(size);
    size_t old = (uintptr_t)object < (uintptr_t)ring.large ? SMALL : LARGE;
    return larger ? memcpy(larger, object, size < old ? size : old) : NULL;
}

void *aligned_alloc(size_t alignment, size_t size) { return __libc_memalign(alignment, size); }

int posix_memalign(void **object, size_t alignment, size_t size) {
    *object = __libc_memalign(alignment, size);
    return *object ? 0 : ENOMEM;
}
