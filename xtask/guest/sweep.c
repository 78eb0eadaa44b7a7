/* Stops a thread at every instruction of every section of a library, and looks where it goes on: sweep LIBRARY [WORDS].
 *
 * The sections are those of the library's `__rseq_cs`. At each address from the first instruction to the commit the kernel must abort:
 * the thread goes on at the abort handler, with its registers as they were. Behind the commit it goes on. While it stands, the thread is
 * left alone, moved to another CPU, or given a signal whose handler allocates and frees. The victim, this program once more, keeps
 * books: no object is handed out twice or lost, and the library's validator finds nothing.
 *
 * WORDS: `defect NAME` moves the end of each section before its commit, in the victim's memory, and sweeps that function alone:
 * it must be seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECTIONS_MAX = 64, HELD = 200, HANDLED = 64, ROUNDS = 4, BRK = 0xd4200000 };
enum { STAY, MOVE, SIGNAL, TREATMENTS };

/* The victim. */

static void *handled[HANDLED];
static size_t size = 48;
static unsigned long next_mark = 1;
static void *(*new_)(size_t), *(*new_nothrow)(size_t, void *);
static void (*delete_)(void *), (*delete_sized)(void *, size_t), (*free_sized_)(void *, size_t),
    (*free_aligned_sized_)(void *, size_t, size_t);
static void *(*libc_malloc)(size_t), *(*libc_calloc)(size_t, size_t), *(*realloc_)(void *, size_t);
static void (*libc_free)(void *);

static void end(int code, const char *text) {
    dprintf(2, "victim: %s\n", text);
    _exit(code);
}

static void mark(void *object) {
    unsigned long *words = object;
    if (!object) end(41, "an allocation was refused");
    words[0] = next_mark++;
    words[1] = ~words[0];
}

static void verify(void *object) {
    volatile unsigned long *words = object;
    if (!words[0] || words[1] != ~words[0]) end(42, "an object was handed out twice");
    words[0] = 0;
}

static void on_signal(int signal) {
    (void)signal;
    void *first = malloc(size), *second = malloc(size);
    mark(first);
    mark(second);
    verify(second);
    free(second);
    for (int i = 0; i < HANDLED; i++) {
        if (!handled[i]) {
            handled[i] = first;
            return;
        }
    }
    verify(first);
    free(first);
}

static void *allocate(int way) {
    void *object = 0;
    switch (way % 10) {
    case 0: return malloc(size);
    case 1: return libc_malloc(size);
    case 2: return new_(size);
    case 3: return new_nothrow(size, 0);
    case 4: return calloc(1, size);
    case 5: return libc_calloc(1, size);
    case 6: return aligned_alloc(8, size);
    case 7: return aligned_alloc(16, size);
    case 8: return realloc_(0, size);
    default: return posix_memalign(&object, 16, size) ? 0 : object;
    }
}

static void release(int way, void *object) {
    verify(object);
    switch (way % 6) {
    case 0: free(object); break;
    case 1: libc_free(object); break;
    case 2: delete_(object); break;
    case 3: delete_sized(object, size); break;
    case 4: free_sized_(object, size); break;
    default: free_aligned_sized_(object, 16, size);
    }
}

static void *find(const char *name) {
    void *address = dlsym(RTLD_DEFAULT, name);
    if (!address) end(40, name);
    return address;
}

static _Noreturn void victim(void) {
    static void *held[HELD];
    new_ = find("_Znwm"), new_nothrow = find("_ZnwmRKSt9nothrow_t"), delete_ = find("_ZdlPv");
    delete_sized = find("_ZdlPvm"), free_sized_ = find("free_sized"), free_aligned_sized_ = find("free_aligned_sized");
    libc_malloc = find("__libc_malloc"), libc_calloc = find("__libc_calloc"), libc_free = find("__libc_free");
    realloc_ = find("realloc"); // Not by its name: the compiler would call malloc.
    int (*check)(void) = find("rsalloc_check");
    struct mallinfo2 (*info)(void) = find("mallinfo2");
    signal(SIGUSR1, on_signal);
    check();
    size_t before = info().uordblks;
    for (int round = 0;; round++) {
        raise(SIGSTOP);
        size = 16 + 16 * (round % 40);
        int count = round % 2 ? HELD : 24;
        for (int i = 0; i < count; i++) mark(held[i] = allocate(i));
        for (int i = 0; i < count; i++) release(i + i / 9, held[i]);
        for (int i = 0; i < HANDLED; i++) {
            if (handled[i]) {
                verify(handled[i]);
                free(handled[i]);
                handled[i] = 0;
            }
        }
        if (info().uordblks != before) end(43, "an object was lost, or counted twice");
        if (check()) end(44, "the heap is broken");
    }
}

/* The tracer. */

struct section {
    uint64_t descriptor, start, post, abort;
    char name[256];
};

static struct section sections[SECTIONS_MAX];
static int section_count;

static void die(const char *text) {
    printf("sweep: %s\n", text);
    exit(2);
}

static void read_sections(const char *library) {
    int file = open(library, O_RDONLY);
    struct stat stat;
    if (file < 0 || fstat(file, &stat)) die("no library");
    const char *bytes = mmap(0, stat.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    const Elf64_Ehdr *header = (const void *)bytes;
    const Elf64_Shdr *table = (const void *)(bytes + header->e_shoff), *symbols = 0, *own = 0;
    const char *names = bytes + table[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; i++) {
        if (!strcmp(names + table[i].sh_name, "__rseq_cs")) own = &table[i];
        if (table[i].sh_type == SHT_SYMTAB) symbols = &table[i];
    }
    if (!own || !symbols) die("the library has no sections or no symbols");
    section_count = own->sh_size / 32;
    if (section_count > SECTIONS_MAX) die("too many sections");
    for (int i = 0; i < section_count; i++) {
        sections[i].descriptor = own->sh_addr + i * 32;
        sections[i].post = *(const uint64_t *)(bytes + own->sh_offset + i * 32 + 16);
    }
    for (int i = 0; i < header->e_shnum; i++) {
        const Elf64_Rela *relocation = (const void *)(bytes + table[i].sh_offset);
        if (table[i].sh_type != SHT_RELA) continue;
        for (size_t n = table[i].sh_size / sizeof *relocation; n--; relocation++) {
            uint64_t at = relocation->r_offset - own->sh_addr;
            if (relocation->r_offset < own->sh_addr || at >= own->sh_size) continue;
            if (at % 32 == 8) sections[at / 32].start = relocation->r_addend;
            if (at % 32 == 24) sections[at / 32].abort = relocation->r_addend;
        }
    }
    const char *text = bytes + table[symbols->sh_link].sh_offset;
    for (int i = 0; i < section_count; i++) {
        sections[i].post += sections[i].start;
        const Elf64_Sym *symbol = (const void *)(bytes + symbols->sh_offset);
        for (size_t n = symbols->sh_size / sizeof *symbol; n--; symbol++) {
            if (ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && symbol->st_value <= sections[i].start &&
                sections[i].start < symbol->st_value + symbol->st_size) {
                snprintf(sections[i].name, sizeof sections[i].name, "%s", text + symbol->st_name);
            }
        }
    }
}

static pid_t pid;
static uint64_t base;
static int faults;

static struct user_regs_struct registers(void) {
    struct user_regs_struct r;
    struct iovec io = {&r, sizeof r};
    if (ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &io)) die("no registers");
    return r;
}

static uint32_t put(uint64_t at, uint32_t word) {
    uint64_t place = base + at, around = place & ~7ULL;
    uint64_t old = ptrace(PTRACE_PEEKTEXT, pid, around, 0);
    uint64_t new = old;
    memcpy((char *)&new + (place - around), &word, 4);
    if (ptrace(PTRACE_POKETEXT, pid, around, new)) die("the victim's code can't be written");
    uint32_t before;
    memcpy(&before, (char *)&old + (place - around), 4);
    return before;
}

/* Lets the victim run; the signal at which it stands again, 0 if it has ended. */
static int go(int request, int signal) {
    int status;
    if (ptrace(request, pid, 0, signal) || waitpid(pid, &status, 0) != pid) die("the victim can't go on");
    if (!WIFSTOPPED(status)) {
        pid = 0;
        return 0;
    }
    if (WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP) return WSTOPSIG(status);
    return go(request, WSTOPSIG(status));
}

static void stop_victim(void) {
    if (!pid) return;
    kill(pid, SIGKILL);
    waitpid(pid, 0, 0);
    pid = 0;
}

static void start_victim(const char *library, int defect) {
    stop_victim();
    pid = fork();
    if (!pid) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        setenv("LD_PRELOAD", library, 1);
        execl("/proc/self/exe", "sweep", "--victim", (char *)0);
        _exit(1);
    }
    int status;
    waitpid(pid, &status, 0); /* its exec */
    if (go(PTRACE_CONT, 0) != SIGSTOP) die("the victim does not start");
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    base = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        if (!base && strstr(line, library)) base = strtoull(line, 0, 16);
    }
    fclose(maps);
    if (!base) die("the victim has no library");
    for (int i = 0; defect && i < section_count; i++) {
        uint64_t len = 4;
        ptrace(PTRACE_POKEDATA, pid, base + sections[i].descriptor + 16, len);
    }
}

static void fault(const struct section *s, uint64_t at, int treatment, const char *text) {
    static const char *names[] = {"left alone", "moved", "signal"};
    if (++faults <= 10) printf("sweep: %s+%#lx, %s: %s\n", s->name, at - s->start, names[treatment], text);
}

/* Lets the victim run to a trap that is set already. For the `pop` of the slow paths calls of malloc are aborted on the way, since
 * else it finds its class empty each time. */
static int go_to(const struct section *s, uint64_t at) {
    enum { SHAKES = 40 };
    const struct section *shaken = 0;
    for (int i = 0; strstr(s->name, "7pop_cpu") && i < section_count; i++) {
        if (!strcmp(sections[i].name, "malloc")) shaken = &sections[i];
    }
    int signal = 0;
    for (int i = 0; shaken && i < SHAKES; i++) {
        uint32_t word = put(shaken->start, BRK);
        signal = go(PTRACE_CONT, 0);
        if (pid) put(shaken->start, word);
        if (signal != SIGTRAP || registers().pc == base + at) return signal;
        if (go(PTRACE_SINGLESTEP, 0) != SIGTRAP) die("no step");
    }
    return go(PTRACE_CONT, 0);
}

/* One address in the running victim, in one round: 0 if it was not reached. */
static int try(const struct section *s, uint64_t at, int treatment, int cpus) {
    uint32_t word = put(at, BRK);
    int signal = go_to(s, at);
    if (signal != SIGTRAP) {
        if (!signal) {
            fault(s, at, treatment, "the victim ended");
            return 0;
        }
        put(at, word);
        return 0;
    }
    put(at, word);
    struct user_regs_struct before = registers();
    if (before.pc != base + at) {
        fault(s, at, treatment, "a trap at another place");
        return 1;
    }
    if (at == s->post) return 1; /* It has committed, and goes on; the books are wrong if it has not, and a signal comes. */
    if (treatment == MOVE && cpus > 1) {
        cpu_set_t set;
        static int cpu;
        CPU_ZERO(&set);
        CPU_SET(++cpu % cpus, &set);
        sched_setaffinity(pid, sizeof set, &set);
    }
    uint32_t abort = put(s->abort, BRK), post = put(s->post, BRK);
    signal = go(PTRACE_CONT, treatment == SIGNAL ? SIGUSR1 : 0);
    for (;;) {
        if (signal != SIGTRAP) {
            fault(s, at, treatment, signal ? "went on at neither place" : "the victim ended");
            if (!signal) return 1;
            break;
        }
        struct user_regs_struct after = registers();
        int is_abort = after.pc == base + s->abort;
        if (after.sp == before.sp) {
            if (!is_abort) fault(s, at, treatment, "committed");
            else if (memcmp(&after.regs, &before.regs, sizeof after.regs)) fault(s, at, treatment, "other registers");
            break;
        }
        /* The handler's own call. */
        uint64_t place = is_abort ? s->abort : s->post;
        put(place, is_abort ? abort : post);
        if (go(PTRACE_SINGLESTEP, 0) != SIGTRAP) die("no step");
        put(place, BRK);
        signal = go(PTRACE_CONT, 0);
    }
    put(s->abort, abort);
    put(s->post, post);
    return 1;
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "--victim")) victim();
    if (count < 2) return 2;
    setvbuf(stdout, 0, _IOLBF, 0);
    int defect = count > 3 && !strcmp(arguments[2], "defect");
    /* Of a library whose entries use another index than the functions of sections: those alone. */
    int entries = count > 2 && !strcmp(arguments[2], "entries");
    const char *conf = getenv("RSALLOC_CONF") ? getenv("RSALLOC_CONF") : "";
    int is_cid = !!strstr(conf, "mm_cid"), is_profiled = !!strstr(conf, "profile");
    int cpus = sysconf(_SC_NPROCESSORS_ONLN), runs = 0, missed = 0, swept = 0;
    read_sections(arguments[1]);
    for (int i = 0; i < section_count; i++) {
        const struct section *s = &sections[i];
        int of_cid = !!strstr(s->name, "_cid"), of_profile = !!strstr(s->name, "_counted");
        if (defect && strcmp(s->name, arguments[3])) continue;
        if (entries && strstr(s->name, "_cpu")) continue;
        if (of_cid != is_cid || of_profile != is_profiled) continue;
        swept++;
        for (uint64_t at = s->start; at <= s->post; at += 4) {
            for (int treatment = 0; treatment < TREATMENTS; treatment++) {
                int reached = 0;
                for (int attempt = 0; attempt < 3 && !reached; attempt++) {
                    if (!pid || attempt) start_victim(arguments[1], defect);
                    for (int round = 0; round < ROUNDS && !reached && pid; round++) {
                        reached = try(s, at, treatment, cpus);
                        /* To the end of the round, with its books. */
                        int signal = at == s->post && treatment == SIGNAL ? SIGUSR1 : 0;
                        if (reached && pid && go(PTRACE_CONT, signal) != SIGSTOP) fault(s, at, treatment, "the books are wrong");
                    }
                }
                runs += reached;
                if (!reached) {
                    missed++;
                    printf("sweep: %s+%#lx was not reached\n", s->name, at - s->start);
                    treatment = TREATMENTS;
                }
            }
        }
    }
    stop_victim();
    printf("sweep: %d sections, %d runs, %d addresses not reached, %d deviations\n", swept, runs, missed, faults);
    return faults || missed || !swept;
}
