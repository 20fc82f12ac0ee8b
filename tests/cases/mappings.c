/* Reserves address space, makes memory of it in the ways that runtimes use, and unmaps parts.
 * Build: cc -O1 -o mappings mappings.c
 * Run:   ./mappings KIND, which prints its PID, waits for a byte, does its work, prints how many bytes of accessible
 *        anonymous memory it has gained, by /proc/self/maps, and waits again.
 * Right: as many bytes outstanding. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KB 1024UL
#define MB (1024 * KB)
#define RW (PROT_READ | PROT_WRITE)
#define IS(name) (!strcmp(kind, name))

static char text[1 << 20];

/* Reads without allocating. */
static long accessible(void)
{
	int fd = open("/proc/self/maps", O_RDONLY);
	size_t length = 0;
	ssize_t n;
	long sum = 0;

	while ((n = read(fd, text + length, sizeof(text) - 1 - length)) > 0)
		length += n;
	close(fd);
	text[length] = 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		unsigned long start, end, inode;
		char protection[5], name[256] = "";

		if (sscanf(line, "%lx-%lx %4s %*s %*s %lu %255[^\n]", &start, &end, protection, &inode, name) >= 4
		    && !inode && !*name && strncmp(protection, "---", 3))
			sum += end - start;
	}
	return sum;
}

static char *map(void *address, size_t size, int protection, int flags)
{
	char *p = mmap(address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

static void protect(void *address, size_t size, int protection)
{
	if (mprotect(address, size, protection))
		abort();
}

static void *thread(void *unused)
{
	pause();
	return unused;
}

__attribute__((noinline)) static void work(const char *kind, char *before)
{
	char *p, *q;

	if IS("reserve") {                      /* V8's cage: some of it becomes memory, and some of that none again */
		p = map(0, 64 * 1024 * MB, PROT_NONE, MAP_NORESERVE);
		protect(p + 5 * MB, MB, RW);
		protect(p + 6 * MB, 2 * MB, PROT_READ);
		protect(p + 6 * MB + 64 * KB, 128 * KB, PROT_NONE);
	} else if IS("reserved_before") {
		protect(before + MB, MB, RW);
		protect(before + MB + 512 * KB, MB, RW);        /* half of it for the second time */
	} else if IS("commit") {                /* the Java virtual machine's way */
		p = map(0, 1024 * MB, PROT_NONE, MAP_NORESERVE);
		map(p + 16 * MB, 8 * MB, RW, MAP_FIXED);
		map(p + 20 * MB, 4 * MB, PROT_NONE, MAP_FIXED | MAP_NORESERVE);
		protect(p + 21 * MB, MB, RW);
	} else if IS("aligned") {               /* head and tail are cut off */
		p = map(0, 3 * MB, RW, 0);
		munmap(p, 4096);
		munmap(p + 2 * MB, MB);
	} else if IS("middle") {
		p = map(0, MB, RW, 0);
		munmap(p + 256 * KB, 512 * KB);
		q = map(p + 256 * KB, 64 * KB, RW, 0);  /* where the hole was, unless there is something by now */
		munmap(q + 16 * KB, 16 * KB);
	} else if IS("several") {
		p = map(0, MB, PROT_NONE, 0);
		munmap(p, MB);
		for (int i = 0; i < 3; i++)
			map(p + i * 64 * KB, 64 * KB, RW, MAP_FIXED);
		munmap(p + 32 * KB, 2 * 64 * KB);
	} else if IS("again") {                 /* the same addresses, mapped anew */
		p = map(0, MB, RW, 0);
		munmap(p + 512 * KB, 512 * KB);
		map(p + 512 * KB, 256 * KB, RW, MAP_FIXED);
		munmap(p, 64 * KB);
		protect(p + 128 * KB, 128 * KB, PROT_NONE);
		protect(p + 128 * KB, 64 * KB, RW);
	} else if IS("flip") {                  /* a JIT's pages: writable or executable */
		p = map(0, MB, RW, 0);
		for (int i = 0; i < 100; i++) {
			protect(p, MB, PROT_READ | PROT_EXEC);
			protect(p, MB, RW);
		}
	} else if IS("file") {
		int fd = open("/proc/self/exe", O_RDONLY);

		if (mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED)
			abort();
		p = map(0, 64 * KB, RW, 0);
		if (mmap(p + 32 * KB, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
			abort();
	} else if IS("moved") {
		p = mremap(map(0, 64 * KB, RW, 0), 64 * KB, 2 * MB, MREMAP_MAYMOVE);
		munmap(p + MB, 512 * KB);
	} else if IS("failed") {
		p = map(0, MB, PROT_NONE, 0);
		munmap(p + 512 * KB, 512 * KB);
		if (!mprotect(p + 256 * KB, MB, RW))    /* ends at the hole, perhaps with a part done */
			abort();
		protect(p + 256 * KB, 256 * KB, PROT_NONE);
		protect(p, 256 * KB, RW);
	} else if IS("threads") {
		pthread_t t;

		for (int i = 0; i < 4; i++)
			pthread_create(&t, 0, thread, 0);
	}
}

int main(int argc, char **argv)
{
	char *before = map(0, 16 * MB, PROT_NONE, 0), c;
	long had = accessible();

	if (argc < 2)
		return 2;
	printf("%d\n", getpid());
	fflush(stdout);
	if (read(0, &c, 1) != 1)
		return 1;
	work(argv[1], before);
	printf("%ld\n", accessible() - had);
	fflush(stdout);
	return read(0, &c, 1) != 1;
}
