# SPDX-License-Identifier: GPL-2.0-or-later
"""--openmetrics: the JSON records of an interval as a file for node_exporter's textfile collector.

The file is in Prometheus's text exposition format, which the collector reads, without time
stamps, which it refuses.  A record is of an interval: its numbers become gauges, in base units
(`measures.unit`), and its names become labels.  Histograms are the exception: a Prometheus
histogram counts from its start on, so that its buckets are added up over the intervals.
"""

from __future__ import annotations

import os
import re
import stat
from zlib import crc32

from . import measures, table
from .errors import Error, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

__all__ = ["MOST_SERIES", "Exporter", "Page"]

MOST_SERIES = 5000  # lines of the file with values
MOST_LABEL = 200  # characters
_KIND = re.compile(r'"record":"(\w+)"')
_RESERVED = re.compile(r"_(total|sum|bucket|info)$")  # by the format, for other types
_SKIPPED = frozenset(("buckets", "steps", "allocs", "mapped_by", "stack", "why", "ranges"))
_LONGEST = 64  # seconds, of the last finite bucket
# unit of the buckets: nanoseconds in it
_SCALES = {"us": 1000, "ms": 1000000}


class _Histogram:
    """What a Prometheus histogram has counted so far, in buckets of powers of two.

    base: nanoseconds, the unit of the bounds.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self.slots = [0] * (_LONGEST * 10**9 // base).bit_length()  # below 2, 4, 8, ... units
        self.count, self.total = 0, 0.0

    def add(self, buckets: list[dict[str, int]], total: float) -> None:
        """Take the buckets of a record, and the seconds that they add up to."""
        self.total += total
        for bucket in buckets:
            low, number = _low(bucket) // self.base, bucket["count"]
            self.count += number
            slot = max(low.bit_length() - 1, 0)
            if slot < len(self.slots):
                self.slots[slot] += number

    def lines(self, name: str, labels: dict[str, str]) -> Iterator[str]:
        """The lines of the series."""
        below = 0
        for slot, number in enumerate(self.slots):
            below += number
            bound = {"le": f"{(2 << slot) * self.base / 1e9:.9g}"}
            yield _line(f"{name}_bucket", {**labels, **bound}, below)
        yield _line(f"{name}_bucket", {**labels, "le": "+Inf"}, self.count)
        yield _line(f"{name}_sum", labels, self.total)
        yield _line(f"{name}_count", labels, self.count)


def _low(bucket: dict[str, int]) -> int:
    """The lowest value of a bucket, in nanoseconds."""
    for key, value in bucket.items():
        if key.startswith("lo_"):
            return value * _SCALES.get(key[3:], 1)
    raise ValueError("buckets")


def _base(record: Mapping[str, Any]) -> int:
    """The unit of a record's buckets in nanoseconds."""
    for bucket in record["buckets"]:
        for key, value in bucket.items():
            # hardirqs and softirqs have buckets of microseconds, in nanoseconds
            if key == "hi_ns" and (value + 1) % 1000:
                return 1
            if key.startswith("hi_"):
                return _SCALES.get(key[3:], 1000)
    return 1000


class Page:
    """The metrics of a command.  The histograms are kept from interval to interval.

    command: its name.  Attributes: dropped, the number of series beyond MOST_SERIES.
    """

    def __init__(self, command: str) -> None:
        self._command = re.sub(r"\W", "_", command)
        self._histograms: dict[tuple[tuple[str, str], ...], _Histogram] = {}
        self._families: dict[str, tuple[str, dict[str, str]]] = {}  # {name: (head, {series: line})}
        self._left = self.dropped = 0

    def render(self, records: list[dict[str, Any]]) -> str:
        """The file with the records of one interval."""
        self._families, self._left, self.dropped = {}, MOST_SERIES, 0
        for record in records:
            labels = {key: _label(value) for key, value in measures.labels(record, True).items()}
            if isinstance(record.get("stack"), list):
                labels["stack_id"] = _stack_id(record["stack"])
            if isinstance(record.get("buckets"), list):
                self._histogram(record, labels)
            self._gauges("", record, labels)
        for key, histogram in self._histograms.items():
            self._add_histogram(histogram, dict(key))
        parts = []
        for head, lines in self._families.values():
            parts += [head, *lines.values()]
        return "".join(parts)

    def _gauges(self, prefix: str, record: Mapping[str, Any], labels: dict[str, str]) -> None:
        """A gauge for each number of a record or of an object in it."""
        for key, value in record.items():
            kind = measures.kind(key)
            if key in _SKIPPED or kind in (measures.NAME, measures.LOCAL):
                continue
            if isinstance(value, dict):
                self._members(f"{prefix}{key}", value, labels)
            elif isinstance(value, list):
                self._items(key, value, labels)
            elif isinstance(value, (int, float)):
                stem, unit, factor = measures.unit(key)
                if kind == measures.ATTRIBUTE and not unit and not isinstance(value, bool):
                    continue
                if key == "seconds":
                    stem = "interval"
                self._gauge(prefix + stem, unit, value * factor, labels)

    def _members(self, stem: str, members: Mapping[str, Any], labels: dict[str, str]) -> None:
        """The gauges of an object, such as what was lost: its keys become the label "key"."""
        for member, number in members.items():
            own, unit, factor = measures.unit(member)
            if isinstance(number, (int, float)):
                self._gauge(stem, unit, number * factor, {**labels, "key": _label(own)})

    def _items(self, key: str, values: list[Any], labels: dict[str, str]) -> None:
        """The gauges of a list of objects, such as cputemp's sensors."""
        for item in values:
            if isinstance(item, dict):
                own = {name: _label(text) for name, text in measures.labels(item, True).items()}
                for key_of_item in "source", "state":
                    if item.get(key_of_item) is not None:
                        own[key_of_item] = _label(str(item[key_of_item]))
                self._gauges(f"{key}_", item, {**labels, **own})

    def _gauge(self, stem: str, unit: str, value: float, labels: dict[str, str]) -> None:
        name = "_".join(part for part in ("crisis", self._command, stem.strip("_"), unit) if part)
        name = _RESERVED.sub(r"_\1_value", re.sub(r"(^|_)count$", r"\1events", name))
        what = f"{stem.replace('_', ' ')} in the last report of {self._command}"
        self._add(name, "gauge", what, [_line(name, labels, value)])

    def _histogram(self, record: Mapping[str, Any], labels: dict[str, str]) -> None:
        """Add the buckets of a record to those of the intervals before."""
        number, total = record.get("count"), record.get("total_ns")
        if number is None or total is None:
            return
        key = tuple(labels.items())
        histogram = self._histograms.get(key)
        if histogram is None:
            if len(self._histograms) >= MOST_SERIES // 20:
                self.dropped += 20
                return
            histogram = self._histograms[key] = _Histogram(_base(record))
        counted = sum(bucket["count"] for bucket in record["buckets"])
        # irqtime's total is also of interrupts that are in no bucket.
        histogram.add(record["buckets"], total / 1e9 * counted / number if number else 0.0)

    def _add_histogram(self, histogram: _Histogram, labels: dict[str, str]) -> None:
        name = f"crisis_{self._command}_seconds"
        what = f"times that {self._command} has measured since its start"
        self._add(name, "histogram", what, list(histogram.lines(name, labels)))

    def _add(self, name: str, kind: str, what: str, lines: list[str]) -> None:
        """Add lines to a family, unless the series is there or the file is full."""
        head = f"# HELP {name} {what}.\n# TYPE {name} {kind}\n"
        series = lines[0].rpartition(" ")[0]
        found = self._families.get(name)
        if found is not None and series in found[1]:
            self.dropped += 1
            return
        if len(lines) > self._left:
            self.dropped += len(lines)
            return
        self._left -= len(lines)
        self._families.setdefault(name, (head, {}))[1][series] = "".join(lines)


def _stack_id(frames: list[Any]) -> str:
    """The places within its functions, which distinguish stacks of the same functions."""
    places = [
        (frame.get("name"), frame.get("offset"), frame.get("module"))
        if isinstance(frame, dict)
        else frame
        for frame in frames
    ]
    return f"{crc32(repr(places).encode()):08x}"


def _label(text: str) -> str:
    """A label's value as it is printed: short, and without what acts on a terminal."""
    text = table.escape(text)
    if len(text) > MOST_LABEL:
        text = f"{text[: MOST_LABEL - 9]}~{crc32(text.encode()):08x}"
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
    number = f"{value:.12g}" if isinstance(value, float) else str(int(value))
    return f"{name}{{{inner}}} {number}\n" if inner else f"{name} {number}\n"


class Exporter:
    """Collects what a command prints, and writes the file when the command waits or ends.

    path: the file.  prog: the command's name.  note: prints a line on stderr.
    Raises Usage for what is no regular file, and Error where none can be written.
    """

    def __init__(self, path: str, prog: str, note: Callable[[str], None]) -> None:
        self._path, self._note, self._noted = path, note, False
        self._page = Page(re.sub("^crisis-", "", prog))
        self._records: list[dict[str, Any]] = []
        directory, self._name = os.path.split(path)
        self._directory = directory or "."
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise Usage(f"--openmetrics {path} is not a regular file, which it would replace")
        except FileNotFoundError:
            if not self._name:
                raise Usage(f"--openmetrics {path} names no file") from None
        except OSError as exc:
            raise self._error(exc) from None
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise Error(f"cannot write to {self._directory}: it is missing, or not writable")

    def take(self, text: str) -> None:
        """Take what the command prints; what is no record of an interval is ignored."""
        import json

        for line in text.splitlines():
            kind = _KIND.search(line, 0, 256)
            if not line.startswith("{") or kind and kind[1] in measures.EVENTS:
                continue
            if len(self._records) < MOST_SERIES:
                self._records.append(json.loads(line))

    def write(self) -> None:
        """Replace the file by one with the records taken since the last time, if there are any."""
        if not self._records:
            return
        text = self._page.render(self._records)
        self._records = []
        temporary = os.path.join(self._directory, f".{self._name}.{os.getpid()}.new")
        try:
            self._replace(temporary, text.encode())
        except OSError as exc:
            try:
                os.unlink(temporary)
            except OSError:
                pass
            raise self._error(exc) from None
        if self._page.dropped and not self._noted:
            self._noted = True
            self._note(
                f"values left out of {self._path}: {self._page.dropped}. It holds {MOST_SERIES}, "
                "none of them twice. Use an option that prints fewer rows"
            )

    def _replace(self, temporary: str, data: bytes) -> None:
        """Write the bytes to a new file, and give it the name.  Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(temporary, "wb", opener=lambda path, _: os.open(path, flags, 0o600)) as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        os.rename(temporary, self._path)

    def _error(self, exc: OSError) -> Error:
        return Error(f"cannot write {self._path}: {exc.strerror}")
