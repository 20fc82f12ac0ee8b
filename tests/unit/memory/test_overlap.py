# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that several processes touched."""

from crisis.memory import PAGE, overlap
from crisis.memory.smaps import Vma


def mapping(process, start, pages, ref, shared, file=b"00:00 0", name=b""):
    """An overlap.Mapping of `pages` pages, `ref` of them referenced and `shared` shared."""
    return overlap.Mapping(
        process,
        Vma(
            start,
            start + pages * PAGE,
            "rw-p",
            name,
            pages * PAGE,
            0,
            ref * PAGE,
            shared * PAGE,
            file,
        ),
    )


def bounds(mappings, frames=None):
    """(at least, at most) in pages."""
    low, middle, high = overlap.touched(mappings, frames)
    assert low <= middle <= high and middle == round((low * high) ** 0.5)
    return low // PAGE, high // PAGE


def test_what_several_touched_without_frame_numbers():
    # Of 30 pages 20 are shared: 5 of 25 must be of its own, at least.
    assert bounds([mapping(1, 0, 30, 25, 20), mapping(2, 0, 30, 25, 20)]) == (5 + 5 + 20, 50)
    # All shared; one may have touched what the other has, or other pages.
    assert bounds([mapping(1, 0, 60, 10, 60), mapping(2, 0, 60, 12, 60)]) == (12, 22)
    # Nothing shared: exact.  An untouched mapping adds nothing.
    assert bounds([mapping(1, 0, 30, 9, 0), mapping(2, 0, 30, 8, 0), mapping(3, 0, 30, 0, 30)]) == (
        17,
        17,
    )
    # Two anonymous mappings of a process are of different pages, two of a file need not be.
    assert bounds([mapping(1, 0, 9, 4, 9), mapping(1, 1 << 20, 9, 3, 9)]) == (7, 7)
    assert bounds(
        [mapping(1, 0, 9, 4, 9, b"fe:00 5"), mapping(1, 1 << 20, 9, 3, 9, b"fe:00 5")]
    ) == (4, 7)
    # Different files have different pages; a library that only strangers share is one's own.
    assert bounds([mapping(1, 0, 9, 4, 9, b"fe:00 5"), mapping(2, 0, 9, 3, 9, b"fe:00 6")]) == (
        7,
        7,
    )
    # A child's stack has grown downwards: the same pages at another start.
    assert bounds(
        [mapping(1, 50, 9, 4, 9, name=b"[stack]"), mapping(2, 40, 9, 4, 9, name=b"[stack]")]
    ) == (4, 8)
    assert overlap.touched([]) == (0, 0, 0)


def test_what_several_touched_by_frame_numbers():
    def frames(mapping):
        return table[mapping.process, mapping.start]

    table = {(1, 0): (list(range(60)), 0), (2, 0): (list(range(60)), 0)}
    # As a whole, so once; there are 60 of them.
    assert bounds([mapping(1, 0, 60, 60, 60), mapping(2, 0, 60, 60, 60)], frames) == (60, 60)
    assert bounds([mapping(1, 0, 60, 40, 60), mapping(2, 0, 60, 40, 60)], frames) == (40, 60)
    # Pages that only strangers share (frames 100 and up, 200 and up) are different ones.
    table = {(1, 0): (list(range(100, 150)), 10), (2, 0): (list(range(200, 250)), 10)}
    assert bounds([mapping(1, 0, 60, 40, 50), mapping(2, 0, 60, 40, 50)], frames) == (80, 80)
    # A child has moved its memory: 30 pages are still the parent's.
    table = {(1, 0): (list(range(30)), 0), (2, 1 << 20): (list(range(30)), 0)}
    assert bounds([mapping(1, 0, 30, 30, 30), mapping(2, 1 << 20, 30, 30, 30)], frames) == (30, 60)
    # Numbers that cannot be read: as without.
    assert bounds([mapping(1, 0, 60, 40, 60), mapping(2, 0, 60, 40, 60)], lambda mapping: None) == (
        40,
        80,
    )


def test_frame_numbers_are_read_within_limits(monkeypatch):
    read = []
    pair = [mapping(pid, 0, 60, 40, 60) for pid in (1, 2)]
    monkeypatch.setattr(overlap, "LIMIT", 119)
    overlap.touched(pair, read.append)
    monkeypatch.setattr(overlap, "LIMIT", 120)
    monkeypatch.setattr(overlap, "SPAN", 119 * PAGE)
    overlap.touched(pair, read.append)
    assert read == []
    monkeypatch.setattr(overlap, "SPAN", 120 * PAGE)
    overlap.touched(pair, read.append)
    assert read == pair
