# SPDX-License-Identifier: GPL-2.0-or-later
"""The curve on the terminal, and its knee."""

import pytest

from crisis import plot


@pytest.mark.parametrize(
    "points, even, index",
    [
        ([(1, 10), (2, 20), (4, 40), (8, 40), (16, 40)], True, 2),  # a cycle of 4 s
        # all is hot: the curve starts at 0
        ([(1, 30), (2, 36), (3, 38), (4, 39), (5, 40)], False, 0),
        ([(1, 10), (2, 20), (3, 30), (4, 40)], False, None),  # a scan
        ([(1, 10), (2, 10), (4, 10)], True, 0),  # flat
        # doubles with time: never above its chord
        ([(1, 1), (2, 2), (4, 4), (8, 8), (16, 16)], True, None),
        ([(1, 10), (2, 40)], True, None),
        ([], True, None),
        ([(1, 0), (2, 0), (3, 0)], False, None),
    ],
)
def test_knee(points, even, index):
    assert plot.knee(points, even) == index


def test_plot():
    points = [(0.01, 10.0), (0.02, 20.0), (0.04, 40.0), (0.08, 40.0), (0.16, 40.0)]
    assert (
        plot.lines(points, 2, True, ("Ref(MB)", "Est(s)"), wide=21, high=5)
        == """\
   Ref(MB)
     40.00 |          K    *    *
           |
     20.00 |     *
           |*
      0.00 |
           +---------------------
            0.01      0.04      0.16 Est(s)
"""
    )
    assert plot.lines([], None, True, ("y", "x")) == ""
    assert "*" in plot.lines([(1, 0)], None, False, ("y", "x"))
