/* The share of objects that lie on the memory node on which they were allocated: `nodes LOAD [SECONDS]`. A thread works on each CPU, and
   stays there. When a load is over, each thread has a table of objects that it allocated during the load; move_pages(2) says on which
   nodes their pages lie. Loads:

   churn      each thread frees and allocates its own objects
   shared     all threads free and allocate the objects of one table
   pipe       threads of one node allocate, those of the next one free; the shares of those that allocate
   exchange   the same, and those that free allocate such objects themselves; the shares of both
   migration  churn, then all threads move to CPUs of the next node, and churn there: what they free first is of the old node
   added      churn, then each waits until the last node, which had no memory, has some, and churns on

   Threads on nodes without memory do not count. NODES_BIND=N: the process binds its memory to node N. NODES_ONLY=N: by that, or by its
   cpuset, it has memory of node N only, and that is where objects are to lie. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 64, LIVE = 4096, QUEUE = 1024, ROUNDS = 12 };

struct thread {
	pthread_t id;
	int number, cpu, peer;
	unsigned seed;
	void *objects[LIVE];	/* all allocated during the load, on `node` */
	int node;
	int counts;		/* whether its share counts */
	_Atomic(void *) queue[QUEUE];	/* objects that others are to free */
};

static struct thread threads[THREADS_MAX];
static _Atomic(void *) shared[LIVE];
static int cpus, nodes, node_of[THREADS_MAX];
static int only = -1;		/* the one node that the process may use */
static _Atomic char has_memory[THREADS_MAX];
static const char *load;
static long rounds;
static pthread_barrier_t barrier;

static unsigned next(struct thread *self) { return (self->seed = self->seed * 1103515245 + 12345) >> 8; }

/* 16 B to 8 KiB, small ones more often; one of 128 is large. */
static size_t size(struct thread *self)
{
	unsigned number = next(self);
	if (number % 128 == 0) return (32 << 10) + next(self) % (480 << 10);
	return (16 << number % 9) + next(self) % (16 << number % 9);
}

static void *allocate(struct thread *self)
{
	size_t bytes = size(self);
	char *object = malloc(bytes);
	if (!object) exit(3);
	for (size_t at = 0; at < bytes; at += 4096) object[at] = 1;
	object[bytes - 1] = 1;
	return object;
}

static void stay(int cpu)
{
	cpu_set_t set;
	unsigned here, node;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set)) exit(4);
	if (syscall(SYS_getcpu, &here, &node, 0) || (int)here != cpu) exit(4);
}

static void churn(struct thread *self, long count)
{
	for (long i = 0; i < count; i++) {
		unsigned at = next(self) % LIVE;
		free(self->objects[at]);
		self->objects[at] = allocate(self);
	}
}

/* Replaces all, so that each was allocated here. */
static void renew(struct thread *self)
{
	for (int at = 0; at < LIVE; at++) {
		free(self->objects[at]);
		self->objects[at] = allocate(self);
	}
}

static void share(struct thread *self, long count)
{
	for (long i = 0; i < count; i++) {
		free(atomic_exchange(&shared[next(self) % LIVE], allocate(self)));
	}
}

/* Gives what it allocated to a thread of another node, and keeps the newest. */
static void pass(struct thread *self, long count)
{
	struct thread *to = &threads[self->peer];
	for (long i = 0; i < count; i++) {
		void *object = allocate(self), *expected = 0;
		/* The oldest of the table goes, the new one stays. */
		unsigned at = i % LIVE;
		void *old = self->objects[at];
		self->objects[at] = object;
		while (old && !atomic_compare_exchange_weak(&to->queue[i % QUEUE], &expected, old)) expected = 0, sched_yield();
	}
}

static atomic_int passing;

static void receive(struct thread *self, int allocates)
{
	for (unsigned long i = 0, idle = 0; idle < QUEUE || atomic_load(&passing); i++) {
		void *object = atomic_exchange(&self->queue[i % QUEUE], (void *)0);
		idle = object ? 0 : idle + 1;
		if (idle % QUEUE == QUEUE - 1) sched_yield();
		if (!object) continue;
		free(object);
		if (allocates) {
			unsigned at = next(self) % LIVE;
			free(self->objects[at]);
			self->objects[at] = allocate(self);
		}
	}
}

static int is(const char *name) { return !strcmp(load, name); }

static void *run(void *argument)
{
	struct thread *self = argument;
	stay(self->cpu);
	self->node = node_of[self->cpu];
	self->counts = has_memory[self->node];
	int gives = self->node % 2 == 0;
	if (is("churn") || is("migration") || is("added")) {
		renew(self);
		churn(self, rounds * LIVE);
	} else if (is("shared")) {
		share(self, rounds * LIVE);
	}
	pthread_barrier_wait(&barrier);
	if (is("migration")) {
		/* The thread that comes after this one by a node's CPUs: all leave their nodes. */
		for (int step = 1; step < cpus; step++) {
			int cpu = (self->cpu + step) % cpus;
			if (node_of[cpu] == (self->node + 1) % nodes) { self->cpu = cpu; break; }
		}
		stay(self->cpu);
		self->node = node_of[self->cpu];
		self->counts = has_memory[self->node];
		churn(self, LIVE);
		renew(self);
		churn(self, rounds * LIVE / 4);
	} else if (is("added")) {
		while (!has_memory[nodes - 1]) usleep(100000);
		self->counts = 1;
		churn(self, LIVE);
		renew(self);
		churn(self, rounds * LIVE / 4);
	} else if (is("shared")) {
		/* What is allocated from now on is kept, while what others allocated comes free. */
		for (int at = 0; at < LIVE; at++) {
			self->objects[at] = allocate(self);
			free(atomic_exchange(&shared[next(self) % LIVE], allocate(self)));
		}
	} else if (is("pipe") || is("exchange")) {
		if (gives) {
			pass(self, rounds * LIVE);
			atomic_fetch_sub(&passing, 1);
		} else {
			receive(self, is("exchange"));
			self->counts &= is("exchange");
		}
	}
	pthread_barrier_wait(&barrier);
	return 0;
}

/* Counts the objects of a table whose first page lies on the thread's node. */
static void count(struct thread *thread, long *right, long *all)
{
	void *pages[LIVE];
	int where[LIVE];
	unsigned long used = 0;
	for (int at = 0; at < LIVE; at++) {
		if (thread->objects[at]) pages[used++] = (void *)((unsigned long)thread->objects[at] & -4096ul);
	}
	if (used && syscall(SYS_move_pages, 0, used, pages, 0, where, 0)) exit(5);
	for (unsigned long at = 0; at < used; at++) *right += where[at] == (only < 0 ? thread->node : only);
	*all += used;
}

/* Reads a list like 0-1,3. */
static void read_nodes_with_memory(void)
{
	FILE *file = fopen("/sys/devices/system/node/has_memory", "r");
	int first, last;
	char separator;
	if (!file) exit(6);
	while (fscanf(file, "%d", &first) == 1) {
		last = first;
		separator = fgetc(file);
		if (separator == '-' && fscanf(file, "%d", &last) == 1) separator = fgetc(file);
		for (; first <= last && first < THREADS_MAX; first++) has_memory[first] = 1;
	}
	fclose(file);
}

static void bind(unsigned node)
{
	enum { MPOL_BIND = 2 };
	unsigned long nodes = 1ul << node;
	if (syscall(SYS_set_mempolicy, MPOL_BIND, &nodes, 8 * sizeof nodes)) exit(7);
}

int main(int words, char **word)
{
	if (getenv("NODES_BIND")) bind(atoi(getenv("NODES_BIND")));
	if (getenv("NODES_ONLY")) only = atoi(getenv("NODES_ONLY"));
	read_nodes_with_memory();
	load = words > 1 ? word[1] : "churn";
	rounds = words > 2 ? atol(word[2]) : ROUNDS;
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (cpus > THREADS_MAX) cpus = THREADS_MAX;
	int home = sched_getcpu();
	for (int cpu = 0; cpu < cpus; cpu++) {
		unsigned here, node;
		stay(cpu);
		syscall(SYS_getcpu, &here, &node, 0);
		node_of[cpu] = node;
		if ((int)node >= nodes) nodes = node + 1;
	}
	stay(home);
	if (nodes < 2) { printf("NODES NOT TESTED: one memory node\n"); return 1; }
	pthread_barrier_init(&barrier, 0, cpus);
	for (int i = 0; i < cpus; i++) {
		struct thread *thread = &threads[i];
		*thread = (struct thread){ .number = i, .cpu = i, .seed = i + 1, .peer = i };
		/* The peer: the next thread of the next node, or of node 1 where that one does not receive. With an odd number of nodes the next of the last
		   node is node 0, which gives itself. */
		int to = (node_of[i] + 1) % nodes % 2 ? (node_of[i] + 1) % nodes : 1;
		for (int step = 1; step < cpus; step++) {
			int cpu = (i + step) % cpus;
			if (node_of[cpu] == to) { thread->peer = cpu; break; }
		}
		passing += node_of[i] % 2 == 0;
	}
	for (int i = 0; i < cpus; i++) if (pthread_create(&threads[i].id, 0, run, &threads[i])) return 2;
	/* Two minutes at most. */
	for (int turn = 0; is("added") && !has_memory[nodes - 1]; turn++) {
		if (turn == 1200) { printf("no memory was added\n"); return 8; }
		usleep(100000);
		read_nodes_with_memory();
	}
	for (int i = 0; i < cpus; i++) pthread_join(threads[i].id, 0);
	long right = 0, all = 0;
	for (int i = 0; i < cpus; i++) if (threads[i].counts) count(&threads[i], &right, &all);
	printf("NODES %s %d %.3f %ld\n", load, nodes, all ? (double)right / all : 0, all);
	return 0;
}
