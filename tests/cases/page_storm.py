# SPDX-License-Identifier: GPL-2.0-or-later
"""Add single pages of sparse files to the page cache at a fixed rate.

    page_storm.py PATH COUNT RATE [evict|files]

Every second page of the file PATH is read, so that no two events are neighbours.  With "evict" each
page is dropped again: the count and the rate are of both kinds of events together.  With "files",
PATH is a directory, and each page is that of a file of its own.

It prints a line when it is ready, and waits for one before it starts.  Then it prints the number of
events and the seconds that they took, and ends when its standard input does.
"""

import os
import sys
import time

PAGE = os.sysconf("SC_PAGE_SIZE")
BATCH = 64


class OneFile:
    """Every second page of a file."""

    def __init__(self, path, count):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self.fd, 2 * count * PAGE)
        self.drop(0, count)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)

    def add(self, first, number):
        pread, fd = os.pread, self.fd
        for offset in range(2 * first * PAGE, 2 * (first + number) * PAGE, 2 * PAGE):
            pread(fd, 1, offset)

    def drop(self, first, number):
        os.posix_fadvise(self.fd, 2 * first * PAGE, 2 * number * PAGE, os.POSIX_FADV_DONTNEED)


class ManyFiles:
    """The only page of each of many files."""

    def __init__(self, path, count):
        self.paths = [os.path.join(path, f"{n % 100:02d}", f"file-{n}") for n in range(count)]
        for n in range(min(count, 100)):
            os.makedirs(os.path.join(path, f"{n:02d}"), exist_ok=True)
        for name in self.paths:
            fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(fd, PAGE)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def add(self, first, number):
        for name in self.paths[first : first + number]:
            fd = os.open(name, os.O_RDONLY)
            os.pread(fd, 1, 0)
            os.close(fd)


def main(path, count, rate, mode=""):
    pages = (ManyFiles if mode == "files" else OneFile)(path, count)
    evict = mode == "evict"
    print("ready", flush=True)
    sys.stdin.readline()
    start, done, at = time.monotonic(), 0, 0
    while done < count:
        number = min(BATCH, (count - done) // (1 + evict) or 1)
        pages.add(at, number)
        if evict:
            pages.drop(at, number)
        at += number
        done += number * (1 + evict)
        early = start + done / rate - time.monotonic()
        if early > 0.001:
            time.sleep(early)
    print(done, time.monotonic() - start, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
