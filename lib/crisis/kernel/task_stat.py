# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/PID/stat and /proc/PID/status of processes and threads, and what all tasks did.

Follows do_task_stat() in fs/proc/array.c and show_stat() in fs/proc/stat.c.  Every function takes
root="/", so that a fixture tree can stand in.
"""

from __future__ import annotations

import os

from . import sysfs

__all__ = ["TaskStat", "task_stat", "run_ns", "owner", "command_line", "all_tasks"]

# Fields behind the name, from 0: the state is field 3 of proc_pid_stat(5).
_STIME, _PROCESSOR = 15 - 3, 39 - 3


class TaskStat:
    """Fields of a stat file.

    comm: the name.  system_ns: time in the kernel, of a process with that of its threads that have
    ended.  cpu: where it ran last.
    """

    __slots__ = ("comm", "system_ns", "cpu")

    def __init__(self, comm: str, system_ns: int, cpu: int) -> None:
        self.comm, self.system_ns, self.cpu = comm, system_ns, cpu


def task_stat(pid: int, tid: int | None = None, root: str = "/") -> TaskStat | None:
    """The stat file of a process, or of one of its threads; None when it has ended."""
    thread = "" if tid is None else f"task/{tid}/"
    try:
        head, _, tail = sysfs.read(root, f"proc/{pid}/{thread}stat").rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = tail.split()
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    return TaskStat(head.partition("(")[2], int(fields[_STIME]) * tick, int(fields[_PROCESSOR]))


def run_ns(pid: int, tid: int, root: str = "/") -> int | None:
    """The time that a thread has run (ns, proc_pid_schedstat()).

    None when it has ended, and where the kernel does not show it (CONFIG_SCHED_INFO).
    """
    try:  # of thousands of threads: half the time of sysfs.read()
        path = os.path.join(root, f"proc/{pid}/task/{tid}/schedstat")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return int(os.read(fd, 128).split(None, 1)[0])
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def owner(pid: int, root: str = "/") -> int | None:
    """The effective user ID of a process; None when it has ended."""
    try:
        text = sysfs.read(root, f"proc/{pid}/status")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.partition("\nUid:\t")[2].split(None, 2)[1])


def command_line(pid: int, root: str = "/") -> str | None:
    """The arguments of a process, with spaces between them.

    None where it has none, as a kernel thread, or has ended.
    """
    try:
        text = sysfs.read(root, f"proc/{pid}/cmdline")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.replace("\0", " ").strip() or None


def all_tasks(root: str = "/") -> tuple[int, int]:
    """(ns of CPU time, tasks started) of all tasks since boot.

    Time of interrupts and what the hypervisor took are not in it.  0 tasks where the kernel does
    not show how many.
    """
    text = sysfs.read(root, "proc/stat")
    ticks = sum(int(word) for word in text.split(None, 4)[1:4])  # user, nice, system
    started = text.partition("\nprocesses ")[2].partition("\n")[0]
    return ticks * (10**9 // os.sysconf("SC_CLK_TCK")), int(started or 0)
