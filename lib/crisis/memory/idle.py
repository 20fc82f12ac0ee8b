# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages have been touched, from the kernel's idle page tracking (CONFIG_IDLE_PAGE_TRACKING).

A page is marked idle in /sys/kernel/mm/page_idle/bitmap and stays so until
somebody touches it.  The kernel keeps what reclaim wants to know (the young
flag) apart, so that nothing is taken from it.  Follows mm/page_idle.c,
fs/proc/page.c and Documentation/admin-guide/mm/idle_page_tracking.rst: only
pages on the LRU lists are tracked, a compound page by its head alone, and one
read or write of the bitmap takes at most a page.  Every path is below root,
so that a fixture tree can stand in.
"""

from __future__ import annotations

import array
import os
import time

from ..errors import NotPermitted, Unavailable
from . import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .process import Process

__all__ = ["IdlePages"]

_PFN = (1 << 55) - 1
_CHUNK = 1 << 19  # bytes of pagemap a read
_ZEROS = bytes(_CHUNK)
_LRU, _TAIL, _HUGETLB, _NOPAGE, _ZERO_PAGE = (1 << bit for bit in (5, 16, 17, 20, 24))
_BLOCK = 512  # entries of kpageflags a read; the kernel wants whole words


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unavailable(
            f"there is no {path}: the kernel was built without CONFIG_IDLE_PAGE_TRACKING"
        ) from None
    except PermissionError as exc:
        raise NotPermitted(
            f"cannot open {path}: {exc.strerror}. Idle page tracking needs CAP_SYS_ADMIN"
        ) from None


def _runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """[(first, last)] of consecutive whole numbers in a sorted list."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and index == found[-1][1] + 1:
            found[-1] = found[-1][0], index
        else:
            found.append((index, index))
    return found


class IdlePages:
    """The bitmap, opened.  Raises Unavailable or NotPermitted."""

    def __init__(self, root: str = "/") -> None:
        self.root = root
        self.bitmap = _open(os.path.join(root, "sys/kernel/mm/page_idle/bitmap"), os.O_RDWR)
        self.flags = _open(os.path.join(root, "proc/kpageflags"), os.O_RDONLY)
        self.untracked: set[int] = set()  # heads that could not be marked

    def resident(self, process: Process) -> Iterator[tuple[int, int, str, bytes, list[int]]]:
        """Yield (start, end, permissions, name, page frame numbers) of each mapping."""
        pagemap = process.open("pagemap")
        try:
            for line in process.read_memory("maps").splitlines():
                fields = line.split(None, 5)
                start, end = (int(part, 16) for part in fields[0].split(b"-"))
                name = fields[5] if len(fields) > 5 else b""
                if name != b"[vsyscall]":
                    yield start, end, fields[1].decode(), name, self._frames(pagemap, start, end)
        finally:
            os.close(pagemap)

    def _frames(self, pagemap: int, start: int, end: int) -> list[int]:
        frames: list[int] = []
        at, last = start // PAGE * 8, end // PAGE * 8
        while at < last:
            raw = os.pread(pagemap, min(_CHUNK, last - at), at)
            if not raw:
                break
            at += len(raw)
            if raw != _ZEROS[: len(raw)]:
                entries = array.array("Q", raw)
                present = [entry & _PFN for entry in entries if entry >> 63]
                if present and not any(present):
                    raise NotPermitted(
                        "cannot read page frame numbers from pagemap: the kernel hides them. "
                        "Idle page tracking needs CAP_SYS_ADMIN"
                    )
                frames += present
        return frames

    def cgroup_frames(self, inodes: set[int]) -> list[int]:
        """The frames charged to the cgroups with these inode numbers, page cache included.

        Of v1's memory controller, or v2.
        """
        path = os.path.join(self.root, "proc/kpagecgroup")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unavailable(
                f"there is no {path}: the kernel was built without CONFIG_MEMCG"
            ) from None
        frames: list[int] = []
        base = 0
        with open(fd, "rb", buffering=0) as f:
            while True:
                raw = f.read(_CHUNK)
                if not raw:
                    return frames
                owners = array.array("Q", raw)
                if not inodes.isdisjoint(owners):
                    frames += [
                        base + index for index, owner in enumerate(owners) if owner in inodes
                    ]
                base += len(owners)

    def _heads(self, frames: Iterable[int]) -> tuple[dict[int, int | None], set[int]]:
        """The head of each frame's folio, and the heads on an LRU list.

        None for a frame that is never tracked.
        """
        heads: dict[int, int | None] = {}
        on_lru: set[int] = set()
        block, number = array.array("Q"), -1
        previous: int | None = None
        head: int | None = None

        def flags_of(frame: int) -> int:
            nonlocal block, number
            if frame // _BLOCK != number:
                number = frame // _BLOCK
                block = array.array("Q", os.pread(self.flags, _BLOCK * 8, number * _BLOCK * 8))
            index = frame % _BLOCK
            return block[index] if index < len(block) else _NOPAGE

        for frame in sorted(set(frames)):
            flags = flags_of(frame)
            if flags & (_HUGETLB | _NOPAGE | _ZERO_PAGE):
                head = None
            elif flags & _TAIL:
                if previous != frame - 1 or head is None:
                    head = frame
                    while head and flags_of(head) & _TAIL:
                        head -= 1
                    if flags_of(head) & _LRU:
                        on_lru.add(head)
            else:
                head = frame
                if flags & _LRU:
                    on_lru.add(head)
            heads[frame], previous = head, frame
        return heads, on_lru

    def mark(self, frames: Iterable[int]) -> tuple[int, int]:
        """Mark the pages idle.  (begin, end) in ns of CLOCK_MONOTONIC."""
        heads, on_lru = self._heads(frames)
        self.untracked.update(
            head for head in heads.values() if head is not None and head not in on_lru
        )
        self.untracked -= on_lru
        words: dict[int, int] = {}
        for head in on_lru:
            words[head >> 6] = words.get(head >> 6, 0) | 1 << (head & 63)
        begin = time.monotonic_ns()
        for first, last in _runs(sorted(words)):
            for at in range(first, last + 1, PAGE // 8):
                part = array.array(
                    "Q", [words[i] for i in range(at, min(at + PAGE // 8, last + 1))]
                )
                os.pwrite(self.bitmap, part.tobytes(), at * 8)
        return begin, time.monotonic_ns()

    def touched(self, frames: Iterable[int]) -> tuple[dict[int, bool | None], int, int]:
        """({frame: True where it was touched, None where that is unknown}, begin, end)."""
        heads, _ = self._heads(frames)
        words: dict[int, int] = {}
        begin = time.monotonic_ns()
        for first, last in _runs(
            sorted({head >> 6 for head in heads.values() if head is not None})
        ):
            for at in range(first, last + 1, PAGE // 8):
                raw = os.pread(self.bitmap, 8 * min(PAGE // 8, last + 1 - at), at * 8)
                words.update(enumerate(array.array("Q", raw), at))
        end = time.monotonic_ns()
        result: dict[int, bool | None] = {}
        for frame, head in heads.items():
            if head is None or head in self.untracked or head >> 6 not in words:
                result[frame] = None
            else:
                result[frame] = not words[head >> 6] >> (head & 63) & 1
        return result, begin, end
