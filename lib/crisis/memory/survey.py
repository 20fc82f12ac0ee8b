# SPDX-License-Identifier: GPL-2.0-or-later
"""One pass of fincore over the files: their records, sums, and what could not be read."""

from __future__ import annotations

import os
from operator import attrgetter

from .. import cli
from . import PAGE
from .file_arguments import note_left_out, span, walk
from .mapping import pages_of
from .record import COLUMNS, Record, from_states, states
from .residency import Residency

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable
    from typing import Any

    from .residency import Counts
    from .survey_printer import Printer

    # files, those whose pages are unknown, bytes, resident pages, pages, the other counts
    _State = tuple[int, int, int, int, int, list[int | None]]

__all__ = ["CELLS", "MANY", "Sums", "Survey", "bar", "many"]

CELLS = 32  # of a residency map
MANY = 2000  # directory entries from which on more than one process is worth its start


class Sums:
    """The sum of records.

    A column of which one file is not known has no sum, but residency leaves such files out.
    """

    def __init__(self) -> None:
        self.files = self.unknown = self.size = self.pages = self.extent = 0
        self.rest: list[int | None] = [0, 0, 0, 0]

    def add(self, size: int, counts: Counts | None, extent: int) -> None:
        """Add a file.  extent: bytes in which pages are counted."""
        self.files += 1
        self.size += size
        if counts is None:
            self.unknown += 1
            return
        pages, dirty, writeback, evicted, recent = counts
        self.pages += pages
        self.extent += (extent + PAGE - 1) // PAGE
        if dirty is None:
            self.rest = [None] * 4
        elif (dirty or writeback or evicted or recent) and self.rest[0] is not None:
            self.rest = _sum(self.rest, counts[1:])

    def merge(self, state: _State) -> None:
        files, unknown, size, pages, extent, rest = state
        self.files += files
        self.unknown += unknown
        self.size += size
        self.pages += pages
        self.extent += extent
        self.rest = _sum(self.rest, rest)

    def state(self) -> _State:
        return self.files, self.unknown, self.size, self.pages, self.extent, self.rest

    def record(self, name: str | None) -> Record:
        nothing = self.files == self.unknown and self.files
        counts = None if nothing else (self.pages, *self.rest)
        extent = self.extent * PAGE
        return Record(name, self.size, counts, None, self.files, self.unknown, extent=extent)


def _sum(one: Iterable[int | None], other: Iterable[int | None]) -> list[int | None]:
    """The sums of two rows; None where either is."""
    return [None if a is None or b is None else a + b for a, b in zip(one, other)]


class Survey:
    """One pass over the files: records to a printer, sums, and what could not be read."""

    def __init__(self, args: Namespace, printer: Printer, share: tuple[int, int] = (0, 1)) -> None:
        self.args, self.printer = args, printer
        self.residency = Residency(args.cachestat)
        self._part = args.range
        self._measure = self.residency.measure if args.range is None else self._measure_part
        # Records that wait for the end, where they are to be sorted.
        self.rows: list[Record] | None = [] if args.sort or args.top or args.watch else None
        ordered = not (args.summarize or args.sort or args.top or share[1] > 1)
        self.walk = walk(args, share, on_error=self.failed, ordered=ordered)
        self.failures = 0
        self.total = Sums()
        self.sums: dict[int, _State] = {}  # of the arguments by their index, with several processes
        self._field = COLUMNS[args.sort or "RES"][0]
        # {name: pages} of this report and of the one before, with --watch.
        self.before: dict[str | None, int | None] | None = None
        self.now: dict[str | None, int | None] | None = None

    def failed(self, path: str, what: str, why: object) -> None:
        self.failures += 1
        reason = why.strerror if isinstance(why, OSError) else why
        cli.note(f"failed to {what}: {path}: {reason}")

    def run(self, paths: Iterable[tuple[str, str]]) -> None:
        """Measure all paths: (name shown, path opened) pairs."""
        measure, whole, with_map = self._measure, self._part is None, self.args.map
        for index, (shown, path) in enumerate(paths):
            if self.args.summarize:
                self._summarize(index, shown, path)
                continue
            for prefix, name, fd, st, size, again in self.walk.files((path,)):
                try:
                    counts = measure(fd, st, size)
                    where = self._bar(fd, st, size) if with_map and counts else None
                except OSError as exc:
                    self.failed(prefix + name, "measure", exc)
                    continue
                extent = size if whole else self._extent(size)
                if not again:
                    self.total.add(size, counts, extent)
                shown_as = prefix + name if prefix else shown
                self.record(Record(shown_as, size, counts, where, extent=extent))

    def _measure_part(self, fd: int, st: os.stat_result, size: int) -> Counts | None:
        return self.residency.measure_range(fd, st, *span(self._part, size))

    def _extent(self, size: int) -> int:
        """The bytes of a file that are looked at."""
        start, end = span(self._part, size)
        return end - start

    def _bar(self, fd: int, st: os.stat_result, size: int) -> str | None:
        return bar(self.residency, fd, st, size, *span(self._part, size))

    def _summarize(self, index: int, shown: str, path: str) -> None:
        """One record for all files of an argument."""
        measure, whole = self._measure, self._part is None
        sums, again = Sums(), False
        for prefix, name, fd, st, size, seen in self.walk.files((path,)):
            again = seen
            try:
                sums.add(size, measure(fd, st, size), size if whole else self._extent(size))
            except OSError as exc:
                self.failed(prefix + name, "measure", exc)
        if sums.files and not again:
            self.total.merge(sums.state())
        if sums.files or os.path.isdir(path):
            if self.walk.share[1] > 1:
                self.sums[index] = sums.state()
            else:
                self.record(sums.record(shown))

    def record(self, record: Record) -> None:
        """Print a record, or keep it for the end."""
        if self.now is not None:
            self.compare(record)
            if record.change == 0:
                return
        if self.rows is None:
            self.printer.add(record)
            return
        self.rows.append(record)
        if self.args.top and len(self.rows) > 4 * self.args.top + 1000:
            self.trim()

    def compare(self, record: Record) -> None:
        """Note a record's pages for the next report, and set its change since the one before."""
        name, pages = record.name, record.pages
        if self.now is not None:
            self.now[name] = pages
        if self.before is not None:
            old = self.before.get(name, 0)
            record.change = None if pages is None or old is None else pages - old

    def _sort(self, rows: list[Record]) -> None:
        """Names ascending; others descending, equal ones by name, unknown ones last."""
        rows.sort(key=attrgetter("name"))
        if self._field != "name":
            value_of = attrgetter(self._field)

            def unknown_last(record: Record) -> float:
                value = value_of(record)
                return value if isinstance(value, (int, float)) else -1 << 62

            rows.sort(key=unknown_last, reverse=True)

    def trim(self) -> None:
        """Sort the records that wait, and drop those below the top."""
        if self.rows is None:
            return
        if self.args.sort or self.args.top:
            self._sort(self.rows)
        if self.args.top:
            del self.rows[self.args.top :]

    def finish(self) -> int:
        """Print what waited for the end.  The exit status."""
        if self.args.watch and (self.rows or self.args.total or self.before is None):
            if not self.args.json:
                blank = "" if self.before is None else "\n"
                self.printer.raw_line(blank + cli.timestamp() + "\n")
            self.printer.begin(cli.iso_time())
        if self.rows is not None:
            self.trim()
            for row in self.rows:
                self.printer.add(row)
        if self.args.total:
            total = self.total.record(None if self.args.json else "TOTAL")
            if self.now is not None:
                self.compare(total)
            self.printer.add(total)
        self.printer.end()
        if cli.stopping():
            cli.note("interrupted: not all files have been counted")
        if self.walk.vanished:
            cli.verbose(f"{self.walk.vanished} files went away before they could be opened")
        note_left_out(self.args, self.walk)
        if self.total.unknown:
            cli.note(
                f"{self.total.unknown} of {self.total.files} files not counted: neither owned nor "
                f"writable. Run as root"
            )
        return 1 if self.failures or self.total.unknown else 0

    def state(self) -> tuple[Any, ...]:
        """What merge() takes, of marshal's types."""
        walk = self.walk
        missed = walk.vanished, walk.too_small, walk.too_large
        rows = None if self.rows is None else states(self.rows)
        return self.failures, missed, self.total.state(), rows, self.sums

    def merge(self, state: tuple[Any, ...]) -> None:
        """Add what another process has found."""
        failures, (vanished, too_small, too_large), total, rows, sums = state
        self.failures += failures
        self.walk.vanished += vanished
        self.walk.too_small += too_small
        self.walk.too_large += too_large
        self.total.merge(total)
        if rows and self.rows is not None:
            self.rows += from_states(rows)
        for index, one in sums.items():
            merged = Sums()
            merged.merge(self.sums.get(index, Sums().state()))
            merged.merge(one)
            self.sums[index] = merged.state()


def bar(
    residency: Residency, fd: int, st: os.stat_result, size: int, start: int, end: int
) -> str | None:
    """The residency map: at most CELLS characters, each for an equal part of start to end.

    size: of the file, all in bytes.
    """
    begin, pages = start // PAGE, pages_of(end - start)
    cells = min(CELLS, pages)
    edges = [begin + pages * i // cells for i in range(cells + 1)] if cells else []
    spans = list(zip(edges, edges[1:]))
    counts: list[Counts | None]
    if residency.counts_ranges(fd, st):
        counts = [
            residency.range(fd, low * PAGE, min(high * PAGE, end) - low * PAGE)
            for low, high in spans
        ]
    elif not residency.is_hugetlb(fd, st):
        resident = [0] * cells
        for offset, vector in residency.vectors(fd, size, [(start, end)]):
            if vector is None:
                return None
            first = offset // PAGE
            for i, (low, high) in enumerate(spans):
                resident[i] += vector.count(1, max(low - first, 0), max(high - first, 0))
        counts = [(n, 0, 0, 0, 0) for n in resident]
    else:
        return None
    known = [found for found in counts if found is not None]
    if len(known) < len(counts):
        return None
    return "".join(_cell(found, high - low) for (low, high), found in zip(spans, known))


def _cell(counts: Counts, pages: int) -> str:
    """The character for a part of a file, by the share of its pages in memory."""
    resident, dirty, writeback, evicted, _ = counts
    if dirty or writeback:
        return "D"
    if resident >= pages:
        return "O"
    if resident:
        return "o"
    return "e" if evicted else "."


def many(paths: Iterable[tuple[str, str]]) -> bool:
    """True when the directories have enough entries for several processes to be worth it."""
    pending, seen = [path for _, path in paths if os.path.isdir(path)], 0
    while pending and seen < MANY:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    seen += 1
                    if seen >= MANY:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except OSError:
            pass
    return False
