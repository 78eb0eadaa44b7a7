/* Threads that allocate on every CPU that they are given, under a quota of CPUs: what the caches hold while they run, and when one
   thread is left. `quota THREADS SECONDS LIVE_MIB`; with librsalloc.so preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "rsalloc.h"

static size_t (*read_stats)(struct rsalloc_stats *, size_t);
static int over;
static unsigned char seen[4096];

static void work(unsigned seed, int seconds)
{
	enum { LIVE = 512 };
	static __thread char *objects[LIVE];
	time_t end = time(0) + seconds;
	for (unsigned i = 0; i % 256 || (time(0) < end && !over); i++) {
		seed = seed * 1103515245 + 12345;
		unsigned at = (seed >> 16) % LIVE;
		free(objects[at]);
		objects[at] = malloc(16 + (seed >> 8) % 8000);
		*objects[at] = 1;
		if (i % 256 == 0) seen[sched_getcpu()] = 1;
	}
	for (int i = 0; i < LIVE; i++) free(objects[i]), objects[i] = 0;
}

struct job { unsigned seed; int seconds; };

static void *run(void *job) { work(((struct job *)job)->seed, ((struct job *)job)->seconds); return 0; }

static void say(const char *when)
{
	struct rsalloc_stats stats;
	char line[512] = "", *anonymous;
	size_t resident = 0;
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	while (file && fgets(line, sizeof line, file))
		if ((anonymous = strstr(line, "Anonymous:")) && !strstr(line, "Pss")) resident = strtoul(anonymous + 10, 0, 10);
	if (file) fclose(file);
	memset(&stats, 0, sizeof stats);
	read_stats(&stats, sizeof stats);
	int cpus = 0;
	for (size_t i = 0; i < sizeof seen; i++) cpus += seen[i];
	printf("QUOTA %s: %d CPUs seen, shards cache %zu KiB, depot %zu KiB, free in slabs %zu KiB, in pages %zu KiB, metadata %zu KiB, anonymous %zu KiB, refills %zu\n",
		when, cpus, stats.shard_cached_bytes >> 10, stats.depot_cached_bytes >> 10, stats.slab_free_bytes >> 10,
		stats.dirty_bytes >> 10, stats.metadata_bytes >> 10, resident, stats.refills);
	fflush(stdout);
}

int main(int count, char **words)
{
	read_stats = (size_t (*)(struct rsalloc_stats *, size_t))dlsym(RTLD_DEFAULT, "rsalloc_read_stats");
	if (!read_stats || count < 4) return 2;
	int threads = atoi(words[1]), seconds = atoi(words[2]);
	/* What the program has all the time: decay, which looks for programs that have next to nothing left, does not see it rest. */
	for (int i = 0; i < atoi(words[3]) * 256; i++) memset(malloc(4000), 1, 4000);
	say("at start");
	/* Those of the cpuset that are online. */
	static int usable[CPU_SETSIZE], usable_count;
	cpu_set_t all;
	if (sched_getaffinity(0, sizeof all, &all)) return 3;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all)) usable[usable_count++] = cpu;
	pthread_t *ids = calloc(threads, sizeof *ids);
	struct job *jobs = calloc(threads, sizeof *jobs);
	for (int i = 0; i < threads; i++) {
		jobs[i] = (struct job){ i + 1, seconds };
		cpu_set_t cpu;
		pthread_attr_t kind;
		pthread_attr_init(&kind);
		CPU_ZERO(&cpu);
		CPU_SET(usable[i % usable_count], &cpu);
		/* Each begins on a CPU of its own: where few CPUs are executed at once, the scheduler has no reason to spread them. */
		pthread_attr_setaffinity_np(&kind, sizeof cpu, &cpu);
		if (pthread_create(&ids[i], &kind, run, &jobs[i])) return 3;
	}
	sleep(seconds - 1);
	say("at work");
	for (int i = 0; i < threads; i++) pthread_join(ids[i], 0);
	say("ended");
	work(1, 5);
	say("one thread later");
	/* A slow allocation in each second is what gives caches back without a thread of the allocator's own. */
	for (int i = 0; i < 30; i++) {
		void *volatile slow = malloc((1 << 20) + (i << 12)); /* volatile: the compiler leaves such pairs out */
		free(slow);
		sleep(1);
	}
	say("idle");
	int (*check)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "rsalloc_check");
	return check();
}
