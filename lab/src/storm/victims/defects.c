/* Deliberate defects, each a library that is loaded before the allocator: `DEFECT` says which.
 *
 * A storm that stays green on one of them shows nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <sys/mman.h>

#define REAL(name) ((__typeof__(&name))(uintptr_t)dlsym(RTLD_NEXT, #name))

void *malloc(size_t);
void free(void *);

#if DEFECT == 1
/* fork without handlers: the child's locks are those of threads that it has not. */
int __register_atfork(void (*a)(void), void (*b)(void), void (*c)(void), void *d) {
    (void)a, (void)b, (void)c, (void)d;
    return 0;
}
#elif DEFECT == 2
/* libc's vfork in the place of ours. */
__asm__(".globl vfork\nvfork: pop %rdi\nmov $58, %eax\nsyscall\npush %rdi\nret\n");
#elif DEFECT == 8
/* libc's clone in the place of ours. */
int clone(int (*f)(void *), void *stack, int flags, void *argument, ...) {
    va_list more;
    va_start(more, argument);
    void *parent = va_arg(more, void *), *tls = va_arg(more, void *), *child = va_arg(more, void *);
    va_end(more);
    void *libc = dlopen("libc.so.6", RTLD_LAZY);
    int (*real)(int (*)(void *), void *, int, void *, ...) = (__typeof__(real))(uintptr_t)dlsym(libc, "clone");
    return real(f, stack, flags, argument, parent, tls, child);
}
#elif DEFECT == 3
/* malloc under a lock that does not know its owner. */
static atomic_flag taken;
void *malloc(size_t size) {
    static __typeof__(&malloc) real;
    if (!real) real = REAL(malloc);
    while (atomic_flag_test_and_set(&taken)) {}
    void *p = real(size);
    atomic_flag_clear(&taken);
    return p;
}
#elif DEFECT == 4
/* One object in a hundred is never freed. */
void free(void *p) {
    static __typeof__(&free) real;
    static atomic_size_t count;
    if (!real) real = REAL(free);
    if (p && atomic_fetch_add(&count, 1) % 100 == 99) return;
    real(p);
}
#elif DEFECT == 5
/* A cache for each thread: one page. */
void *malloc(size_t size) {
    static __typeof__(&malloc) real;
    static _Thread_local char *cache;
    if (!real) real = REAL(malloc);
    if (!cache && size > 100) {
        cache = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        cache[0] = 1;
    }
    return real(size);
}
#elif DEFECT == 6
/* Null without ENOMEM. */
void *malloc(size_t size) {
    static __typeof__(&malloc) real;
    if (!real) real = REAL(malloc);
    void *p = real(size);
    if (!p) errno = EAGAIN;
    return p;
}
#elif DEFECT == 7
/* One object in many is handed out twice. */
void *malloc(size_t size) {
    static __typeof__(&malloc) real;
    static _Atomic(void *) kept;
    static atomic_size_t count;
    if (!real) real = REAL(malloc);
    if (size < 1000 || size > 1500) return real(size);
    size_t turn = atomic_fetch_add(&count, 1) % 500;
    void *p = real(1500);
    if (turn == 0) atomic_store(&kept, p);
    return turn == 1 && kept ? kept : p;
}
#endif
