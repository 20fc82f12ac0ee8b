# SPDX-License-Identifier: GPL-2.0-or-later
"""Clock limits and turbo of CPUs, from cpufreq and ACPI CPPC in sysfs.

Follows Documentation/admin-guide/pm/{cpufreq,intel_pstate,amd-pstate}.rst and
Documentation/admin-guide/acpi/cppc_sysfs.rst.  Every function takes root="/",
so that a fixture tree can stand in.
"""

from __future__ import annotations

import os
import re

from ..kernel import sysfs
from .info import CPUS

__all__ = ["current_mhz", "cpufreq", "boost", "cppc", "cppc_counters"]


def _mhz(*path: str) -> float | None:
    """MHz of a file in kHz; None where it has no number, or 0."""
    value = sysfs.number(*path)
    return value / 1000 if value else None


def current_mhz(cpu: int, root: str = "/") -> float | None:
    """MHz of the CPU now, as the cpufreq driver reports it; None without a driver."""
    at = os.path.join(root, CPUS, f"cpu{cpu}", "cpufreq")
    return _mhz(at, "scaling_cur_freq") or _mhz(at, "cpuinfo_cur_freq")


def cpufreq(cpu: int, root: str = "/") -> dict[str, float | None]:
    """{name: MHz, or None}: base, now, min, max and top of the CPU's clock.

    Empty without a cpufreq driver.

    min and max are the limits that are set, top is the limit of the hardware.
    """
    at = os.path.join(root, CPUS, f"cpu{cpu}", "cpufreq")
    if not os.path.isdir(at):
        return {}
    return {
        "base": _mhz(at, "base_frequency"),
        "now": current_mhz(cpu, root),
        "min": _mhz(at, "scaling_min_freq"),
        "max": _mhz(at, "scaling_max_freq"),
        "top": _mhz(at, "amd_pstate_max_freq") or _mhz(at, "cpuinfo_max_freq"),
    }


def boost(root: str = "/") -> bool | None:
    """Whether turbo is switched on for the system.

    None when the kernel does not show it.
    """
    off = sysfs.number(root, CPUS, "intel_pstate/no_turbo")
    if off is not None:
        return not off
    on = sysfs.number(root, CPUS, "cpufreq/boost")
    return None if on is None else bool(on)


def cppc(cpu: int, root: str = "/") -> dict[str, int]:
    """{name: integer} of acpi_cppc except the counters.

    Empty without.
    """
    at = os.path.join(root, CPUS, f"cpu{cpu}", "acpi_cppc")
    found = {}
    for name in "highest_perf", "nominal_perf", "reference_perf", "nominal_freq", "wraparound_time":
        value = sysfs.number(at, name)
        if value is not None:
            found[name] = value
    return found


def cppc_counters(cpu: int, root: str = "/") -> tuple[int, int] | None:
    """(reference, delivered): the counts of ACPI's feedback counters of a CPU; None without."""
    at = os.path.join(root, CPUS, f"cpu{cpu}", "acpi_cppc")
    counters = re.match(r"ref:(\d+) del:(\d+)$", sysfs.text(at, "feedback_ctrs") or "")
    return (int(counters[1]), int(counters[2])) if counters else None
