# SPDX-License-Identifier: GPL-2.0-or-later
"""Merged records as text and as JSON lines.  Pure, except for the time."""

from __future__ import annotations

from .. import cli, hist, measures, table
from .values import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .merge import Group, Listed, Merge

__all__ = ["TOP", "render_text", "render_json"]

TOP = 10  # groups of a kind
_UNITS = {"ns": "nsecs", "us": "usecs", "ms": "msecs"}


def render_json(merge: Merge, listed: Sequence[Listed]) -> str:
    """A record for each group, a "host" record for each host that is listed, and "hosts"."""
    now = cli.iso_time()
    parts = []
    for group in merge.groups():
        record = merge.record(group)
        record["time"] = now
        parts.append(table.json_line(record))
    for one in listed:
        parts.append(
            table.json_line(
                {
                    "time": now,
                    "record": "host",
                    "host": one.name,
                    "state": one.state,
                    "why": one.why,
                    "records": one.records,
                }
            )
        )
    lost = {"groups_full": merge.left_out, "no_host": merge.nobodys}
    hosts = sum(host.records > 0 for host in merge.hosts.values())
    total = {
        "time": now,
        "record": "hosts",
        "hosts": hosts,
        "expected": len(merge.expected) or None,
    }
    return "".join(parts) + table.json_line({**total, "listed": len(listed), "lost": lost})


def render_text(merge: Merge, top: int | None, columns: Sequence[str], wide: int) -> str:
    """Histograms, and tables as wide as the terminal.

    top: groups of a kind, TOP without it.  columns: keys to print; none for those that fit.
    """
    kinds: dict[tuple[str, bool], list[Group]] = {}
    for group in merge.groups():
        kinds.setdefault((group.kind, group.unit is not None), []).append(group)
    parts = []
    for (_, buckets), groups in kinds.items():
        shown = groups[: top or TOP]
        if buckets:
            parts += [_histogram(merge, group) for group in shown]
        elif len(groups) == 1:
            parts.append(_single(merge, groups[0], columns))
        else:
            parts.append(_several(merge, shown, columns, wide))
        if len(shown) < len(groups):
            parts.append(f"{len(groups) - len(shown)} more, see --top\n")
    return "\n".join(parts)


def _heading(merge: Merge, group: Group) -> str:
    """What the group is of, how many hosts have it, and for how long."""
    names = [f"{key} = {table.escape(value)}" for key, value in group.names.items()]
    seconds, hosts = merge.seconds(group), group.host_count()
    of = ("1 host" if hosts == 1 else f"{hosts} hosts") + (f", {seconds:.1f} s" if seconds else "")
    return ", ".join([group.kind or "record", *names, of]) + "\n"


def _histogram(merge: Merge, group: Group) -> str:
    """The classic histogram, the figures in one or two lines, and the worst hosts."""
    assert group.unit is not None
    record = merge.record(group)
    rows = _octaves(group.rows(), group.unit)
    found = [
        f"{_title(key)} = {_cell(key, value)}"
        for key, value in record.items()
        if _is_figure(key, value)
    ]
    lines = [", ".join(found[at : at + 4]) + "\n" for at in range(0, len(found), 4)]
    return _heading(merge, group) + rows + "".join(lines) + _worst(group)


def _octaves(rows: Sequence[tuple[int, int, int]], unit: str) -> str:
    """The rows by powers of two, from the first that holds events."""
    # hardirqs and softirqs have buckets of microseconds, in nanoseconds
    scale = 1000 if unit == "ns" and all((high + 1) % 1000 == 0 for _, high, _ in rows) else 1
    counts: dict[int, int] = {}
    for low, _, count in rows:
        octave = max((low // scale).bit_length() - 1, 0)
        counts[octave] = counts.get(octave, 0) + count
    table = [
        ((1 << octave) if octave else 0, (2 << octave) - 1, counts.get(octave, 0))
        for octave in range(min(counts, default=0), max(counts, default=-1) + 1)
    ]
    return hist.lines(table, "usecs" if scale > 1 else _UNITS[unit])


def _is_figure(key: str, value: object) -> bool:
    if number(value) is None or key in ("seconds", "steps", "hosts", "records"):
        return False
    return measures.kind(key) not in (measures.NAME, measures.LOCAL, measures.ATTRIBUTE)


def _worst(group: Group) -> str:
    """The hosts with the largest value, in one line."""
    if not group.worst_key or group.host_count() < 2:
        return ""
    key = group.worst_key
    hosts = [f"{table.escape(host.name)} {_cell(key, value)}" for host, value in group.worst()]
    return f"worst {_title(key)}: {', '.join(hosts)}\n"


def _title(key: str) -> str:
    """The name of a key in text, where times have their own units."""
    stem, unit, _ = measures.unit(key.rpartition(".")[2])
    return stem if unit == "seconds" and stem else key


def _cell(key: str, value: object) -> str:
    """A value with its unit, in three digits or whole; "-" for none."""
    found = number(value)
    if found is None:
        return "-"
    _, unit, factor = measures.unit(key.rpartition(".")[2])
    if unit == "seconds":
        return _time(found * factor)
    if unit == "bytes" and found >= 0:
        return table.size(round(found * factor))
    if unit.endswith("ratio"):
        return f"{100 * found * factor:.1f}%"
    return str(found) if isinstance(found, int) else f"{found:.3f}".rstrip("0").rstrip(".")


def _time(seconds: float) -> str:
    """Seconds in three digits with the unit that makes the number whole."""
    for unit, scale in ("s", 1.0), ("ms", 1e3), ("us", 1e6):
        scaled = seconds * scale
        if abs(scaled) >= 1:
            return f"{scaled:.3g}{unit}" if abs(scaled) < 1000 else f"{scaled:.0f}{unit}"
    return f"{seconds * 1e9:.0f}ns" if seconds else "0"


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The figures of a merged record, also of objects in it: {"hits": 5, "lost.unseen": 0}."""
    found = {}
    for key, value in record.items():
        if key in ("unknown_records", "worst"):
            continue
        if isinstance(value, dict):
            found.update({f"{key}.{name}": item for name, item in value.items()})
        else:
            found[key] = value
    return {key: value for key, value in found.items() if _is_figure(key.rpartition(".")[2], value)}


def _single(merge: Merge, group: Group, columns: Sequence[str]) -> str:
    """One group: a line for each key, with the largest value of one record and its host."""
    values = _flat(merge.record(group))
    rows = []
    for key in columns or values:
        value = group.value(key)
        host = value.most_host if value is not None else None
        most = value.most if value is not None else None
        name = host.name if host is not None and most else None
        rows.append((_title(key), _cell(key, values.get(key)), _cell(key, most), name))
    titles = (("KEY", "%-s"), ("MERGED", "%s"), ("LARGEST", "%s"), ("HOST", "%-s"))
    return _heading(merge, group) + table.text(titles, rows) + _worst(group)


def _several(merge: Merge, groups: Sequence[Group], columns: Sequence[str], wide: int) -> str:
    """A row for each group, with as many columns as fit."""
    names = list(dict.fromkeys(key for group in groups for key in group.names))
    figures = [_flat(merge.record(group)) for group in groups]
    keys = list(columns or dict.fromkeys(key for found in figures for key in found))
    worst = next((group.worst_key for group in groups if group.worst_key), None)
    if worst in keys and not columns:
        keys.remove(worst)
        keys.insert(0, worst)
    cells = {key: [_cell(key, found.get(key)) for found in figures] for key in keys}
    head = [[group.names.get(name) for name in names] for group in groups]
    hosts = [next((host.name for host, _ in group.worst()), None) for group in groups]
    by_host = "host" in names
    if not columns:
        room = wide
        if not by_host:
            room -= len("HOSTS WORST  ") + max((len(host or "-") for host in hosts), default=0)
        for at, name in enumerate(names):
            room -= 1 + max(len(name), *(len(table.escape(row[at] or "-")) for row in head))
        keys = _that_fit(keys, cells, room)
    titles = [(name.upper(), "%-s") for name in names]
    titles += [(_title(key).upper(), "%s") for key in keys]
    rows: list[list[str | int | None]] = [
        [*head[at], *(cells[key][at] for key in keys)] for at in range(len(groups))
    ]
    if not by_host:
        titles += [("HOSTS", "%d"), ("WORST", "%-s")]
        rows = [[*row, groups[at].host_count(), hosts[at]] for at, row in enumerate(rows)]
    seconds = merge.seconds(groups[0])
    of = f"{groups[0].kind or 'records'}" + (f", {seconds:.1f} s" if seconds else "")
    return of + "\n" + table.text(titles, rows)


def _that_fit(keys: Sequence[str], cells: dict[str, list[str]], room: int) -> list[str]:
    """The first keys whose columns fit into the room; at least one."""
    found: list[str] = []
    for key in keys:
        room -= 1 + max(len(_title(key)), *map(len, cells[key]))
        if room < 0 and found:
            break
        found.append(key)
    return found
