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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    _Row = tuple[int, int, int]  # lowest and highest value of a bucket, count

__all__ = [
    "FRACTION",
    "bucket",
    "bounds",
    "slots",
    "merge",
    "percentile",
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


def percentile(
    counts: Sequence[int], shift: int, q: float, maximum: float | None = None
) -> float | None:
    """The value, in units, below which the share q (0 < q <= 1) of the events lies.

    None for no events.  counts: a fixed-point histogram.  Nearest rank, placed in its bucket in
    proportion to the rank; never above `maximum`, the largest value seen in
    units, when that is known.
    """
    total = sum(counts)
    if not total:
        return None
    rank = max(1, -int(-q * total // 1))  # ceil
    below = 0
    for index, count in enumerate(counts):
        if below + count >= rank:
            low, high = bounds(index, shift)
            value = (low + (high + 1 - low) * (rank - below) / count) / (1 << FRACTION)
            return value if maximum is None else min(value, maximum)
        below += count
    raise AssertionError("rank beyond the total")


def whole(counts: Sequence[int], shift: int) -> list[int]:
    """A fixed-point histogram as one of whole units with the same shift."""
    result: list[int] = []
    for index, count in enumerate(counts):
        if count:
            slot = bucket(bounds(index, shift)[0] >> FRACTION, shift)
            result.extend([0] * (slot + 1 - len(result)))
            result[slot] += count
    return result


def rows(counts: Sequence[int], shift: int) -> list[_Row]:
    """[(low, high, count)] from the first bucket to the last one that holds an event."""
    last = max((i for i, count in enumerate(counts) if count), default=-1)
    return [(*bounds(i, shift), counts[i]) for i in range(last + 1)]


def log2_rows(counts: Sequence[int], shift: int) -> list[_Row]:
    """[(low, high, count)] by octaves, as bcc prints them: 0..1, 2..3, 4..7, ..."""
    octaves: list[int] = []
    for index, count in enumerate(counts):
        if count:
            octave = max(bounds(index, shift)[0].bit_length() - 1, 0)
            octaves.extend([0] * (octave + 1 - len(octaves)))
            octaves[octave] += count
    return [((1 << i) if i else 0, (2 << i) - 1, count) for i, count in enumerate(octaves)]


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


def buckets(table: Sequence[_Row], unit: str) -> list[dict[str, int]]:
    """The JSON list of (low, high, count) rows that hold events."""
    return [
        {"lo_" + unit: low, "hi_" + unit: high, "count": count}
        for low, high, count in table
        if count
    ]


class Histogram:
    """How long some events took: a fixed-point histogram, and their exact figures.

    count; total, max: in nanoseconds; slots: the counts of the buckets, 2**shift an octave;
    unit: "us" or "ms", of which the buckets are.
    """

    __slots__ = "count", "total", "max", "slots", "shift", "unit"

    def __init__(self, sums: Any, shift: int, unit: str = "us") -> None:
        """sums: a record or Histogram with count, total, max and slots."""
        self.count, self.total, self.max, self.slots = sums.count, sums.total, sums.max, sums.slots
        self.shift, self.unit = shift, unit

    def add(self, other: Any) -> None:
        """Take the events of another one, of the same shift and unit, too."""
        self.count += other.count
        self.total += other.total
        self.max = max(self.max, other.max)
        self.slots = merge(self.slots, other.slots)

    def figures(self) -> dict[str, float | None]:
        """{"p50": value, ..., "max", "avg"} in units; None where there are no events."""
        scale = _UNITS[self.unit][1]
        found: dict[str, float | None] = {
            label: percentile(self.slots, self.shift, q, self.max / scale)
            for label, q in QUANTILES.items()
        }
        found["max"] = self.max / scale if self.count else None
        found["avg"] = self.total / scale / self.count if self.count else None
        return found

    def text(self, number: Callable[[Any], str], fine: bool = False) -> str:
        """The classic histogram, and below it a line with the figures.

        number: from a figure to its text; fine: a row for each bucket instead of each octave.
        """
        units, name = whole(self.slots, self.shift), _UNITS[self.unit][0]
        table = rows(units, self.shift) if fine else log2_rows(units, self.shift)
        figures = [f"{label} = {number(value)}" for label, value in self.figures().items()]
        return f"{lines(table, name)}{', '.join(figures)} {name}, count: {self.count}\n"

    def record(self) -> dict[str, Any]:
        """The members of a JSON record."""
        figures = self.figures()
        found: dict[str, Any] = {
            "count": self.count,
            "total_ns": self.total,
            "max_ns": self.max if self.count else None,
            "avg_" + self.unit: figures["avg"],
        }
        for label in QUANTILES:
            found[f"{label.replace('.', '')}_{self.unit}"] = figures[label]
        found["steps"] = 1 << self.shift
        found["buckets"] = buckets(rows(whole(self.slots, self.shift), self.shift), self.unit)
        return found
