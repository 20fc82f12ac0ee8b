# SPDX-License-Identifier: GPL-2.0-or-later
"""The three ways to measure which memory a process touches: clear_refs, idle page tracking, DAMON.

A mark and a reading are phases: (begin, end) in ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import os
import time

from .. import cli
from ..errors import Error, NotPermitted, Unavailable
from . import PAGE
from .process import Process, flush_is_free
from .working_set_row import measures, until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from .process import Phase
    from .smaps import Vma
    from .working_set_row import Row

    # begin, end, what to parse later, and the function of it: ({field: bytes}, mappings)
    Reading = tuple[int, int, bytes, Callable[[bytes], tuple[dict[str, Any], list[Vma]]]]

__all__ = ["IDLE_RSS", "IDLE_SIZE", "ClearRefs", "Idle", "Sampled", "choose"]

# Reading frame after frame in Python is worth it up to here; beyond it clear_refs serves.
IDLE_RSS, IDLE_SIZE = 4 << 30, 64 << 30


class ClearRefs:
    """Accessed bits by /proc/PID/clear_refs and Referenced."""

    name = "clear_refs"
    warning = "clear_refs resets the referenced bits that reclaim uses"

    def __init__(self, flush: bool) -> None:
        self.flush = flush

    def mark(self, process: Process) -> Phase:
        return process.clear(self.flush)

    def read(self, process: Process, by_mapping: bool) -> Reading:
        """A Reading of the process.

        by_mapping: with its mappings.
        """
        if not by_mapping:
            found, begin, end = process.rollup()
            return begin, end, b"", lambda _: (found, [])
        from .smaps import parse

        raw, begin, end = process.smaps()
        return begin, end, raw, lambda raw: parse(raw, touched=True)


class Idle:
    """The kernel's idle page tracking."""

    name = "idle"
    warning = None

    def __init__(self, flush: bool) -> None:
        from .idle import IdlePages

        self.flush, self.pages = flush, IdlePages()

    def mark(self, process: Process) -> Phase:
        frames = [frame for *_, own in self.pages.resident(process) for frame in own]
        begin, end = self.pages.mark(frames)
        if self.flush:
            process.flush()
            end = time.monotonic_ns()
        return begin, end

    def read(self, process: Process, by_mapping: bool) -> Reading:
        resident = list(self.pages.resident(process))
        touched, begin, end = self.pages.touched([frame for *_, own in resident for frame in own])
        found: dict[str, Any] = {}
        maps: list[Vma] = []
        if by_mapping:
            from .smaps import Vma, parse

            sums, every = parse(process.smaps()[0])
            known = {vma.start: vma for vma in every}
            for start, last, perms, name, frames in resident:
                size = PAGE * len(frames)
                unknown = Vma(start, last, perms, name, size, size, 0, 0, b"00:00 0")
                vma = known.get(start, unknown)
                maps.append(vma._replace(end=last, referenced=_bytes(frames, touched)))
        else:
            sums = process.rollup()[0]
        found.update(sums)
        found["Referenced"] = sum(_bytes(frames, touched) for *_, frames in resident)
        found["touched"] = {frame for frame, state in touched.items() if state}
        return begin, end, b"", lambda _: (found, maps)

    def mark_cgroup(self, inodes: set[int]) -> Phase:
        return self.pages.mark(self.pages.cgroup_frames(inodes))

    def read_cgroup(self, inodes: set[int], mark: Phase) -> Row:
        """The row of all pages that are charged to the cgroups, mapped or not."""
        touched, begin, end = self.pages.touched(self.pages.cgroup_frames(inodes))
        known = [state for state in touched.values() if state is not None]
        return {
            "record": "cgroup",
            "pid": None,
            "comm": "all charged pages",
            "mark": mark,
            "read": (begin, end),
            "newborn": False,
            "rss": PAGE * len(known),
            "pss": None,
            "ref": PAGE * sum(known),
            "maps": [],
            "huge": None,
            "hugetlb": None,
        }


def _bytes(frames: Iterable[int], touched: Mapping[int, bool | None]) -> int:
    """The bytes of those page frames that have been touched for certain."""
    return PAGE * sum(touched[frame] is True for frame in frames)


class Sampled:
    """Accessed bits sampled by DAMON: an estimate, one process at a time.  Close it."""

    name = "damon"
    warning = None
    flush = False

    def __init__(self) -> None:
        from . import damon

        self.damon, self.kdamond = damon, damon.Damon()

    def close(self) -> None:
        self.kdamond.close()

    def measure(self, process: Process, seconds: float, ends: cli.Ends) -> Row | None:
        """The row of one window, with est (ns) and ref_error (bytes); None after a stop."""
        try:
            return self._measure(process, seconds, ends)
        except ProcessLookupError:
            raise Error("the process ended before its memory was read") from None

    def _measure(self, process: Process, seconds: float, ends: cli.Ends) -> Row | None:
        regions = self.damon.regions_of(process.resident_runs())
        if not regions:
            raise ProcessLookupError(3, "No such process")
        marked = self.kdamond.start(process.pid, regions, seconds)
        until(marked[1] / 1e9 + seconds, ends)
        watched = 0
        while not watched:
            if cli.stopping():
                return None
            touched, watched = self.kdamond.result()
        read = time.monotonic_ns()
        self.kdamond.stop()
        found, _, _ = process.rollup()
        # Where the kdamond answered late, the sums are of several windows.
        windows = max(1, round(watched / sum(end - start for start, end in regions)))
        touched //= windows
        return dict(
            measures(found),
            pid=process.pid,
            comm=process.comm,
            mark=marked,
            read=(read, read),
            newborn=False,
            est=int(seconds * 1e9),
            ref=touched,
            maps=[],
            ref_error=self.damon.standard_error(regions, touched),
        )


def choose(pids: Sequence[int], args: Namespace) -> ClearRefs | Idle:
    """The source to measure with."""
    flush = args.flush_tlb or flush_is_free()
    cli.verbose(
        "TLB flush after clearing: "
        + ("yes" if flush else "no, it write-protects pages. Try --flush-tlb")
    )
    if args.source == "clear_refs":
        return ClearRefs(flush)
    try:
        if not args.source and not os.path.exists(
            "/sys/kernel/mm/page_idle"
        ):  # before its code is loaded
            raise Unavailable("this kernel was built without CONFIG_IDLE_PAGE_TRACKING")
        source = Idle(flush)
        if not args.source:
            if len(pids) != 1 or args.tree:
                raise Unavailable("for several processes it is taken on request only")
            if _too_big(pids[0]):
                raise Unavailable(f"process {pids[0]} is too large for it")
        cli.verbose("source: idle")
        return source
    except (Unavailable, NotPermitted) as exc:
        if args.source:
            raise
        cli.verbose(f"source: clear_refs. Not idle: {exc}")
        return ClearRefs(flush)


def _too_big(pid: int) -> bool:
    try:
        process = Process(pid)
    except (Error, ProcessLookupError):
        return False
    size, resident = (int(word) * PAGE for word in process.read("statm").split()[:2])
    process.close()
    return size > IDLE_SIZE or resident > IDLE_RSS
