# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of a file are in memory.

cachestat(2), Linux 6.5, mm/filemap.c: the kernel counts the folios that exist,
in any state.  mincore(2), mm/mincore.c: one byte for each page of a mapping.
Neither reads a page or changes its age.  Both refuse a caller who neither
owns the file nor may write it, cachestat by EPERM and mincore by reporting
that everything is resident; here both read None.
"""

from __future__ import annotations

import ctypes
import errno
import os

from ..errors import Unavailable
from . import PAGE
from .mapping import libc, mincore, pages_of, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Union

    # Pages: resident, dirty, under writeback, evicted, evicted recently; None for what is not
    # counted.
    Counts = tuple[int, Union[int, None], Union[int, None], Union[int, None], Union[int, None]]
    _Way = Callable[[int, int], Union[Counts, None]]

__all__ = ["NOTHING", "WINDOW", "Residency", "runs", "data_ranges"]

NOTHING = (0, 0, 0, 0, 0)
WINDOW = 1 << 28  # bytes mapped at a time for mincore
_CACHESTAT = 451  # the same on every architecture but alpha
# uapi/linux/magic.h
_HUGETLBFS, _OVERLAYFS, _TMPFS, _RAMFS = 0x958458F6, 0x794C7630, 0x01021994, 0x858458F6
_LARGE = 1 << 30  # a file that several threads count: up to 20 ns a page
_FAR = 1 << 30  # beyond the end of a file by more than any folio's size


_syscall = libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)


class Residency:
    """The page cache's state of files, measured in the way that is right for each file system."""

    def __init__(self, force_cachestat: bool = False) -> None:
        """force_cachestat: never use mincore; Unavailable when the kernel has no cachestat."""
        self.force = force_cachestat
        # Of the file systems, by st_dev, what measures their files; and those where cachestat does.
        self._ways: dict[int, _Way] = {}
        self._plain: set[int] = set()
        self._range = (ctypes.c_uint64 * 2)()
        self._stat = (ctypes.c_uint64 * 5)()
        self._range_at, self._stat_at = ctypes.addressof(self._range), ctypes.addressof(self._stat)
        self._view = memoryview(self._stat).cast("B").cast("Q")
        self._memory: set[int] = set()  # st_dev of file systems that live in memory
        # Of no file at all: only a filter of calls, as of older containers, then answers EPERM.
        self.has_cachestat = not (
            _syscall(_CACHESTAT, 0xFFFFFFFF, self._range_at, self._stat_at, 0)
            and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM)
        )
        if force_cachestat and not self.has_cachestat:
            raise Unavailable(
                "cannot use cachestat: it needs Linux 6.5, and no seccomp filter against it. "
                "Leave out -C to use mincore"
            )

    def measure(self, fd: int, st: os.stat_result, size: int) -> Counts | None:
        """(resident, dirty, writeback, evicted, recently evicted) in pages, below `size` bytes.

        None in place of a count that this file system or kernel does not give,
        None in place of all when the kernel hides them from this user.  Raises OSError.
        """
        if st.st_dev not in self._plain:
            way = self._ways.get(st.st_dev) or self._choose(fd, st)
            if way is not None:
                return way(fd, size)
        if not size:
            return NOTHING
        if size >= _LARGE:
            return self._by_threads(fd, size)
        self._range[1] = size  # 0 would count what lies beyond the end of the file too
        if _syscall(_CACHESTAT, fd, self._range_at, self._stat_at, 0):
            return self._refused()
        return tuple(self._view)  # type: ignore[return-value]

    def _by_threads(self, fd: int, size: int) -> Counts | None:
        """measure() of a large file: the kernel holds no lock, so each CPU can count a part."""
        import _thread

        parts = min(len(os.sched_getaffinity(0)), 4)
        syscall = ctypes.CDLL(None, use_errno=True).syscall  # lets the other threads run
        syscall.restype, syscall.argtypes = _syscall.restype, _syscall.argtypes
        edges = [pages_of(size) * i // parts * PAGE for i in range(parts)] + [size]
        # Counts, or the errno.
        results: list[Any] = [None] * parts
        done = [_thread.allocate_lock() for _ in range(parts)]

        def count(part: int) -> None:
            where, found = (
                (ctypes.c_uint64 * 2)(edges[part], edges[part + 1] - edges[part]),
                (ctypes.c_uint64 * 5)(),
            )
            failed = syscall(_CACHESTAT, fd, ctypes.addressof(where), ctypes.addressof(found), 0)
            results[part] = ctypes.get_errno() if failed else tuple(found)
            done[part].release()

        for lock in done:
            lock.acquire()
        for part in range(1, parts):
            try:
                _thread.start_new_thread(count, (part,))
            except RuntimeError:  # no thread can be had
                count(part)
        count(0)
        for lock in done:
            lock.acquire()
        for result in results:
            if isinstance(result, int):
                ctypes.set_errno(result)
                return self._refused()
        return tuple(map(sum, zip(*results)))  # type: ignore[return-value]

    def measure_range(self, fd: int, st: os.stat_result, start: int, end: int) -> Counts | None:
        """measure() of the bytes from start, which begins a page, to end."""
        if start >= end:
            return NOTHING
        if self.counts_ranges(fd, st):
            return self.range(fd, start, end - start)
        if self.force or self.is_hugetlb(fd, st):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        size = os.lseek(fd, 0, os.SEEK_END)
        vectors = [vector for _, vector in self.vectors(fd, size, [(start, end)])]
        counts = [vector.count(1) for vector in vectors if vector is not None]
        return (sum(counts), None, None, None, None) if len(counts) == len(vectors) else None

    def range(self, fd: int, offset: int, length: int) -> Counts | None:
        """The same five for a range of bytes, by cachestat alone."""
        self._range[0], self._range[1] = offset, length
        failed = _syscall(_CACHESTAT, fd, self._range_at, self._stat_at, 0)
        self._range[0] = 0
        return self._refused() if failed else tuple(self._view)  # type: ignore[return-value]

    def is_hugetlb(self, fd: int, st: os.stat_result) -> bool:
        """True for a file of huge pages, for which no call reports which are there."""
        if st.st_dev in self._plain:
            return False
        return (self._ways.get(st.st_dev) or self._choose(fd, st)) == _count_hugetlb

    def counts_ranges(self, fd: int, st: os.stat_result) -> bool:
        """True where range() is right for the file."""
        if st.st_dev in self._plain:
            return True
        return (self._ways.get(st.st_dev) or self._choose(fd, st)) is None

    def in_memory_only(self, st: os.stat_result) -> bool:
        """True for a file that measure() has seen on tmpfs, ramfs or hugetlbfs."""
        return st.st_dev in self._memory

    def _refused(self) -> Counts | None:
        """None for a file of which the kernel hides the pages.

        Raises OSError for any other error.
        """
        if ctypes.get_errno() == errno.EPERM:
            return None
        raise_errno()

    def _choose(self, fd: int, st: os.stat_result) -> _Way | None:
        """What measures files of a file system; None where cachestat does."""
        buffer = ctypes.create_string_buffer(256)
        magic = 0
        if not libc.fstatfs(fd, buffer):  # f_type comes first: long, on s390x unsigned int
            magic = ctypes.c_uint32.from_buffer(buffer).value
        if magic in (_HUGETLBFS, _TMPFS, _RAMFS):
            self._memory.add(st.st_dev)
        if magic == _HUGETLBFS:
            way = _count_hugetlb
        elif magic == _OVERLAYFS or not self.has_cachestat:
            # An overlay's own inodes cache nothing: cachestat would count 0.  A mapping is of the
            # real file.
            way = self._unsupported if self.force else self._by_mincore
        else:
            self._plain.add(st.st_dev)
            return None
        self._ways[st.st_dev] = way
        return way

    @staticmethod
    def _unsupported(fd: int, size: int) -> Counts | None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def _by_mincore(self, fd: int, size: int) -> Counts | None:
        count = 0
        for _, vector in self.vectors(fd, size):
            if vector is None:
                return None
            count += vector.count(1)
        return count, None, None, None, None

    def vectors(
        self, fd: int, size: int, ranges: Iterable[tuple[int, int]] | None = None
    ) -> Iterator[tuple[int, bytearray | None]]:
        """Yield (offset, bytearray of a byte for each page: 1 is resident), window by window.

        ranges: [(offset, end)] below the size of the file, the whole of it by default; offsets
        begin a page.
        The one bytearray is None when the kernel hides the pages from this user.  Raises OSError.
        """
        if ranges is None:
            ranges = [(0, size)]
        if any(start < end for start, end in ranges) and not self._reports_residency(fd, size):
            yield 0, None
            return
        for start, end in ranges:
            for offset in range(start, end, WINDOW):
                yield offset, mincore(fd, offset, min(WINDOW, end - offset))

    def _reports_residency(self, fd: int, size: int) -> bool:
        """False where mincore would report all pages as resident, whatever they are.

        It then does so of a page beyond the end of the file too.
        """
        end = pages_of(size) * PAGE
        for beyond in end + _FAR, end:
            try:
                return not mincore(fd, beyond, PAGE)[0] & 1
            except OSError as exc:  # beyond what the file system can address
                if exc.errno not in (errno.EOVERFLOW, errno.EINVAL, errno.ENOMEM):
                    raise
        return False


def _count_hugetlb(fd: int, size: int) -> Counts | None:
    """Residency.measure() of a file of huge pages.

    cachestat refuses it, and mincore knows only what the caller has mapped.

    Blocks are counted as pages enter the cache (hugetlb_add_to_page_cache, mm/hugetlb.c), and
    nothing is ever written or evicted.
    """
    return os.fstat(fd).st_blocks * 512 // PAGE, None, None, None, None


def runs(vector: bytearray, value: int) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of each run of bytes `value` (0 or 1).

    vector: of zeros and ones.
    """
    wanted, other = bytes((value,)), bytes((1 - value,))
    first = vector.find(wanted)
    while first >= 0:
        end = vector.find(other, first)
        if end < 0:
            end = len(vector)
        yield first, end - first
        first = vector.find(wanted, end)


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, end) of what lseek(2) calls data, below `size`.

    All of it where the file system does not know.
    """
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # that is, a hole up to the end
                yield end, size
            return
        if start < size:
            yield start, min(end, size)
