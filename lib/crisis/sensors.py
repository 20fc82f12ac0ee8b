# SPDX-License-Identifier: GPL-2.0-or-later
"""Temperatures, throttle counts, clock limits and topology of the CPUs, from sysfs.

Follows Documentation/hwmon/{coretemp,k10temp}.rst, drivers/thermal,
drivers/thermal/intel/therm_throt.c and
Documentation/admin-guide/pm/cpufreq.rst.  Each takes root="/".
"""

import os
import re

from . import msr
from .kernel.sysfs import cpu_list

__all__ = ["Sensor", "topology", "sensors", "registers", "best", "cooling", "throttle_counts", "THROTTLE", "cpufreq",
           "current_mhz", "boost", "cppc", "cppc_counters", "utilization", "cpu_seconds", "busy_ticks"]

THROTTLE = ("core_throttle_count", "core_throttle_total_time_ms", "core_power_limit_count",
            "package_throttle_count", "package_throttle_total_time_ms", "package_power_limit_count")
_CPUS = "sys/devices/system/cpu"
# AMD's die, then the control temperature, which on some models has an offset and is not a temperature.
_AMD_LABELS = {"Tdie": 3, "Tctl": 2}
_CPU_ZONE = r"(?i)x86_pkg_temp$|.*cpu|soc[-_]|big|little|cluster"


def _text(*path):
    """The stripped content of the file, or None when it cannot be read (EAGAIN: a sensor that has no value now)."""
    try:
        with open(os.path.join(*path), encoding="utf-8", errors="surrogateescape") as f:
            return f.read().strip()
    except OSError:
        return None


def _number(*path):
    try:
        return int(_text(*path) or "")
    except ValueError:
        return None


def _entries(directory):
    """Names in the directory, numbers in their numeric order."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


class Sensor:
    """One temperature of the CPUs.

    source: "coretemp", "k10temp", …, "thermal zone", "MSR"; label: its own name there.
    cpus: the CPUs that it covers, () when that is not known; package: their package, or None.
    rank: of two sensors that cover a CPU the higher one is nearer to it; 4 is the core's own.
    limit: degrees Celsius at which the CPU begins to throttle itself, or None.
    """

    def __init__(self, source, label, read, cpus=(), package=None, rank=1, limit=None):
        self.source, self.label, self.read, self.cpus = source, label, read, tuple(cpus)
        self.package, self.rank, self.limit = package, rank, limit

    def name(self):
        """"Core 3", or "P1:Tctl" where the label alone may occur for each package."""
        return self.label if self.package is None else "P%d:%s" % (self.package, self.label)


def topology(root="/"):
    """{CPU: (package, die, core)} of the CPUs that are online."""
    found = {}
    for cpu in cpu_list(_text(root, _CPUS, "online") or ""):
        at = os.path.join(root, _CPUS, "cpu%d" % cpu, "topology")
        package, die, core = (_number(at, name) for name in ("physical_package_id", "die_id", "core_id"))
        found[cpu] = (max(package or 0, 0), max(die or 0, 0), core)
    return found


def _celsius(path):
    def read():
        value = _number(path)
        return None if value is None else value / 1000
    return read


def sensors(root="/"):
    """[Sensor] of the CPUs: hardware monitors first, then the thermal zones that add to them."""
    cpus = topology(root)
    found = []
    dies = {}           # coretemp numbers its devices by logical die, k10temp's lie on PCI by node
    for cpu in sorted(cpus):
        dies.setdefault(cpus[cpu][:2], len(dies))
    packages = sorted({package for package, _, _ in cpus.values()})
    base = os.path.join(root, "sys/class/hwmon")
    for entry in _entries(base):
        directory = os.path.join(base, entry)
        name = _text(directory, "name")
        if name == "coretemp":
            found += _coretemp(directory, cpus, dies)
        elif name in ("k10temp", "k8temp", "zenpower"):
            found += _amd(directory, name, cpus, packages)
    covered = {sensor.package for sensor in found}
    found += _zones(root, cpus, covered)
    return found


def _inputs(directory):
    """(stem, label) of each temperature of a hardware monitor; since Linux 3.15 some lie one level up."""
    for at in directory, os.path.join(directory, "device"):
        stems = [name[:-6] for name in _entries(at) if re.match(r"temp\d+_input$", name)]
        if stems:
            return [(os.path.join(at, stem), _text(at, stem + "_label") or stem) for stem in stems]
    return []


def _device(directory):
    """Name of the device of a hardware monitor: "coretemp.0", "0000:00:18.3"."""
    return os.path.basename(os.path.realpath(os.path.join(directory, "device")))


def _coretemp(directory, cpus, dies):
    number = _device(directory).rpartition(".")[2]
    which = [die for die, logical in dies.items() if number.isdigit() and logical == int(number)]
    package = which[0][0] if which else None
    found = []
    for stem, label in _inputs(directory):
        limit = _number(stem + "_crit")
        limit = limit / 1000 if limit else None
        core = re.match(r"Core (\d+)$", label)
        if core:
            mine = [cpu for cpu, (p, d, c) in cpus.items() if (p, d) in which and c == int(core.group(1))]
            found.append(Sensor("coretemp", label, _celsius(stem + "_input"), mine, package, 4, limit))
        else:
            mine = [cpu for cpu, (p, d, _) in cpus.items() if (p, d) in which]
            found.append(Sensor("coretemp", label, _celsius(stem + "_input"), mine, package, 2, limit))
    return found


def _amd(directory, name, cpus, packages):
    """k10temp's labels: Tctl, Tdie, Tccd1…; which CPUs a Tccd covers is not told, so it covers none."""
    slot = re.match(r"[0-9a-f]{4}:[0-9a-f]{2}:([0-9a-f]{2})\.", _device(directory))
    node = int(slot.group(1), 16) - 0x18 if slot else 0
    package = packages[node] if 0 <= node < len(packages) else None
    found = []
    for stem, label in _inputs(directory):
        rank = _AMD_LABELS.get(label, 2 if label.startswith("temp") else 0)
        limit = _number(stem + "_crit")
        mine = [cpu for cpu, (p, _, _) in cpus.items() if p == package] if rank else ()
        found.append(Sensor(name, label, _celsius(stem + "_input"), mine, package, rank,
                            limit / 1000 if limit else None))
    return found


def _zones(root, cpus, covered):
    base = os.path.join(root, "sys/class/thermal")
    zones = [(os.path.join(base, name), _text(base, name, "type") or "") for name in _entries(base)
             if name.startswith("thermal_zone")]
    found, number = [], 0
    packages = sorted({package for package, _, _ in cpus.values()})
    for zone, kind in zones:
        if not re.match(_CPU_ZONE, kind):
            continue
        mine, package = _cooled(root, zone), None
        if kind == "x86_pkg_temp":      # one for each package, in order; they have no other name
            package = packages[number] if number < len(packages) else None
            number += 1
            if package in covered:
                continue
            mine = [cpu for cpu, (p, _, _) in cpus.items() if p == package]
        one = re.match(r"cpu[-_]?(\d+)[-_]thermal$", kind)
        if not mine and one and int(one.group(1)) in cpus:
            mine = [int(one.group(1))]
        if not mine and re.match(r"cpu[-_]thermal$", kind) and sum(bool(re.match(_CPU_ZONE, k)) for _, k in zones) == 1:
            mine = list(cpus)
        found.append(Sensor("thermal zone", kind, _celsius(os.path.join(zone, "temp")), mine, package,
                            1 if len(mine) != 1 else 4 if one else 3, _trip(zone)))
    return found


def registers(source, root="/"):
    """[Sensor] of an Intel CPU's digital thermal sensors, read from its registers; [] of other makers.

    source: a msr.Registers.  A core's register says whether its reading is valid.
    Raises Unavailable, NotPermitted.
    """
    if msr.identify(root)[0] != "GenuineIntel":
        return []
    cpus, found, packages = topology(root), [], set()
    for cpu in sorted(cpus):
        limit = msr.tj_max(source.read(cpu, msr.TEMPERATURE_TARGET))
        if source.read(cpu, msr.THERM_STATUS) is not None:
            found.append(Sensor("MSR 0x19c", "CPU%d" % cpu, _register(source, cpu, msr.THERM_STATUS, limit),
                                (cpu,), None, 4, limit))
        package = cpus[cpu][0]
        if package not in packages and source.read(cpu, msr.PACKAGE_THERM_STATUS) is not None:
            packages.add(package)
            mine = [other for other in cpus if cpus[other][0] == package]
            found.append(Sensor("MSR 0x1b1", "Package id %d" % package,
                                _register(source, cpu, msr.PACKAGE_THERM_STATUS, limit), mine, package, 2, limit))
    return found


def _register(source, cpu, address, limit):
    def read():
        value = source.read(cpu, address)
        if value is None or limit is None:
            return None
        below = msr.thermal_status(value)[0] if address == msr.THERM_STATUS else value >> 16 & 0x7f
        return None if below is None else limit - below
    return read


def _trip(zone):
    """Degrees of the lowest passive trip point, where the kernel begins to slow the CPUs down; None without."""
    trips = []
    for name in _entries(zone):
        if re.match(r"trip_point_\d+_type$", name) and _text(zone, name) == "passive":
            value = _number(zone, name[:-4] + "temp")
            if value is not None and value > 0:
                trips.append(value / 1000)
    return min(trips, default=None)


def _cooled(root, zone):
    """The CPUs whose clock the zone's cooling devices limit."""
    found = set()
    for name in _entries(zone):
        if re.match(r"cdev\d+$", name):
            found.update(_cooling_cpus(root, _text(zone, name, "type") or ""))
    return sorted(found)


def _cooling_cpus(root, kind):
    """The CPUs of a cooling device: "cpufreq-cpu4", after the first CPU of its policy (cpufreq_cooling.c, Linux 5.12).

    Before, the name was "thermal-cpufreq-1", with a number that tells no CPU.
    """
    new = re.match(r"cpufreq-cpu(\d+)$", kind)
    if not new:
        return ()
    related = _text(root, _CPUS, "cpufreq/policy" + new.group(1), "related_cpus")
    return [int(cpu) for cpu in related.split()] if related else [int(new.group(1))]


def cooling(root="/"):
    """{CPU: (state, highest state)} of the cooling devices that limit CPU clocks; above 0 the CPU is being slowed."""
    base = os.path.join(root, "sys/class/thermal")
    found = {}
    for name in _entries(base):
        if not name.startswith("cooling_device"):
            continue
        cpus = _cooling_cpus(root, _text(base, name, "type") or "")
        if not cpus:
            continue
        state, most = _number(base, name, "cur_state"), _number(base, name, "max_state")
        if state is not None and most is not None:
            found.update(dict.fromkeys(cpus, (state, most)))
    return found


def best(found, cpus):
    """{CPU: the sensor nearest to it} of those CPUs that a sensor covers."""
    nearest = {}
    for sensor in found:
        for cpu in sensor.cpus:
            if cpu in cpus and (cpu not in nearest or sensor.rank > nearest[cpu].rank):
                nearest[cpu] = sensor
    return nearest


def throttle_counts(root="/"):
    """{CPU: {name of THROTTLE: number since boot, or None}} of the CPUs that have the directory (Intel only).

    Each CPU counts the events of its core and of its package for itself, so
    they must not be added up over the CPUs of a core or package.
    """
    found = {}
    for cpu in cpu_list(_text(root, _CPUS, "online") or ""):
        at = os.path.join(root, _CPUS, "cpu%d" % cpu, "thermal_throttle")
        if os.path.isdir(at):
            found[cpu] = {name: _number(at, name) for name in THROTTLE}
    return found


def _mhz(*path):
    """MHz of a file in kHz; None where it says nothing."""
    value = _number(*path)
    return value / 1000 if value else None


def current_mhz(cpu, root="/"):
    """MHz that the cpufreq driver says the CPU has now; None without a driver."""
    at = os.path.join(root, _CPUS, "cpu%d" % cpu, "cpufreq")
    return _mhz(at, "scaling_cur_freq") or _mhz(at, "cpuinfo_cur_freq")


def cpufreq(cpu, root="/"):
    """{name: MHz, or None} of the CPU's clock: "base", "now", "min", "max" (the limits set), "top" (the hardware's);
    {} without a cpufreq driver."""
    at = os.path.join(root, _CPUS, "cpu%d" % cpu, "cpufreq")
    if not os.path.isdir(at):
        return {}
    return {"base": _mhz(at, "base_frequency"), "now": current_mhz(cpu, root),
            "min": _mhz(at, "scaling_min_freq"), "max": _mhz(at, "scaling_max_freq"),
            "top": _mhz(at, "amd_pstate_max_freq") or _mhz(at, "cpuinfo_max_freq")}


def boost(root="/"):
    """False when turbo is switched off for the system, True when it is on, None when the kernel does not say."""
    off = _number(root, _CPUS, "intel_pstate/no_turbo")
    if off is not None:
        return not off
    on = _number(root, _CPUS, "cpufreq/boost")
    return None if on is None else bool(on)


def cppc(cpu, root="/"):
    """{name: integer} of /sys/devices/system/cpu/cpuN/acpi_cppc but for the counters; {} without."""
    at = os.path.join(root, _CPUS, "cpu%d" % cpu, "acpi_cppc")
    found = {}
    for name in "highest_perf", "nominal_perf", "reference_perf", "nominal_freq", "wraparound_time":
        value = _number(at, name)
        if value is not None:
            found[name] = value
    return found


def cppc_counters(cpu, root="/"):
    """(reference, delivered): the counts of ACPI's feedback counters of a CPU; None without."""
    at = os.path.join(root, _CPUS, "cpu%d" % cpu, "acpi_cppc")
    counters = re.match(r"ref:(\d+) del:(\d+)$", _text(at, "feedback_ctrs") or "")
    return tuple(map(int, counters.groups())) if counters else None


def cpu_seconds(root="/"):
    """(busy, total) clock ticks of all CPUs since boot, from /proc/stat; waiting for I/O is idle."""
    words = (_text(root, "proc/stat") or "").split("\n", 1)[0].split()
    if not words or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]      # guest time is in user already
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def busy_ticks(root="/"):
    """{CPU: clock ticks since boot that it was not idle} of those online, from /proc/stat; waiting for I/O is idle."""
    found = {}
    for line in (_text(root, "proc/stat") or "").splitlines():
        name, *words = line.split()
        if re.match(r"cpu\d+$", name):
            ticks = [int(word) for word in words[:8]]
            found[int(name[3:])] = sum(ticks) - ticks[3] - ticks[4]
    return found


def utilization(before, after):
    """The busy share of the time between two cpu_seconds(); None of no time."""
    if not before or not after or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
