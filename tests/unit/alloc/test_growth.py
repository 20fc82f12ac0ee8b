# SPDX-License-Identifier: GPL-2.0-or-later
"""Which stacks grow."""

from crisis.alloc.blocks import Group
from crisis.alloc.growth import Growth


def test_growth_is_of_stacks_that_never_shrank():
    growth = Growth()
    reports = [
        {"up": 10, "flat": 5, "saw": 1},
        {"up": 20, "flat": 5, "saw": 9},
        {"up": 20, "flat": 5, "saw": 3, "late": 1},
        {"up": 30, "flat": 5, "saw": 4, "late": 2},
        {"up": 31, "flat": 5, "saw": 5, "late": 3},
    ]
    groups = [{key: Group(nbytes, 1) for key, nbytes in report.items()} for report in reports]
    assert [growth.note(report) for report in groups] == [
        {},
        {},
        {"up": 10},
        {"up": 20},
        {"up": 21, "saw": 2, "late": 2},
    ]
    assert growth.note({}) == {} and growth.history == {}
