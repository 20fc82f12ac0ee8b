# SPDX-License-Identifier: GPL-2.0-or-later
"""Sums of groups over CPUs and threads."""

import pytest

from crisis.pmu import source


class TwoGroups:
    groups, events = [[0, 1], [2]], [None] * 4  # the fourth was refused
    group_of = {0: 0, 1: 0, 2: 1}


@pytest.mark.parametrize(
    "readings, parts, result",
    [
        ([[[5, 5, 10, 20], [5, 5, 7]]], [(0, 1)], (10, 5, 5)),
        ([[[5, 5, 10, 20], [5, 5, 7]]], [(0, 1), (1, 1)], (30, 5, 5)),
        ([[[5, 5, 10, 20], [5, 5, 7]], [[5, 5, 1, 2], [5, 5, 3]]], [(1, 1)], (22, 10, 10)),
        ([[[5, 5, 60, 20], [5, 5, 7]]], [(0, 6)], (10, 5, 5)),
        ([[[10, 5, 10, 20], [10, 5, 7]]], [(0, 1), (2, 1)], (34, 10, 5)),  # multiplexed
        ([[[10, 10, 10, 20], [10, 0, 0]]], [(2, 1)], (None, 10, 0)),  # never on the PMU
        ([[[10, 10, 10, 20], [10, 0, 0]]], [(0, 1), (2, 1)], (None, 10, 0)),
        ([[[5, 5, 1, 2], [5, 5, 3]], [[5, 5, 1, 2], [5, 0, 0]]], [(2, 1)], (3, 10, 5)),
        ([[[5, 5, 1, 2], [5, 5, 3]], [None, None]], [(2, 1)], (3, 5, 5)),  # one CPU went offline
        ([[[0, 0, 0, 0], [0, 0, 0]]], [(0, 1)], (0, 0, 0)),  # a process that slept
        ([[[5, 5, 1, 2], [5, 5, 3]]], [(3, 1)], (None, 0, 0)),
        ([[[5, 5, 1, 2], [5, 5, 3]]], [(0, 1), (3, 1)], (None, 0, 0)),
    ],
)
def test_sums(readings, parts, result):
    total = source.Sums(TwoGroups)
    for reading in readings:
        total.add(reading)
    assert total.counter(parts) == result


def test_sums_of_a_thread_that_changes_between_core_types():
    total = source.Sums(TwoGroups)
    total.add([[100, 40, 80, 80], [100, 40, 8]], moving=True)  # 60 of 100 ns on the other cores
    assert total.counter([(0, 1)]) == (80, 40, 40)
    total = source.Sums(TwoGroups)
    total.add([[100, 40, 80, 80], [100, 20, 4]], moving=True)
    assert total.counter([(2, 1)]) == (8, 40, 20)
