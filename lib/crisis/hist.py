# SPDX-License-Identifier: GPL-2.0-or-later
"""Histograms as plain lists of counts: log2 and log-linear buckets, percentiles, text.

A log-linear histogram with 2**shift steps holds the value v in bucket v while
v < 2**(shift+1), and beyond that splits each octave [2**k, 2**(k+1)) into
2**shift equal buckets, so that a bucket is never wider than 1/2**shift of the
octave's lower end.  With shift 0 each octave is one bucket.  The C side of the
same arithmetic is LOG_LINEAR in progs/hist.bpf.h.

Times are counted in fixed point, in 2**-FRACTION of the unit that is printed
(fixed_us() and fixed_ms() there): buckets then are as fine below one unit
as above it, and percentiles are not truncated to whole units.  Since the
factor is a power of two, each bucket lies within one row of the classic
histogram of whole units.  Counts are whole numbers.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import compress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    _Row = tuple[int, int, int]  # lowest and highest value of a bucket, count
    _Filled = list[tuple[int, int]]  # index and count of the buckets that hold events, ascending

__all__ = [
    "FRACTION",
    "bucket",
    "bounds",
    "slots",
    "merge",
    "percentile",
    "of_rows",
    "whole",
    "rows",
    "lines",
    "log2_rows",
    "buckets",
    "Histogram",
    "QUANTILES",
]

FRACTION = 10

STARS = 40
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_UNITS = {"us": ("usecs", 1e3), "ms": ("msecs", 1e6)}  # name in the classic histogram, nanoseconds


def slots(shift: int, bits: int) -> int:
    """Number of buckets that hold every value below 2**bits."""
    return bucket((1 << bits) - 1, shift) + 1


def bucket(value: int, shift: int) -> int:
    """Index of the bucket of a value of at least 0."""
    octave = max(value.bit_length() - 1 - shift, 0)
    return (octave << shift) + (value >> octave)


def bounds(index: int, shift: int) -> tuple[int, int]:
    """(lowest, highest) value of a bucket, both inside it."""
    octave = max((index >> shift) - 1, 0)
    low = (index - (octave << shift)) << octave
    return low, low + (1 << octave) - 1


def merge(*histograms: Sequence[int]) -> list[int]:
    """The sum of histograms with the same shift, as a new list; shorter ones are padded."""
    total = [0] * max(map(len, histograms), default=0)
    for histogram in histograms:
        for index, count in enumerate(histogram):
            total[index] += count
    return total


def _filled(counts: Sequence[int]) -> _Filled:
    """The buckets of a histogram that hold events."""
    return [(index, counts[index]) for index in compress(range(len(counts)), counts)]


def percentile(
    counts: Sequence[int], shift: int, q: float, maximum: float | None = None
) -> float | None:
    """The value, in units, below which the share q (0 < q <= 1) of the events lies.

    None for no events.  counts: a fixed-point histogram.  Nearest rank, placed in its bucket in
    proportion to the rank; never above `maximum`, the largest value seen in
    units, when that is known.
    """
    return _percentiles(_filled(counts), shift, (q,), maximum)[0]


def _percentiles(
    filled: _Filled, shift: int, quantiles: Iterable[float], maximum: float | None
) -> list[float | None]:
    """As percentile(), for shares in ascending order."""
    if not filled:
        return [None for _ in quantiles]
    total = sum([count for _, count in filled])
    found: list[float | None] = []
    below, buckets = 0, iter(filled)
    index, count = next(buckets)
    low, high = bounds(index, shift)
    for q in quantiles:
        rank = -int(-q * total // 1)  # ceil
        while below + count < rank:
            below += count
            index, count = next(buckets)
            low, high = bounds(index, shift)
        value = (low + (high + 1 - low) * (rank - below) / count) / (1 << FRACTION)
        found.append(value if maximum is None or value < maximum else maximum)
    return found


def of_rows(
    table: Sequence[_Row], quantiles: Iterable[float], maximum: float | None
) -> list[float | None]:
    """As percentile(), of (low, high, count) rows of whole units, ascending; the shares, too."""
    total, below, at = sum(count for _, _, count in table), 0, 0
    found: list[float | None] = []
    for q in quantiles:
        if not total:
            found.append(None)
            continue
        rank = -int(-q * total // 1)  # ceil
        while below + table[at][2] < rank:
            below += table[at][2]
            at += 1
        low, high, count = table[at]
        value = low + (high + 1 - low) * (rank - below) / count
        found.append(value if maximum is None or value < maximum else maximum)
    return found


def whole(counts: Sequence[int], shift: int) -> list[int]:
    """A fixed-point histogram as one of whole units with the same shift."""
    slots = _whole(_filled(counts), shift)
    result = [0] * (slots[-1][0] + 1 if slots else 0)
    for slot, count in slots:
        result[slot] = count
    return result


def _whole(filled: _Filled, shift: int) -> _Filled:
    """The same of the buckets that hold events."""
    return _added([(_slot(index, shift), count) for index, count in filled])


@lru_cache(1 << 13)
def _slot(index: int, shift: int) -> int:
    """The bucket of whole units that a fixed-point bucket lies in."""
    return bucket(bounds(index, shift)[0] >> FRACTION, shift)


@lru_cache(1 << 13)
def _octave(index: int, shift: int) -> int:
    """The octave that a bucket lies in; that of 0 and 1 is 0."""
    return max(bounds(index, shift)[0].bit_length() - 1, 0)


@lru_cache(1 << 13)
def _whole_octave(index: int, shift: int) -> int:
    """The octave of whole units that a fixed-point bucket lies in."""
    return _octave(_slot(index, shift), shift)


def _added(pairs: _Filled) -> _Filled:
    """The sums of the counts with equal indexes, which follow each other."""
    found: _Filled = []
    last = -1
    for index, count in pairs:
        if index == last:
            found[-1] = index, found[-1][1] + count
        else:
            found.append((index, count))
            last = index
    return found


def rows(counts: Sequence[int], shift: int) -> list[_Row]:
    """[(low, high, count)] from the first bucket to the last one that holds an event."""
    return _rows(_filled(counts), shift)


def _rows(filled: _Filled, shift: int) -> list[_Row]:
    """The same of the buckets that hold events."""
    counts = dict(filled)
    last = filled[-1][0] if filled else -1
    return [(*bounds(i, shift), counts.get(i, 0)) for i in range(last + 1)]


def log2_rows(counts: Sequence[int], shift: int) -> list[_Row]:
    """[(low, high, count)] by octaves, as bcc prints them: 0..1, 2..3, 4..7, ..."""
    return _log2_rows(_filled(counts), shift)


def _log2_rows(filled: _Filled, shift: int) -> list[_Row]:
    """The same of the buckets that hold events."""
    return _octave_rows(_added([(_octave(index, shift), count) for index, count in filled]))


def _octave_rows(octaves: Iterable[tuple[int, int]]) -> list[_Row]:
    """The rows of (octave, count) pairs, in ascending order."""
    counts = dict(octaves)
    last = max(counts, default=-1)
    return [((1 << i) if i else 0, (2 << i) - 1, counts.get(i, 0)) for i in range(last + 1)]


def lines(table: Sequence[_Row], unit: str) -> str:
    """ASCII histogram of (low, high, count) rows, byte for byte the shape of bcc's print_log2_hist.

    unit: the header's name for the values, such as "usecs".
    Empty when there is no row.
    """
    if not table:
        return ""
    indent, number, stars = 5, 10, STARS
    if table[-1][1] >= 1 << 32:
        indent, number, stars = 15, 20, STARS // 2
    name = f"{'':{indent}}{unit:<{2 * number + 4 - indent}}"
    result = [f"{name} : count     distribution\n"]
    most = max(count for _, _, count in table) or 1
    for low, high, count in table:
        bar = "*" * (stars * count // most)
        result.append(f"{low:>{number}} -> {high:<{number}} : {count:<8} |{bar:<{stars}}|\n")
    return "".join(result)


@lru_cache(1 << 10)  # thousands of threads that waited a few times have few different histograms
def _log2_lines(octaves: tuple[tuple[int, int], ...], unit: str) -> str:
    """The classic histogram of (octave, count) pairs, in ascending order."""
    return lines(_octave_rows(octaves), unit)


def buckets(table: Sequence[_Row], unit: str) -> list[dict[str, int]]:
    """The JSON list of (low, high, count) rows that hold events."""
    lowest, highest = "lo_" + unit, "hi_" + unit
    return [{lowest: low, highest: high, "count": count} for low, high, count in table if count]


def _number(value: float | None) -> str:
    """A figure in three digits or whole, so that a line of them fits into 80 columns."""
    if value is None:
        return "-"
    if value >= 100 or not value:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.3f}"


class Histogram:
    """How long some events took: a fixed-point histogram, and their exact figures.

    count; total, max: in nanoseconds; filled: (index, count) of the buckets that hold events,
    ascending; shift: there are 2**shift buckets an octave; unit: "us" or "ms", of which they are.
    """

    __slots__ = "count", "total", "max", "filled", "shift", "unit"

    def __init__(self, sums: Any, shift: int, unit: str = "us") -> None:
        """sums: a record with count, total, max and slots, the counts of the buckets."""
        self.count, self.total, self.max = sums.count, sums.total, sums.max
        self.filled = _filled(sums.slots)
        self.shift, self.unit = shift, unit

    def add(self, other: Histogram) -> None:
        """Take the events of another one, of the same shift and unit, too."""
        self.count += other.count
        self.total += other.total
        self.max = max(self.max, other.max)
        self.filled = _added(sorted(self.filled + other.filled))

    def figures(self) -> dict[str, float | None]:
        """{"p50": value, ..., "max", "avg"} in units; None where there are no events."""
        scale = _UNITS[self.unit][1]
        values = _percentiles(self.filled, self.shift, QUANTILES.values(), self.max / scale)
        found = dict(zip(QUANTILES, values))
        found["max"] = self.max / scale if self.count else None
        found["avg"] = self.total / scale / self.count if self.count else None
        return found

    def text(self, fine: bool = False) -> str:
        """The classic histogram, and below it two lines with the figures.

        fine: a row for each bucket instead of each octave.
        """
        name, scale = _UNITS[self.unit]
        if fine:
            table = lines(_rows(_whole(self.filled, self.shift), self.shift), name)
        else:
            octaves = [(_whole_octave(index, self.shift), count) for index, count in self.filled]
            table = _log2_lines(tuple(_added(octaves)), name)
        p50, p90, p99, p999, most, average = map(_number, self.figures().values())
        return (
            f"{table}p50 = {p50}, p90 = {p90}, p99 = {p99}, p99.9 = {p999}, max = {most}\n"
            f"avg = {average} {name}, total: {_number(self.total / scale)} {name}, "
            f"count: {self.count}\n"
        )

    def record(self) -> dict[str, Any]:
        """The members of a JSON record."""
        p50, p90, p99, p999, _, average = self.figures().values()
        unit, shift = self.unit, self.shift
        whole_units = _whole(self.filled, shift)
        return {
            "count": self.count,
            "total_ns": self.total,
            "max_ns": self.max if self.count else None,
            f"avg_{unit}": average,
            f"p50_{unit}": p50,
            f"p90_{unit}": p90,
            f"p99_{unit}": p99,
            f"p999_{unit}": p999,
            "steps": 1 << shift,
            "buckets": buckets([(*bounds(i, shift), count) for i, count in whole_units], unit),
        }
