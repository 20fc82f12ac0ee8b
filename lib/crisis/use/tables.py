# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's tables of open files and tasks, and the process nearest to its own limit of files.

Follows Documentation/admin-guide/sysctl/fs.rst and kernel.rst, proc_fd_getattr() in fs/proc/fd.c
(Linux 6.2: the size of /proc/PID/fd is the number of descriptors) and proc_pid_limits() in
fs/proc/base.c.
"""

from __future__ import annotations

import os

from ..kernel import proc
from .row import Row, contents, ratio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .row import Counters

__all__ = ["NEAR", "Files", "Process", "Tasks", "descriptors"]

NEAR = 0.5  # a process that uses less of its limit is not shown
_FEW = 64  # descriptors: no process with fewer is looked at


class Process:
    """A process, its open descriptors and its soft limit."""

    __slots__ = ("pid", "comm", "open", "limit")

    def __init__(self, pid: int, comm: str, descriptors: int, limit: int) -> None:
        self.pid, self.comm, self.open, self.limit = pid, comm, descriptors, limit


class Reading:
    """counters: of the system.  nearest: the process with the least room below its limit."""

    __slots__ = ("counters", "nearest")

    def __init__(self, counters: Counters, nearest: Process | None) -> None:
        self.counters, self.nearest = counters, nearest


class Files:
    """A row for the open files of the system, and one for the process nearest to its limit."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def read(self) -> Reading:
        """The numbers now."""
        words = (contents("/proc/sys/fs/file-nr") or "").split()
        counters = dict(zip(("open", "free", "limit"), map(int, words)))
        return Reading(counters, self._nearest())

    def _nearest(self) -> Process | None:
        best, refused = None, 0
        try:
            pids = proc.processes()
        except OSError:
            return None
        for pid in pids:
            number = descriptors(pid)
            if number is None:
                refused += 1
            elif number >= _FEW:
                limit = _limit(pid)
                share = ratio(number, limit) or 0
                if limit and (best is None or share > best.open / best.limit):
                    best = Process(pid, contents(f"/proc/{pid}/comm") or "?", number, limit)
        text = f"the open files of {refused} processes: not permitted. Run it as root"
        self.missing = [text] if refused else []
        return best

    def rows(self, before: Reading, after: Reading, seconds: float) -> list[Row]:
        """The rows."""
        now, one = after.counters, after.nearest
        # unused ones are free since Linux 2.6, and file-nr has 0 for them
        system = Row(
            "files",
            util=ratio(now.get("open"), now.get("limit")),
            notes=[f"{now['open']} of {_limit_text(now['limit'])} open" if now else None],
            values={"open": now.get("open"), "limit": now.get("limit")},
        )
        if one is None or one.open / one.limit < NEAR:
            return [system]
        process = Row(
            "process_files",
            str(one.pid),
            util=one.open / one.limit,
            notes=[f"{one.open} of {one.limit} open by {one.comm}"],
            values={"pid": one.pid, "comm": one.comm, "open": one.open, "limit": one.limit},
        )
        return [system, process]


def _limit_text(limit: int) -> str:
    return "unlimited" if limit >= 1 << 62 else str(limit)


def descriptors(pid: int) -> int | None:
    """The open descriptors of a process; None where that is not permitted, 0 if it has ended.

    Before Linux 6.2 the directory is listed, if the process has ever had more than 64.
    """
    at = f"/proc/{pid}/fd"
    try:
        number = os.stat(at).st_size
        if number:
            return number
        if _table_size(pid) <= _FEW:
            return 0
        return len(os.listdir(at))
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _table_size(pid: int) -> int:
    """The size of a process's table of descriptors, which grows in powers of two from 64."""
    for line in (contents(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("FDSize:"):
            return int(line.split()[1])
    return 0


def _limit(pid: int) -> int | None:
    """The soft RLIMIT_NOFILE of a process."""
    for line in (contents(f"/proc/{pid}/limits") or "").splitlines():
        if line.startswith("Max open files"):
            word = line[len("Max open files") :].split()[0]
            return int(word) if word.isdigit() else None
    return None


class Tasks:
    """A row for the PIDs and threads of the system."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def read(self) -> Counters:
        """The numbers now."""
        found: Counters = {}
        words = (contents("/proc/loadavg") or "").split()
        if len(words) > 3:
            found["threads"] = int(words[3].partition("/")[2])
        for name in "threads-max", "pid_max":
            text = contents("/proc/sys/kernel/" + name)
            if text is not None:
                found[name] = int(text)
        return found

    def rows(self, before: Counters, after: Counters, seconds: float) -> list[Row]:
        """The row."""
        threads = after.get("threads")
        limits = [after[name] for name in ("threads-max", "pid_max") if name in after]
        limit = min(limits, default=None)
        row = Row(
            "pids",
            util=ratio(threads, limit),
            notes=[None if threads is None else f"{threads} of {limit or '?'} threads"],
            values={
                "threads": threads,
                "threads_max": after.get("threads-max"),
                "pid_max": after.get("pid_max"),
            },
        )
        return [row]
