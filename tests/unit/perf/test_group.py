# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups of counters: scaling, and differences from reading to reading."""

import pytest

from crisis.perf.group import Counters, OpenGroup, scaled


@pytest.mark.parametrize(
    "value, enabled, running, result",
    [(100, 10, 10, 100), (100, 10, 5, 200), (100, 10, 0, None), (0, 0, 0, None), (100, 9, 10, 100)],
)
def test_scaled(value, enabled, running, result):
    assert scaled(value, enabled, running) == result


class Readings:
    """A Group with given readings."""

    whole_cpu = True

    def __init__(self, *readings):
        self.readings = list(readings)

    def read(self):
        return self.readings.pop(0)

    def close(self):
        pass


def test_counters_give_differences_and_find_the_cpu_that_went_offline():
    counters = Counters.__new__(Counters)
    counters.events, counters.groups, counters.refused, counters.dead = (
        [None] * 4,
        [[0, 2], [1]],
        {3: 2},
        set(),
    )
    counters.open = {
        0: [
            OpenGroup(Readings((10, 10, 1, 2), (30, 25, 4, 9))),
            OpenGroup(Readings((10, 5, 7), (30, 10, 8))),
        ],
        1: [OpenGroup(Readings((10, 10, 1, 2), None)), OpenGroup(Readings((10, 5, 7), None))],
        2: [
            OpenGroup(Readings((10, 10, 1, 2), (10, 10, 1, 2))),
            OpenGroup(Readings((10, 5, 7), (10, 5, 7))),
        ],
    }
    assert counters.read()[0] == [(1, 10, 10), (7, 10, 5), (2, 10, 10), None] and not counters.dead
    second = counters.read()
    assert second[0] == [(3, 20, 15), (1, 20, 5), (7, 20, 15), None]
    assert second[1] == [None] * 4
    assert counters.dead == {1, 2}  # taken apart; off and on again, which leaves it detached
    counters.drop(1)
    assert counters.dead == {2} and sorted(counters.open) == [0, 2]
