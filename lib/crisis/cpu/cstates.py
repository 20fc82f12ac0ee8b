# SPDX-License-Identifier: GPL-2.0-or-later
"""Residency of CPUs in the hardware's idle states, by the cstate PMUs (Intel and AMD server CPUs).

Follows arch/x86/events/intel/cstate.c.
"""

from __future__ import annotations

import os

from ..errors import Unavailable
from ..kernel import rlimit
from ..perf.event import refusal
from ..perf.event_source import named_event, pmu_cpus
from ..perf.group import Group
from . import info

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .clock import Sample

__all__ = ["CStates"]

_DEVICES = "sys/bus/event_source/devices"
_IDLE_PMUS = (("cstate_core", "C"), ("cstate_pkg", "PC"))


def _residencies(root: str) -> list[tuple[str, str, str]]:
    """[(PMU, event, column)] in order of depth: ("cstate_core", "c6-residency", "C6")."""
    found: list[tuple[str, str, str]] = []
    for pmu, prefix in _IDLE_PMUS:
        try:
            names = os.listdir(os.path.join(root, _DEVICES, pmu, "events"))
        except OSError:
            continue
        states = sorted(
            int(name[1:-10])
            for name in names
            if name.startswith("c") and name.endswith("-residency") and name[1:-10].isdigit()
        )
        found += [(pmu, f"c{state}-residency", f"{prefix}{state}") for state in states]
    return found


class CStates:
    """The idle states of cores and packages.

    A package counts in units of the TSC, and so does a core.
    columns: the states by depth: ["C1", "C6", "PC2", …].
    """

    def __init__(self, cpus: Iterable[int], warn: Callable[[str], None], root: str = "/") -> None:
        """Raises Unavailable without such a PMU, NotPermitted."""
        columns = _residencies(root)
        if not columns:
            raise Unavailable(
                "cannot measure idle states: this kernel or CPU has no cstate_core and cstate_pkg "
                "PMU"
            )
        # The group that counts a state on a CPU, and the CPU that is read for another one.
        self._groups: dict[tuple[int, str], Group | None] = {}
        self._where: dict[tuple[int, str], int | None] = {}
        devices = os.path.join(root, _DEVICES)
        topology = info.topology(root)
        rlimit.raise_open_files(
            sum(len(pmu_cpus(pmu, root) or ()) for pmu, _, _ in columns), "counters"
        )
        for pmu, event, column in columns:
            readers = pmu_cpus(pmu, root) or ()
            counter = named_event(pmu, event, devices)
            for cpu in cpus:
                whole = slice(0, 2) if pmu == "cstate_pkg" else slice(0, 3)
                reader = next(
                    (r for r in readers if topology.get(r, ())[whole] == topology[cpu][whole]), None
                )
                self._where[cpu, column] = reader
                if reader is None or (reader, column) in self._groups:
                    continue
                self._groups[reader, column] = None
                try:
                    group = Group([counter], cpu=reader)
                except OSError as exc:
                    denied = refusal(exc, True)
                    if denied:
                        raise denied from None
                    warn(f"no {column} on CPU {reader}: {exc.strerror}")
                    continue
                group.enable()
                self._groups[reader, column] = group
        self.columns = [column for _, _, column in columns]

    def read(self) -> dict[tuple[int, str], int]:
        """{(CPU, column): count} of those that answer."""
        found: dict[tuple[int, str], int] = {}
        for key, group in self._groups.items():
            values = group.read() if group else None
            if values:
                found[key] = values[2]
        return found

    def shares(
        self,
        cpu: int,
        before: Mapping[tuple[int, str], int],
        after: Mapping[tuple[int, str], int],
        first: Sample | None,
        last: Sample | None,
    ) -> dict[str, float | None]:
        """{column: share of the time, or None} of a CPU.

        before, after: what read() gave.  first, last: samples of the same instants.
        """
        ticks = 0
        if first and last and first.tsc is not None and last.tsc is not None and not last.stepped:
            ticks = last.tsc - first.tsc
        result: dict[str, float | None] = {}
        for column in self.columns:
            reader, share = self._where.get((cpu, column)), None
            if reader is not None and ticks > 0:
                key = reader, column
                if key in before and key in after:
                    share = min(max((after[key] - before[key]) / ticks, 0.0), 1.0)
            result[column] = share
        return result
