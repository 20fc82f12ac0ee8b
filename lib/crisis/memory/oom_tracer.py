# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills by the out-of-memory killer as they happen, by progs/oomkill.bpf.c and the kernel log."""

from __future__ import annotations

import time

from .. import bpf, cli
from ..bpf import task
from ..errors import Unavailable
from ..kernel import proc
from . import PAGE, oom_kill
from .oom_log import LIMITS, Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from .oom_kill import Kill
    from .schedule import Schedule

__all__ = ["SOURCES", "Tracer"]

_FIELDS = (
    *("pid", "comm?", "total_vm?", "anon_rss?", "file_rss?", "shmem_rss?", "uid?", "pgtables?"),
    "oom_score_adj?",
)
_COUNTERS = ("dropped",)
_HAS = {
    "HAVE___PARENT": ("kernfs_node.__parent", "6.15"),
    "HAVE_RSS_COUNT": ("mm_rss_stat.count", "2.6.34"),
    "HAVE_MEMCG": ("lruvec.pgdat", "4.8"),
    **task.HAS,
}
_MOST = 3600.0  # seconds of one wait


def _typed(name: str, *before: tuple[str, ...]) -> bpf.Source:
    return bpf.Source(
        "oomkill." + name,
        "oomkill.bpf.c",
        (
            ("fexit/oom_kill_process:on_done_typed", "kretprobe/oom_kill_process:on_done", "none"),
            ("fentry/oom_kill_process:on_kill_typed", "kprobe/oom_kill_process:on_kill", "none"),
            *before,
            ("tp_btf/mark_victim:on_victim",),
        ),
        (*task.PARAMS, "stack"),
        _COUNTERS,
        {**oom_kill.DEFINES, **task.DEFINES, "TYPED": 1},
        _HAS,
        ("oom_control.constraint",),
        (*LIMITS, "___GFP_*", *task.CONSTANTS),
        ("mark_victim.task",),
    )


SOURCES = {
    "typed": _typed("typed"),
    "stack": _typed("stack", ("tracepoint/oom:mark_victim:on_stack",)),
    "format": bpf.Source(
        "oomkill.format",
        "oomkill.bpf.c",
        (("tracepoint/oom:mark_victim:on_record",),),
        ("stack", "page_kb"),
        _COUNTERS,
        oom_kill.DEFINES,
        constants=("___GFP_*",),
        fields=["oom:mark_victim." + name for name in _FIELDS],
    ),
}


def _sources(args: Namespace) -> dict[str, bpf.Source]:
    """The sources in order of preference."""
    if args.source:
        return SOURCES
    # The kernel's stack comes from a tracepoint's own registers, so that it is not that of the
    # program.
    order = ("stack", "typed", "format") if args.kernel_stack else ("typed", "format")
    return {name: SOURCES[name] for name in order}


class Tracer:
    """The program, and the kernel log where that has what the program cannot see.

    unplaced: kills left out because the victim's cgroup is not known.
    Raises NotPermitted, Unavailable, and Error when there is no such cgroup.
    """

    def __init__(self, args: Namespace) -> None:
        self._log = Log.open()  # before the first kill can be seen
        self.program = bpf.load(
            _sources(args),
            args,
            {"stack": args.kernel_stack, "page_kb": PAGE // 1024},
            {"events": {"max_entries": 1 << 20}},
        )
        if any("oom_kill_process" in place for place in self.program.taken):
            self._log = None
        elif self._log is None:
            cli.note(
                "the limit that was hit stays unknown: neither fentry, kprobe nor the "
                "kernel log can be used"
            )
        else:
            cli.verbose("the limit that was hit comes from the kernel log")
        self.unplaced = 0
        # This source does not know the victim's cgroup: it comes from the log.
        self._cgroup = args.cgroup if self.program.name == SOURCES["format"].name else None
        if self._cgroup is not None and self._log is None:
            raise Unavailable(
                "cannot find the victims' cgroups: /dev/kmsg cannot be read. Leave out --cgroup"
            )
        self.constants = self.program.constants()
        # Of a kernel without BTF: the numbers of enum oom_constraint since it exists.
        for i, name in enumerate(LIMITS):
            self.constants.setdefault(name, i)

    def kills(
        self, schedule: Schedule, number: int | None
    ) -> Iterator[tuple[Kill | None, float | None]]:
        """Yield (Kill, None) as each happens, and (None, seconds) at the end of each interval.

        number: of kills after which to end, None: no limit.
        """
        ring = bpf.RingBuffer(self.program.maps["events"], self.program.layouts["event"])
        last, left = False, number
        while not last:
            cli.wait(schedule.left(_MOST), [ring.fd])
            last = cli.stopping() or schedule.over()
            for event in ring.records():
                kill = oom_kill.Kill.of_event(event, self.constants)
                if self._log is not None:
                    self._consult_log(self._log, kill)
                if not self._wanted(kill):
                    continue
                yield kill, None
                left = None if left is None else left - 1
                if left == 0:
                    last = True
                    break
            seconds = schedule.elapsed(last)
            if seconds is not None:
                yield None, seconds

    def _wanted(self, kill: Kill) -> bool:
        """Whether the victim was in the cgroup of --cgroup, where the program does not filter."""
        if self._cgroup is None:
            return True
        if kill.cgroup is None and kill.limit_cgroup is None:
            self.unplaced += 1
            return False
        return oom_kill.in_cgroup(kill, self._cgroup)

    def _consult_log(self, log: Log, kill: Kill) -> None:
        """Wait, a second at most, for the line "Killed process", which follows the event."""
        deadline = time.monotonic() + 1
        while True:
            log.read()
            entry = log.victims.pop(kill.tid, None)
            if entry is not None:
                kill.learn(entry)
                swapless = proc.meminfo().get("SwapTotal") == 0
                if kill.limit == "memcg" and kill.limit_bytes is not None and swapless:
                    kill.domain = kill.limit_bytes // PAGE  # mem_cgroup_get_max()
                return
            if time.monotonic() > deadline:
                # It marks without a kill, and without a word, a task that is dying already.
                kill.killed = None if log.lost else False
                return
            time.sleep(0.002)
