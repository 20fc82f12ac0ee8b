# SPDX-License-Identifier: GPL-2.0-or-later
"""Evicting files from the page cache, reading them in, and locking them there.

Each action measures before and after, and gives the reasons for what was not
achieved.  Follows posix_fadvise(2), generic_fadvise() in mm/fadvise.c,
mlock2(2) and mm/mlock.c.
"""

from __future__ import annotations

import os

from .. import table
from ..errors import Error, NotPermitted, Unavailable
from ..kernel import proc
from . import PAGE
from .file_arguments import span
from .mapped_files import mappers
from .mapping import lock_file, pages_of
from .residency import Residency, data_ranges, runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .file_arguments import Range
    from .residency import Counts

__all__ = ["Cache", "Result", "Stopped"]

_BLOCK = 1 << 20  # bytes read at a time
_AHEAD = 8 << 20  # bytes that the kernel reads ahead meanwhile
_CAP_IPC_LOCK = 14
_NAMED = 5  # processes that a reason names
_HIDDEN = "%s, but not verified: the file is neither owned nor writable"


class Stopped(Exception):
    """A stop has arrived in the middle of a file."""


class Result:
    """What an action did to a file.

    size: bytes of the file.  before, after: resident pages, None where they are unknown.
    missing: pages that were to be in memory and are not, or None.
    why: reasons for what was not achieved.  mapped_by: [(pid, comm)].
    stopped: a stop arrived in the middle of it.
    """

    __slots__ = ("size", "before", "after", "missing", "why", "mapped_by", "stopped")

    def __init__(self, size: int, before: int | None, after: int | None) -> None:
        self.size, self.before, self.after = size, before, after
        self.missing: int | None = None
        self.why: list[str] = []
        self.mapped_by: list[tuple[int, str]] = []
        self.stopped = False


class Cache:
    """The page cache, for actions on one open file after the other.

    force: read more than the memory available.
    begin(bytes): called before a file is read.  advance(bytes): called after each piece.
    stopping(): True ends the reading.
    part: of each file, None for the whole.
    Every method raises OSError for what the kernel refuses.
    """

    def __init__(
        self,
        force: bool,
        begin: Callable[[int], None],
        advance: Callable[[int], None],
        stopping: Callable[[], bool],
        part: Range | None = None,
    ) -> None:
        self.residency = Residency()
        self._part = part
        self._force, self._begin, self._stopping = force, begin, stopping
        self._advanced = advance
        self._buffer: memoryview | None = None
        self._mappers: dict[tuple[int, int, int] | str, dict[int, str]] | None = None

    def _measure(self, fd: int, st: os.stat_result, size: int) -> tuple[int | None, int | None]:
        """(resident pages or None, dirty and under writeback or None)."""
        counts = self._counts(fd, st, size)
        if counts is None:
            return None, None
        resident, dirty, writeback, _, _ = counts
        return resident, None if dirty is None or writeback is None else dirty + writeback

    def _counts(self, fd: int, st: os.stat_result, size: int) -> Counts | None:
        if self._part is None:
            return self.residency.measure(fd, st, size)
        return self.residency.measure_range(fd, st, *span(self._part, size))

    def _data(self, fd: int, size: int) -> list[tuple[int, int]]:
        """[(offset, end)] of the data in the part of a file."""
        return within(data_ranges(fd, size), *span(self._part, size))

    def evict(self, name: str, fd: int, st: os.stat_result, size: int) -> Result:
        """Write a file back and drop its pages."""
        before, dirty = self._measure(fd, st, size)
        why = []
        if dirty != 0:
            try:
                os.fdatasync(fd)
            except OSError as exc:
                why.append(f"cannot be written back: {exc.strerror}")
        start, end = span(self._part, size)
        # 0 is up to the end of the file.  The kernel keeps a page of which a part is not meant.
        length = 0 if end >= size else end - start
        os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)
        result = Result(max(size, os.fstat(fd).st_size), before, None)
        result.why = why
        result.after, dirty = self._measure(fd, st, result.size)
        if result.after is None:
            why.append(_HIDDEN % "dropped")
        elif result.after:
            result.mapped_by = self._mapped_by(name, st)
            why += self._reasons(st, result.after, dirty, result.mapped_by)
        return result

    def _reasons(
        self, st: os.stat_result, after: int, dirty: int | None, mapped_by: list[tuple[int, str]]
    ) -> Iterator[str]:
        pages = f"{after} page{'s' if after > 1 else ''} stayed: "
        if self.residency.in_memory_only(st):
            yield pages + "this file system has no other place for them"
            return
        if dirty:
            are = "s are" if dirty > 1 else " is"
            yield f"{dirty} page{are} dirty again, or cannot be written back"
        if mapped_by:
            named = ", ".join(f"{comm} ({pid})" for pid, comm in mapped_by[:_NAMED])
            rest = len(mapped_by) - _NAMED
            more = f", and {rest} more" if rest > 0 else ""
            yield pages + f"the file is mapped by {named}{more}"
        elif not dirty:
            yield pages + "read again, or held by the kernel; no visible process maps it"

    def _mapped_by(self, name: str, st: os.stat_result) -> list[tuple[int, str]]:
        """[(pid, comm)] of the processes that had the file mapped at the first call."""
        if self._mappers is None:
            self._mappers = mappers()
        found: dict[int, str] = {}
        inode = os.major(st.st_dev), os.minor(st.st_dev), st.st_ino
        found.update(self._mappers.get(inode, {}))
        found.update(self._mappers.get(os.path.realpath(name), {}))
        return sorted(found.items())

    def read(
        self,
        fd: int,
        st: os.stat_result,
        size: int,
        ranges: Iterable[tuple[int, int]] | None = None,
    ) -> Result:
        """Read those pages of the [(offset, end)] that are missing; by default the file's data."""
        chosen = data_ranges(fd, size) if ranges is None else ranges
        ranges = within(chosen, *span(self._part, size))
        before, _ = self._measure(fd, st, size)
        needed = sum(end - start for start, end in self._missing(fd, size, ranges))
        if needed and not self._force and needed > _available():
            result = Result(size, before, before)
            result.missing = pages_of(needed)
            result.why.append(
                f"not read: {table.size(needed)} is more than the memory available. Use --force"
            )
            return result
        stopped = False
        if needed:
            self._begin(needed)
            try:
                for start, end in self._missing(fd, size, ranges):
                    self._read(fd, start, end)
            except Stopped:
                stopped = True
        result = self._verify(fd, st, size, ranges, before, "read")
        result.stopped = stopped
        if result.missing:
            reason = "interrupted" if stopped else "reclaimed meanwhile"
            result.why.append(f"{result.missing} pages are missing: {reason}")
        return result

    def _verify(
        self,
        fd: int,
        st: os.stat_result,
        size: int,
        ranges: Iterable[tuple[int, int]],
        before: int | None,
        done: str,
    ) -> Result:
        """The Result by what is in memory now.  done: the action, as a participle."""
        now = os.fstat(fd).st_size if size == st.st_size else size
        result = Result(size, before, None)
        if now < size:
            result.why.append(f"truncated from {size} to {now} bytes meanwhile")
        if before is None:
            result.why.append(_HIDDEN % done)
        else:
            left = [(start, min(end, now)) for start, end in ranges if start < now]
            result.missing = sum(
                pages_of(end - start) for start, end in self._missing(fd, now, left)
            )
        result.after, _ = self._measure(fd, st, min(now, size))
        return result

    def _missing(
        self, fd: int, size: int, ranges: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[int, int]]:
        """Yield (offset, end) of what is not in memory; all, where the kernel hides it."""
        ranges = [(start - start % PAGE, end) for start, end in ranges]
        for offset, vector in self.residency.vectors(fd, size, ranges):
            if vector is None:
                yield from ranges
                return
            for first, count in runs(vector, 0):
                low = offset + first * PAGE
                yield low, min(low + count * PAGE, size)

    def _read(self, fd: int, start: int, end: int) -> None:
        """Read a range and throw it away.  A file cut short meanwhile ends it.  Raises Stopped."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BLOCK))
        ahead = start
        while start < end:
            if self._stopping():
                raise Stopped
            if start >= ahead:
                os.posix_fadvise(fd, start, min(_AHEAD, end - start), os.POSIX_FADV_WILLNEED)
                ahead = start + _AHEAD
            count = os.preadv(fd, [self._buffer[: min(_BLOCK, end - start)]], start)
            if not count:
                return
            start += count
            self._advanced(count)

    def needed(self, fd: int, size: int) -> int:
        """Bytes of a file's data that are not in memory."""
        return sum(end - start for start, end in self._missing(fd, size, self._data(fd, size)))

    def lock(self, fd: int, st: os.stat_result, size: int) -> Result:
        """Map a file for good, lock it, and fault its data in.  Raises Stopped."""
        before, _ = self._measure(fd, st, size)
        ranges = self._data(fd, size)
        first, last = span(self._part, size)
        if first < last:
            self._begin(sum(end - start for start, end in ranges))
            inside = [(start - first, end - first) for start, end in ranges]
            lock_file(fd, first, last - first, inside, self._advance)
        result = self._verify(fd, st, size, ranges, before, "locked")
        if result.missing:
            result.why.append(f"{result.missing} pages are not in memory")
        return result

    def _advance(self, count: int) -> None:
        self._advanced(count)
        if self._stopping():
            raise Stopped

    def locked_pages(self, size: int) -> int:
        """The number of pages that lock() maps of a file of that size."""
        start, end = span(self._part, size)
        return pages_of(end - start)

    def check_lock(self, files: int, pages: int, needed: int) -> None:
        """Raise Error before anything is locked, when not all can be; raises RLIMIT_MEMLOCK.

        files, pages: to be mapped and locked.  needed: bytes to be read for it.
        """
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if soft != resource.RLIM_INFINITY and not proc.capable(_CAP_IPC_LOCK):
            if hard != resource.RLIM_INFINITY and pages * PAGE > hard:
                raise NotPermitted(
                    f"cannot lock {table.size(pages * PAGE)}: the limit RLIMIT_MEMLOCK is "
                    f"{table.size(hard)}. Raise it (ulimit -l) or run as root"
                )
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        with open("/proc/sys/vm/max_map_count") as f, open("/proc/self/maps") as maps:
            limit = int(f.read()) - len(maps.readlines())
        if files > limit:
            raise Unavailable(
                f"cannot map {files} files: vm.max_map_count leaves {limit}. Raise it with sysctl"
            )
        if not self._force and needed > _available():
            raise Error(
                f"cannot lock: {table.size(needed)} must be read, which is more than the memory "
                f"available. Use --force"
            )

    def resident_runs(self, fd: int, st: os.stat_result, size: int) -> list[tuple[int, int]] | None:
        """[(first page, number of pages)] in memory; None when there are none.

        Raises PermissionError where the kernel hides them.
        """
        counts = self._counts(fd, st, size)
        if counts is not None and not counts[0]:
            return None
        found: list[tuple[int, int]] = []
        part = [span(self._part, size)]
        for offset, vector in self.residency.vectors(fd, size, part) if counts else [(0, None)]:
            if vector is None:
                raise PermissionError(1, "the file is neither owned nor writable")
            first = offset // PAGE
            found += [(first + at, count) for at, count in runs(vector, 1)]
        return found


def within(ranges: Iterable[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """What lies between first and last of the ranges [(start, end)]."""
    cut = [(max(start, first), min(end, last)) for start, end in ranges]
    return [(start, end) for start, end in cut if start < end]


def _available() -> int:
    """Bytes that can be used without swapping."""
    return proc.meminfo()["MemAvailable"]
