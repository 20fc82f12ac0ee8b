# SPDX-License-Identifier: GPL-2.0-or-later
"""Disjoint ranges of addresses, and what unmapping leaves of blocks of memory."""

from bisect import bisect_left, bisect_right, insort

__all__ = ["Ranges", "punched"]


class Ranges:
    """Ranges [start, end), in order.  Those that touch become one."""

    def __init__(self, ranges=()):
        self._starts, self._ends = [], []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self):
        return zip(self._starts, self._ends)

    def add(self, start, end):
        """Put a range in."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def remove(self, start, end):
        """Take a range out; returns [(start, end)] of what was there of it."""
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        there = list(zip(self._starts[first:last], self._ends[first:last]))
        rest = [part for one in there for part in _apart(*one, start, end)]
        self._starts[first:last], self._ends[first:last] = [r[0] for r in rest], [r[1] for r in rest]
        return [(max(a, start), min(b, end)) for a, b in there]


def punched(blocks, holes):
    """{address: [(start, end) that is left]} of the blocks in which there are holes.

    blocks: {address: (bytes, when it was mapped, ...)}; holes: [(when, start, end)].
    A hole is in the blocks that are older.  A block may lie where an older one had a
    hole, so that they are disjoint only as of one time: all is done in order of time.
    """
    steps = sorted([(block[1], address, 0) for address, block in blocks.items()] + list(holes))
    starts, parts, hit = [], {}, set()          # parts: start -> (end, address of the block)
    for _, start, end in steps:
        if not end:
            if start not in parts:
                insort(starts, start)
            parts[start] = start + blocks[start][0], start
            continue
        first, last = max(bisect_right(starts, start) - 1, 0), bisect_left(starts, end)
        left = []
        for begin in starts[first:last]:
            until, address = parts.pop(begin)
            if until > start:
                hit.add(address)
            for a, b in _apart(begin, until, start, end) if until > start else ((begin, until),):
                parts[a] = b, address
                left.append(a)
        starts[first:last] = left
    result = {address: [] for address in hit}
    for start in starts:
        end, address = parts[start]
        if address in hit:
            result[address].append((start, end))
    return result


def _apart(start, end, cut, cut_end):
    """[(start, end)] of a range without another that it overlaps: what is before and behind that."""
    return [(a, b) for a, b in ((start, cut), (cut_end, end)) if a < b]
