# SPDX-License-Identifier: GPL-2.0-or-later
"""The cgroups that have a limit of CPU time, memory or tasks, in the v2 hierarchy and those of v1.

Follows Documentation/admin-guide/cgroup-v2.rst, Documentation/admin-guide/cgroup-v1/memory.rst,
tg_cfs_schedulable_down() and cpu_cfs_stat_show() in kernel/sched/core.c, mm/memcontrol.c and
kernel/cgroup/pids.c.
"""

from __future__ import annotations

import os

from ..kernel import cgroup
from ..table import size
from .row import Row, contents, growth, lines, per_second, ratio, stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .row import Counters

    Key = tuple[str, str]

__all__ = ["THROTTLED", "Cgroups"]

THROTTLED = 0.1  # of the periods
_CPU_STAT = ("usage_usec", "nr_periods", "nr_throttled", "throttled_usec")
_MEMORY_EVENTS = ("high", "max", "oom", "oom_kill")
_V1_UNLIMITED = 1 << 60  # bytes; memory.limit_in_bytes has PAGE_COUNTER_MAX


class Cgroups:
    """A row for each limit of each cgroup."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def read(self) -> dict[Key, Counters]:
        """{("cpu", "memory" or "pids", path below the mount point): counters} now."""
        found: dict[Key, Counters] = {}
        try:
            mounted = cgroup.mounts()
        except OSError as exc:
            self.missing = [f"cgroups: {exc.strerror}"]
            return found
        points: dict[str, str] = {}
        for point, _, controllers in mounted:
            for name in ("v2",) if controllers is None else controllers:
                points.setdefault(name, point)
        for name, readers in _READERS.items():
            for directory, path in _directories(points.get(name)):
                for kind, read in readers:
                    counters = read(directory, path, points)
                    if counters:
                        found[kind, path] = counters
        return found

    def rows(
        self, before: dict[Key, Counters], after: dict[Key, Counters], seconds: float
    ) -> list[Row]:
        """The rows, those of the CPU first."""
        found = []
        for kind, make in ("cpu", _cpu), ("memory", _memory), ("pids", _pids):
            for (one, path), counters in sorted(after.items()):
                if one == kind and (kind, path) in before:
                    found.append(make(path, before[kind, path], counters, seconds))
        return found


def _directories(point: str | None) -> Iterator[tuple[str, str]]:
    """(directory, path below the mount point) of each cgroup of a hierarchy."""
    pending = [] if point is None else [(point, "/")]
    while pending:
        directory, path = pending.pop()
        try:
            with os.scandir(directory) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # removed
            continue
        pending += [(f"{directory}/{name}", path.rstrip("/") + "/" + name) for name in names]
        yield directory, path


def _number(path: str) -> int | None:
    """The number in a file; None for "max" and where it cannot be read."""
    text = contents(path)
    return int(text) if text and text.isdigit() else None


def _keyed(path: str) -> Counters:
    """{name: number} of a flat keyed file; {} when it cannot be read."""
    words = (line.split() for line in (contents(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def _read_cpu(directory: str, path: str, points: dict[str, str]) -> Counters:
    quota, _, period = (contents(directory + "/cpu.max") or "max").partition(" ")
    if quota == "max":
        return {}
    stat = _keyed(directory + "/cpu.stat")
    return {
        "quota_us": int(quota),
        "period_us": int(period),
        **{name: stat[name] for name in _CPU_STAT if name in stat},
    }


def _read_cpu_v1(directory: str, path: str, points: dict[str, str]) -> Counters:
    quota = _number(directory + "/cpu.cfs_quota_us")  # -1: none
    period = _number(directory + "/cpu.cfs_period_us")
    if not quota or not period:
        return {}
    found = _keyed(directory + "/cpu.stat")
    if "throttled_time" in found:
        found["throttled_usec"] = found.pop("throttled_time") // 1000
    usage = _number(f"{points.get('cpuacct', '')}{path}/cpuacct.usage")
    if usage is not None:
        found["usage_usec"] = usage // 1000
    kept = {name: found[name] for name in _CPU_STAT if name in found}
    return {"quota_us": quota, "period_us": period, **kept}


def _cpu(path: str, before: Counters, after: Counters, seconds: float) -> Row:
    used, periods = growth(before, after, "usage_usec"), growth(before, after, "nr_periods")
    throttled = growth(before, after, "nr_throttled")
    allowed = after["quota_us"] / after["period_us"]
    share = 0.0 if periods == 0 else ratio(throttled, periods)
    return Row(
        "cgroup_cpu",
        path,
        util=ratio(used, allowed * seconds * 1e6),
        saturation=None if share is None else 100 * share,
        unit="% of periods",
        saturated=(share or 0) >= THROTTLED,
        notes=[f"of {allowed:.2f} CPUs"],
        values={
            "limit_cpus": allowed,
            "usage_us": used,
            "periods": periods,
            "throttled_periods": throttled,
            "throttled_us": growth(before, after, "throttled_usec"),
        },
    )


def _read_memory(directory: str, path: str, points: dict[str, str]) -> Counters:
    limits = [_number(f"{directory}/memory.{name}") for name in ("max", "high")]
    known = [limit for limit in limits if limit is not None]
    usage = _number(directory + "/memory.current")
    if not known or usage is None:
        return {}
    # What a limit of this cgroup caused; memory.events has those of its descendants, too.
    events = _keyed(directory + "/memory.events.local")
    cache = _stat(directory, "inactive_file")
    found = {"limit": min(known), "usage": usage, **stall(directory + "/memory.pressure")}
    found.update((name, events[name]) for name in _MEMORY_EVENTS if name in events)
    return found if cache is None else {**found, "inactive_file": cache}


def _stat(directory: str, name: str) -> int | None:
    """A number of memory.stat, which has more than a page."""
    for line in lines(directory + "/memory.stat"):
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def _read_memory_v1(directory: str, path: str, points: dict[str, str]) -> Counters:
    limit = _number(directory + "/memory.limit_in_bytes")
    usage = _number(directory + "/memory.usage_in_bytes")
    if limit is None or usage is None or limit >= _V1_UNLIMITED:
        return {}
    found = {"limit": limit, "usage": usage}
    for key, number in (
        ("max", _number(directory + "/memory.failcnt")),
        ("oom_kill", _keyed(directory + "/memory.oom_control").get("oom_kill")),
        ("inactive_file", _stat(directory, "total_inactive_file")),
    ):
        if number is not None:
            found[key] = number
    return found


def _memory(path: str, before: Counters, after: Counters, seconds: float) -> Row:
    limit, usage, cache = after["limit"], after["usage"], after.get("inactive_file")
    hits = growth(before, after, "max", "high")
    # v2's oom_kill has victims of ancestors' limits, too; oom is of this limit, v1 has none.
    ooms = growth(before, after, "oom" if "oom" in after else "oom_kill")
    psi = ratio(growth(before, after, "psi_some_us"), seconds * 1e6)
    working = None if cache is None else max(usage - cache, 0)
    return Row(
        "cgroup_memory",
        path,
        util=ratio(working, limit),
        saturation=per_second(hits, seconds),
        unit="limit hits/s",
        errors=ooms,
        saturated=bool(hits),
        notes=[
            f"out of memory: {ooms}" if ooms else None,
            f"PSI {100 * psi:.0f}%" if psi and psi >= 0.01 else None,
            f"of {size(limit)}",
        ],
        values={
            "limit_bytes": limit,
            "usage_bytes": usage,
            "working_set_bytes": working,
            "high_events": growth(before, after, "high"),
            "max_events": growth(before, after, "max"),
            "oom_events": growth(before, after, "oom"),
            "oom_kills": growth(before, after, "oom_kill"),
            "psi_some_ratio": psi,
        },
    )


def _read_pids(directory: str, path: str, points: dict[str, str]) -> Counters:
    limit, current = _number(directory + "/pids.max"), _number(directory + "/pids.current")
    if not limit or current is None:
        return {}
    events = _keyed(directory + "/pids.events.local") or _keyed(directory + "/pids.events")
    refused = {"max": events["max"]} if "max" in events else {}
    return {"limit": limit, "current": current, **refused}


def _pids(path: str, before: Counters, after: Counters, seconds: float) -> Row:
    refused = growth(before, after, "max")
    return Row(
        "cgroup_pids",
        path,
        util=ratio(after["current"], after["limit"]),
        errors=refused,
        notes=[f"{after['current']} of {after['limit']} tasks"],
        values={"current": after["current"], "limit": after["limit"], "refused": refused},
    )


if TYPE_CHECKING:
    Read = Callable[[str, str, dict[str, str]], Counters]

# {v1 controller, or "v2": [(kind, reader of a directory)]}
_READERS: dict[str, tuple[tuple[str, Read], ...]] = {
    "v2": (("cpu", _read_cpu), ("memory", _read_memory), ("pids", _read_pids)),
    "cpu": (("cpu", _read_cpu_v1),),
    "memory": (("memory", _read_memory_v1),),
    "pids": (("pids", _read_pids),),
}
