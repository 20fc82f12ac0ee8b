# SPDX-License-Identifier: GPL-2.0-or-later
"""Direct reclaims of the whole system, of memory cgroups and of nodes, traced by BPF programs.

The programs are those of progs/drsnoop.bpf.c.
"""

from __future__ import annotations

import os
import sys

from .. import bpf, cli
from ..bpf import task
from ..errors import Error
from ..kernel import proc, sysfs
from .reclaim import KINDS, Reclaim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import Any

    from .reclaim_summary import Summary
    from .schedule import Schedule

__all__ = ["COUNTERS", "SOURCES", "Batch", "Totals", "Tracer", "name_params"]

COUNTERS = ("dropped", "starts_full", "totals_full", "unseen")
RING = 1 << 20  # bytes: 5000 reclaims; with stacks, four times as many bytes
MAX_NODES = 32
_ARGUMENTS = tuple(
    f"mm_vmscan_{name}"
    for kind in ("direct", "memcg", "node")
    for name in (
        f"{kind}_reclaim_begin.order",
        f"{kind}_reclaim_begin.gfp_flags",
        f"{kind}_reclaim_end.nr_reclaimed",
    )
) + tuple(f"mm_vmscan_lru_isolate.{name}" for name in ("nr_scanned", "nr_taken", "lru"))
_PARAMS = tuple(
    "by_uid uid name0 name1 name_mask0 name_mask1 kinds nodes online around stack summary shift "
    "slots lru_gen".split()
)
# The end first: what begins before both are attached is not half seen.
_PLACES = (
    ("direct_reclaim_end", "global_end"),
    ("direct_reclaim_begin", "global_begin"),
    ("memcg_reclaim_end", "memcg_end"),
    ("memcg_reclaim_begin", "memcg_begin"),
    ("node_reclaim_end", "node_end"),
    ("node_reclaim_begin", "node_begin"),
    ("lru_isolate", "isolate"),
)


def _optional(name: str) -> bool:
    """Whether kernels without memory cgroups or NUMA lack a tracepoint."""
    return name.startswith(("memcg", "node"))


def _source(variant: str, where: str, defines: dict[str, int], **options: Any) -> bpf.Source:
    """where: the kind of the points, and the tracepoints' category."""
    points = tuple(
        (f"{where}mm_vmscan_{place}:on_{function}", *(("none",) if _optional(place) else ()))
        for place, function in _PLACES
    )
    return bpf.Source(
        f"drsnoop.{variant}",
        "drsnoop.bpf.c",
        points,
        (*task.PARAMS, *_PARAMS),
        COUNTERS,
        {
            **task.DEFINES,
            **bpf.enumeration("KIND", KINDS),
            "KINDS": len(KINDS),
            "MAX_NODES": MAX_NODES,
            **defines,
        },
        {**task.HAS, "HAVE_MEMCG": ("lruvec.pgdat", "4.8")},
        constants=(*task.CONSTANTS, "___GFP_*"),
        **options,
    )


def _field(name: str) -> str:
    """As Source takes it: "?" marks those of tracepoints that the kernel may lack."""
    if _optional(name[len("mm_vmscan_") :]):
        name = name.replace(".", "?.")
    return f"vmscan:{name}"


SOURCES = {
    "typed": _source("typed", "tp_btf/", {"TYPED": 1}, arguments=_ARGUMENTS),
    "format": _source("format", "tracepoint/vmscan:", {}, fields=[_field(n) for n in _ARGUMENTS]),
}


def name_params(name: str) -> dict[str, int]:
    """The parameters for a part of a command name: two words and their masks.  Raises Error."""
    raw = os.fsencode(name)
    if len(raw) > 15:
        raise Error(f"no command name has '{name}' in it: they are at most 15 bytes long")
    params = {}
    for param, value in ("name", raw), ("name_mask", b"\xff" * len(raw)):
        value = value.ljust(16, b"\0")
        for number, word in enumerate((value[:8], value[8:])):
            params[f"{param}{number}"] = int.from_bytes(word, sys.byteorder)
    return params


class Batch:
    """The reclaims that have ended: events: [Reclaim]; lost: {what: number} since the last batch;
    seconds: of the interval, or of the whole run, that ends now; None when none does.
    """

    __slots__ = "events", "lost", "seconds"

    def __init__(self, events: list[Reclaim], lost: dict[str, int], seconds: float | None) -> None:
        self.events, self.lost, self.seconds = events, lost, seconds


class Totals:
    """The sums of the batches of an interval.

    seconds; count: reclaims; kinds: {kind: reclaims}; ns: their times; pages: reclaimed.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.count = self.ns = self.pages = 0
        self.kinds = dict.fromkeys(KINDS, 0)

    def add(self, batch: Batch) -> None:
        """Add a batch."""
        self.seconds = batch.seconds
        self.count += len(batch.events)
        for event in batch.events:
            self.kinds[event.kind] += 1
            self.ns += event.ns
            self.pages += event.reclaimed


class Tracer:
    """The programs, filtered and sized as the command's arguments say, and what they find."""

    def __init__(self, args: Namespace, around: bool) -> None:
        """around: also read free memory, the cgroup and kswapd's state.  Raises as bpf.load."""
        nodes = sysfs.online_nodes()
        self._lru_gen = sysfs.lru_gen()
        self._wide = bool(nodes) and max(nodes) >= MAX_NODES
        params = {
            "by_uid": args.uid is not None,
            "uid": args.uid or 0,
            "kinds": 1 << KINDS.index(args.kind) if args.kind else (1 << len(KINDS)) - 1,
            "stack": args.kernel_stack,
            "nodes": 0 if self._wide else max(nodes, default=0) + 1,
            "online": 0 if self._wide else sum(1 << n for n in nodes),
            "around": around,
            "summary": args.summary,
            "lru_gen": self._lru_gen,
            **(name_params(args.name) if args.name else {}),
        }
        threads = max(4096, 2 * proc.thread_count())
        sizes = {
            "starts": {"max_entries": min(threads, 1 << 16)},
            "events": {"max_entries": 4 * RING if args.kernel_stack else RING},
            "hists": {"max_entries": 1, "elements": 1},
            "totals": {"max_entries": 1},
        }
        if args.summary:
            from . import reclaim_summary

            slots = reclaim_summary.SLOTS
            params.update(shift=reclaim_summary.SHIFT, slots=slots)
            sizes["events"] = {"max_entries": 4096}
            sizes["hists"] = {"max_entries": 2 * len(KINDS), "elements": slots}
            sizes["totals"] = {"max_entries": threads}
        else:
            params["slots"] = 1
        sources = SOURCES
        if args.kernel_stack:  # from a tracepoint's own registers: no unwinding through our program
            sources = dict(reversed(list(SOURCES.items())))
        self.program = bpf.load(sources, args, params, sizes)
        task.warn_of_foreign_pids(cli.note)

    def batches(self, schedule: Schedule, ends: cli.Ends) -> Iterator[Batch]:
        """Yield the reclaims as they end, at least every second.

        Ends at a stop, and with the schedule or the last process of `ends`.
        """
        program, last = self.program, False
        ring = bpf.RingBuffer(program.maps["events"], program.layouts["event"])
        while not last:
            ended = ends.ended(cli.wait(schedule.left(1), [ring.fd, *ends.fds]))
            last = ended or cli.stopping() or schedule.over()
            events = [Reclaim(event, self._lru_gen, self._wide) for event in ring.records()]
            yield Batch(events, program.lost(), schedule.elapsed(last))

    def summaries(
        self, schedule: Schedule, ends: cli.Ends
    ) -> Iterator[tuple[Summary, dict[str, int]]]:
        """Yield (the sums of an interval, {what: number} lost in it).  Ends as batches()."""
        from .reclaim_summary import Summary

        program, banks, last = self.program, bpf.Banks(self.program), False
        while not last:
            ended = ends.ended(cli.wait(schedule.left(3600), ends.fds))
            last = ended or cli.stopping() or schedule.over()
            seconds = schedule.elapsed(last)
            if seconds is not None:
                banks.switch(last)
                times, totals = banks.array("hists", len(KINDS)), banks.hash("totals")
                yield Summary(seconds, times, totals, self._lru_gen), program.lost()

    def under_way(self) -> int:
        """How many reclaims have begun and not ended."""
        return sum(1 for _ in self.program.maps["starts"].keys())
