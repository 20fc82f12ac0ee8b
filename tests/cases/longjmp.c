/* A signal handler leaves an allocator by siglongjmp(3): that call never returns.  Those after it are calls like any
 * other.
 * Build: cc -O1 -fno-omit-frame-pointer -o longjmp longjmp.c
 * Run:   ./longjmp, which waits for a byte, leaves its allocator (tc_malloc) once in each of two ways, and each time
 *        allocates afterwards: as deep in the stack, deeper, and less deep.  It prints a line and waits again.
 * Right: what is below `kept`, and two calls of which the return was not seen. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char pool[1 << 20];
static long used;
static int interrupted;
static sigjmp_buf back;
static void *volatile kept_blocks[16];

__attribute__((noinline)) void tc_free(void *p)
{
	asm volatile("" :: "r"(p));
}

__attribute__((noinline)) void *tc_malloc(size_t size)
{
	void *p = pool + used;

	if (interrupted)
		raise(SIGUSR1);
	used += (size + 15) & ~15UL;
	return p;
}

static void handler(int number)
{
	interrupted = 0;
	siglongjmp(back, number);
}

__attribute__((noinline)) static void kept(int depth, int i, size_t size)
{
	volatile long frame[8];

	for (int k = 0; k < 8; k++)
		frame[k] = k;
	if (depth)
		kept(depth - 1, i, size);
	else
		kept_blocks[i] = tc_malloc(size);
	frame[0] = frame[7];
}

int main(void)
{
	char c;

	signal(SIGUSR1, handler);
	if (read(0, &c, 1) != 1)
		return 1;
	interrupted = 1;
	if (!sigsetjmp(back, 1))
		kept(2, 0, 77777);
	kept(9, 1, 1000);               /* deeper */
	kept(0, 2, 200);                /* above */
	interrupted = 1;
	if (!sigsetjmp(back, 1))
		kept(2, 0, 77777);
	kept(2, 3, 30);                 /* where the other was */
	kept(9, 4, 4);
	tc_free(tc_malloc(66666));
	printf("done\n");
	fflush(stdout);
	return read(0, &c, 1) != 1;
}
