# SPDX-License-Identifier: GPL-2.0-or-later
"""Each long wait on a run queue, and each stay of a task on a CPU, by progs/runqslower.bpf.c."""

from __future__ import annotations

from .. import bpf, cli
from ..bpf import task
from ..kernel import proc
from ..memory.schedule import Schedule
from . import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

__all__ = ["LOSSES", "SOURCES", "Tracer"]

SOURCES = programs.sources("runqslower", ("min_ns", "timehist"), ("dropped",))
LOSSES = {
    "dropped": "events not printed: the ring buffer was full",
    "untracked": "waits not seen: the task's storage was locked, or could not be allocated",
}
_RING = 1 << 20  # bytes: 10,000 waits
_TIMEHIST_RING = 1 << 23  # 90,000 context switches
_PERIOD = 0.05  # seconds between two reads of the latter, which wakes nobody


class Tracer:
    """The program, filtered by the options, and its records in the order of time."""

    def __init__(self, args: Namespace) -> None:
        """args: the options of runqslower.  Raises what bpf.load raises."""
        tracked = max(16384, 2 * proc.thread_count())
        self._args = args
        self._program = bpf.load(
            SOURCES,
            args,
            {"min_ns": int(args.min_us * 1000), "timehist": args.timehist},
            {
                "events": {"max_entries": _TIMEHIST_RING if args.timehist else _RING},
                "start": {"max_entries": tracked},
                "left": {"max_entries": tracked if args.timehist else 1},
            },
        )
        task.warn_of_foreign_pids(cli.note)

    def records(self) -> Iterator[tuple[list[Any], dict[str, int]]]:
        """Yield (records, losses since the last ones) until the end.

        Records of struct event, or with --timehist of struct slice.  Both may be empty.
        """
        args = self._args
        layout = self._program.layouts["slice" if args.timehist else "event"]
        ring = bpf.RingBuffer(self._program.maps["events"], layout)
        schedule = Schedule(None, duration=args.duration)
        ends = cli.Ends([args.pid] if args.pid else (), args.tid)
        fds = ends.fds if args.timehist else (ring.fd, *ends.fds)
        last = False
        while not last:
            ready = cli.wait(schedule.left(_PERIOD if args.timehist else 1), fds)
            last = cli.stopping() or ends.ended(ready) or schedule.over()
            lost = self._program.lost()
            lost.pop("unseen")  # waits that began before tracing
            yield sorted(ring.records(), key=lambda record: record.at), lost
        ends.note()
