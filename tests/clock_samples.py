# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of a CPU's clock counters, made up."""

from crisis.cpu import clock, clock_rate


class Script(clock.Counters):
    """Counters whose samples are given: (ns, TSC, MPERF, APERF)."""

    def __init__(self, *samples):
        super().__init__()
        self.samples = iter(samples)

    def _read(self, cpu):
        return clock.Sample(*next(self.samples))


def rates_of(counters, seconds, base=None, idle=False):
    """The Rows of CPU 0 between the samples."""
    rows, before = [], counters.read(0)
    for _ in range(seconds):
        after = counters.read(0)
        rows.append(clock_rate.between(0, before, after, base, counters.rate(base, 0), idle=idle))
        before = after
    return rows


G = 10**9


def second(n, tsc, worked):
    """The sample after n seconds; worked: seconds in C0, all at 1.5 times MPERF's rate, 2 GHz."""
    return n * G, tsc, worked * 2 * G, worked * 3 * G
