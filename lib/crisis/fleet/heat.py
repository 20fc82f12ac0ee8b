# SPDX-License-Identifier: GPL-2.0-or-later
"""Histograms over time as heat maps: columns are intervals, rows powers of two.  Pure."""

from __future__ import annotations

import math

from .. import measures
from .lines import epoch
from .merge import histogram_rows, histogram_unit
from .values import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from .lines import Line

__all__ = ["Cells", "Heat", "Map", "Grid", "shade", "colour", "duration"]

MOST_CELLS = 1 << 20  # of all maps that hold events
MOST_COLUMNS = 4096  # of a map, before two become one

Cells = dict[int, dict[int, int]]  # {column: {row: events}}


class Map:
    """The histograms of one name.

    kind: that of the records; names: {key: text}; unit: "us", "ms" or "ns"; cells: their events,
    a row is the octave of its lowest value in units (0 and 1 are row 0); events: of all.
    """

    def __init__(self, kind: str, names: Mapping[str, str], unit: str) -> None:
        self.kind, self.names, self.unit = kind, names, unit
        self.cells: Cells = {}
        self.events = 0


class Grid:
    """A map as it is drawn, in a limited number of columns.

    rows: the first and the last one with events; columns: of each the seconds since the epoch at
    which it begins (None without a clock) and its {row: events}; seconds: the width of a column.
    """

    def __init__(self, one: Map, start: float | None, step: float, wide: int) -> None:
        """start: the time of column 0; step: the seconds of a column; wide: columns at most."""
        first, last = min(one.cells, default=0), max(one.cells, default=0)
        width = (last - first) // wide + 1
        folded: Cells = {}
        for column, rows in one.cells.items():
            _add(folded, (column - first) // width, rows)
        self.seconds = step * width
        begin = None if start is None else start + first * step
        self.columns = [
            (None if begin is None else begin + at * self.seconds, folded.get(at, {}))
            for at in range((last - first) // width + 1 if one.cells else 0)
        ]
        used = [row for rows in folded.values() for row in rows]
        self.rows = min(used, default=0), max(used, default=0)
        self.most = max((most for rows in folded.values() for most in rows.values()), default=0)


class Heat:
    """Takes lines, and has the maps.

    by: keys that get a map for each value; "host" is the host of a line.
    Attributes: step, seconds of a column; start, the time of column 0 in seconds since the epoch
    or None; left_out: records beyond MOST_CELLS; other: lines that have no histogram.
    """

    def __init__(self, by: Sequence[str]) -> None:
        self.step = 1.0
        self.start: float | None = None
        self.left_out = self.other = 0
        self._by = by
        self._maps: dict[tuple[object, ...], Map] = {}
        self._cells = 0
        self._ordinal = -1
        self._folds = 0  # how often two columns became one
        self._begun = False

    def take(self, line: Line) -> None:
        """Count a line."""
        record = line.record
        try:
            unit = None if record is None else histogram_unit(record)
        except (ValueError, AttributeError):
            unit = None
        if record is None or unit is None:
            self.other += 1
            return
        rows = histogram_rows(record["buckets"], unit)
        if unit == "ns" and all((high + 1) % 1000 == 0 for _, high, _ in rows):
            unit = "us"  # hardirqs and softirqs
            rows = [(low // 1000, high // 1000, count) for low, high, count in rows]
        column = self._column(record) >> self._folds
        for host in line.hosts or ("-",):
            self._add(self._map(record, unit, host), column, rows)

    def _column(self, record: Mapping[str, Any]) -> int:
        """The interval that a record is of, counted from the first record's."""
        now = epoch(record.get("time"))
        seconds = number(record.get("seconds"))
        if now is not None and seconds is not None and 0 < seconds < 1e9:
            now -= seconds  # a record has the time of its end
        if not self._begun:
            self._begun, self.start = True, now
            if seconds is not None and 0 < seconds < 1e9:
                self.step = _nominal(seconds)
        if now is None or self.start is None:
            self._ordinal += 1
            return self._ordinal
        return math.floor((now - self.start) / (self.step / (1 << self._folds)) + 0.5)

    def _map(self, record: Mapping[str, Any], unit: str, host: str) -> Map | None:
        """The map that a record belongs to; None if there are too many."""
        names = measures.labels(record, local=True)
        names["host"] = host
        kept = {key: names[key] for key in ("type", *self._by) if key in names}
        kind = str(record.get("record", ""))
        key = kind, unit, tuple(kept.items())
        found = self._maps.get(key)
        if found is None and len(self._maps) < MOST_CELLS >> 6:
            found = self._maps[key] = Map(kind, kept, unit)
        return found

    def _add(self, one: Map | None, column: int, rows: Sequence[tuple[int, int, int]]) -> None:
        if one is None or self._cells >= MOST_CELLS:
            self.left_out += 1
            return
        cells = one.cells.setdefault(column, {})
        before = len(cells)
        for low, _, count in rows:
            if count:
                row = max(low.bit_length() - 1, 0)
                cells[row] = cells.get(row, 0) + count
                one.events += count
        self._cells += len(cells) - before
        if len(one.cells) > MOST_COLUMNS:
            self._fold()

    def _fold(self) -> None:
        """Make one column of two, in all maps."""
        self.step, self._folds = self.step * 2, self._folds + 1
        self._cells = 0
        for one in self._maps.values():
            cells, one.cells = one.cells, {}
            for column, rows in cells.items():
                _add(one.cells, column >> 1, rows)
            self._cells += sum(map(len, one.cells.values()))

    def maps(self) -> list[Map]:
        """The maps, those with most events first.

        Where the command prints totals beside the parts, only the totals, unless `by` is one of
        the parts' names.
        """
        found = list(self._maps.values())
        totals = [one for one in found if one.kind == "total"]
        if totals and not self._by:
            found = totals
        elif self._by:
            named = [one for one in found if set(self._by) <= set(one.names)]
            found = named or found
        return sorted(found, key=lambda one: -one.events)

    def grid(self, one: Map, wide: int) -> Grid:
        """The map in at most `wide` columns."""
        return Grid(one, self.start, self.step, wide)

    def records(self, one: Map) -> Iterator[tuple[float | None, float, list[tuple[int, int, int]]]]:
        """(start, seconds, (low, high, count) rows) of each column that holds events."""
        for column in sorted(one.cells):
            start = None if self.start is None else self.start + column * self.step
            rows = [
                ((1 << row) if row else 0, (2 << row) - 1, count)
                for row, count in sorted(one.cells[column].items())
            ]
            if rows:
                yield start, self.step, rows


def _nominal(seconds: float) -> float:
    """The interval that was wanted, of the one that was measured: 0.5 of 0.509, 15 of 15.02."""
    one, two = float(f"{seconds:.1g}"), float(f"{seconds:.2g}")
    return one if abs(one - seconds) < 0.1 * seconds else two


def _add(cells: Cells, column: int, rows: Mapping[int, int]) -> None:
    """Add the events of a column to another one."""
    found = cells.setdefault(column, {})
    for row, count in rows.items():
        found[row] = found.get(row, 0) + count


def shade(count: int, most: int, shades: int, linear: bool) -> int:
    """The shade of a cell, from 1 to `shades`; 0 for no events.

    linear: in proportion to the count, otherwise to its logarithm, so that few slow events are
    visible beside many fast ones.
    """
    if not count:
        return 0
    share = count / most if linear else math.log1p(count) / math.log1p(most)
    return 1 + round(share * (shades - 1))


# From few events to many: yellow, orange, red, dark red.
_RAMP = ((255, 245, 170), (254, 204, 92), (253, 141, 60), (227, 26, 28), (110, 0, 40))


def colour(level: int, shades: int) -> tuple[int, int, int]:
    """Red, green and blue, from 0 to 255, of a shade from 1 to `shades`."""
    position = (level - 1) / max(shades - 1, 1) * (len(_RAMP) - 1)
    at = min(int(position), len(_RAMP) - 2)
    pairs = list(zip(_RAMP[at], _RAMP[at + 1]))
    red, green, blue = (round(low + (high - low) * (position - at)) for low, high in pairs)
    return red, green, blue


_SCALES = {"ns": 1, "us": 10**3, "ms": 10**6}


def duration(row: int, unit: str) -> str:
    """The lowest value of a row, in three digits."""
    ns = ((1 << row) if row else 0) * _SCALES[unit]
    for name, scale in ("s", 10**9), ("ms", 10**6), ("us", 10**3):
        if ns >= scale:
            return f"{ns / scale:.3g} {name}" if ns < 1000 * scale else f"{ns // scale} {name}"
    return f"{ns} ns" if ns else "0"
