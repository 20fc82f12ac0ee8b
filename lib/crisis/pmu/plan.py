# SPDX-License-Identifier: GPL-2.0-or-later
"""What to open on this machine: its core PMUs, and the events of theirs that give the counters.

Follows Documentation/ABI/testing/sysfs-bus-event_source-devices-*,
arch/x86/events, drivers/perf/arm_pmuv3.c and drivers/perf/riscv_pmu_sbi.c.
Every function takes root="/", so that a fixture tree can stand in.
"""

from __future__ import annotations

import os

from ..errors import Unavailable
from ..kernel import proc
from ..perf.event import TYPE_HARDWARE, TYPE_HW_CACHE, Event
from ..perf.event_source import format_bits, pmu_cpus, pmu_type
from . import codes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .codes import Code

__all__ = ["core_pmus", "identify", "Plan", "plan"]

_DEVICES = "sys/bus/event_source/devices"
_NO_PMU = (
    "cannot count CPU events: Linux sees no hardware PMU on this machine. Clouds show one on bare "
    "metal and on "
    "some large or dedicated instance sizes; a hypervisor can pass one on (QEMU: -cpu host,pmu=on)"
)


def core_pmus(root: str = "/") -> list[tuple[str, int, list[int] | None]]:
    """[(name, type, CPUs or None for all)] of the PMUs of CPU cores.

    One, or one for each core type on a hybrid machine.

    x86 names it cpu, or cpu_core and cpu_atom; ARM by the core.  Those of a
    core type have a file "cpus", uncore PMUs a "cpumask".
    """
    base = os.path.join(root, _DEVICES)
    found: list[tuple[str, int, list[int] | None]] = []
    try:
        names = sorted(os.listdir(base))
    except FileNotFoundError:
        names = []
    for name in names:
        if name == "cpu" or os.path.exists(os.path.join(base, name, "cpus")):
            cpus = pmu_cpus(name, root)
            if cpus != []:  # a core type that is all offline
                found.append((name, pmu_type(name, base), cpus))
    return found


def identify(pmu: str, cpus: list[int] | None, root: str = "/") -> str | None:
    """The microarchitecture's name in codes.TABLES of a core PMU, or None."""
    cpu = cpus[0] if cpus else 0
    path = f"sys/devices/system/cpu/cpu{cpu}/regs/identification/midr_el1"
    try:
        with open(os.path.join(root, path)) as f:
            return codes.arm_core(int(f.read(), 16))
    except FileNotFoundError:
        pass
    fields = proc.cpuinfo(root)
    if fields.get("isa", "").startswith("rv"):
        return codes.RISCV
    try:
        return codes.microarchitecture(
            fields["vendor_id"],
            int(fields["cpu family"]),
            int(fields["model"]),
            int(fields.get("stepping", "0")),
            pmu,
        )
    except (KeyError, ValueError):
        return None


class Plan:
    """The events of one PMU: clusters for perf.group.layout, and for each counter its parts.

    parts: {counter: [(index into the flattened clusters, divisor)]}.
    """

    def __init__(self, pmu: str, cpus: list[int] | None, kind: str | None = None) -> None:
        self.pmu, self.cpus, self.kind = pmu, cpus, kind
        self.clusters: list[list[Event]] = []
        self.parts: dict[str, list[tuple[int, int]]] = {}
        self._size = 0
        self._seen: dict[tuple[int, int, int], int] = {}

    def add(self, cluster: Iterable[tuple[str, list[tuple[Event, int]]]]) -> None:
        """cluster: [(counter, [(Event, divisor)])]: counters whose ratios are wanted."""
        members: list[Event] = []
        for counter, found in cluster:
            for event, divisor in found:
                key = event.type, event.config, event.config1
                if key not in self._seen:  # two columns may share an event
                    self._seen[key] = self._size + len(members)
                    members.append(event)
                self.parts.setdefault(counter, []).append((self._seen[key], divisor))
        if members:
            self.clusters.append(members)
            self._size += len(members)


# The fields that the codes of codes.py use.
_TERMS = ("event", "umask", "cmask", "frontend")
# Intel's architectural events: the kernel hides those that CPUID marks as not counting.
_WITNESSES = {
    "cycles": "cpu-cycles",
    "instructions": "instructions",
    "branches": "branch-instructions",
    "branch_misses": "branch-misses",
    "llc_refs": "cache-references",
    "llc_misses": "cache-misses",
}


def _visible_events(pmu: str, base: str) -> set[str]:
    try:
        return set(os.listdir(os.path.join(base, pmu, "events")))
    except FileNotFoundError:
        return set()


def _known_to_kernel(
    event: Event, counter: str, kind: str, allowed: dict[str, int], visible: set[str]
) -> bool:
    """False for an event that this machine's PMU would take and count nothing for.

    The kernel takes any raw code.  What a PMU has not, as in many guests, is
    missing in its events directory: ARM's by PMCEID, Intel's by CPUID leaf 0xa.
    """
    if event.config & ~allowed["config"] or event.config1 & ~allowed["config1"]:
        return False
    if "cpu_cycles" in visible:
        return event.name.lower() in visible
    if "cpu-cycles" in visible and not kind.startswith("Zen") and counter in _WITNESSES:
        return _WITNESSES[counter] in visible
    return True


class _CorePmu:
    """A core PMU, and which codes it would count."""

    def __init__(self, name: str, type_: int, cpus: list[int] | None, root: str) -> None:
        self.name, self.type, self.cpus = name, type_, cpus
        self.kind = identify(name, cpus, root)
        base = os.path.join(root, _DEVICES)
        self.codes = codes.table(self.kind) if self.kind else {}
        self._code_type = TYPE_HW_CACHE if self.kind == codes.RISCV else type_
        self._allowed = format_bits(name, base, _TERMS)
        self._visible = _visible_events(name, base)

    def events(self, counter: str, hybrid: bool) -> list[tuple[Event, int]]:
        """[(Event, divisor)] whose counts are summed; [] for a counter that it does not have.

        hybrid: whether the machine has several core PMUs.
        """
        generic = codes.IN_NO_TABLE
        if self.kind in (None, codes.RISCV):
            generic = {**generic, **codes.GENERIC}
        if counter in generic:
            # A hybrid kernel takes the PMU's type in the upper half (PERF_PMU_TYPE_SHIFT).
            config = generic[counter] | (self.type << 32 if hybrid else 0)
            return [(Event(TYPE_HARDWARE, config, name=counter), 1)]
        found = [
            (Event(self._code_type, code.code, code.config1, name=code.name), code.divisor)
            for code in self.codes.get(counter, ())
        ]
        kind = self.kind or ""
        for event, _ in found:
            if not _known_to_kernel(event, counter, kind, self._allowed, self._visible):
                return []
        return found


def plan(
    clusters: Sequence[Sequence[str]], root: str = "/", shared_l3: bool = True
) -> tuple[list[Plan], list[str]]:
    """([Plan], unknown): what to open on this machine for clusters of counter names.

    One Plan for each core PMU, and one for AMD's L3 PMU where counters need it
    and shared_l3 allows.  unknown: names of PMUs whose CPU has no table.
    Raises Unavailable when there is no core PMU.
    """
    pmus = core_pmus(root)
    if not pmus:
        raise Unavailable(_NO_PMU)
    plans: list[Plan] = []
    unknown: list[str] = []
    for name, type_, cpus in pmus:
        core = _CorePmu(name, type_, cpus, root)
        if core.kind is None:
            unknown.append(name)
        result = Plan(name, cpus, core.kind)
        for cluster in clusters:
            members = [(counter, core.events(counter, len(pmus) > 1)) for counter in cluster]
            result.add([(counter, found) for counter, found in members if found])
        plans.append(result)
        shared = [
            (counter, core.codes["l3:" + counter])
            for cluster in clusters
            for counter in cluster
            if "l3:" + counter in core.codes
        ]
        if shared and shared_l3 and os.path.isdir(os.path.join(root, _DEVICES, "amd_l3")):
            plans.append(_l3_plan(shared, core.kind, root))
    return plans, unknown


def _l3_plan(shared: Iterable[tuple[str, tuple[Code, ...]]], kind: str | None, root: str) -> Plan:
    """The Plan of AMD's L3 PMU for [(counter, its codes)]."""
    type_ = pmu_type("amd_l3", os.path.join(root, _DEVICES))
    result = Plan("amd_l3", pmu_cpus("amd_l3", root), kind)
    for_counters = []
    for counter, found in shared:
        events = [(Event(type_, code.code, name=code.name), code.divisor) for code in found]
        for_counters.append((counter, events))
    result.add(for_counters)
    return result
