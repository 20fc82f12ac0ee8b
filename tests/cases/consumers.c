/* One thread allocates, eight others only free: nothing leaks, and only the stacks of the eight threads are
 * outstanding.  At the first free() of a thread an allocator may map an arena or a cache: glibc reserves 128 MB.
 * Build: cc -O1 -pthread -o consumers consumers.c
 * Run:   ./consumers, which prints its PID, waits for a byte, starts the threads, and when all blocks are freed
 *        prints the bytes of a thread's stack and waits again. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 8, BLOCKS = 1000 };
static void *blocks[THREADS][BLOCKS];
static pthread_barrier_t freed;

static void *consume(void *number)
{
	for (int i = 0; i < BLOCKS; i++)
		free(blocks[(long)number][i]);
	pthread_barrier_wait(&freed);
	pause();
	return NULL;
}

int main(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	size_t size;
	char c;

	pthread_attr_init(&attributes);
	pthread_attr_getstacksize(&attributes, &size);
	pthread_barrier_init(&freed, NULL, THREADS + 1);
	printf("%d\n", getpid());
	fflush(stdout);
	if (read(0, &c, 1) != 1)
		return 1;
	for (int k = 0; k < THREADS; k++)
		for (int i = 0; i < BLOCKS; i++)
			blocks[k][i] = malloc(100);
	for (long k = 0; k < THREADS; k++)
		pthread_create(&thread, NULL, consume, (void *)k);
	pthread_barrier_wait(&freed);
	printf("%zu\n", size);
	fflush(stdout);
	return read(0, &c, 1) != 1;
}
