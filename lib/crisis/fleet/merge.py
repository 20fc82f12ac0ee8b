# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON records of many hosts as the records of one.

Records of the same kind and name, such as the same command or interface, are one group; `values`
has how their values become one.  Pure.  What grows with the input is bounded: groups, hosts,
buckets.
"""

from __future__ import annotations

from .. import hist, measures
from . import nodeset
from .values import Host, Interval, Value, make, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from .lines import Line

    Path = tuple[str, ...]  # a key, or two: of an object in the record, and of its member

__all__ = ["MOST_GROUPS", "Group", "Listed", "Merge", "histogram_rows", "histogram_unit"]

MOST_GROUPS = 10000
MOST_BUCKETS = 8192  # of one histogram
MOST_KEYS = 512  # of one group
MOST_KEPT = 1 << 26  # bytes of the lines that brought a new group or key
WORST = 5  # hosts that a group names
_SCALES = {"ns": 1.0, "us": 1e3, "ms": 1e6}  # nanoseconds


class Group:
    """The records of one kind and name.

    names: {key: text}.  hosts: a bit for each host, by its index; records: the number of them.
    unit: that of the buckets, or None.  worst_key: by which hosts are ranked.
    """

    def __init__(self, kind: str, names: dict[str, str], unit: str | None) -> None:
        self.kind, self.names, self.unit = kind, names, unit
        self.hosts = self.records = 0
        self.worst_key: str | None = None
        self._values: dict[Path, Value | None] = {}  # in the records' order; None: not known yet
        self._buckets: dict[tuple[int, int], int] = {}
        self._worst: dict[Host, float] = {}
        self._grow = True

    def add(self, record: Mapping[str, Any], host: Host, grow: bool) -> bool:
        """Take a record of a host.  True if it has brought a new key, which `grow` permits."""
        before = len(self._values)
        self._grow = grow
        self.records += 1
        self.hosts |= 1 << host.index
        for key, value in record.items():
            if key == "buckets":
                self._values.setdefault((key,), None)
                for lowest, highest, count in histogram_rows(value, self.unit):
                    rows = lowest, highest
                    self._buckets[rows] = self._buckets.get(rows, 0) + count
            elif isinstance(value, dict):
                for member, inner in value.items():
                    self._take((key, member), inner, record, host)
            else:
                self._take((key,), value, record, host)
        self._rank(record, host)
        return len(self._values) > before

    def _take(self, path: Path, value: object, record: Mapping[str, Any], host: Host) -> None:
        found = self._values.get(path)
        if found is None:
            new = path not in self._values
            if new and not (self._grow and len(self._values) < MOST_KEYS):
                return
            if value is not None:
                found = make(path[-1], value, record, path[0] == "lost")
            self._values[path] = found
        if found is not None:
            found.take(value, path[-1], record, host)

    def _rank(self, record: Mapping[str, Any], host: Host) -> None:
        """Keep the hosts with the largest value of a record, exactly."""
        if self.worst_key is None:
            self.worst_key = measures.badness(record)
        value = None if self.worst_key is None else number(record.get(self.worst_key))
        if value is None:
            return
        worst = self._worst
        if host in worst or len(worst) < WORST:
            worst[host] = max(value, worst.get(host, value))
        else:
            least = min(worst, key=lambda one: worst[one])
            if value > worst[least]:
                del worst[least]
                worst[host] = value

    def worst(self) -> list[tuple[Host, float]]:
        """The hosts with the largest values of worst_key, descending."""
        return sorted(self._worst.items(), key=lambda item: (-item[1], item[0].name))

    def host_count(self) -> int:
        """The number of hosts that have records of the group."""
        return bin(self.hosts).count("1")

    def unknown(self) -> dict[str, int]:
        """{key: number of records that do not know it}, of the sums that others know."""
        return {
            ".".join(path): self.records - value.known
            for path, value in self._values.items()
            if value is not None and value.adds_up and value.known < self.records
        }

    def rows(self) -> list[tuple[int, int, int]]:
        """The histogram as (low, high, count) rows, ascending.

        Of hosts with different --steps, it has the fewest of them.
        """
        steps = self._values.get(("steps",))
        fewest = None if steps is None else steps.result(self.kind)
        if isinstance(fewest, int) and steps and steps.most != fewest and fewest > 0:
            coarse: dict[tuple[int, int], int] = {}
            shift = fewest.bit_length() - 1
            for (lowest, _), count in self._buckets.items():
                row = hist.bounds(hist.bucket(lowest, shift), shift)
                coarse[row] = coarse.get(row, 0) + count
        else:
            coarse = self._buckets
        return [(low, high, count) for (low, high), count in sorted(coarse.items())]

    def members(self) -> dict[str, Any]:
        """The merged values, in the shape of one host's record."""
        found: dict[str, Any] = {}
        for path, value in self._values.items():
            result = None if value is None else value.result(self.kind)
            if len(path) == 1:
                found[path[0]] = result
            else:
                found.setdefault(path[0], {})[path[1]] = result
        if self.unit is not None:
            self._set_histogram(found)
        return found

    def value(self, key: str) -> Value | None:
        """The Value of a key, such as "hits" or "lost.unseen"."""
        return self._values.get(tuple(key.split(".", 1)))

    def _set_histogram(self, found: dict[str, Any]) -> None:
        """The buckets, and the percentiles that they give."""
        assert self.unit is not None
        rows = self.rows()
        maximum = number(found.get("max_ns"))
        if maximum is not None:
            maximum /= _SCALES[self.unit]
        keys = [key for key in found if measures.kind(key) == measures.PERCENTILE]
        shares = {key: _share(key) for key in keys}
        keys.sort(key=lambda key: shares[key])
        found.update(zip(keys, hist.of_rows(rows, sorted(shares.values()), maximum)))
        found["buckets"] = hist.buckets(rows, self.unit)


def _share(key: str) -> float:
    """0.999 of p999_us."""
    digits = "".join(char for char in key.partition("_")[0] if char.isdigit())
    return float(f"0.{digits}")


def histogram_unit(record: Mapping[str, Any]) -> str | None:
    """The unit of a record's buckets; None for a record without.  ValueError for wrong ones."""
    buckets = record.get("buckets")
    if buckets is None:
        return None
    if not isinstance(buckets, list) or len(buckets) > MOST_BUCKETS:
        raise ValueError("buckets")
    if not buckets:  # an empty histogram still has percentiles
        key = next((key for key in record if measures.kind(key) == measures.PERCENTILE), "_ns")
        return key.rpartition("_")[2]
    if not isinstance(buckets[0], dict):
        raise ValueError("buckets")
    unit = next((key[3:] for key in buckets[0] if key.startswith("lo_")), "")
    if unit not in _SCALES:
        raise ValueError("buckets")
    for low, high, count in histogram_rows(buckets, unit):
        if not (0 <= low <= high < 1 << 63 and 0 <= count < 1 << 63):
            raise ValueError("buckets")
    return unit


def histogram_rows(buckets: Any, unit: str | None) -> list[tuple[int, int, int]]:
    """The (low, high, count) rows of a record's buckets.  ValueError for other objects."""
    rows = []
    for item in buckets or ():
        row = (item.get(f"lo_{unit}"), item.get(f"hi_{unit}"), item.get("count"))
        if any(not isinstance(cell, int) or isinstance(cell, bool) for cell in row):
            raise ValueError("buckets")
        rows.append(row)
    return rows


class Listed:
    """A host that is not simply a part of the result: its name, its state, and why."""

    __slots__ = "name", "state", "why", "records"

    def __init__(self, name: str, state: str, why: str, records: int) -> None:
        self.name, self.state, self.why, self.records = name, state, why, records


class Merge:
    """Takes lines, and has the hosts and the groups.

    by: the keys that identify a record, besides "record" and "type"; None: all names.
    expected: the hosts that should be there.
    Attributes: hosts, {name: Host}; expected, {name: None}; left_out, records beyond
    MOST_GROUPS; nobodys, lines without a host.
    """

    def __init__(self, by: Sequence[str] | None = None, expected: Iterable[str] = ()) -> None:
        self.hosts: dict[str, Host] = {}
        self.left_out = self.nobodys = 0
        self._by = by
        self.expected = dict.fromkeys(expected)
        self._groups: dict[tuple[object, ...], Group] = {}
        self._kept = 0

    def host(self, name: str) -> Host | None:
        """The host of that name, from now on a known one; None if there are too many."""
        found = self.hosts.get(name)
        if found is None and len(self.hosts) < nodeset.MOST:
            found = self.hosts[name] = Host(name, len(self.hosts))
        return found

    def take(self, line: Line) -> None:
        """Count a line for its hosts."""
        if not line.hosts:
            self.nobodys += 1
        for name in line.hosts:
            host = self.host(name)
            if host is None:
                self.left_out += 1
            elif line.failed:
                host.status = line.text[:256]
            elif line.record is None or not self._merge(line.record, host, len(line.text)):
                host.cut += line.cut
                host.messages += not line.cut
                host.why = line.text[:256]

    def _merge(self, record: Mapping[str, Any], host: Host, size: int) -> bool:
        """Add the record, of a line of that size, to its group; False if its buckets are none."""
        try:
            unit = histogram_unit(record)
        except (ValueError, AttributeError):
            return False
        host.records += 1
        kind = str(record.get("record", ""))
        names = measures.labels(record)
        self._note_report(record, host, kind, names)
        if self._by is not None:
            names["host"] = host.name
            kept = ("record", "type", "since_boot", *self._by)
            names = {key: value for key, value in names.items() if key in kept}
        key = kind, unit, tuple(names.items())
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= MOST_GROUPS or self._kept >= MOST_KEPT:
                self.left_out += 1
                return True
            names.pop("record", None)
            group = self._groups[key] = Group(kind, names, unit)
        if group.add(record, host, self._kept < MOST_KEPT):
            self._kept += size
        return True

    @staticmethod
    def _note_report(
        record: Mapping[str, Any], host: Host, kind: str, names: Mapping[str, str]
    ) -> None:
        """Count the host's report, unless this record belongs to the one before."""
        interval = host.intervals.get(kind)
        if interval is None:
            interval = host.intervals[kind] = Interval()
        time = record.get("time")
        if time != interval.time:
            interval.time = time
            interval.number += 1
            interval.seconds += number(record.get("seconds")) or 0
            interval.unnamed = not set(names) - {"record", "type", "since_boot"}

    def groups(self) -> list[Group]:
        """All groups, by kind in the order in which these came, and in it the worst first."""
        kinds: dict[str, list[Group]] = {}
        for group in self._groups.values():
            kinds.setdefault(group.kind, []).append(group)
        for found in kinds.values():
            found.sort(key=lambda group: -(_badness(group) or 0))
        return [group for found in kinds.values() for group in found]

    def seconds(self, group: Group) -> float | None:
        """The length of a host's reports of that kind of record, the mean over the hosts."""
        kind, name = group.kind, group.names.get("host")
        hosts = self.hosts.values() if name is None else [self.hosts[name]]
        found = [host.intervals[kind] for host in hosts if kind in host.intervals]
        total = sum(interval.seconds for interval in found)
        return total / len(found) if total else None

    def record(self, group: Group) -> dict[str, Any]:
        """The merged record of a group, in the shape of one host's, with what is only here."""
        found = group.members()
        for key in group.names:
            if key == "host":
                found[key] = group.names[key]
        if "seconds" in found:
            found["seconds"] = self.seconds(group)
        found["hosts"], found["records"] = group.host_count(), group.records
        found["unknown_records"] = group.unknown()
        key = group.worst_key or ""
        found["worst"] = [{"host": host.name, key: value} for host, value in group.worst()]
        return found

    def listed(self, stopped: bool) -> list[Listed]:
        """The hosts that failed, hung, or printed something else, by name as numbers sort.

        stopped: the input is cut off at some moment, so that hosts may differ by one report.
        """
        most = max(map(_reports, self.hosts.values()), default=0)
        found = []
        for name in sorted({**self.expected, **self.hosts}, key=_natural):
            host = self.hosts.get(name)
            if host is None:
                found.append(Listed(name, "missing", "no output", 0))
                continue
            state, why = _state(host, most - stopped)
            if state:
                found.append(Listed(name, state, why, host.records))
        return found


def _badness(group: Group) -> float | None:
    key = group.worst_key
    if key is None:
        return None
    if group.unit is not None:  # it may be a percentile
        return number(group.members().get(key))
    value = group.value(key)
    return None if value is None else number(value.result(group.kind))


def _reports(host: Host) -> int:
    """The reports of the host that each host should have: those of nothing in particular."""
    return max((found.number for found in host.intervals.values() if found.unnamed), default=0)


def _state(host: Host, most: int) -> tuple[str, str]:
    """The state of a host and the reason; "" if all is well."""
    if host.status is not None:
        return "failed", f"{host.status}: {host.why}" if host.why else host.status
    if host.cut:
        return "truncated", f"lines cut off: {host.cut}, the last: {host.why}"
    if host.messages:
        return "rubbish", f"lines that are no records: {host.messages}, the last: {host.why}"
    if not host.records:
        return "missing", "no record"
    reports = _reports(host)
    if reports and reports < most:
        return "incomplete", f"{reports} of {most} reports"
    return "", ""


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts web2 before web10."""
    parts, digits = [], ""
    for char in name + " ":
        if char.isascii() and char.isdigit() and len(digits) < 18:
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, char))
    return parts
