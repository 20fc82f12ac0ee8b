# SPDX-License-Identifier: GPL-2.0-or-later
"""Disjoint ranges, and holes in blocks, against a model that knows each byte."""

import random

import pytest

from crisis.alloc.ranges import Ranges, punched


def test_ranges():
    ranges = Ranges([(10, 20), (30, 40)])
    ranges.add(20, 25)
    assert list(ranges) == [(10, 25), (30, 40)]
    ranges.add(24, 31)
    assert list(ranges) == [(10, 40)]
    assert ranges.remove(15, 18) == [(15, 18)] and list(ranges) == [(10, 15), (18, 40)]
    assert ranges.remove(0, 20) == [(10, 15), (18, 20)] and list(ranges) == [(20, 40)]
    assert ranges.remove(0, 20) == [] and ranges.remove(40, 50) == [] and list(ranges) == [(20, 40)]
    assert list(Ranges(ranges)) == [(20, 40)]


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_sets_of_addresses(seed):
    pick = random.Random(seed)
    ranges, model = Ranges(), set()
    for _ in range(200):
        start = pick.randrange(60)
        end = start + pick.randrange(1, 20)
        if pick.random() < 0.5:
            ranges.add(start, end)
            model.update(range(start, end))
        else:
            assert {a for s, e in ranges.remove(start, end) for a in range(s, e)} == model & set(
                range(start, end)
            )
            model.difference_update(range(start, end))
        flat = [bound for one in ranges for bound in one]
        assert flat == sorted(set(flat)) and {a for s, e in ranges for a in range(s, e)} == model


def test_holes_are_in_older_blocks():
    """A block in the hole of another, with a hole of its own."""
    blocks = {100: (100, 1), 150: (20, 3), 500: (10, 9)}
    assert punched(blocks, [(2, 140, 180)]) == {100: [(100, 140), (180, 200)]}
    assert punched(blocks, [(2, 140, 180), (4, 160, 190)]) == {
        100: [(100, 140), (190, 200)],
        150: [(150, 160)],
    }
    assert punched(blocks, [(4, 0, 1000)]) == {100: [], 150: []}
    assert punched(blocks, []) == {}


@pytest.mark.parametrize("seed", range(20))
def test_holes_are_as_a_process_sees_them(seed):
    pick = random.Random(seed)
    blocks, holes, owner = {}, [], {}
    for when in range(1, 80):
        start = pick.randrange(200)
        end = start + pick.randrange(1, 30)
        if (
            pick.random() < 0.5
            and start not in blocks
            and not owner.keys() & set(range(start, end))
        ):
            blocks[start] = end - start, when
            owner.update(dict.fromkeys(range(start, end), start))
        else:
            holes.append((when, start, end))
            for address in range(start, end):
                owner.pop(address, None)
    found = punched(blocks, holes)
    for block, (size, _) in blocks.items():
        left = {a for s, e in found.get(block, [(block, block + size)]) for a in range(s, e)}
        assert left == {a for a, b in owner.items() if b == block}
