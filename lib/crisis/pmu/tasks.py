# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters on each thread of the system, and their sums by process.

A thread has one group of events for each PMU, or several where the PMU has too few counters.  A
group is enabled while its thread has a CPU (event_sched_in() and ctx_sched_out(),
kernel/events/core.c): one read(2) gives the counts, and shows whether the thread has run at all.
Only of one that has, the files in /proc are read.  Threads are found there at each reading.  The
counters of a thread that has ended keep their last values until they are closed.
"""

from __future__ import annotations

import errno
import os
import time
from operator import add

from .. import cli
from ..errors import NotPermitted, Unavailable
from ..kernel import proc, rlimit
from ..kernel.task_stat import TaskStat, all_tasks, command_line, owner, run_ns, task_stat
from ..perf.event import EXCLUDE_HV, EXCLUDE_KERNEL, refusal
from ..perf.group import GONE, Counters
from .columns import run_ratio
from .plan import plan
from .source import Affinity, Sums

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .plan import Plan
    from .source import Count
    from .source import Row as Counts

__all__ = ["MISSES", "Selection", "Row", "Reading", "Tasks"]

# The caches whose misses are counted: AMD counts those of its L3 for all its cores together.
MISSES = ("llc_misses", "l2_misses")
_NO_PMU = (
    "cannot count CPU events: Linux sees no hardware PMU on this machine. Without one, tsa shows "
    "where tasks spend their time"
)
_DEAD_PMU = (
    "cannot count CPU events: the PMU is there but counts no cycles, so this guest has not really "
    "got one. tsa shows where tasks spend their time"
)
_FULL = (errno.EMFILE, errno.ENFILE)
_SPARE = 64  # descriptors that are left for other files
_ROUNDS = 8  # readings in which each thread whose counters stand still is looked at once


class Selection:
    """The processes to count.

    pid: this one.  name: those whose name contains it; command_line: or whose arguments do.
    uid: of this effective user ID.  Without any, all.
    """

    def __init__(
        self,
        pid: int | None = None,
        name: str | None = None,
        uid: int | None = None,
        command_line: bool = False,
    ) -> None:
        self.pid, self.name, self.uid, self.command_line = pid, name, uid, command_line
        self.all = pid is None and name is None and uid is None

    def pids(self, known: Callable[[int], bool]) -> Iterable[int]:
        """Those that there are now.  known: whether a PID has been selected before."""
        found = proc.processes() if self.pid is None else [self.pid]
        return found if self.all else [pid for pid in found if known(pid) or self._takes(pid)]

    def _takes(self, pid: int) -> bool:
        """Its user and name change when it executes a program: to be called again later."""
        if self.uid is not None and owner(pid) != self.uid:
            return False
        return self.name is None or self.name in name_of(pid, self.command_line)


def name_of(pid: int, arguments: bool) -> str:
    """The name of a process, or where it has some its arguments; "" when it has ended."""
    text = command_line(pid) if arguments else None
    stat = None if text else task_stat(pid)
    return text or (stat.comm if stat else "")


class _Task:
    """A process, or a thread where these are shown, and its stat file when it was last read."""

    __slots__ = ("pid", "tid", "stat")

    def __init__(self, pid: int, tid: int | None) -> None:
        self.pid, self.tid = pid, tid
        self.stat = task_stat(pid, tid) or TaskStat("", 0, 0)

    def update(self) -> int | None:
        """Read stat again; the growth of the time in the kernel (ns), None when it has ended."""
        now = task_stat(self.pid, self.tid)
        if now is None:
            return None
        grown = now.system_ns - self.stat.system_ns
        self.stat = now
        return max(grown, 0)


class Row:
    """What a task did between two readings.

    pid; tid: None for a process.  threads: of its process that were counted.
    cpu_ns: time that it ran.  system_ns: of it in the kernel, in clock ticks; None when it has
    ended.
    comm, cpu: its name, and the CPU that it ran on last.
    counts: {counter: (count or None, enabled ns, running ns)} of cycles, instructions,
    cache_misses, branch_misses and bus_cycles.  ended: it is no more.
    """

    __slots__ = "pid", "tid", "threads", "cpu_ns", "system_ns", "comm", "cpu", "counts", "ended"

    def __init__(self, task: _Task, threads: int, total: _Total, ended: bool) -> None:
        """Reads the task's stat file, where it has run."""
        self.pid, self.tid, self.threads = task.pid, task.tid, threads
        self.cpu_ns = total.cpu_ns
        grown = task.update() if total.cpu_ns else 0
        # A tick may have been due before.
        self.system_ns = None if grown is None else min(grown, total.cpu_ns)
        self.comm, self.cpu = task.stat.comm, task.stat.cpu
        self.counts, self.ended = total.counts(), ended

    @property
    def run_ratio(self) -> float | None:
        """The smallest share of its time on a CPU that a counter was counted."""
        return run_ratio(self.counts)


class Reading:
    """Rows, and what is not in them.

    seconds: since the reading before.
    counted_ns: CPU time of all threads that are counted.  used_ns: of all tasks, None where only
    some are selected.  threads: how many are counted.
    lost: {"refused": threads now that may not be counted, "full": threads now for which the limit
    of open files leaves no room, "unseen": tasks that started and ended meanwhile, which is known
    where all tasks of the system are selected}.
    """

    def __init__(
        self,
        seconds: float,
        rows: list[Row],
        counted_ns: int,
        used_ns: int | None,
        threads: int,
        lost: dict[str, int],
    ) -> None:
        self.seconds, self.rows, self.threads, self.lost = seconds, rows, threads, lost
        self.counted_ns, self.used_ns = counted_ns, used_ns


class _Source:
    """The counters of one PMU on all threads."""

    def __init__(self, plan_: Plan, bits: int, moving: bool) -> None:
        """moving: threads move between this PMU's CPUs and another's."""
        self.moving = moving
        self.parts = {
            "cache_misses" if counter in MISSES else counter: parts
            for counter, parts in plan_.parts.items()
        }
        with Affinity(plan_.cpus if moving else None):
            self.counters = Counters(plan_.clusters, {}, bits, probe={"bits": bits})


class _Total:
    """The changes of the threads of a task, added."""

    def __init__(self, sources: list[_Source]) -> None:
        self.sources, self.cpu_ns = sources, 0
        self.sums = [Sums(source.counters) for source in sources]

    def add(self, changes: list[list[list[int] | None]], cpu_ns: int) -> None:
        """changes: of a thread, for each source what Counters.read_groups() gives."""
        self.cpu_ns += cpu_ns
        for source, sums, change in zip(self.sources, self.sums, changes):
            sums.add(change, source.moving)

    def counts(self) -> Counts:
        found: Counts = {}
        for source, sums in zip(self.sources, self.sums):
            for counter, parts in source.parts.items():
                found[counter] = _both(found.get(counter), sums.counter(parts))
        return found


def _both(one: Count | None, other: Count) -> Count:
    """The counts of two PMUs together."""
    if one is None:
        return other
    known = [count for count, _, _ in (one, other) if count is not None]
    return sum(known) if known else None, one[1] + other[1], one[2] + other[2]


def _enabled(changes: list[list[list[int] | None]]) -> int:
    """The time that a thread had a CPU, ns."""
    return max(change[0] for groups in changes for change in groups if change)


def _plans() -> list[Plan]:
    """What to open, with the misses of the last cache that is counted by thread."""
    found: list[Plan] = []
    for misses in MISSES:
        clusters = [["cycles", "instructions"], [misses], ["branch_misses"], ["bus_cycles"]]
        found = plan(clusters, shared_l3=False)[0]
        if any(misses in one.parts for one in found):
            break
    return found


class Tasks:
    """Counters on the threads of the selected processes, and rows of what they counted.

    per_thread: rows of threads, not of processes.  kernel: count kernel mode, too, where that is
    permitted.  idle: rows also of tasks that did not run.
    Attributes: user_only, kernel mode is not counted; refused, {PMU: names of events that it does
    not count}; misses, the name in MISSES of what is counted, or None; limit, of open files;
    described, what is counted, in words for each PMU.
    """

    def __init__(self, selection: Selection, per_thread: bool, kernel: bool, idle: bool) -> None:
        """Raises Unavailable where there is no PMU, and NotPermitted."""
        self._selection, self._per_thread, self._idle = selection, per_thread, idle
        self._sources = self._open_sources(kernel)
        self._tasks: dict[tuple[int, int | None], _Task] = {}
        self._key_of: dict[int, tuple[int, int | None]] = {}  # of threads that are counted
        self._run_ns: dict[int, int | None] = {}  # {TID: time that it had run when last read}
        self._threads: dict[int, int] = {}  # {PID: how many of its threads are counted}
        self._left_out: dict[int, str] = {}  # {TID: why it is not counted}
        self._checked = not selection.all
        self._found = self._unseen = 0  # tasks since the first scan
        self._read_at = 0.0  # by the monotonic clock
        self._readings = 0
        self._stopped: set[int] = set()  # threads whose counters have been removed
        self.limit = rlimit.most_open_files()
        self._follow(self._present())
        for tid, change in self._read().items():  # the setup is left behind
            self._ran(tid, _enabled(change))
        # Later than the scan: a task between them is found, and not counted as started.
        self._whole = selection.all and proc.in_initial_pid_namespace()
        self._used, self._started = all_tasks()
        self._found = 0
        if not self._key_of and "refused" in self._left_out.values():
            raise refusal(PermissionError(errno.EACCES, ""), False) or NotPermitted("not permitted")

    def _open_sources(self, kernel: bool) -> list[_Source]:
        try:
            plans = [one for one in _plans() if one.clusters]
        except Unavailable:  # its remedies are for who can choose the machine
            raise Unavailable(_NO_PMU) from None
        if not plans:
            raise Unavailable("cannot count these events: no core PMU has them")
        several = len(plans) > 1
        user_only = EXCLUDE_KERNEL | EXCLUDE_HV
        for bits in [0, user_only] if kernel else [user_only]:
            try:
                sources = [_Source(one, bits, several) for one in plans]
                break
            except NotPermitted:
                if bits == user_only:
                    raise
        self.user_only = bool(bits)
        self.refused = {
            one.pmu: [source.counters.events[i].name for i in sorted(source.counters.refused)]
            for one, source in zip(plans, sources)
        }
        self.described = [
            f"{one.pmu}, {one.kind or 'unknown CPU'}: {len(source.counters.group_of)} events of "
            f"each thread in {len(source.counters.groups)} groups"
            for one, source in zip(plans, sources)
        ]
        counted = {counter for one in plans for counter in one.parts}
        self.misses = next((name for name in MISSES if name in counted), None)
        return sources

    @property
    def needed(self) -> int:
        """The limit of open files that would do for all threads that there are now."""
        return (len(self._key_of) + len(self._left_out)) * self._events + _SPARE

    @property
    def _events(self) -> int:
        """How many descriptors a thread takes."""
        return sum(len(source.counters.group_of) for source in self._sources)

    def read(self) -> Reading:
        """What was counted since the last reading, or since the start."""
        used, started = all_tasks()
        before, changes = self._read_at, self._read()
        present = self._present()
        self._read_ends(changes, present)
        rows, counted = self._rows(changes, present)
        for tid in self._stopped:
            self._close(tid)
        self._follow(present)
        lost = dict.fromkeys(("refused", "full", "unseen"), 0)
        for reason in self._left_out.values():
            if reason in lost:
                lost[reason] += 1
        if self._whole:
            unseen = max(started - self._started - self._found, self._unseen)
            lost["unseen"], self._unseen = unseen - self._unseen, unseen
        used_ns = used - self._used if self._selection.all else None
        self._used = used
        seconds = self._read_at - before
        return Reading(seconds, rows, counted, used_ns, len(self._key_of), lost)

    def _present(self) -> dict[int, int]:
        """{TID: PID} of the threads of the selected processes."""
        known = {pid for pid, _ in self._tasks}.__contains__
        found: dict[int, int] = {}
        for pid in self._selection.pids(known):
            try:
                tids = os.listdir(f"/proc/{pid}/task")
            except (FileNotFoundError, ProcessLookupError):
                continue
            for tid in tids:
                found[int(tid)] = pid
        return found

    def _read(self) -> dict[int, list[list[list[int] | None]]]:
        """{TID: for each source the changes of its groups} of the threads that are counted."""
        self._read_at = time.monotonic()
        readings = [source.counters.read_groups() for source in self._sources]
        return {tid: [reading[tid] for reading in readings] for tid in self._key_of}

    def _read_ends(
        self, changes: dict[int, list[list[list[int] | None]]], present: dict[int, int]
    ) -> None:
        """Add what threads that are no more did between their reading and their end."""
        gone = [tid for tid in changes if tid not in present]
        for number, source in enumerate(self._sources):
            for tid, more in source.counters.read_groups(gone).items():
                changes[tid][number] = [
                    list(map(add, one, other)) if one and other else one
                    for one, other in zip(changes[tid][number], more)
                ]

    def _rows(
        self, changes: dict[int, list[list[list[int] | None]]], present: dict[int, int]
    ) -> tuple[list[Row], int]:
        """The rows, and the CPU time of all threads."""
        totals: dict[tuple[int, int | None], _Total] = {}
        alive: set[tuple[int, int | None]] = set()
        self._readings += 1
        for tid, change in changes.items():
            key = self._key_of[tid]
            if tid in present:
                alive.add(key)
            enabled = _enabled(change)
            if not enabled and self._has_stopped(tid):
                self._stopped.add(tid)
            if self._idle or enabled:
                total = totals.get(key)
                if total is None:
                    total = totals[key] = _Total(self._sources)
                total.add(change, self._ran(tid, enabled) if enabled else 0)
        counted = sum(total.cpu_ns for total in totals.values())
        if not self._checked:
            self._check(totals.values())
        rows = [
            Row(self._tasks[key], self._threads[key[0]], total, key not in alive)
            for key, total in totals.items()
        ]
        return rows, counted

    def _ran(self, tid: int, enabled: int) -> int:
        """The time that a thread has run since the last reading (ns).

        The scheduler's has the context switches, too; of a thread that has ended there is only the
        time that its counters were enabled.
        """
        now, before = run_ns(self._key_of[tid][0], tid), self._run_ns.get(tid)
        self._run_ns[tid] = now
        return enabled if now is None or before is None else now - before

    def _has_stopped(self, tid: int) -> bool:
        """Whether a thread runs and its counters do not, as far as it is its turn to be looked at.

        The kernel removes them when it executes a set-user-ID program (perf_event_exit_task(), from
        begin_new_exec()), and those of the first thread when another one executes a program.
        """
        before = self._run_ns.get(tid)
        if before is None or (tid + self._readings) % _ROUNDS:
            return False
        now = run_ns(self._key_of[tid][0], tid)
        return now is not None and now > before

    def _check(self, totals: Iterable[_Total]) -> None:
        """Raise Unavailable where the PMU counts nothing: this process, at least, has run."""
        self._checked = True
        cycles = [total.counts()["cycles"] for total in totals]
        if any(running for _, _, running in cycles) and not any(count for count, _, _ in cycles):
            raise Unavailable(_DEAD_PMU)

    def _follow(self, present: dict[int, int]) -> None:
        """Close the counters of threads that have ended, and open those of new ones."""
        for tid in [tid for tid in self._key_of if tid not in present]:
            self._close(tid)
        retried = {tid for tid, why in self._left_out.items() if why == "full"} | self._stopped
        self._stopped = set()
        self._left_out = {
            tid: why for tid, why in self._left_out.items() if tid in present and tid not in retried
        }
        new = [tid for tid in present if tid not in self._key_of and tid not in self._left_out]
        self._found += sum(tid not in retried for tid in new)
        room = (self.limit - _SPARE) // self._events - len(self._key_of)
        for tid in new:
            if cli.stopping():  # opening those of 10,000 threads takes a second
                break
            why = self._open(tid, present[tid]) if room > 0 else "full"
            room = 0 if why == "full" else room - (not why)
            if why:
                self._left_out[tid] = why

    def _open(self, tid: int, pid: int) -> str:
        """Count a thread; why not, or "".  Raises OSError for what is no matter of the thread."""
        try:
            for source in self._sources:
                source.counters.try_add(tid, tid, -1)
        except OSError as exc:
            self._drop(tid)
            if exc.errno in _FULL:
                return "full"
            if exc.errno in GONE:  # or a zombie
                return "ended"
            if exc.errno in (errno.EACCES, errno.EPERM):
                return "refused"
            raise
        for source in self._sources:
            source.counters.enable([tid])
        key = pid, tid if self._per_thread else None
        self._key_of[tid] = key
        if key not in self._tasks:
            self._tasks[key] = _Task(*key)
        self._threads[pid] = self._threads.get(pid, 0) + 1
        self._run_ns[tid] = run_ns(pid, tid)
        return ""

    def _close(self, tid: int) -> None:
        self._drop(tid)
        key = self._key_of.pop(tid)
        del self._run_ns[tid]
        left = self._threads[key[0]] = self._threads[key[0]] - 1
        if not left:
            del self._threads[key[0]]
        if self._per_thread or not left:
            del self._tasks[key]

    def _drop(self, tid: int) -> None:
        for source in self._sources:
            source.counters.drop(tid)
