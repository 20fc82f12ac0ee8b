# SPDX-License-Identifier: GPL-2.0-or-later
"""Rates of several CPUs, weighed."""

import pytest

from crisis.cpu import clock_rate


def test_summary_weighs_the_mean_clock_by_work():
    rows = [
        clock_rate.Rate(0, 900, 1800, 0.9, 2.0, 4000.0),
        clock_rate.Rate(1, 100, 100, 0.1, 1.0, 2000.0),
        clock_rate.Rate(2),
    ]
    low, mean, high = clock_rate.summary(rows)
    assert (low.mhz, mean.mhz, high.mhz) == (2000, 3800, 4000)
    assert (low.util, mean.util, high.util) == (0.1, 0.5, 0.9)
    assert mean.ratio == pytest.approx(1.9)
