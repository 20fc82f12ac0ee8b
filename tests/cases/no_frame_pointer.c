/* One call site that leaks, in code without frame pointers: while it allocates, that register holds a pointer to data.
 * A walk by frame pointers then ends with a word of the data, another in each call.
 * Build: cc -O2 -fomit-frame-pointer -o no_frame_pointer no_frame_pointer.c
 * Run:   ./no_frame_pointer text|heap|mapped N, which prints its PID, waits for a byte, allocates N times 200 bytes,
 *        prints the bytes and waits again.  The word is text, or an address in the heap or in other memory.
 * Right: one stack in open_sessions, of 200 N bytes. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
#define FRAME_POINTER "rbp"
#elif defined(__aarch64__)
#define FRAME_POINTER "x29"
#endif

struct customer { void *next; char name[8]; };
struct session { struct customer *owner; char rest[192]; };

__attribute__((noinline)) int open_sessions(struct customer *first, struct customer *last)
{
	register struct customer *c asm(FRAME_POINTER);

	for (c = first; c < last; c++) {
		struct session *s;

		asm volatile("" : "+r"(c));
		s = malloc(sizeof(*s));
		asm volatile("" : "+r"(c));
		if (!s)
			return -1;
		s->owner = c;
	}
	return 0;
}

int main(int number, char **argv)
{
	long n = number == 3 ? atol(argv[2]) : 0;
	struct customer *customers = calloc(n, sizeof(*customers));
	char *mapped = mmap(NULL, n * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char c;

	for (long i = 0; i < n; i++) {
		char *word = argv[1][0] == 'h' ? malloc(8) : mapped + 8 * i;
		char text[9];

		snprintf(text, sizeof(text), "%08lu", i * 7919 % 100000000);
		memcpy(customers[i].name, argv[1][0] == 't' ? (void *)text : &word, 8);
	}
	printf("%d\n", getpid());
	fflush(stdout);
	if (read(0, &c, 1) != 1 || open_sessions(customers, customers + n))
		return 1;
	printf("%ld\n", n * (long)sizeof(struct session));
	fflush(stdout);
	return read(0, &c, 1) != 1;
}
