# SPDX-License-Identifier: GPL-2.0-or-later
"""When a command that prints events reports its totals, and when it ends.

Such a command takes `[interval [count]]` like all others: it prints the events as they occur,
totals after each interval, and ends after `count` intervals.
"""

from __future__ import annotations

import time

from .. import cli

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser

__all__ = ["Schedule", "add_arguments"]


def add_arguments(p: ArgumentParser) -> None:
    """Add the positional `interval` and `count`."""
    p.add_argument(
        "interval",
        nargs="?",
        type=cli.positive_float,
        help="seconds between two lines of totals, or between two reports of --summary; without "
        "it, no totals, and one report at the end",
    )
    p.add_argument(
        "count",
        nargs="?",
        type=cli.positive_int,
        help="end after this many intervals; without it, at Ctrl-C",
    )


class Schedule:
    """The deadlines of one run, from now on, in seconds of CLOCK_MONOTONIC."""

    def __init__(
        self, interval: float | None, count: int | None = None, duration: float | None = None
    ) -> None:
        """interval: seconds between two reports; None: only events are printed.

        count: number of intervals, None: no end.  duration: seconds in all, None: no limit.
        """
        self._interval, self._start = interval, time.monotonic()
        self._last, self._number = self._start, 0
        ends = [] if duration is None else [self._start + duration]
        if interval is not None and count is not None:
            ends.append(self._start + interval * count)
        self._end = min(ends, default=None)

    def left(self, most: float) -> float:
        """Seconds to wait until the next deadline, at most `most`."""
        deadlines = [] if self._end is None else [self._end]
        if self._interval is not None:
            deadlines.append(self._tick())
        return max(0.0, min([most, *(at - time.monotonic() for at in deadlines)]))

    def over(self) -> bool:
        """Whether the time for the whole run has passed."""
        return self._end is not None and time.monotonic() >= self._end

    def elapsed(self, last: bool) -> float | None:
        """The seconds of the interval that has ended since the last call; None: none has.

        last: the run ends now, and with it the interval.  Without intervals, the whole run is one.
        Deadlines that were missed by a whole interval are skipped.
        """
        now = time.monotonic()
        if not last and (self._interval is None or now < self._tick()):
            return None
        seconds, self._last = now - self._last, now
        if self._interval is not None:
            self._number = max(self._number + 1, int((now - self._start) / self._interval))
        return seconds

    def _tick(self) -> float:
        """When the present interval ends."""
        assert self._interval is not None
        return self._start + self._interval * (self._number + 1)
