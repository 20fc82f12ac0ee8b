# SPDX-License-Identifier: GPL-2.0-or-later
"""Files with known pages in memory, and mincore's own word on them."""

import contextlib
import ctypes
import mmap
import os
import shutil
import subprocess
import tempfile

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def mount(*arguments):
    return subprocess.run(
        ["mount", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@contextlib.contextmanager
def mounted(kind, source, options="defaults"):
    """A directory where the file system is mounted; skips the test when it cannot be."""
    import pytest

    directory = tempfile.mkdtemp()
    try:
        result = mount("-t", kind, "-o", options, source, directory)
        if result.returncode:
            pytest.skip(f"cannot mount {kind}: {result.stdout.strip()}")
        os.chmod(directory, 0o755)
        try:
            yield directory
        finally:
            subprocess.call(["umount", "-l", directory])
    finally:
        os.rmdir(directory)


@contextlib.contextmanager
def disk():
    """A directory on a file system whose pages can be evicted: the usual one, or else ext4 in a
    loop device.
    """
    directory = tempfile.mkdtemp()
    try:
        os.chmod(directory, 0o755)
        if mincore_of(write(directory + "/probe", 4)) == bytes(4):
            yield directory
            return
        image = os.path.join(directory, "image")
        with open(image, "wb") as f:
            f.truncate(192 << 20)
        subprocess.check_call(["mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", image])
        with mounted("ext4", image, "loop") as point:
            yield point
    finally:
        shutil.rmtree(directory)


def evict(path):
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write(path, pages, tail=0):
    """A file of that many pages and a few bytes, on disk and not in memory."""
    with open(path, "wb") as f:
        for i in range(pages):
            f.write(b"%08d" % i * (PAGE // 8))
        f.write(b"t" * tail)
    evict(path)
    return str(path)


class Resident:
    """Keeps pages of a file in memory, so that nothing trims them, and says what mincore says."""

    def __init__(self, path, pages):
        self.fd = os.open(path, os.O_RDONLY)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)  # no readahead
        self.address = None
        if self.size:
            self.address = libc.mmap(None, self.size, mmap.PROT_READ, mmap.MAP_SHARED, self.fd, 0)
            libc.madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(self.size), 1)
        for page in pages:
            if libc.mlock(self.address + page * PAGE, 1):
                raise OSError(ctypes.get_errno(), "mlock")

    def vector(self):
        return mincore(self.fd, self.size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
        if self.address:
            libc.munmap(self.address, self.size)


def mincore(fd, size):
    """One byte for each page, by a fresh mapping."""
    if not size:
        return b""
    vector = ctypes.create_string_buffer((size + PAGE - 1) // PAGE)
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    assert libc.mincore(address, size, vector) == 0
    libc.munmap(address, size)
    return vector.raw


def mincore_of(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return mincore(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def resident(path):
    """The number of a file's pages in memory."""
    return sum(byte & 1 for byte in mincore_of(path))


def read(path, size=1 << 17):
    """The whole file, in reads of that many bytes."""
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, size):
        pass
    os.close(fd)


def touch(path):
    """Each page, through a mapping."""
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as memory:
        sum(memory[::PAGE])


def rewrite(path):
    """Each page, in place."""
    fd = os.open(path, os.O_WRONLY)
    for offset in range(0, os.path.getsize(path), PAGE):
        os.pwrite(fd, b"y" * PAGE, offset)
    os.close(fd)
