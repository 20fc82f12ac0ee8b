# SPDX-License-Identifier: GPL-2.0-or-later
"""The working set of processes.

Which are watched, when they are marked and read, and what is reported.
"""

from __future__ import annotations

import os
import time

from .. import cli
from ..errors import Error, NotPermitted
from .process import Process, descendants, reclaim_scanned
from .working_set_row import measures, total, until
from .working_set_sources import Idle, Sampled, choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence
    from typing import Any, Union

    from .process import Phase
    from .working_set_row import Row
    from .working_set_sources import ClearRefs

    Source = Union[ClearRefs, Idle, Sampled]

__all__ = ["BACKLOG", "Watch", "Report", "collect"]

BACKLOG = 64 << 20  # bytes of smaps that may wait to be parsed while others are read


class Watch:
    """The processes that are watched: found, marked, read."""

    def __init__(self, pids: list[int], args: Namespace, source: Any) -> None:
        self.pids, self.source = pids, source
        self.processes: dict[int, Process] = {}
        self.marks: dict[int, Phase] = {}
        self.newborn: set[int] = set()
        self.tree, self.cgroup = args.tree, args.cgroup
        self.several = len(pids) != 1 or args.tree
        self.by_mapping = args.map or self.several
        self.ended = 0
        self.denied: dict[int, Exception] = {}  # why, by PID
        self.joined: set[int] = set()
        self.cgroup_mark: Phase = 0, 0
        self.listed = 0.0
        self.ends = cli.Ends()  # none for a tree and a cgroup, which may get new processes

    def lost(self) -> dict[str, int]:
        """How many processes have ended, are denied to us, and joined after the clearing."""
        return {"ended": self.ended, "denied": len(self.denied), "joined": len(self.joined)}

    def find(self) -> None:
        """Open the processes that have come.

        Raises Error for one that was named and cannot be watched.
        """
        first, self.listed = not self.listed, time.clock_gettime(time.CLOCK_BOOTTIME)
        wanted = self._candidates(first)
        if len(wanted) > 1:
            from ..kernel import rlimit

            new = sum(pid not in self.processes for pid in wanted)
            rlimit.raise_open_files(new, "process directories")
        for pid in wanted:
            if pid in self.processes or pid in self.denied or pid in self.joined:
                continue
            process = self._open(pid, first)
            if process is not None:
                self.processes[pid] = process
                if first and pid in self.pids:
                    process.probe()
        if first and self.cgroup is None and not self.tree:
            self.ends = cli.Ends(self.pids)

    def _candidates(self, first: bool) -> Sequence[int]:
        """The PIDs to watch."""
        if self.cgroup is not None:
            from ..kernel import cgroup

            return sorted(cgroup.processes(self.cgroup))
        if self.tree:
            return descendants(self.pids if first else self.processes)
        return self.pids if first else ()  # later, another process could have the PID

    def _open(self, pid: int, first: bool) -> Process | None:
        """A process that has memory; None for one that has ended or has none."""
        try:
            process = Process(pid)
        except (Error, ProcessLookupError):
            if first and pid in self.pids:
                raise _no_such(pid) from None
            return None
        if process.kernel or process.state in "ZX":
            process.close()
            if pid in self.pids:
                kind = "kernel thread" if process.kernel else "zombie"
                raise Error(f"process {pid} is a {kind}: it has no memory of its own")
            return None
        return process

    def mark(self) -> None:
        """Clear the bits of all processes that there are now; the interval begins."""
        self.marks, self.newborn, self.joined = {}, set(), set()
        self.find()
        for pid, process in list(self.processes.items()):
            try:
                self.marks[pid] = self.source.mark(process)
            except (ProcessLookupError, NotPermitted) as exc:
                self.drop(pid, exc)
        self.check()
        if self.cgroup is not None and self.source.name == "idle":
            self.cgroup_mark = self.source.mark_cgroup(self._inodes())

    def _inodes(self) -> set[int]:
        from ..kernel import cgroup

        return cgroup.inodes(self.cgroup)

    def read_cgroup(self) -> list[Row]:
        """[the row of the cgroup's pages], or [] where the source does not measure them."""
        if self.cgroup is None or self.source.name != "idle":
            return []
        return [self.source.read_cgroup(self._inodes(), self.cgroup_mark)]

    def drop(self, pid: int, exc: Exception) -> None:
        """Forget a process that has ended; raise what it refused if it was named, else count it."""
        if isinstance(exc, NotPermitted):
            if pid in self.pids:
                raise exc
            self.denied[pid] = exc
        else:
            self.ended += 1
            if pid in self.pids and self.several:
                cli.note(f"process {pid} has ended")
        self.processes.pop(pid).close()

    def check(self) -> None:
        if not self.processes and self.denied:
            raise next(iter(self.denied.values()))
        if not self.processes and self.cgroup is not None:
            raise Error("there is no process in this cgroup")

    def report_end(self, pids: Sequence[int], first: bool) -> None:
        """Print that there is nothing to read any longer; raises Error when there never was."""
        one = f"process {pids[0]}" if pids else ""
        if first:
            who = "every process" if self.several else one
            raise Error(who + " ended before its memory was read")
        cli.note(("every process" if self.several else one) + " has ended")

    def _born(self, pid: int, process: Process, listed: float) -> Phase | None:
        """The birth of a process that came after the marking, as its mark.

        None for one that joined.

        Whoever was born after the list was made has touched since then all that it has touched.
        """
        tick = 1 / os.sysconf("SC_CLK_TCK")
        if process.born + tick < listed:
            self.joined.add(pid)
            self.processes.pop(pid).close()
            return None
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.born
        born = time.monotonic_ns() - int(age * 1e9)
        self.newborn.add(pid)
        return born, born + int(tick * 1e9)

    def read(self) -> list[Row]:
        """The rows of the processes that are there, and of those born meanwhile."""
        listed = self.listed
        if self.tree or self.cgroup is not None:
            self.find()
        rows: list[Row] = []
        backlog = 0
        for pid, process in list(self.processes.items()):
            mark = self.marks.get(pid) or self._born(pid, process, listed)
            if mark is None:
                continue
            self.marks[pid] = mark
            try:
                begin, end, raw, parse = self.source.read(process, self.by_mapping)
                comm = process.read("comm")[:-1].decode("utf-8", "surrogateescape")
            except (ProcessLookupError, NotPermitted) as exc:
                self.drop(pid, exc)
                continue
            rows.append(
                {
                    "pid": pid,
                    "comm": comm,
                    "mark": mark,
                    "read": (begin, end),
                    "parse": (raw, parse),
                    "newborn": pid in self.newborn,
                }
            )
            backlog += len(raw)
            if backlog > BACKLOG:
                _parse(rows)
                backlog = 0
        _parse(rows)
        return rows


def _parse(rows: Sequence[Row]) -> None:
    """Fill in those rows whose text waits to be parsed."""
    for row in rows:
        if "parse" in row:
            raw, parse = row.pop("parse")
            found, maps = parse(raw)
            row.update(
                measures(found), ref=found["Referenced"], maps=maps, touched=found.get("touched")
            )


def _no_such(pid: int) -> Error:
    from ..kernel import proc

    where = "" if proc.in_initial_pid_namespace() else " in this PID namespace"
    return Error(f"no such process{where}: {pid}")


class Report:
    """One report.

    rows: of the processes.  total: their row, None for a single one.  cgroup: [the row of its
    pages] or [].
    slept: ns.  scanned: pages that reclaim looked at meanwhile, or None.
    """

    __slots__ = ("rows", "total", "cgroup", "slept", "scanned", "watch", "source")

    def __init__(self, rows: list[Row], slept: int, watch: Watch, source: Source) -> None:
        self.rows, self.slept, self.watch, self.source = rows, slept, watch, source
        self.total: Row | None = None
        self.cgroup: list[Row] = []
        self.scanned: int | None = None


class _Schedule:
    """When the readings of a run are due.

    growing: the bits are cleared once, and readings follow: every interval, or after 1, 2, 4, 8 ...
    of them.
    """

    def __init__(self, args: Namespace, interval: float | None) -> None:
        self.growing, self._profile = bool(args.cumulative or args.profile), bool(args.profile)
        self._interval, self._pause = interval, args.snapshot or 0.0
        self._base: float | None = None
        self.number = 0  # of readings that have been made

    def deadline(self) -> float:
        """The moment of the next reading on the monotonic clock; the first call begins the run."""
        if self._base is None:
            self._base = time.monotonic()
        if self._interval is None:
            return float("inf")
        if self._profile:
            return self._base + float(self._interval * 2**self.number)
        return self._base + self._interval + self.number * (self._interval + self._pause)

    def skip(self) -> None:
        """Skip what has been missed by whole periods; the others stay where they were."""
        if self._interval is None or self._profile:
            return
        now = time.monotonic()
        while self._base is not None and now > self.deadline():
            self._base += self._interval + self._pause

    def next(self) -> float:
        """The moment at which the next interval begins."""
        return (self._base or 0.0) + self.number * ((self._interval or 0.0) + self._pause)


def collect(
    args: Namespace, pids: list[int], interval: float | None, count: int | None
) -> Iterator[Report]:
    """Yield the reports.

    args: parsed arguments of the command; interval in seconds, or None until a stop; count: of
    reports, or None.
    """
    if args.source == "damon":
        yield from _sampled(args, pids, interval or 0.0, count)
        return
    source = choose(pids, args)
    watch = Watch(pids, args, source)
    schedule = _Schedule(args, interval)
    once = not schedule.growing and args.snapshot is None
    limit = args.profile or count or (1 if once else None)
    watch.find()
    if not args.json:
        _announce(args, watch, interval)
    if source.warning:
        cli.verbose(source.warning)
    start, slept = time.monotonic(), 0
    scanned: int | None = None
    while True:
        if not (schedule.growing and schedule.number):
            scanned, slept = reclaim_scanned(), 0
            watch.mark()
        slept += _wait(schedule, watch)
        rows = watch.read()
        if not rows:
            watch.report_end(pids, schedule.number == 0)
            return
        report, after = Report(rows, slept, watch, source), reclaim_scanned()
        report.total = total(rows, watch.processes) if watch.several else None
        report.cgroup = watch.read_cgroup()
        if scanned is not None and after is not None:
            report.scanned = after - scanned
        yield report
        schedule.number += 1
        over = args.duration and time.monotonic() - start >= args.duration
        if cli.stopping() or schedule.number == limit or over:
            return
        schedule.skip()
        if not schedule.growing:
            until(schedule.next(), watch.ends)
            if cli.stopping():
                return


def _wait(schedule: _Schedule, watch: Watch) -> int:
    """Sleep until the next reading.  The time that it took, in ns."""
    begin = time.monotonic()
    deadline = schedule.deadline()
    if watch.processes:
        until(deadline, watch.ends)
    return int((time.monotonic() - begin) * 1e9)


def _sampled(
    args: Namespace, pids: list[int], interval: float, count: int | None
) -> Iterator[Report]:
    """collect() by DAMON."""
    watch = Watch(pids, args, None)
    watch.find()
    source = Sampled()
    try:
        if not args.json:
            _announce(args, watch, interval)
        limit = count or (1 if args.snapshot is None else None)
        number, base = 0, time.monotonic()
        while not cli.stopping():
            row = source.measure(watch.processes[pids[0]], interval, watch.ends)
            if row is None:
                return
            yield Report([row], int(interval * 1e9), watch, source)
            number += 1
            if number == limit or args.duration and time.monotonic() - base >= args.duration:
                return
            until(base + number * (interval + (args.snapshot or 0.0)), watch.ends)
    finally:
        source.close()


def _announce(args: Namespace, watch: Watch, interval: float | None) -> None:
    """Print the first line, in the words of the classic wss.pl."""
    pids = list(watch.processes)
    what = f"PID {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"
    if interval is None:
        how = "until Ctrl-C"
    elif args.profile:
        how = f"grow, profile beginning with {interval:g} seconds, {args.profile} steps"
    elif args.cumulative:
        how = f"grow, output every {interval:g} seconds"
    elif args.snapshot:
        pause = f"repeating after {args.snapshot:g} second pauses"
        how = f"for {interval:g} seconds, {pause}"
    elif args.snapshot is not None:
        how = f"for every {interval:g} seconds"
    else:
        how = f"during {interval:g} seconds"
    cli.out(f"Watching {what} page references {how}...\n")
