# SPDX-License-Identifier: GPL-2.0-or-later
"""What was measured of a process, or of several together, in one interval.

A row is a dict: pid, comm; mark and read, each the (begin, end) of a phase in
ns of CLOCK_MONOTONIC; newborn, true where mark is the process' birth; rss,
pss, ref, huge and hugetlb in bytes; maps, the mappings as smaps.parse
gives them; touched, the frames of the pages that were touched, by idle page
tracking alone.  A total has also ref_min and ref_max, between which the truth
lies, and unweighted, the sum of ref.
"""

from __future__ import annotations

import time

from .. import cli
from . import PAGE
from .process import HUGE, HUGETLB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .process import Process

    Row = dict[str, Any]

__all__ = ["measures", "total", "times", "until"]


def measures(found: Mapping[str, int]) -> Row:
    """rss, pss, huge and hugetlb of a row from {field of WINDOW_FIELDS: bytes}."""
    return {
        "rss": found["Rss"],
        "pss": found["Pss"],
        "huge": sum(found[name] for name in HUGE),
        "hugetlb": sum(found[name] for name in HUGETLB),
    }


def total(rows: Sequence[Row], processes: Mapping[int, Process]) -> Row:
    """The sum of rows, in ref the pages that several touched once.

    processes: {pid: Process}, for what pagemap has of the pages that they share.
    """
    marked = [r for r in rows if not r["newborn"]] or rows
    mark, read = (
        (min(r[key][0] for r in marked), max(r[key][1] for r in marked)) for key in ("mark", "read")
    )
    row = {key: sum(r[key] for r in rows) for key in ("rss", "pss", "huge", "hugetlb")}
    if all(r["touched"] is not None for r in rows):
        least = ref = most = PAGE * len(set().union(*(r["touched"] for r in rows)))
    else:
        from . import overlap

        touched = [overlap.Mapping(r["pid"], m) for r in rows for m in r["maps"]]
        least, ref, most = overlap.touched(touched, overlap.reader(processes))
    return dict(
        row,
        pid=None,
        comm="total",
        mark=mark,
        read=read,
        newborn=False,
        ref=ref,
        ref_min=least,
        ref_max=most,
        unweighted=sum(r["ref"] for r in rows),
        maps=[],
    )


def times(row: Row) -> tuple[int, int | None, int, int | None, int | None]:
    """(estimate, its error, duration, time to clear, time to read) in ns.

    A page was cleared and read at unknown moments inside the two phases: the
    estimate goes from the middle of the one to the middle of the other, and is
    wrong by half of their lengths at most.
    """
    (cleared, marked), (begin, end) = row["mark"], row["read"]
    if "est" in row:  # DAMON's own clock
        return row["est"], None, end - cleared, None, None
    return (
        (begin + end - cleared - marked) // 2,
        (end - begin + marked - cleared) // 2,
        end - cleared,
        None if row["newborn"] else marked - cleared,
        end - begin,
    )


def until(deadline: float, ends: cli.Ends) -> None:
    """Sleep until a moment of the monotonic clock, a stop, or the end of the processes.

    deadline: seconds of CLOCK_MONOTONIC.
    """
    while not (cli.stopping() or ends.over):
        left = deadline - time.monotonic()
        if left <= 0:
            return
        if left < 0.005:  # finer than poll's milliseconds
            time.sleep(left)
        else:
            ends.ended(cli.wait(left, ends.fds))
