# SPDX-License-Identifier: GPL-2.0-or-later
"""How the values that many hosts have for one key become one value.  Pure.

Each kind of `measures` has a class here: add() takes the value of one record, result() is that of
all.  A value of another type than the key's is ignored, as null is.
"""

from __future__ import annotations

from .. import measures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["Host", "Interval", "Value", "make", "number"]


class Interval:
    """The reports of one kind of record on one host: their number and their seconds in all."""

    __slots__ = "time", "number", "seconds", "unnamed"

    def __init__(self) -> None:
        self.time: object = self  # no report has this time
        self.number, self.seconds, self.unnamed = 0, 0.0, False


class Host:
    """What a host printed.

    records: the number of them; cut: of lines that begin as one; messages: of others.
    why: the last other line.  status: what clush(1) or pdsh(1) reports of it.
    """

    __slots__ = "name", "index", "records", "cut", "messages", "why", "status", "intervals"

    def __init__(self, name: str, index: int) -> None:
        self.name, self.index = name, index
        self.records = self.cut = self.messages = 0
        self.why = ""
        self.status: str | None = None
        self.intervals: dict[str, Interval] = {}


def number(value: object) -> float | None:
    """A number that is no bool, or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return None


class Value:
    """The value of a key in a group of records.

    known: of how many records.  most, most_host: the largest value of one record, and its host.
    """

    __slots__ = "known", "most", "most_host"
    adds_up = False

    def __init__(self) -> None:
        self.known = 0
        self.most: float | None = None
        self.most_host: Host | None = None

    def take(self, value: object, key: str, record: Mapping[str, Any], host: Host) -> None:
        """Count the value of one record."""
        found = number(value)
        if found is None:
            return
        self.known += 1
        if self.most is None or found > self.most:
            self.most, self.most_host = found, host
        self.add(found, key, record, host)

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        raise NotImplementedError

    def result(self, kind: str) -> object:
        """The value of all records, None if none has one.  kind: that of the records."""
        raise NotImplementedError


class Sum(Value):
    """COUNT: of all hosts and intervals."""

    __slots__ = ("total",)
    adds_up = True

    def __init__(self) -> None:
        super().__init__()
        self.total: float = 0

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        self.total += value

    def result(self, kind: str) -> object:
        return self.total if self.known else None


class Level(Value):
    """LEVEL: of all hosts, of each the mean over its reports."""

    __slots__ = ("of_host",)
    adds_up = True

    def __init__(self) -> None:
        super().__init__()
        self.of_host: dict[Host, float] = {}

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        self.of_host[host] = self.of_host.get(host, 0) + value

    def result(self, kind: str) -> object:
        if not self.known:
            return None
        total: float = 0
        for host, value in self.of_host.items():
            reports = host.intervals[kind].number
            total += value if reports == 1 else value / reports
        return round(total) if isinstance(self.most, int) else total


class Lost(Value):
    """What "lost" counts: of each host once in each report, since all its records repeat it.

    The number in the record of an event is that since the command's start.
    """

    __slots__ = ("of_host",)
    adds_up = True

    def __init__(self) -> None:
        super().__init__()
        self.of_host: dict[Host, tuple[object, float, float]] = {}  # time, of it, of those before

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        time = None if record.get("record") in measures.EVENTS else record.get("time")
        last, most, before = self.of_host.get(host, (time, 0, 0))
        if last != time:
            most, before = 0, before + most
        self.of_host[host] = time, max(most, value), before

    def result(self, kind: str) -> object:
        return sum(most + before for _, most, before in self.of_host.values())


class Largest(Value):
    """MAX."""

    __slots__ = ()

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        pass

    def result(self, kind: str) -> object:
        return self.most


class Smallest(Value):
    """MIN."""

    __slots__ = ("least",)

    def __init__(self) -> None:
        super().__init__()
        self.least: float | None = None

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        self.least = value if self.least is None else min(self.least, value)

    def result(self, kind: str) -> object:
        return self.least


class Mean(Value):
    """MEAN: weighted by the records' seconds."""

    __slots__ = "total", "weight"

    def __init__(self) -> None:
        super().__init__()
        self.total = self.weight = 0.0

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        weight = measures.weight(key, record)
        self.total += value * weight
        self.weight += weight

    def result(self, kind: str) -> object:
        return self.total / self.weight if self.weight else None


class Quotient(Value):
    """QUOTIENT: of the sums over those records that have all its parts."""

    __slots__ = "over", "under", "form"

    def __init__(self) -> None:
        super().__init__()
        self.over = self.under = 0.0
        self.form: measures.Quotient | None = None

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        self.form = form = measures.quotient(key)
        over = [number(record.get(part)) for part in form.over]
        under = [number(record.get(part)) for part in form.under]
        if None not in over and None not in under:
            self.over += sum(part for part in over if part is not None)
            self.under += sum(part for part in under if part is not None)

    def result(self, kind: str) -> object:
        return self.form.of(self.over, self.under) if self.form else None


class Percentile(Value):
    """PERCENTILE: the group computes it from its buckets."""

    __slots__ = ()

    def add(self, value: float, key: str, record: Mapping[str, Any], host: Host) -> None:
        pass

    def result(self, kind: str) -> object:
        return None


class Same(Value):
    """NAME, LOCAL and ATTRIBUTE: the value if all records have the same, else null."""

    __slots__ = "value", "differs"

    def __init__(self) -> None:
        super().__init__()
        self.value: object = None
        self.differs = False

    def take(self, value: object, key: str, record: Mapping[str, Any], host: Host) -> None:
        if value is None:
            return
        if not self.known:
            self.value = value
        self.differs = self.differs or value != self.value
        self.known += 1

    def result(self, kind: str) -> object:
        return None if self.differs else self.value


_CLASSES: dict[str, type[Value]] = {
    measures.COUNT: Sum,
    measures.LEVEL: Level,
    measures.MAX: Largest,
    measures.MIN: Smallest,
    measures.MEAN: Mean,
    measures.QUOTIENT: Quotient,
    measures.PERCENTILE: Percentile,
}


def make(key: str, value: object, record: Mapping[str, Any], lost: bool) -> Value:
    """The Value for a key whose first value this is.  lost: it is a member of "lost"."""
    kind = measures.kind(key)
    if number(value) is None or kind in (measures.NAME, measures.LOCAL, measures.ATTRIBUTE):
        return Same()
    if lost:
        return Lost()
    kind = {"min": measures.MIN, "max": measures.MAX}.get(str(record.get("stat")), kind)
    if kind is None:
        kind = measures.COUNT if measures.of_interval(record) else measures.LEVEL
    return _CLASSES[kind]()
