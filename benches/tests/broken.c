/* An allocator that is wrong in the way its name says, loaded over libc's. */
#include <stddef.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_realloc(void *, size_t);
void *malloc(size_t size) { return __libc_malloc(size + 16); }

void *calloc(size_t n, size_t size) {
    char *object = __libc_malloc(n * size + 16);
    memset(object, 0, n * size);
#ifdef DIRTY
    if (n * size == 15) object[14] = 1;
#endif
    return object;
}

void *realloc(void *old, size_t size) {
#ifdef FORGETS
    if (size == 5000) return __libc_malloc(size);
#endif
    return __libc_realloc(old, size);
}

int posix_memalign(void **out, size_t align, size_t size) {
    char *object = __libc_malloc(size + 2 * align);
#ifdef CROOKED
    *out = object + (align - (size_t)object % align) % align + 16;
#else
    *out = object + (align - (size_t)object % align) % align;
#endif
    return 0;
}

void free(void *object) { (void)object; }
