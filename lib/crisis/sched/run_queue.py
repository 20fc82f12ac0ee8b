# SPDX-License-Identifier: GPL-2.0-or-later
"""The time that tasks wait on a run queue, by programs on wakeups and context switches.

The programs are those of progs/runqlat.bpf.c.
"""

from __future__ import annotations

from .. import bpf, cli, hist, table
from ..bpf import task
from ..errors import Unavailable
from ..kernel import proc
from . import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

__all__ = ["SOURCES", "Group", "Interval", "Tracer"]

_KEYS = {"pid": 1, "tid": 2, "pidns": 3, "cgroup": 4, "comm": 5}
_BITS = 38 + hist.FRACTION  # the last bucket also takes what is longer than 2**38 us, three days


SOURCES = programs.sources(
    "runqlat",
    ("key", "key_subsys", "milliseconds", "shift", "slots", "cpus", "top"),
    ("histograms_full", "waiters_full"),
    {f"KEY_{name.upper()}": number for name, number in _KEYS.items()},
)


class Group:
    """The waits of one key: name ("" for all), comm ("" without one), waits."""

    __slots__ = "name", "comm", "waits"

    def __init__(self, name: int | str, comm: str, waits: hist.Histogram) -> None:
        self.name, self.comm, self.waits = name, comm, waits


class Interval:
    """What happened in an interval.

    groups: [Group]; threads: of --top, [(TID, record of struct waiter)] of those that waited, by
    their total; lost: {counter: number} of waits that are missing.
    """

    __slots__ = "groups", "threads", "lost"

    def __init__(
        self, groups: list[Group], threads: list[tuple[int, Any]], lost: dict[str, int]
    ) -> None:
        self.groups, self.threads, self.lost = groups, threads, lost


class Tracer:
    """The program, sized and filtered by the options, and the reading of its banks."""

    def __init__(self, args: Namespace) -> None:
        """args: the options of runqlat.  Raises what bpf.load raises, and Unavailable."""
        self._key, self._top = args.key, args.top
        self._shift, self._unit = _shift(args), "ms" if args.milliseconds else "us"
        self._cpus = bpf.possible_cpus()
        self.hierarchy: str | None = None  # the mount point of the cgroups of --by cgroup
        controllers: set[str] | None = None
        if args.key == "cgroup":
            self.hierarchy, controllers = _hierarchy(args.cgroup_version)
        keyed, slots, threads = (
            args.key in _KEYS,
            hist.slots(self._shift, _BITS),
            proc.thread_count(),
        )
        params = {
            "milliseconds": args.milliseconds,
            "key": _KEYS.get(args.key, 0),
            "shift": self._shift,
            "slots": slots,
            "cpus": self._cpus,
            "top": bool(args.top),
            "key_subsys": task.subsys(controllers),
        }
        tracked = max(16384, 2 * threads)
        self._program = bpf.load(
            SOURCES,
            args,
            params,
            {
                "cpu_hists": {"max_entries": 1 if keyed else 2 * self._cpus, "elements": slots},
                "key_hists": {
                    "max_entries": max(4096, 2 * threads) if keyed else 1,
                    "elements": slots,
                },
                "empty": {"elements": slots},
                "waiters": {"max_entries": tracked if args.top else 1},
                "start": {"max_entries": tracked},
            },
        )
        if args.key in ("pid", "tid") or args.top:
            task.warn_of_foreign_pids(cli.note)
        self._banks = bpf.Banks(self._program)

    def read(self, final: bool) -> Interval:
        """The Interval that ends now; final: the last one."""
        self._banks.switch(final)
        groups = self._keyed() if self._key in _KEYS else self._per_cpu()
        threads = self._waiters() if self._top else []
        return Interval(groups, threads, self._program.lost())

    def _histogram(self, sums: Any) -> hist.Histogram:
        return hist.Histogram(sums, self._shift, self._unit)

    def _per_cpu(self) -> list[Group]:
        sums = self._banks.array("cpu_hists", self._cpus)
        if self._key == "cpu":
            return [
                Group(cpu, "", self._histogram(found))
                for cpu, found in enumerate(sums)
                if found.count
            ]
        total = self._histogram(sums[0])
        for found in sums[1:]:
            if found.count:
                total.add(self._histogram(found))
        return [Group("", "", total)]

    def _keyed(self) -> list[Group]:
        groups = []
        for key, found in self._banks.each("key_hists"):
            name, comm = key.a, table.decode(found.comm)
            if self._key == "comm":
                name, comm = comm, ""
            groups.append(Group(name, comm, self._histogram(found)))
        if self.hierarchy is not None:
            from ..kernel import cgroup

            paths = cgroup.paths([int(group.name) for group in groups], self.hierarchy)
            for group in groups:
                group.name = paths.get(int(group.name), f"id {group.name}, removed")
        groups.sort(key=lambda group: -group.waits.total)
        return groups

    def _waiters(self) -> list[tuple[int, Any]]:
        """Threads that only ran have no count."""
        threads = [(key.tid, found) for key, found in self._banks.each("waiters") if found.count]
        threads.sort(key=lambda thread: -thread[1].total)
        return threads


def _hierarchy(version: int | None) -> tuple[str, set[str] | None]:
    """(mount point, controllers or None for v2) for --by cgroup.  Raises Unavailable."""
    from ..kernel import cgroup

    found = cgroup.task_hierarchy(version)
    if found is None:
        of_version = f" of version {version}" if version else ""
        raise Unavailable(f"cannot group by cgroup: no cgroup file system{of_version} is mounted")
    cli.verbose(f"cgroups are those of {found[0]}")
    return found


def _shift(args: Namespace) -> int:
    """log2 of the buckets an octave: as requested, else what percentiles need and memory allows."""
    if args.steps:
        return int(args.steps).bit_length() - 1
    return 2 if args.key in _KEYS else 4
