# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of each thread in each state, by programs on context switches: progs/tsa.bpf.c."""

from __future__ import annotations

import mmap
import os
import sys
import time

from .. import bpf, cli, table
from ..bpf import task
from ..errors import Unavailable
from ..kernel import call_numbers, proc
from . import state_stacks, states
from .state_sums import Sum, difference, split_cpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any, Union

    from .state_samples import Sampler
    from .state_sums import Calls

    Observer = Union["Tracer", Sampler]

__all__ = ["LOSSES", "SOURCES", "Tracer", "observe"]

_BUCKETS = 16  # of struct thread: a power of 2 that all traced states fit in
_COUNTERS = ("threads_full", "calls_full", "stacks_full")
LOSSES = {
    "threads_full": "times that a thread was not tracked: the table of threads was full",
    "calls_full": "waits not counted by system call: the table of calls was full",
    "stacks_full": "stacks not recorded: the table of stacks was full, or they share a hash",
}
SOURCES = {
    "tracing": bpf.Source(
        "tsa.tracing",
        "tsa.bpf.c",
        (
            ("tp_btf/sched_switch:on_switch",),
            ("tp_btf/sched_waking:on_waking",),
            ("tp_btf/sched_wakeup:on_wakeup",),
            ("tp_btf/sched_wakeup_new:on_wakeup",),
            ("iter/task:on_task",),
        ),
        (*task.PARAMS, "idle_after", "calls", "by_thread", "thread_size", "stacks"),
        _COUNTERS,
        {
            **task.DEFINES,
            **bpf.enumeration("STATE", states.TRACED),
            **{
                f"CLASS_{name.upper()}": states.number_of(name)
                for name in states.CLASSES[len(states.TRACED) :]
            },
            "BUCKETS": _BUCKETS,
            "COMPAT_CALLS": call_numbers.COMPAT,
            "CLASSES": 2 * call_numbers.COMPAT,
            "TYPED": 1,
        },
        {
            **task.HAS,
            "HAVE_IN_MEMSTALL": ("task_struct.in_memstall", "5.7"),
            "HAVE_BPF_FUNC_TASK_PT_REGS": ("BPF_FUNC_task_pt_regs", "5.15"),
        },
        ("bpf_iter__task.task", "task_struct.in_iowait", ("pt_regs.orig_ax", "pt_regs.syscallno")),
        task.CONSTANTS,
    )
}
_CONDITION, _SHARED, _GONE = map(states.TRACED.index, ("condition", "shared", "gone"))
_LOCK, _IDLE, _SWAP = (states.STATES.index(name) for name in ("lock", "idle", "swap"))
_CALLS = 16384  # entries of the map
_STACKS = 8192  # of 1 KB
_SEEN = 8  # bytes of the first member of struct thread, which the iterator alone writes


class _Known:
    """A thread at a reading.  raw, record: struct thread; at: when it was read.

    ns: its time until then since it was first seen, in the order of STATES, all that on a CPU in
    the first.
    """

    __slots__ = ("raw", "record", "at", "ns")

    def __init__(self, raw: bytes, record: Any, at: int, ns: list[int]) -> None:
        self.raw, self.record, self.at, self.ns = raw, record, at, ns


class Tracer:
    """The program, filtered by the options, and the sums of what it has counted since take().

    Numbers of threads and processes are the kernel's.
    """

    source = "tracing"
    title = ""
    seconds = 0.0  # between the last two calls of take()
    period = 1.0  # seconds between two calls of read()

    def __init__(self, args: Namespace) -> None:
        """args: the options of tsa.  Raises what bpf.load raises."""
        self._psi = os.path.exists("/proc/pressure/memory")
        self._by_thread, self._with_calls = args.threads, args.json and not args.stacks
        self._idle_after = int(args.idle_after * 1e6)
        self._program = bpf.load(
            SOURCES,
            args,
            {
                "idle_after": self._idle_after,
                "calls": self._with_calls,
                "by_thread": args.threads,
                "stacks": state_stacks.mask(args.stacks),
                "thread_size": max(16384, mmap.PAGESIZE),  # THREAD_SIZE of both architectures
            },
            {
                "threads": {"max_entries": max(16384, 4 * proc.thread_count())},
                "calls": {"max_entries": _CALLS if self._with_calls else 1},
                "stacks": {"max_entries": _STACKS if args.stacks else 1},
                "stack_times": {"max_entries": _STACKS if args.stacks else 1},
            },
            ("on_task",),  # is not attached but run, by read()
        )
        for number, entry in enumerate(states.class_table()):
            self._program.maps["classes"].write(number, entry)
        task.warn_of_foreign_pids(cli.note)
        self._of_cgroup = args.cgroup is not None
        self._all_visible = proc.in_initial_pid_namespace()
        self._banks = bpf.Banks(self._program)
        self._stacks = state_stacks.Stacks(self._program.maps["stacks"]) if args.stacks else None
        self._names = call_numbers.names()
        self._at = self._taken = 0  # when the table was last read, and that before take()
        self._known: dict[int, _Known] = {}
        self._sums: dict[tuple[int, int], Sum] = {}
        self._calls: dict[int, Calls] = {}
        self.read()
        self.take()

    def read(self) -> None:
        """Add up what has happened since the last call, and forget threads that have ended.

        To be called once a second: those that have ended keep their place in the table until then.
        """
        begin = time.monotonic_ns()
        self._program.iterate("on_task", "task")
        map_ = self._program.maps["threads"]
        tid_of, record_of = map_.key_layout.unpack, map_.value_layout.unpack
        known: dict[int, _Known] = {}
        self._at = time.monotonic_ns()
        for batch in map_.batches():
            at, ended = time.monotonic_ns(), []
            for key, raw in batch:
                tid = tid_of(key)
                before = self._known.get(tid)
                if before is not None and before.raw[_SEEN:] == raw[_SEEN:]:
                    record = before.record
                else:
                    record = record_of(raw)
                thread = _Known(raw, record, at, self._times(record, at))
                self._add(tid, before, thread)
                if record.state == _GONE or self._is_stale(tid, raw, begin):
                    ended.append(key)
                else:
                    known[tid] = thread
            map_.remove_all(b"".join(ended))
        self._known = known
        if self._with_calls or self._stacks:
            self._banks.switch(False)
        if self._with_calls:
            self._read_calls()
        if self._stacks:
            self._stacks.add(self._banks.each("stack_times"))

    def known(self, ns: list[int]) -> list[int | None]:
        """Times by state, None for what is not known.

        Without pressure stall information, no wait for memory is marked.
        """
        return [None if i == _SWAP and not self._psi else one for i, one in enumerate(ns)]

    def take(self) -> tuple[list[Sum], dict[int, Calls], dict[str, int]]:
        """(the sums of threads, {PID or TID: calls}, {loss: number}) since the last call."""
        self.seconds, self._taken = (self._at - self._taken) / 1e9, self._at
        sums, calls = list(self._sums.values()), self._calls
        self._sums, self._calls = {}, {}
        return sums, calls, self._program.lost()

    def take_stacks(self, state: str) -> list[state_stacks.Stack]:
        """The stacks of the waits that have ended since the last call, as Stacks.take()."""
        assert self._stacks is not None, "without --stacks"
        return self._stacks.take(state)

    def _is_stale(self, tid: int, raw: bytes, begin: int) -> bool:
        """Whether a thread has gone without a context switch that the program saw.

        It has left the cgroup, or execve(2) has given it the number of its process.
        """
        seen = int.from_bytes(raw[:_SEEN], sys.byteorder)
        if seen >= begin or not self._all_visible:
            return False
        return self._of_cgroup or not os.path.exists(f"/proc/{tid}")

    def _times(self, record: Any, at: int) -> list[int]:
        """The time in each state until then, as _Known has it."""
        cpu, *others = record.ns[:_CONDITION]
        ns = [cpu, 0, *others]
        state, present = record.state, max(at - record.since, 0)
        if state in (_CONDITION, _SHARED):
            ns[_LOCK if present < self._idle_after else _IDLE] += present
        elif state != _GONE:
            ns[state + 1 if state else 0] += present
        return ns

    def _add(self, tid: int, before: _Known | None, now: _Known) -> None:
        """Add to the sums what a thread has done since the reading before."""
        record = now.record
        sum_ = self._sums.get((tid, record.tgid))
        if sum_ is None:
            sum_ = Sum(record.tgid, tid, table.decode(record.comm), bool(record.kernel))
            self._sums[tid, record.tgid] = sum_
        sum_.comm = table.decode(record.comm)
        if before is None:
            ns, utime, stime = now.ns, record.utime, record.stime
        else:
            ns = difference(now.ns, before.ns)
            utime, stime = record.utime - before.record.utime, record.stime - before.record.stime
        if utime + stime <= 0:
            utime, stime = record.utime, record.stime
        if ns[0]:
            ns[0], ns[1] = split_cpu(ns[0], utime, stime, sum_.kernel)
        sum_.ns = [old + new for old, new in zip(sum_.ns, ns)]

    def _read_calls(self) -> None:
        """Add the system calls of the bank that is complete."""
        for key, value in self._banks.each("calls"):
            number = key.tid if self._by_thread else key.tgid
            calls = self._calls.setdefault(number, {})
            name = self._names.get(key.call) or _unnamed(key.call)
            state = states.TRACED[key.state]
            count, ns = calls.get((name, state), (0, 0))
            calls[name, state] = count + value.count, ns + value.ns


def _unnamed(number: int) -> str:
    """What stands for a system call that is in no table, or for none."""
    if number < 0:
        return "none"
    compat, number = divmod(number, call_numbers.COMPAT)
    return f"{'compat_' if compat else ''}syscall_{number}"


def observe(args: Namespace) -> Observer:
    """What measures, by args.source: a Tracer, or a Sampler where this kernel has none.

    Raises what both raise.
    """
    from .state_samples import Sampler

    if args.source != Sampler.source:
        try:
            return Tracer(args)
        except Unavailable as exc:
            if args.source or args.stacks:
                raise
            cli.note(f"/proc is sampled: {exc}")
    return Sampler(args)
