# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of threads in states, added up over an interval, and its rows."""

from __future__ import annotations

from .states import ACTIONABLE, STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Calls = dict[tuple[str, str], tuple[int, int]]

__all__ = ["Report", "Row", "Sum", "difference", "report", "split_cpu"]

_INDEX = {state: index for index, state in enumerate(STATES)}
_ACTIONABLE = [_INDEX[state] for state in ACTIONABLE]
_RESTING = [_INDEX["sleep"], _INDEX["idle"]]
_LOCK, _IDLE = _INDEX["lock"], _INDEX["idle"]
_SHOWN = 2000  # a task that did nothing but rest for all but 1/2000 of its time is left out


class Sum:
    """A thread's time in an interval: ns, in the order of STATES."""

    __slots__ = ("tgid", "tid", "comm", "kernel", "ns")

    def __init__(self, tgid: int, tid: int, comm: str, kernel: bool) -> None:
        self.tgid, self.tid, self.comm, self.kernel = tgid, tid, comm, kernel
        self.ns = [0] * len(STATES)


class Row:
    """A thread or process, or all the others: pid, tid and comm are None for these.

    threads: number of those that existed in the interval; tasks: of the others; ns: in the order of
    STATES; calls: {(system call, state): (number of waits that have ended, their ns)}.
    """

    __slots__ = ("pid", "tid", "comm", "kernel", "threads", "tasks", "ns", "calls")

    def __init__(
        self, pid: int | None, tid: int | None, comm: str | None, kernel: bool = False
    ) -> None:
        self.pid, self.tid, self.comm, self.kernel = pid, tid, comm, kernel
        self.threads, self.tasks, self.ns = 0, 0, [0] * len(STATES)
        self.calls: Calls = {}

    @property
    def total(self) -> int:
        """ns that its threads have existed."""
        return sum(self.ns)

    def add(self, ns: Iterable[int], threads: int = 1) -> None:
        """Add the time of a thread, or of several."""
        self.threads += threads
        self.ns = [old + new for old, new in zip(self.ns, ns)]

    def order(self) -> tuple[int, int, int, int, int]:
        """By what can be acted on, then by time on a CPU, then by all but rest."""
        actionable = sum(self.ns[index] for index in _ACTIONABLE)
        return -actionable, -self.ns[0] - self.ns[1], -self.busy(), self.pid or 0, self.tid or 0

    def busy(self) -> int:
        """ns in other states than SLEEP and IDLE."""
        return self.total - sum(self.ns[index] for index in _RESTING)


class Report:
    """rows: those to show, the first one first; others: of all the rest, or None.

    comms: the names of all processes by their PIDs.
    """

    __slots__ = ("rows", "others", "comms")

    def __init__(self, rows: list[Row], others: Row | None, comms: dict[int, str]) -> None:
        self.rows, self.others, self.comms = rows, others, comms

    def totals(self) -> list[int]:
        """ns of all threads, in the order of STATES."""
        return [sum(times) for times in zip(*(row.ns for row in self.all))]

    @property
    def all(self) -> list[Row]:
        """The rows, and that of the others."""
        return self.rows if self.others is None else [*self.rows, self.others]


def difference(after: list[int], before: list[int]) -> list[int]:
    """after - before, of times in the order of STATES.

    A wait that seemed to be LOCK before and is IDLE, as it lasted longer, makes LOCK negative.
    """
    ns = [new - old for new, old in zip(after, before)]
    if ns[_LOCK] < 0:
        ns[_IDLE], ns[_LOCK] = max(ns[_IDLE] + ns[_LOCK], 0), 0
    return [max(time, 0) for time in ns]


def split_cpu(ran: int, utime: int, stime: int, kernel: bool = False) -> tuple[int, int]:
    """(USER, SYS) of ns on a CPU, in the ratio of utime to stime.

    Without a tick in either: SYS for a kernel thread, else USER, as cputime_adjust() has it.
    """
    if utime + stime <= 0:
        return (0, ran) if kernel else (ran, 0)
    user = ran * utime // (utime + stime)
    return user, ran - user


def report(
    sums: Iterable[Sum], by_thread: bool, top: int, everything: bool, calls: dict[int, Calls]
) -> Report:
    """The rows of threads, or of their processes.

    top: most rows; everything: also those that only rested; calls: by TID or by PID.
    """
    rows: dict[int, Row] = {}
    comms: dict[int, str] = {}
    for one in sums:
        if one.tgid not in comms or one.tid == one.tgid:
            comms[one.tgid] = one.comm
        number = one.tid if by_thread else one.tgid
        row = rows.get(number)
        if row is None:
            tid = one.tid if by_thread else None
            row = rows[number] = Row(one.tgid, tid, one.comm, one.kernel)
        elif one.tid == one.tgid:
            row.comm = one.comm
        row.add(one.ns)
    for number, found in calls.items():
        if number in rows:
            rows[number].calls = found
    ordered = sorted(rows.values(), key=Row.order)
    shown = ordered[:top]
    if not everything:
        shown = [row for row in shown if row.busy() * _SHOWN >= row.total > 0]
    kept = set(map(id, shown))
    rest = [row for row in ordered if id(row) not in kept]
    others = None
    if rest:
        others = Row(None, None, None)
        others.tasks = len(rest)
        for row in rest:
            others.add(row.ns, row.threads)
    return Report(shown, others, comms)
