# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan that has been opened on CPUs or threads, and the sums of its readings."""

from __future__ import annotations

import os

from ..perf.group import Counters, scaled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Union

    from .plan import Plan

    # The PMU's name or None, and the CPU, or the (package, die, core), or None.
    Label = tuple[Union[str, None], Union[int, tuple[int, int, Union[int, None]], None]]
    # The count or None, and the times that it was enabled and running, in ns.
    Count = tuple[Union[float, None], int, int]
    Row = dict[str, Count]

__all__ = ["Affinity", "Source", "Sums"]


class Source:
    """A Plan that has been opened on its targets, and its readings summed to rows."""

    def __init__(
        self,
        plan_: Plan,
        targets: Mapping[int, tuple[int, int]],
        label_of: Callable[[int], Label],
        bits: int = 0,
        flags: int = 0,
        probe: dict[str, int] | None = None,
        moving: bool = False,
    ) -> None:
        """targets: {key: (pid, cpu)}.  label_of: the row of a key.

        moving: threads, that change between core types.
        """
        self.plan, self.label_of, self.moving = plan_, label_of, moving
        self.counters = Counters(plan_.clusters, targets, bits, flags, probe)

    def read(self, rows: dict[Label, Row]) -> None:
        """Add {counter: (count or None, enabled ns, running ns)} to rows[label]."""
        sums: dict[Label, Sums] = {}
        for key, changes in self.counters.read_groups().items():
            label = self.label_of(key)
            total = sums.get(label)
            if total is None:
                total = sums[label] = Sums(self.counters)
            total.add(changes, self.moving)
        for label, total in sums.items():
            row = rows.setdefault(label, {})
            for counter, parts in self.plan.parts.items():
                row[counter] = total.counter(parts)


class Sums:
    """Group readings of several CPUs or threads, added."""

    def __init__(self, counters: Counters) -> None:
        self.groups, self.group_of = counters.groups, counters.group_of
        # None: not counted anywhere.
        self.values: list[float | None] = [None] * len(counters.events)
        self.times = [[0, 0] for _ in self.groups]  # enabled, running

    def add(self, changes: list[list[int] | None], moving: bool = False) -> None:
        """changes: a value of Counters.read_groups().

        moving: of a thread; on the other core type it is enabled and cannot
        run, which is no multiplexing: what the longest running group ran is the whole.
        """
        values = self.values
        most: int | None = None
        if moving:
            most = max((change[1] for change in changes if change), default=0)
        for change, indices, times in zip(changes, self.groups, self.times):
            if change is None:
                continue
            enabled, running = change[0] if most is None else most, change[1]
            times[0] += enabled
            times[1] += running
            if running >= enabled:  # or both 0: a process that slept
                for index, value in zip(indices, change[2:]):
                    values[index] = (values[index] or 0) + value
            elif running:
                for index, value in zip(indices, change[2:]):
                    values[index] = (values[index] or 0) + (scaled(value, enabled, running) or 0)

    def counter(self, parts: Iterable[tuple[int, int]]) -> Count:
        """(count or None, enabled ns, running ns) of [(index, divisor)].

        The times are those of the part that was counted least.
        """
        amount: float | None = 0
        least: list[int] | None = None
        for index, divisor in parts:
            if index not in self.group_of:  # refused
                return None, 0, 0
            times = self.times[self.group_of[index]]
            if least is None or times[1] * least[0] < least[1] * times[0]:
                least = times
            value = self.values[index]
            if amount is None or value is None:
                amount = None
            else:
                amount += value / divisor if divisor != 1 else value
        if least is None:
            return amount, 0, 0
        return amount, least[0], least[1]


class Affinity:
    """Run on one of these CPUs meanwhile, so that a PMU that only they have can be tried."""

    def __init__(self, cpus: Iterable[int] | None) -> None:
        self.cpus = cpus
        self.before: set[int] = set()

    def __enter__(self) -> None:
        if self.cpus:
            self.before = os.sched_getaffinity(0)
            try:
                os.sched_setaffinity(0, self.cpus)
            except OSError:
                pass

    def __exit__(self, *exc: object) -> None:
        if self.cpus:
            os.sched_setaffinity(0, self.before)
