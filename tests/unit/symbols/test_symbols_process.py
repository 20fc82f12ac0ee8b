# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of processes and their files."""

import time

from crisis.kernel.maps import Mapping
from crisis.symbols.process import apart
from helpers import SLOW


def test_mappings_that_are_gone():
    def row(start, end):
        return Mapping(start, end, True, 0, (b"0:0", 1), "/x")

    old, new = (
        [row(0, 10), row(10, 20), row(30, 40), row(50, 60)],
        [row(5, 10), row(20, 31), row(60, 70)],
    )
    assert apart(old, new) == [row(10, 20), row(50, 60)] and apart(old, []) == old
    begin = time.monotonic()
    assert (
        len(
            apart(
                [row(4 * i, 4 * i + 1) for i in range(60000)],
                [row(4 * i + 2, 4 * i + 3) for i in range(60000)],
            )
        )
        == 60000
    )
    assert time.monotonic() - begin < 10 * SLOW  # minutes, if each were compared with each
