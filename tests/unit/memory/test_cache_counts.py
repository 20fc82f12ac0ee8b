# SPDX-License-Identifier: GPL-2.0-or-later
"""Hits and misses from the sums of cachestat's programs."""

import random
from types import SimpleNamespace

import pytest

from crisis.memory.cache_counts import Counts, rank

MEMBERS = (
    "read read_fresh faults fault_fresh added fault_added write metadata read_miss fault_miss "
    "dirtied reclaimed dropped"
).split()


def counts(**sums):
    return Counts({**dict.fromkeys(MEMBERS, 0), **sums})


def test_counts():
    """What is derived from the kernel's sums; an event and its explanation on two sides of an edge
    give no negative.
    """
    usual = counts(
        read=100,
        read_fresh=60,
        faults=10,
        fault_fresh=4,
        added=120,
        fault_added=32,
        write=5,
        metadata=3,
        read_miss=20,
        fault_miss=1,
        dirtied=7,
    )
    assert (usual.hits, usual.misses, usual.mmap_hits, usual.mmap_misses) == (40, 80, 6, 32)
    assert usual.ratio == pytest.approx(40 / 120) and usual.readahead == 80 + 32 - 21
    assert usual.columns(demand=False) == [40, 80, 7, "33.33%", 6, 32]
    assert usual.columns(demand=True) == [80, 20, 7, "80.00%", 9, 1]
    edge = counts(read_fresh=10, fault_fresh=2, write=5, metadata=-3, read_miss=4)
    assert (edge.hits, edge.misses, edge.mmap_hits, edge.readahead, edge.metadata) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert (
        counts().ratio is None
        and counts().demand_ratio is None
        and counts().columns(False)[3] == "-"
    )


def test_rank_orders_as_the_columns_do():
    """By misses, then hits, then dirtied pages, also where sums are those of an interval's edge."""
    rng = random.Random(5)
    for _ in range(1000):
        sums = {member: rng.choice((-3, 0, 1, 2, 5, 1000)) for member in MEMBERS}
        sums.update(fault_added=abs(sums["fault_added"]))
        found = Counts(sums)
        group = SimpleNamespace(**{f"counts_{name}": value for name, value in sums.items()})
        assert rank(group) == (
            -found.misses - found.mmap_misses,
            -found.hits - found.mmap_hits,
            -found.dirties,
        )
