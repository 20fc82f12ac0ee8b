# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPUs: /proc/stat, the run queues, pressure, throttling and machine checks.

Follows fs/proc/stat.c, show_schedstat() in kernel/sched/stats.c, arch_show_interrupts() in
arch/x86/kernel/irq.c and drivers/thermal/intel/therm_throt.c.
"""

from __future__ import annotations

import os

from ..cpu import thermal
from ..kernel import sysfs
from .row import Row, growth, lines, ratio, stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .row import Counters

__all__ = ["WAITING", "STOLEN", "Cpus", "Reading"]

# Share of the time for which a task waits, or waiting tasks for each CPU; while a CPU has no time
# left, since tasks of a throttled cgroup wait, too, beside idle CPUs.
WAITING = 0.25
STOLEN = 0.1  # share of the time
_BUSIEST = 0.9  # the utilization from which a single CPU has no time left, and is named
_TICKS = "user nice system idle iowait irq softirq steal".split()  # guest time is in user
# Machine check exceptions, interrupts at a threshold of corrected errors, deferred errors.
_MACHINE_CHECKS = ("MCE", "THR", "DFR")
_THROTTLED = ("core_throttle_count", "package_throttle_count")


class Reading:
    """counters: of the system.  busy: {CPU: (busy, total) ticks}.
    throttled: {CPU: events of its core and package}.  slowed: CPUs that a cooling device slows.
    """

    __slots__ = ("counters", "busy", "throttled", "slowed")

    def __init__(self) -> None:
        self.counters: Counters = {}
        self.busy: dict[int, Counters] = {}
        self.throttled: dict[int, int] = {}
        self.slowed = 0


class Cpus:
    """All CPUs, as one row."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def read(self) -> Reading:
        """The counters now.  Raises OSError without /proc/stat."""
        found, self.missing = Reading(), []
        self._read_stat(found)
        self._add(found, _run_delay(), "no /proc/schedstat: SAT of cpu is the run queue at the end")
        self._add(found, stall("/proc/pressure/cpu"), "no pressure of the CPUs. Boot with psi=1")
        self._add(found, _machine_checks(), "machine checks are not counted")
        for cpu, counts in thermal.throttle_counts(names=_THROTTLED).items():
            found.throttled[cpu] = sum(count or 0 for count in counts.values())
        found.slowed = sum(state > 0 for state, _ in thermal.cooling().values())
        return found

    def _add(self, found: Reading, counters: Counters, missing: str) -> None:
        """Add the counters; without them, what is missing."""
        found.counters.update(counters)
        if not counters:
            self.missing.append(missing)

    @staticmethod
    def _read_stat(found: Reading) -> None:
        for line in sysfs.read("/proc/stat").splitlines():
            name, *words = line.split()
            if name == "procs_running":
                found.counters["running"] = int(words[0])
            if not name.startswith("cpu"):
                continue
            ticks = dict(zip(_TICKS, map(int, words)))
            if name == "cpu":
                found.counters.update(ticks)
            else:
                total = sum(ticks.values())
                busy = total - ticks["idle"] - ticks["iowait"]
                found.busy[int(name[3:])] = {"busy": busy, "total": total}

    def rows(self, before: Reading, after: Reading, seconds: float) -> list[Row]:
        """The row."""
        old, new, cpus = before.counters, after.counters, len(after.busy)
        # The kernel lets idle and iowait go back a little (get_idle_time()).
        ticks = {name: max(growth(old, new, name) or 0, 0) for name in _TICKS}
        total = sum(ticks.values())
        busy = total - ticks["idle"] - ticks["iowait"]
        waiting = ratio(growth(old, new, "run_delay_ns"), seconds * 1e9)
        if waiting is None and "running" in new:
            waiting = max(0, new["running"] - 1 - cpus)  # this process runs, too
        psi = ratio(growth(old, new, "psi_some_us"), seconds * 1e6)
        crowded = (psi if psi is not None else ratio(waiting, cpus)) or 0
        stolen = ratio(ticks["steal"], total)
        checks = growth(old, new, "machine_checks")
        throttled = _throttled(before, after)
        known = [count for count in (checks, throttled) if count is not None]
        busiest, share = _busiest(before, after)
        values: dict[str, object] = {
            "cpus": cpus,
            "busiest_cpu": busiest,
            "busiest_util_ratio": share,
            "running_tasks": new.get("running"),
            "run_delay_ns": growth(old, new, "run_delay_ns"),
            "psi_some_ratio": psi,
            "iowait_ratio": ratio(ticks["iowait"], total),
            "steal_ratio": stolen,
            "machine_checks": checks,
            "throttle_events": throttled,
            "slowed_cpus": after.slowed,
        }
        notes = [
            f"machine checks: {checks}" if checks else None,
            f"throttled: {throttled}" if throttled else None,
            f"CPUs slowed by cooling: {after.slowed}" if after.slowed else None,
            f"steal {100 * stolen:.0f}%" if stolen and stolen >= 0.01 else None,
            None if psi is None else f"PSI {100 * psi:.0f}%",
            f"CPU {busiest} {100 * share:.0f}%" if share >= _BUSIEST else None,
            f"CPUs: {cpus}",
        ]
        row = Row(
            "cpu",
            util=ratio(busy, total),
            saturation=waiting,
            unit="tasks",
            errors=sum(known) if known else None,
            erroneous=any(known) or after.slowed > 0,
            saturated=crowded >= WAITING and share >= _BUSIEST or (stolen or 0) >= STOLEN,
            notes=notes,
            values=values,
        )
        return [row]


def _busiest(before: Reading, after: Reading) -> tuple[int | None, float]:
    """The CPU with the highest utilization, and that."""
    shares = {}
    for cpu, new in after.busy.items():
        old = before.busy.get(cpu, {})
        shares[cpu] = ratio(growth(old, new, "busy"), growth(old, new, "total")) or 0.0
    busiest = max(shares, key=lambda cpu: shares[cpu], default=None)
    return busiest, 0.0 if busiest is None else shares[busiest]


def _throttled(before: Reading, after: Reading) -> int | None:
    """Throttling events of the CPU that had most; None where the CPUs do not count them.

    Each CPU counts those of its core and its package: a sum would count them many times.
    """
    changes = [
        count - before.throttled[cpu]
        for cpu, count in after.throttled.items()
        if cpu in before.throttled
    ]
    return max(max(changes), 0) if changes else None


def _run_delay() -> Counters:
    """{"run_delay_ns": how long tasks have waited on run queues}; {} without CONFIG_SCHEDSTATS.

    That is the 8th number of each CPU in /proc/schedstat.
    """
    delays = [int(line.split()[8]) for line in lines("/proc/schedstat") if line.startswith("cpu")]
    return {"run_delay_ns": sum(delays)} if delays else {}


def _machine_checks() -> Counters:
    """{"machine_checks": those since boot}; {} where the kernel does not count them."""
    found: Counters = {}
    if not os.path.isdir("/sys/devices/system/machinecheck"):
        return found  # /proc/interrupts is slow to read
    for line in lines("/proc/interrupts"):
        label, _, rest = line.partition(":")
        if label.strip() in _MACHINE_CHECKS:
            counts = [int(word) for word in rest.split() if word.isdigit()]
            found["machine_checks"] = found.get("machine_checks", 0) + sum(counts)
    return found
