# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of threads in states without BPF: by samples of /proc/TID/syscall.

The time on a CPU and on its run queue is exact, from /proc/TID/schedstat at both ends of the
interval; the samples only divide what remains.  Follows proc(5), proc_pid_syscall() and
proc_pid_schedstat() in fs/proc/base.c, and do_task_stat() in fs/proc/array.c.
"""

from __future__ import annotations

import os
import time

from .. import cli
from ..errors import NotPermitted, Unavailable
from ..kernel import call_numbers, cgroup, proc
from . import states
from .state_sums import Sum, split_cpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from .state_sums import Calls

__all__ = ["Sampler", "check"]

_PF_KTHREAD = 0x00200000
_PERIOD = 0.01  # seconds
_SHARE = 0.2  # of the time at most is spent on sampling
_LISTED = 10  # samples between two looks for new threads
_UNSURE = ("read", "write", "ioctl", "other", "disk", "net")  # D or S: /proc/TID/stat has it
_RUNQ, _DISK, _SWAP, _LOCK, _IDLE, _OTHER = map(
    states.STATES.index, ("runq", "disk", "swap", "lock", "idle", "other")
)


def _read(path: str) -> str | None:
    """A file of a thread; None when that has ended, or for lack of permission."""
    try:
        with open(path, "rb", buffering=0) as f:
            return f.read(4096).decode("utf-8", "surrogateescape")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


class _Stat:
    """What /proc/TID/stat has of a thread; utime, stime: in clock ticks."""

    __slots__ = ("comm", "state", "kernel", "utime", "stime")

    def __init__(self, text: str) -> None:
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        self.comm, self.state = head.partition("(")[2], fields[0]
        self.kernel = bool(int(fields[6]) & _PF_KTHREAD)
        self.utime, self.stime = int(fields[11]), int(fields[12])


def sleep_class(call: str | None, arguments: list[int], mode: int | None) -> str:
    """The class of an interruptible sleep in a system call, decided by its arguments.

    call: its name, or None for one that is not known.  mode: st_mode of the file that the first
    argument is, None where that is not known.
    """
    kind = states.call_classes().get(call or "", ("other", ""))[0]
    if kind == "futex":
        return states.futex_class(arguments[1], arguments[2])
    if kind == "ioctl":
        return states.ioctl_class(arguments[1])
    if kind in ("read", "write"):
        return "other" if mode is None else states.file_class(mode, kind == "read")
    return kind


class _Thread:
    """A thread since the last take().

    begin, end: when it was first and last seen, in ns; counts: samples of each state of sleep;
    first, last: its times then, with the ns that it ran and waited, and how often it ran.
    """

    __slots__ = ("tgid", "tid", "begin", "end", "counts", "first", "last", "wait")

    def __init__(self, tgid: int, tid: int, now: int) -> None:
        self.tgid, self.tid, self.begin, self.end = tgid, tid, now, now
        self.counts = [0] * len(states.STATES)
        self.first: tuple[_Stat, list[int]] | None = None
        self.last: tuple[_Stat, list[int]] | None = None
        self.wait = -1, 0  # in a semaphore: how often it had run, and samples since then

    def measure(self, now: int) -> bool:
        """Read its times; False when it has ended."""
        text, schedstat = (_read(f"/proc/{self.tid}/{name}") for name in ("stat", "schedstat"))
        if not text or not schedstat:
            return False
        self.last = _Stat(text), [int(word) for word in schedstat.split()]
        self.first, self.end = self.first or self.last, now
        return True

    def restart(self, now: int) -> None:
        """Begin another interval."""
        self.first, self.begin, self.counts = self.last, now, [0] * len(states.STATES)

    def sum(self) -> Sum | None:
        """Its times by state; None for a thread that has ended before it was measured."""
        if self.first is None or self.last is None:
            return None
        (before, (ran, waited, _)), (after, now) = self.first, self.last
        found = Sum(self.tgid, self.tid, after.comm, after.kernel)
        ticks = after.utime - before.utime, after.stime - before.stime
        if not sum(ticks):
            ticks = after.utime, after.stime
        found.ns[0], found.ns[1] = split_cpu(now[0] - ran, *ticks, after.kernel)
        found.ns[_RUNQ] = now[1] - waited
        slept, samples = max(self.end - self.begin - sum(found.ns), 0), sum(self.counts)
        if not samples:
            found.ns[_OTHER] += slept
        else:
            for index, count in enumerate(self.counts):
                found.ns[index] += slept * count // samples
        return found


def check() -> None:
    """Raise Unavailable where the kernel has not the files that are sampled."""
    if not os.path.exists("/proc/self/syscall") or not os.path.exists("/proc/self/schedstat"):
        raise Unavailable(
            "cannot sample: this kernel has no /proc/PID/syscall or /proc/PID/schedstat"
        )


class Sampler:
    """Samples of the threads that the options select, and their sums since take().

    Numbers of threads and processes are those of this PID namespace.
    """

    source = "sample"
    period = _PERIOD

    def __init__(self, args: Namespace) -> None:
        """args: the options of tsa.  Raises Error, Unavailable, NotPermitted."""
        if args.pid:
            proc.check_process(args.pid)
        if args.tid:
            proc.check_thread(args.tid)
        check()
        self._pid, self._tid, self._cgroup = args.pid, args.tid, args.cgroup
        self._idle_after = args.idle_after / 1000 / _PERIOD  # in samples
        self._names, self._classes = call_numbers.names(), states.call_classes()
        self._threads: dict[int, _Thread] = {}
        self._ended: list[_Thread] = []
        self._samples, self._next, self._began = 0, 0.0, time.monotonic()
        self.title, self.seconds = "", 0.0
        self._denied: set[int] = set()  # threads of which that file cannot be read
        self._list(time.monotonic_ns())
        if self._denied and not self._threads:
            raise NotPermitted(
                "cannot sample: /proc/PID/syscall cannot be read. It needs CAP_SYS_PTRACE"
            )
        if self._denied:
            cli.note(
                f"cannot read the system calls of {len(self._denied)} threads, which are left out. "
                "That needs CAP_SYS_PTRACE"
            )

    def known(self, ns: list[int]) -> list[int | None]:
        """Times by state, None for what is not known: /proc has no mark of a wait for memory."""
        return [None if index == _SWAP else time for index, time in enumerate(ns)]

    def read(self) -> None:
        """Take a sample, unless that would cost too much time."""
        begin = time.monotonic()
        if begin < self._next:
            return
        now = time.monotonic_ns()
        if self._samples % _LISTED == 0:
            self._list(now)
        self._samples += 1
        for tid, thread in list(self._threads.items()):
            text = _read(f"/proc/{tid}/syscall")
            if text is None:
                if not os.path.exists(f"/proc/{tid}"):
                    self._ended.append(self._threads.pop(tid))
            elif not text.startswith("running"):
                index = self._state(thread, text.split())
                if index is not None:
                    thread.counts[index] += 1
        end = time.monotonic()
        self._next = begin + (end - begin) / _SHARE if end - begin > _SHARE * _PERIOD else begin

    def take(self) -> tuple[list[Sum], dict[int, Calls], dict[str, int]]:
        """(the sums of threads, no calls, no losses) since the last call."""
        now = time.monotonic_ns()
        self._list(now)
        for tid, thread in list(self._threads.items()):
            if not thread.measure(now):
                self._ended.append(self._threads.pop(tid))
        found = [thread.sum() for thread in [*self._threads.values(), *self._ended]]
        for thread in self._threads.values():
            thread.restart(now)
        self.seconds = now / 1e9 - self._began
        self.title = f", by {self._samples / self.seconds:.0f} samples of /proc a second"
        self._ended, self._samples, self._began = [], 0, now / 1e9
        return [one for one in found if one is not None], {}, {}

    def _list(self, now: int) -> None:
        """Look for new threads, and measure them."""
        for pid in self._pids():
            try:
                tids = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
            except (FileNotFoundError, ProcessLookupError):
                continue
            for tid in tids:
                if tid in self._threads or tid in self._denied or self._tid not in (None, tid):
                    continue
                thread = _Thread(pid, tid, now)
                if not thread.measure(now):
                    continue
                if _read(f"/proc/{tid}/syscall") is None:
                    self._denied.add(tid)
                else:
                    self._threads[tid] = thread

    def _pids(self) -> list[int]:
        if self._tid:
            return [proc.process_of(self._tid)] if os.path.exists(f"/proc/{self._tid}") else []
        if self._pid:
            return [self._pid]
        if self._cgroup is not None:
            return cgroup.processes(self._cgroup)
        return proc.processes()

    def _state(self, thread: _Thread, words: list[str]) -> int | None:
        """The index in STATES of a thread that sleeps; None for one that does not."""
        call = self._names.get(int(words[0]), "") if len(words) == 9 else ""
        kinds = self._classes.get(call, ("other", "other"))
        kernel = thread.first is not None and thread.first[0].kernel
        kind = "" if kernel else kinds[0]
        if kinds[0] in _UNSURE or kernel:
            text = _read(f"/proc/{thread.tid}/stat")
            state = _Stat(text).state if text else "R"
            if state in "RXZ":
                return None
            if state == "D":
                return _DISK if kinds[1] == "other" else states.STATES.index(kinds[1])
            if kernel:
                return _IDLE
            kind = self._decided(thread.tid, kinds[0], words) if state == "S" else "other"
        elif kind == "futex":
            kind = states.futex_class(int(words[2], 16), int(words[3], 16))
        if kind in ("condition", "shared"):
            return self._condition(thread)
        return states.STATES.index(kind)

    def _decided(self, tid: int, kind: str, words: list[str]) -> str:
        """The class of a sleep whose arguments decide it."""
        if kind == "ioctl":
            return states.ioctl_class(int(words[2], 16))
        if kind not in ("read", "write"):
            return kind
        try:
            mode = os.stat(f"/proc/{tid}/fd/{int(words[1], 16)}").st_mode
        except OSError:
            return "other"
        return states.file_class(mode, kind == "read")

    def _condition(self, thread: _Thread) -> int:
        """LOCK or IDLE, for a sample of a wait for a semaphore or condition variable.

        Samples that were taken for LOCK are corrected when the wait has become long.
        """
        runs = int((_read(f"/proc/{thread.tid}/schedstat") or "0 0 0").split()[2])
        samples = thread.wait[1] + 1 if thread.wait[0] == runs else 1
        thread.wait = runs, samples
        if samples < self._idle_after:
            return _LOCK
        if samples - 1 < self._idle_after:
            moved = min(samples - 1, thread.counts[_LOCK])
            thread.counts[_LOCK] -= moved
            thread.counts[_IDLE] += moved
        return _IDLE
