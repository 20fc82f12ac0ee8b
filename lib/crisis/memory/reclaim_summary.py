# SPDX-License-Identifier: GPL-2.0-or-later
"""Direct reclaims in sums: a histogram for each kind, totals for each process."""

from __future__ import annotations

from .. import cli, hist, table
from .reclaim import KINDS, scanned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["SHIFT", "SLOTS", "Summary"]

SHIFT = 4  # of the histograms: 16 steps an octave
SLOTS = hist.slots(SHIFT, 38 + hist.FRACTION)  # up to 2**38 us

_COLUMNS = (
    ("PID", "%d"),
    ("COMM", "%-s"),
    ("KIND", "%-s"),
    ("COUNT", "%d"),
    ("TOTAL(ms)", "%.2f"),
    ("AVG(ms)", "%.2f"),
    ("MAX(ms)", "%.2f"),
    ("PAGES", "%d"),
    ("SCANNED", "%d"),
)


class _Process:
    """The reclaims of one kind by one process; total, max: in ns; reclaimed, scanned: pages."""

    __slots__ = "tgid", "comm", "kind", "count", "total", "max", "reclaimed", "scanned"

    def __init__(self, key: Any, sums: Any, lru_gen: bool) -> None:
        self.tgid, self.comm, self.kind = key.tgid, table.decode(sums.comm), KINDS[key.kind]
        self.count, self.total, self.max = sums.count, sums.total, sums.max
        self.reclaimed, self.scanned = sums.reclaimed, scanned(sums.scanned, lru_gen)


class Summary:
    """The reclaims of an interval."""

    def __init__(
        self, seconds: float, times: Iterable[Any], totals: Iterable[tuple[Any, Any]], lru_gen: bool
    ) -> None:
        """times: a record of struct hist for each of KINDS; totals: the keys and values of the map.

        lru_gen: as for Reclaim.
        """
        self.seconds = seconds
        self.kinds = {kind: hist.Histogram(sums, SHIFT) for kind, sums in zip(KINDS, times)}
        self.processes = [_Process(key, sums, lru_gen) for key, sums in totals]
        self.processes.sort(key=lambda process: -process.total)

    def text(self, timestamp: bool) -> str:
        """A histogram for each kind that occurred, and the table of processes."""
        parts = ["\n" + (cli.timestamp() + "\n" if timestamp else "")]
        for kind, times in self.kinds.items():
            if times.count:
                parts.append(f"kind = {kind}\n{times.text()}\n")
        if not self.processes:
            return "".join(parts) + f"no direct reclaim in {self.seconds:.1f} s\n"
        rows = [
            (
                process.tgid,
                process.comm,
                process.kind,
                process.count,
                process.total / 1e6,
                process.total / process.count / 1e6,
                process.max / 1e6,
                process.reclaimed,
                process.scanned,
            )
            for process in self.processes
        ]
        return "".join(parts) + table.text(_COLUMNS, rows)

    def json(self, only: str | None, lost: dict[str, int]) -> str:
        """A "histogram" record for each kind, or that one, and a "process" record for each row."""
        now, parts = cli.iso_time(), []
        for kind, times in self.kinds.items():
            if only in (None, kind):
                record = {"time": now, "record": "histogram", "seconds": self.seconds, "kind": kind}
                parts.append(table.json_line(dict(record, **times.record(), lost=lost)))
        for process in self.processes:
            record = {
                "time": now,
                "record": "process",
                "seconds": self.seconds,
                "pid": process.tgid,
                "comm": process.comm,
                "kind": process.kind,
                "count": process.count,
                "total_ns": process.total,
                "max_ns": process.max,
                "pages": process.reclaimed,
                "scanned_pages": process.scanned,
            }
            parts.append(table.json_line(record))
        return "".join(parts)
