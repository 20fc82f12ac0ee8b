# SPDX-License-Identifier: GPL-2.0-or-later
"""Temperatures, throttle counts and cooling devices of the CPUs.

Follows Documentation/hwmon/{coretemp,k10temp}.rst, Documentation/driver-api/thermal/sysfs-api.rst
and drivers/thermal/intel/therm_throt.c.  Every function takes root="/", so that a fixture tree can
stand in.
"""

from __future__ import annotations

import os
import re

from ..kernel.sysfs import cpu_list, number, text
from . import msr
from .info import CPUS, identify, topology

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    Topology = dict[int, tuple[int, int, int | None]]

__all__ = [
    "THROTTLE",
    "Sensor",
    "sensors",
    "cooling",
    "registers",
    "best",
    "throttle_counts",
    "remedy",
]

THROTTLE = tuple(
    "core_throttle_count core_throttle_total_time_ms core_power_limit_count"
    " package_throttle_count package_throttle_total_time_ms package_power_limit_count".split()
)
# AMD's die, then the control temperature, which on some models has an offset and is not a
# temperature.
_AMD_LABELS = {"Tdie": 3, "Tctl": 2}
_CPU_ZONE = r"(?i)x86_pkg_temp$|.*cpu|soc[-_]|big|little|cluster"


class Sensor:
    """One temperature of the CPUs.

    source: "coretemp", "k10temp", …, "thermal zone", "MSR"; label: its own name there.
    cpus: the CPUs that it covers, () when that is not known; package: their package, or None.
    rank: of two sensors that cover a CPU the higher one is nearer to it; 4 is the core's own.
    limit: degrees Celsius at which the CPU begins to throttle itself, or None.
    """

    def __init__(
        self,
        source: str,
        label: str,
        read: Callable[[], float | None],
        cpus: Iterable[int] = (),
        package: int | None = None,
        rank: int = 1,
        limit: float | None = None,
    ) -> None:
        self.source, self.label, self.read, self.cpus = source, label, read, tuple(cpus)
        self.package, self.rank, self.limit = package, rank, limit

    def name(self) -> str:
        """ "Core 3", or "P1:Tctl" where the label alone may occur for each package."""
        return self.label if self.package is None else f"P{self.package}:{self.label}"


def _entries(directory: str) -> list[str]:
    """Names in the directory, numbers in their numeric order."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(
        names,
        key=lambda name: [
            int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)
        ],
    )


def _degrees(path: str) -> float | None:
    """Degrees Celsius of a file in millidegrees; None where it has no number, or 0."""
    value = number(path)
    return value / 1000 if value else None


def _celsius(path: str) -> Callable[[], float | None]:
    """A function that reads the degrees Celsius of a file; None when it has none."""

    def read() -> float | None:
        value = number(path)
        return None if value is None else value / 1000

    return read


def sensors(root: str = "/") -> list[Sensor]:
    """[Sensor] of the CPUs: hardware monitors first, then the thermal zones that add to them."""
    cpus = topology(root)
    found: list[Sensor] = []
    # coretemp numbers its devices by logical die, k10temp's lie on PCI by node.
    dies: dict[tuple[int, int], int] = {}
    for cpu in sorted(cpus):
        dies.setdefault(cpus[cpu][:2], len(dies))
    packages = sorted({package for package, _, _ in cpus.values()})
    base = os.path.join(root, "sys/class/hwmon")
    for entry in _entries(base):
        directory = os.path.join(base, entry)
        name = text(directory, "name")
        if name == "coretemp":
            found += _coretemp(directory, cpus, dies)
        elif name in ("k10temp", "k8temp", "zenpower"):
            found += _amd(directory, name, cpus, packages)
    covered = {sensor.package for sensor in found}
    found += _zones(root, cpus, covered)
    return found


def _inputs(directory: str) -> list[tuple[str, str]]:
    """(stem, label) of each temperature of a hardware monitor.

    Since Linux 3.15 some are one level up.
    """
    for at in directory, os.path.join(directory, "device"):
        stems = [name[:-6] for name in _entries(at) if re.match(r"temp\d+_input$", name)]
        if stems:
            return [(os.path.join(at, stem), text(at, stem + "_label") or stem) for stem in stems]
    return []


def _device(directory: str) -> str:
    """Name of the device of a hardware monitor: "coretemp.0", "0000:00:18.3"."""
    return os.path.basename(os.path.realpath(os.path.join(directory, "device")))


def _coretemp(directory: str, cpus: Topology, dies: dict[tuple[int, int], int]) -> list[Sensor]:
    index = _device(directory).rpartition(".")[2]
    which = [die for die, logical in dies.items() if index.isdigit() and logical == int(index)]
    package = which[0][0] if which else None
    found = []
    for stem, label in _inputs(directory):
        limit = _degrees(stem + "_crit")
        core = re.match(r"Core (\d+)$", label)
        if core:
            mine = [
                cpu
                for cpu, (p, d, c) in cpus.items()
                if (p, d) in which and c == int(core.group(1))
            ]
            found.append(
                Sensor("coretemp", label, _celsius(stem + "_input"), mine, package, 4, limit)
            )
        else:
            mine = [cpu for cpu, (p, d, _) in cpus.items() if (p, d) in which]
            found.append(
                Sensor("coretemp", label, _celsius(stem + "_input"), mine, package, 2, limit)
            )
    return found


def _amd(directory: str, name: str, cpus: Topology, packages: list[int]) -> list[Sensor]:
    """k10temp's labels: Tctl, Tdie, Tccd1 and so on.

    Which CPUs a Tccd covers is unknown, so it covers none.
    """
    slot = re.match(r"[0-9a-f]{4}:[0-9a-f]{2}:([0-9a-f]{2})\.", _device(directory))
    node = int(slot.group(1), 16) - 0x18 if slot else 0
    package = packages[node] if 0 <= node < len(packages) else None
    found = []
    for stem, label in _inputs(directory):
        rank = _AMD_LABELS.get(label, 2 if label.startswith("temp") else 0)
        mine = [cpu for cpu, (p, _, _) in cpus.items() if p == package] if rank else ()
        found.append(
            Sensor(
                name,
                label,
                _celsius(stem + "_input"),
                mine,
                package,
                rank,
                _degrees(stem + "_crit"),
            )
        )
    return found


def _zones(root: str, cpus: Topology, covered: set[int | None]) -> list[Sensor]:
    base = os.path.join(root, "sys/class/thermal")
    zones = [
        (os.path.join(base, name), text(base, name, "type") or "")
        for name in _entries(base)
        if name.startswith("thermal_zone")
    ]
    found: list[Sensor] = []
    count = 0
    packages = sorted({package for package, _, _ in cpus.values()})
    for zone, kind in zones:
        if not re.match(_CPU_ZONE, kind):
            continue
        mine = _cooled(root, zone)
        package: int | None = None
        if kind == "x86_pkg_temp":  # one for each package, in order; they have no other name
            package = packages[count] if count < len(packages) else None
            count += 1
            if package in covered:
                continue
            mine = [cpu for cpu, (p, _, _) in cpus.items() if p == package]
        one = re.match(r"cpu[-_]?(\d+)[-_]thermal$", kind)
        if not mine and one and int(one.group(1)) in cpus:
            mine = [int(one.group(1))]
        if (
            not mine
            and re.match(r"cpu[-_]thermal$", kind)
            and sum(bool(re.match(_CPU_ZONE, k)) for _, k in zones) == 1
        ):
            mine = list(cpus)
        rank = 1
        if len(mine) == 1:
            rank = 4 if one else 3
        found.append(
            Sensor(
                "thermal zone",
                kind,
                _celsius(os.path.join(zone, "temp")),
                mine,
                package,
                rank,
                _trip(zone),
            )
        )
    return found


def _trip(zone: str) -> float | None:
    """Degrees of the lowest passive trip point, where the kernel begins to slow the CPUs down.

    None without.
    """
    trips = []
    for name in _entries(zone):
        if re.match(r"trip_point_\d+_type$", name) and text(zone, name) == "passive":
            value = number(zone, name[:-4] + "temp")
            if value is not None and value > 0:
                trips.append(value / 1000)
    return min(trips, default=None)


def _cooled(root: str, zone: str) -> list[int]:
    """The CPUs whose clock the zone's cooling devices limit."""
    found: set[int] = set()
    for name in _entries(zone):
        if re.match(r"cdev\d+$", name):
            found.update(_cooling_cpus(root, text(zone, name, "type") or ""))
    return sorted(found)


def _cooling_cpus(root: str, kind: str) -> list[int]:
    """The CPUs of a cooling device.

    It is named "cpufreq-cpu4" after the first CPU of its policy (cpufreq_cooling.c, Linux 5.12).

    Before, the name was "thermal-cpufreq-1", with a number from which no CPU follows.
    """
    new = re.match(r"cpufreq-cpu(\d+)$", kind)
    if not new:
        return []
    related = text(root, CPUS, "cpufreq/policy" + new.group(1), "related_cpus")
    return [int(cpu) for cpu in related.split()] if related else [int(new.group(1))]


def cooling(root: str = "/") -> dict[int, tuple[int, int]]:
    """{CPU: (state, highest state)} of the cooling devices that limit CPU clocks.

    Above 0 the CPU is being slowed.
    """
    base = os.path.join(root, "sys/class/thermal")
    found: dict[int, tuple[int, int]] = {}
    for name in _entries(base):
        if not name.startswith("cooling_device"):
            continue
        cpus = _cooling_cpus(root, text(base, name, "type") or "")
        if not cpus:
            continue
        state, most = number(base, name, "cur_state"), number(base, name, "max_state")
        if state is not None and most is not None:
            found.update(dict.fromkeys(cpus, (state, most)))
    return found


def registers(source: msr.Registers, root: str = "/") -> list[Sensor]:
    """The sensors of an Intel CPU that its registers show.

    Empty for other makers.

    source: a msr.Registers.  A core's register has a bit that is set while its reading is valid.
    Raises Unavailable, NotPermitted.
    """
    if identify(root).vendor != "GenuineIntel":
        return []
    cpus = topology(root)
    found: list[Sensor] = []
    packages: set[int] = set()
    for cpu in sorted(cpus):
        limit = msr.tj_max(source.read(cpu, msr.TEMPERATURE_TARGET))
        if source.read(cpu, msr.THERM_STATUS) is not None:
            found.append(
                Sensor(
                    "MSR 0x19c",
                    f"CPU{cpu}",
                    _register(source, cpu, msr.THERM_STATUS, limit),
                    (cpu,),
                    None,
                    4,
                    limit,
                )
            )
        package = cpus[cpu][0]
        if package not in packages and source.read(cpu, msr.PACKAGE_THERM_STATUS) is not None:
            packages.add(package)
            mine = [other for other in cpus if cpus[other][0] == package]
            found.append(
                Sensor(
                    "MSR 0x1b1",
                    f"Package id {package}",
                    _register(source, cpu, msr.PACKAGE_THERM_STATUS, limit),
                    mine,
                    package,
                    2,
                    limit,
                )
            )
    return found


def _register(
    source: msr.Registers, cpu: int, address: int, limit: float | None
) -> Callable[[], float | None]:
    def read() -> float | None:
        value = source.read(cpu, address)
        if value is None or limit is None:
            return None
        below = msr.thermal_status(value)[0] if address == msr.THERM_STATUS else value >> 16 & 0x7F
        return None if below is None else limit - below

    return read


def best(found: Iterable[Sensor], cpus: Container[int]) -> dict[int, Sensor]:
    """{CPU: the sensor nearest to it} of those CPUs that a sensor covers."""
    nearest: dict[int, Sensor] = {}
    for sensor in found:
        for cpu in sensor.cpus:
            if cpu in cpus and (cpu not in nearest or sensor.rank > nearest[cpu].rank):
                nearest[cpu] = sensor
    return nearest


def throttle_counts(
    root: str = "/", names: Iterable[str] = THROTTLE
) -> dict[int, dict[str, int | None]]:
    """{CPU: {name of THROTTLE: number since boot, or None}}.  names: those to read.

    Of the CPUs that have the directory (Intel only).

    Each CPU counts the events of its core and of its package for itself, so
    they must not be added up over the CPUs of a core or package.
    """
    found = {}
    for cpu in cpu_list(text(root, CPUS, "online") or ""):
        at = os.path.join(root, CPUS, f"cpu{cpu}", "thermal_throttle")
        if os.path.isdir(at):
            found[cpu] = {name: number(at, name) for name in names}
    return found


def remedy(root: str = "/") -> str:
    """What would make this machine show its temperatures."""
    processor = identify(root)
    if processor.virtual:
        return "Most virtual machines have no sensor. Run it on the host"
    driver = {"GenuineIntel": "coretemp", "AuthenticAMD": "k10temp", "HygonGenuine": "k10temp"}.get(
        processor.vendor
    )
    return (
        f"Try: modprobe {driver}"
        if driver
        else "It takes a driver of this system's thermal sensors"
    )
