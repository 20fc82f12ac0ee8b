# SPDX-License-Identifier: GPL-2.0-or-later
"""Disjoint ranges of addresses, and what unmapping leaves of blocks of memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

TYPE_CHECKING = False  # typing's own takes longer to import than this module
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Range", "Ranges", "punched"]

Range = tuple[int, int]


class Ranges:
    """Ranges [start, end), in order.  Those that touch become one."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._ends)

    def add(self, start: int, end: int) -> None:
        """Put a range in."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def remove(self, start: int, end: int) -> list[Range]:
        """Take a range out; returns [(start, end)] of what was there of it."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        there = list(zip(self._starts[first:last], self._ends[first:last]))
        rest = [part for one in there for part in _without(one, start, end)]
        self._starts[first:last] = [part[0] for part in rest]
        self._ends[first:last] = [part[1] for part in rest]
        return [(max(a, start), min(b, end)) for a, b in there]


def punched(
    blocks: dict[int, tuple[int, ...]], holes: Iterable[tuple[int, int, int]]
) -> dict[int, list[Range]]:
    """{address: [(start, end) that is left]} of the blocks with holes.

    blocks: {address: (bytes, when it was mapped, ...)}; holes: [(when, start, end)].
    A hole is in the blocks that are older.  A block may lie where an older one had a
    hole, so that they are disjoint only as of one time: all is done in order of time.
    """
    steps = sorted([(block[1], address, 0) for address, block in blocks.items()] + list(holes))
    starts: list[int] = []
    parts: dict[int, Range] = {}  # start -> (end, address of the block)
    hit: set[int] = set()
    for _, start, end in steps:
        if not end:  # a block
            if start not in parts:
                insort(starts, start)
            parts[start] = start + blocks[start][0], start
            continue
        first, last = max(bisect_right(starts, start) - 1, 0), bisect_left(starts, end)
        left: list[int] = []
        for begin in starts[first:last]:
            until, address = parts[begin]
            if until <= start:
                left.append(begin)
                continue
            hit.add(address)
            del parts[begin]
            for a, b in _without((begin, until), start, end):
                parts[a] = b, address
                left.append(a)
        starts[first:last] = left
    result: dict[int, list[Range]] = {address: [] for address in hit}
    for start in starts:
        end, address = parts[start]
        if address in hit:
            result[address].append((start, end))
    return result


def _without(one: Range, start: int, end: int) -> list[Range]:
    """[(start, end)] of what is left of a range, in which there is a hole, before and behind."""
    return [(a, b) for a, b in ((one[0], start), (end, one[1])) if a < b]
