/* Keeps numbers in every register that code may use, for as long as it is told: vectors MILLISECONDS.
 *
 * Vector registers of SVE (whole, with predicates and the first-fault register) if the machine has them, else of 128 bits, and the
 * general ones. Another process stops it anywhere. A register that changes ends it with 1. It allocates between the looks, so that it
 * is at times inside a restartable sequence. It says last how many sleeps ended with EINTR. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>

enum { SVE = 1 << 22, TURNS = 20000 };

static unsigned char in[32 * 256 + 17 * 32], out[32 * 256 + 17 * 32];

#define Z(n) "ldr z" #n ", [%0, #" #n ", mul vl]\n"
#define ZS(n) "str z" #n ", [%1, #" #n ", mul vl]\n"
#define P(n) "ldr p" #n ", [%2, #" #n ", mul vl]\n"
#define PS(n) "str p" #n ", [%3, #" #n ", mul vl]\n"
#define ALL(f) \
    f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15) f(16) f(17) f(18) f(19) f(20) f(21) \
        f(22) f(23) f(24) f(25) f(26) f(27) f(28) f(29) f(30) f(31)
#define HALF(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define V(n) "ldr q" #n ", [%0, #16*" #n "]\n"
#define VS(n) "str q" #n ", [%1, #16*" #n "]\n"
#define GENERAL \
    "mov x3, #3\n mov x9, #9\n mov x12, #12\n mov x17, #17\n mov x20, #20\n mov x27, #27\n mov x30, #30\n" \
    "1: subs %4, %4, #1\n b.ne 1b\n" \
    "eor x3, x3, #3\n sub x9, x9, #9\n eor x12, x12, #12\n sub x17, x17, #17\n sub x20, x20, #20\n sub x27, x27, #27\n" \
    "eor x30, x30, #30\n orr x3, x3, x9\n orr x3, x3, x12\n orr x3, x3, x17\n orr x3, x3, x20\n orr x3, x3, x27\n orr %4, x3, x30\n"
#define CHANGED "x3", "x9", "x12", "x17", "x20", "x27", "x30", "memory", "cc"

/* Bits of general registers that changed. */
static long keep_sve(long vl) {
    long turns = TURNS;
    unsigned char *from = in, *to = out, *predicates = in + 32 * vl, *stored = out + 32 * vl;
    /* The first-fault register is written by way of p0, which comes after it. */
    asm volatile(".arch armv8.2-a+sve\n"
                 "ldr p0, [%2, #16, mul vl]\n wrffr p0.b\n" HALF(P) ALL(Z) GENERAL ALL(ZS) HALF(PS)
                 "rdffr p0.b\n str p0, [%3, #16, mul vl]\n"
                 : "+r"(from), "+r"(to), "+r"(predicates), "+r"(stored), "+r"(turns)
                 :
                 : CHANGED, "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
                   "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
    return turns;
}

static long keep_128(void) {
    long turns = TURNS, none = 0, unused = 0;
    unsigned char *from = in, *to = out;
    asm volatile(ALL(V) GENERAL ALL(VS)
                 : "+r"(from), "+r"(to), "+r"(none), "+r"(unused), "+r"(turns)
                 :
                 : CHANGED, "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
                   "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
    return turns;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int count, char **arguments) {
    double end = now() + (count > 1 ? atof(arguments[1]) : 1000) / 1e3, slept_longest = 0;
    long vl = 0, bytes = 512, rounds = 0, interrupted = 0;
    if (getauxval(AT_HWCAP) & SVE) {
        asm volatile(".arch armv8.2-a+sve\n rdvl %0, #1\n" : "=r"(vl));
        bytes = 32 * vl + 17 * vl / 8;
    }
    printf("vectors of %ld bits\n", vl ? vl * 8 : 128);
    fflush(stdout);
    while (now() < end) {
        for (long i = 0; i < bytes; i++) in[i] = (unsigned char)(i * 7 + rounds * 13 + 1);
        /* wrffr takes bits from the first on. */
        if (vl) memset(in + 32 * vl + 16 * vl / 8, 0xff, vl / 8);
        memset(out, 0, sizeof out);
        long bits = vl ? keep_sve(vl) : keep_128();
        if (bits || memcmp(in, out, bytes)) {
            printf("registers changed: %lx\n", bits);
            return 1;
        }
        for (int i = 0; i < 50; i++) {
            long *object = malloc(40);
            object[0] = i;
            if (*(volatile long *)object != i) return 1;
            free(object);
        }
        if (++rounds % 16 == 0) {
            /* Interrupted, it goes on for what is left of its time. */
            double begin = now();
            struct timespec time = {0, 30000000};
            if (nanosleep(&time, 0)) {
                if (errno == EINTR) { interrupted++; continue; }
                printf("a sleep ended with %d\n", errno);
                return 1;
            }
            double slept = now() - begin;
            if (slept < 0.03) {
                printf("a sleep of 30 ms took %g\n", slept);
                return 1;
            }
            if (slept > slept_longest) slept_longest = slept;
        }
    }
    printf("%ld rounds, 30 ms of sleep took %.0f ms at most, %ld sleeps interrupted\n", rounds, slept_longest * 1e3, interrupted);
    return 0;
}
