/* A program with librsalloc.so preloaded, on any libc: memory of libc's functions, threads with small stacks (the least size of a stack
   is the argument), keys whose destructors run last, fork. Ends with 0, and says so, if all was right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPECT(fine) do { if (!(fine)) { fprintf(stderr, "FAILED: line %d: %s\n", __LINE__, #fine); _exit(1); } } while (0)

static int (*check)(void);
static size_t (*release_all)(void);
static pthread_key_t key;
static int ended;

static void use_heap(uintptr_t seed, int rounds)
{
	unsigned char *kept[64] = {0};
	for (int i = 0; i < rounds; i++) {
		size_t size = 1 + (i * 37 + seed * 101) % (i % 200 ? 3000 : 400000);
		unsigned char **slot = &kept[(i * 7 + seed) % 64];
		EXPECT(!*slot || **slot == (unsigned char)seed);
		if (i % 5 == 4) {
			*slot = realloc(*slot, size);
		} else {
			free(*slot);
			*slot = i % 3 ? malloc(size) : calloc(1, size);
		}
		EXPECT(*slot && malloc_usable_size(*slot) >= size);
		**slot = (unsigned char)seed;
	}
	for (int i = 0; i < 64; i++) free(kept[i]);
}

/* In the last round that libc makes the thread still allocates. */
static void last_words(void *round)
{
	use_heap(9, 50);
	if ((uintptr_t)round < PTHREAD_DESTRUCTOR_ITERATIONS)
		pthread_setspecific(key, (void *)((uintptr_t)round + 1));
	else
		__atomic_fetch_add(&ended, 1, __ATOMIC_SEQ_CST);
}

static void *run(void *seed)
{
	use_heap((uintptr_t)seed, 3000);
	if (release_all && (uintptr_t)seed % 4 == 0) release_all();
	pthread_setspecific(key, (void *)1);
	return 0;
}

static void run_threads(size_t stack, int count)
{
	pthread_t threads[64];
	pthread_attr_t kind;
	EXPECT(!pthread_attr_init(&kind));
	if (stack) EXPECT(!pthread_attr_setstacksize(&kind, stack));
	ended = 0;
	for (int i = 0; i < count; i++)
		EXPECT(!pthread_create(&threads[i], &kind, run, (void *)(uintptr_t)(i + 1)));
	for (int i = 0; i < count; i++) EXPECT(!pthread_join(threads[i], 0));
	EXPECT(ended == count);
}

static void fork_and_use(void)
{
	pid_t child = fork();
	if (!child) {
		use_heap(5, 2000);
		run_threads(0, 4);
		_exit(check());
	}
	int status;
	EXPECT(waitpid(child, &status, 0) == child && !status);
}

static void *fork_beside(void *unused)
{
	for (int i = 0; i < 20; i++) fork_and_use();
	return unused;
}

static void of_libc(void)
{
	char *text = 0, *line = 0;
	size_t len = 0;
	EXPECT(asprintf(&text, "%0*d", 5000, 1) == 5000);
	FILE *file = fmemopen(text, 5000, "r");
	EXPECT(file && getline(&line, &len, file) == 5000 && !memcmp(line, text, 5000));
	EXPECT(malloc_usable_size(line) >= 5000);
	fclose(file);
	free(line);
	free(text);
	free(strdup("text"));
	char *path = realpath("/proc/self/exe", 0);
	EXPECT(path && malloc_usable_size(path) > strlen(path));
	free(path);
	EXPECT(!setenv("RSALLOC_TEST_NAME", "value", 1) && !unsetenv("RSALLOC_TEST_NAME"));
	for (size_t align = 16; align <= 1 << 20; align *= 2) {
		void *object = aligned_alloc(align, 3 * align), *other = memalign(align, 24), *third = 0;
		EXPECT(object && other && !posix_memalign(&third, align, 100));
		EXPECT(!((uintptr_t)object % align || (uintptr_t)other % align || (uintptr_t)third % align));
		EXPECT(malloc_usable_size(object) >= 3 * align);
		free(object), free(other), free(third);
	}
	volatile size_t much = PTRDIFF_MAX;
	errno = 0;
	EXPECT(!malloc(much + 1) && errno == ENOMEM);
}

int main(int count, char **words)
{
	check = (int (*)(void))dlsym(RTLD_DEFAULT, "rsalloc_check");
	release_all = (size_t (*)(void))dlsym(RTLD_DEFAULT, "rsalloc_release");
	EXPECT(check && release_all);
	EXPECT(!pthread_key_create(&key, last_words));
	of_libc();
	for (int round = 0; round < 3; round++) {
		run_threads(0, 32);
		for (size_t stack = count > 1 ? strtoul(words[1], 0, 0) : 16384; stack <= 131072; stack *= 2) {
			/* 128 KiB on aarch64 and ppc64le */
			if (stack >= (size_t)sysconf(_SC_THREAD_STACK_MIN)) run_threads(stack, 16);
		}
	}
	pthread_t forks;
	EXPECT(!pthread_create(&forks, 0, fork_beside, 0));
	for (int i = 0; i < 5; i++) run_threads(0, 16);
	EXPECT(!pthread_join(forks, 0));
	EXPECT(!check());
	puts("libc's memory, threads, last destructors and forks: the heap is sound");
	return 0;
}
