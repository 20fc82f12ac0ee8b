/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Maps a file executable, so that symbol readers see it, and allocates.  Run: ./mapper FILE */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = open(argc > 1 ? argv[1] : "", O_RDONLY);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);

	if (p == MAP_FAILED)
		return 1;
	for (;;) {
		if (!malloc(100))
			return 1;
		usleep(2000);
	}
}
