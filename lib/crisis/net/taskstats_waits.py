# SPDX-License-Identifier: GPL-2.0-or-later
"""What tasks have waited for between two readings of taskstats, and which tasks to show.

A reading is {PID or TID: counters}.  Only tasks that are shown have their name read, from
/proc/PID/stat: taskstats has none for a process (fill_stats_for_tgid(), kernel/taskstats.c).
"""

from __future__ import annotations

import os
import time

from ..kernel import cgroup, proc
from ..table import decode
from . import taskstats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol, Union

    from .taskstats import Accounts, Counters

    Reading = dict[int, Counters]
    Value = Callable[[Accounts], Union[float, None]]

    class Source(Protocol):
        """A taskstats.Taskstats."""

        @property
        def names(self) -> list[str]: ...
        def read(self, numbers: list[int], threads: bool = False) -> Reading: ...


__all__ = ["Row", "Waits", "average", "difference", "irq_kept", "known", "leading", "waited"]

_PF_KTHREAD = 0x200000  # include/linux/sched.h


class Row:
    """A task and what it waited for.

    number: its PID, or TID.  kernel: whether it is a kernel thread.
    """

    __slots__ = ("number", "comm", "kernel", "accounts")

    def __init__(self, number: int, comm: str, kernel: bool, accounts: Accounts) -> None:
        self.number, self.comm, self.kernel, self.accounts = number, comm, kernel, accounts


def irq_kept(root: str = "/") -> bool:
    """Whether the kernel accounts for interrupts (CONFIG_IRQ_TIME_ACCOUNTING).

    It has a pressure file for them then.  Where it has no pressure files at all, True: unknown.
    """
    directory = os.path.join(root, "proc/pressure")
    return not os.path.exists(directory) or os.path.exists(os.path.join(directory, "irq"))


def known(accounts: Accounts, on: bool, irq: bool) -> Accounts:
    """The accounts without those that were never kept for this task.

    on: kernel.task_delayacct; irq: as irq_kept() says.  A task that began while it was off has no
      account but the CPU's; it shows as zeros everywhere, also for the copies on write (Linux
      5.19), of which every other process has made some.
    """
    others = [accounts[name] for name in taskstats.DELAYS if name != "cpu"]
    if on and (accounts["wpcopy"][0] is None or any(count for count, _ in others)):
        return accounts if irq else dict(accounts, irq=(None, None))
    return {name: pair if name == "cpu" else (None, None) for name, pair in accounts.items()}


def difference(before: Accounts, after: Accounts) -> Accounts:
    """{delay: (count, total ns)} of an interval; None where either end is not known."""

    def grown(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None or b < a else b - a

    return {
        name: (grown(before[name][0], count), grown(before[name][1], total))
        for name, (count, total) in after.items()
    }


def average(count: int | None, total: int | None) -> float | None:
    """us a wait, or None where there was none."""
    return total / count / 1e3 if count and total is not None else None


def waited(accounts: Accounts) -> int:
    """ns in all."""
    return sum(total or 0 for _, total in accounts.values())


def leading(rows: Iterable[Row], top: int, value: Value) -> list[Row]:
    """The `top` rows with the largest values, kernel threads behind all others."""

    def order(row: Row) -> tuple[bool, float, int, int]:
        return row.kernel, -(value(row.accounts) or 0), -waited(row.accounts), row.number

    return sorted(rows, key=order)[:top]


class Waits:
    """Readings of the tasks to show, and their rows.

    source: a Taskstats.
    pids: processes; tid: a thread; path: a cgroup; without any of them, all processes.
    columns: the delays that can be known here.
    """

    def __init__(
        self, source: Source, pids: list[int] | None, tid: int | None, path: str | None
    ) -> None:
        self._source, self._pids, self._tid, self._path = source, pids, tid, path
        self._on, self._irq = taskstats.switched_on(), irq_kept()
        self._last = self._now = 0.0  # when the last two readings began, by CLOCK_BOOTTIME

    @property
    def columns(self) -> list[str]:
        kept = [name for name in self._source.names if name != "irq" or self._irq]
        return [name for name in kept if self._on or name == "cpu"]

    def read(self, gone: Iterable[int] = ()) -> Reading:
        """A reading.  gone: those of the processes that have ended."""
        self._last, self._now = self._now, time.clock_gettime(time.CLOCK_BOOTTIME)
        if self._tid:
            return self._source.read([self._tid], True)
        if self._pids:
            return self._source.read([pid for pid in self._pids if pid not in gone])
        if self._path is not None:
            return self._source.read(cgroup.processes(self._path))
        return self._source.read(proc.processes())

    def rows(self, before: Reading | None, after: Reading) -> list[Row]:
        """The rows of all tasks of a reading.

        before: the reading at the start of the interval, whose tasks alone count; None for the time
        since they began.
        """
        found = []
        for number in after:
            task = _Task.read(number)
            if task is None or before is not None and (number not in before or self._new(task)):
                continue
            accounts = self._accounts(before, after, number)
            found.append(Row(number, task.comm, task.kernel, accounts))
        return found

    def top(self, before: Reading | None, after: Reading, top: int, value: Value) -> list[Row]:
        """The `top` rows of those that have waited, by value; kernel threads behind all others.

        before: the reading at the start of the interval; None for the time since they began.
        """
        waits = []
        for number, counters in after.items():
            if before is None or before.get(number) != counters:
                accounts = self._accounts(before, after, number)
                if waited(accounts):
                    waits.append((-(value(accounts) or 0), -waited(accounts), number, accounts))
        waits.sort(key=lambda wait: wait[:3])
        rows, users = [], 0
        for _, _, number, accounts in waits:
            task = _Task.read(number)
            if task is None:
                continue
            if before is not None and number in before and self._new(task):
                accounts = self._accounts(None, after, number)
            rows.append(Row(number, task.comm, task.kernel, accounts))
            users += not task.kernel
            if users == top:
                break
        return leading(rows, top, value)

    def _accounts(self, before: Reading | None, after: Reading, number: int) -> Accounts:
        """What a task has waited for; all of it if it was not there before."""
        names = self._source.names
        found = known(taskstats.accounts(names, after[number]), self._on, self._irq)
        if before is None or number not in before:
            return found
        return difference(taskstats.accounts(names, before[number]), found)

    def _new(self, task: _Task) -> bool:
        """Whether a task began after the reading before: its number was that of another one."""
        return task.start > self._last


class _Task:
    """What /proc/PID/stat has of a task.  start: seconds of CLOCK_BOOTTIME, to 1/100."""

    def __init__(self, comm: str, kernel: bool, start: float) -> None:
        self.comm, self.kernel, self.start = comm, kernel, start

    @classmethod
    def read(cls, number: int) -> _Task | None:
        """None for a task that has ended."""
        try:
            with open(f"/proc/{number}/stat", "rb", buffering=0) as f:
                head, _, tail = f.read().rpartition(b")")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = tail.split()
        comm, start = decode(head.partition(b"(")[2]), int(fields[19])
        kernel = bool(int(fields[6]) & _PF_KTHREAD)
        return cls(comm, kernel, start / os.sysconf("SC_CLK_TCK"))
