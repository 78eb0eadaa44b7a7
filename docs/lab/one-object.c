/* Three ways to keep a shard's free objects, as instructions only: what docs/adr/0065 compares.
 *
 *     cc -O2 -fno-pic -no-pie -o /tmp/one-object docs/lab/one-object.c && /tmp/one-object
 *
 * Each pair has the engine's loads and stores of malloc(3) and free(3), with an rseq area of its own that no kernel knows. `stack`: as the
 * engine does it. `word`: one object of each class in a word before the stack. `hint`: malloc notes object and class, and free, where
 * it gets that object back, adds to the noted class's stack once the page map has said the same. `floor`: no allocator.
 * Median of 21 turns, ns for a malloc and a free. x86-64 only. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Offsets in HOT, and in a region, of which there is one. */
#define BASE "0x330"
#define SIZES 0x348
#define TABLE 0x49000
#define PAGES 0x89000
#define REGION 0x189000
#define NOTED_OBJECT "0x800"
#define NOTED_CLASS "0x808"
#define WORD "0xa00"
enum { CLASSES = 32, SEGMENTS = 32, SEGMENT = 1 << 16, STACK = 0x4000, TURNS = 21 };

char HOT[REGION + 0x2000 + CLASSES * STACK] __attribute__((aligned(4096)));
__thread struct { int unused, cpu; uint64_t section; } area __attribute__((aligned(64)));
uint64_t area_offset;
char only_object[64];

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define FUNCTION(name) ".globl " name "\n.p2align 6\n" name ":\n"
#define REGION_OF_CPU \
    "lea HOT(%rip), %r10\n mov area_offset(%rip), %r9\n mov %r10, %fs:8(%r9)\n movswq %fs:4(%r9), %rax\n" \
    "mov " TEXT(TABLE) "(%r11,%rax,8), %rcx\n add %r11, %rcx\n"
#define CLASS_OF_SIZE "cmp $0x400, %rdi\n lea HOT(%rip), %r11\n ja 9f\n movzbl " TEXT(SIZES) "(%r11,%rdi), %r8d\n" REGION_OF_CPU
#define CLASS_OF_OBJECT \
    "lea HOT(%rip), %r11\n mov %rdi, %rax\n sub " BASE "(%r11), %rax\n shr $16, %rax\n cmp $0x100000, %rax\n jae 9f\n" \
    "movzbl " TEXT(PAGES) "(%r11,%rax), %r8d\n" REGION_OF_CPU
#define POP "mov (%rcx,%r8,8), %r10d\n mov (%rcx,%r10), %rax\n test %rax, %rax\n je 9f\n"
#define POPPED "subl $8, (%rcx,%r8,8)\n ret\n 9: ud2\n"
#define PUSH "mov (%rcx,%r8,8), %eax\n cmp 4(%rcx,%r8,8), %eax\n jae 9f\n mov %rdi, 8(%rcx,%rax)\n addl $8, (%rcx,%r8,8)\n ret\n 9: ud2\n"
__asm__(".text\n"
    FUNCTION("stack_malloc") CLASS_OF_SIZE POP POPPED
    FUNCTION("stack_free") CLASS_OF_OBJECT PUSH
    FUNCTION("word_malloc") CLASS_OF_SIZE "mov " WORD "(%rcx,%r8,8), %rax\n test %rax, %rax\n je 1f\n movq $0, " WORD "(%rcx,%r8,8)\n ret\n 1:\n" POP POPPED
    FUNCTION("word_free") CLASS_OF_OBJECT "cmpq $0, " WORD "(%rcx,%r8,8)\n jne 1f\n mov %rdi, " WORD "(%rcx,%r8,8)\n ret\n 1:\n" PUSH
    FUNCTION("hint_malloc") CLASS_OF_SIZE POP "mov %r8, " NOTED_CLASS "(%rcx)\n mov %rax, " NOTED_OBJECT "(%rcx)\n" POPPED
    FUNCTION("hint_free") CLASS_OF_OBJECT "cmp " NOTED_OBJECT "(%rcx), %rdi\n jne 1f\n mov " NOTED_CLASS "(%rcx), %r10\n cmp %r8, %r10\n jne 1f\n mov %r10, %r8\n 1:\n" PUSH
    FUNCTION("floor_malloc") "lea only_object(%rip), %rax\n ret\n"
    FUNCTION("floor_free") "ret\n");

typedef void *Malloc(size_t);
typedef void Free(void *);
Malloc stack_malloc, word_malloc, hint_malloc, floor_malloc;
Free stack_free, word_free, hint_free, floor_free;
static const struct { const char *name; Malloc *malloc; Free *free; } WAYS[] = {
    {"stack", stack_malloc, stack_free}, {"word", word_malloc, word_free},
    {"hint", hint_malloc, hint_free}, {"floor", floor_malloc, floor_free}};
enum { WAY_COUNT = sizeof WAYS / sizeof *WAYS };

static uint64_t random_state = 88172645463325252;
static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static void set_up(void) {
    uint64_t thread;
    __asm__("mov %%fs:0, %0" : "=r"(thread));
    area_offset = (uint64_t)&area - thread;
    char *memory = mmap(0, (CLASSES * SEGMENTS + 1) * (size_t)SEGMENT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) exit(1);
    memory = (char *)(((uintptr_t)memory + SEGMENT - 1) & -(uintptr_t)SEGMENT);
    memcpy(HOT + strtol(BASE, 0, 16), &memory, sizeof memory);
    *(uint64_t *)(HOT + TABLE) = REGION;
    for (int size = 1; size <= 1024; size++) HOT[SIZES + size] = (size - 1) / 32;
    for (int class = 0; class < CLASSES; class++) {
        uint32_t bottom = 0x2000 + class * STACK, *top = (uint32_t *)(HOT + REGION) + 2 * class;
        top[0] = bottom;
        top[1] = bottom + STACK - 16;
        for (int segment = 0, count = 0; segment < SEGMENTS; segment++) {
            int page = class * SEGMENTS + segment, size = 32 * (class + 1);
            HOT[PAGES + page] = class;
            for (int at = 0; at + size <= SEGMENT && count < 1200; at += size, count++)
                *(char **)(HOT + REGION + (top[0] += 8)) = memory + (size_t)page * SEGMENT + at;
        }
    }
}

/* The loads. All but `floor` can run each; operations are returned. */
static const char *const LOADS[] = {"one object", "batch, last in first out", "batch, first in first out", "nested, three objects", "churn, 512 objects", "random, up to 500 objects"};
enum { LOAD_COUNT = sizeof LOADS / sizeof *LOADS, FLOOR_LOADS = 4, BATCH = 64 };

static void *take(Malloc *malloc_it, size_t size) {
    char *object = malloc_it(size);
    *(volatile char *)object = 1;
    return object;
}

static long run(int load, Malloc *malloc_it, Free *free_it) {
    static void *live[512];
    long done = 0;
    int count = load == 0 ? 1 : BATCH, at;
    switch (load) {
    case 0: case 1: case 2:
        for (; done < 4000000; done += count) {
            for (at = 0; at < count; at++) live[at] = take(malloc_it, 64);
            for (at = 0; at < count; at++) free_it(live[load == 1 ? count - 1 - at : at]);
        }
        return done;
    case 3:
        for (; done < 3000000; done += 3) {
            void *outer = take(malloc_it, 24);
            free_it(take(malloc_it, 200));
            free_it(take(malloc_it, 48));
            free_it(outer);
        }
        return done;
    case 4:
        for (at = 0; at < 512; at++) live[at] = malloc_it(1 + next_random() % 1024);
        for (; done < 2000000; done++) {
            uint64_t random = next_random();
            at = random % 512;
            free_it(live[at]);
            live[at] = take(malloc_it, 1 + (random >> 20) % 1024);
        }
        for (at = 0; at < 512; at++) free_it(live[at]);
        return done;
    default:
        count = 0;
        while (done < 1000000) {
            uint64_t random = next_random();
            if (!count || (random & 1 && count < 500)) {
                live[count++] = take(malloc_it, 1 + (random >> 20) % 256);
            } else {
                at = (random >> 8) % count;
                free_it(live[at]);
                live[at] = live[--count];
                done++;
            }
        }
        while (count) free_it(live[--count]);
        return done;
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

int main(void) {
    set_up();
    printf("%-28s", "ns");
    for (int way = 0; way < WAY_COUNT; way++) printf("%8s", WAYS[way].name);
    puts("");
    for (int load = 0; load < LOAD_COUNT; load++) {
        static double turns[WAY_COUNT][TURNS];
        int ways = load < FLOOR_LOADS ? WAY_COUNT : WAY_COUNT - 1;
        for (int turn = 0; turn < TURNS; turn++)
            for (int way = 0; way < ways; way++) {
                double begin = now();
                long done = run(load, WAYS[way].malloc, WAYS[way].free);
                turns[way][turn] = (now() - begin) / done;
            }
        printf("%-28s", LOADS[load]);
        for (int way = 0; way < ways; way++) {
            qsort(turns[way], TURNS, sizeof **turns, by_value);
            printf("%8.2f", turns[way][TURNS / 2]);
        }
        puts("");
    }
}
