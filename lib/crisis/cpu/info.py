# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CPUs are: maker, model, features and topology.

Follows arch/x86/kernel/cpu/proc.c, arch/arm64/kernel/cpuinfo.c and
Documentation/admin-guide/cputopology.rst.  Every function takes root="/", so
that a fixture tree can stand in.
"""

from __future__ import annotations

import os

from ..kernel import proc, sysfs

__all__ = ["CPUS", "Processor", "identify", "topology"]

CPUS = "sys/devices/system/cpu"


class Processor:
    """The first CPU of /proc/cpuinfo.

    vendor: "GenuineIntel", "AuthenticAMD", ...; on ARM the implementer, "0x41"; "" when the file
    has none.
    family, model: numbers, or None; on ARM the model is the part, and there is no family.
    flags: names of the CPU's features.
    """

    __slots__ = ("vendor", "family", "model", "flags")

    def __init__(self, vendor: str, family: int | None, model: int | None, flags: set[str]) -> None:
        self.vendor, self.family, self.model, self.flags = vendor, family, model, flags

    @property
    def virtual(self) -> bool:
        """Whether a hypervisor runs below the kernel, as CPUID has it (x86)."""
        return "hypervisor" in self.flags


def identify(root: str = "/") -> Processor:
    """The first CPU.  Raises OSError where /proc/cpuinfo cannot be read."""
    fields = proc.cpuinfo(root)
    return Processor(
        fields.get("vendor_id") or fields.get("CPU implementer", ""),
        _number(fields.get("cpu family")),
        _number(fields.get("model") or fields.get("CPU part")),
        set((fields.get("flags") or fields.get("Features", "")).split()),
    )


def _number(text: str | None) -> int | None:
    try:
        return int(text or "", 0)
    except ValueError:
        return None


def topology(root: str = "/") -> dict[int, tuple[int, int, int | None]]:
    """{CPU: (package, die, core)} of the CPUs that are online."""
    found: dict[int, tuple[int, int, int | None]] = {}
    for cpu in sysfs.cpu_list(sysfs.text(root, CPUS, "online") or ""):
        at = os.path.join(root, CPUS, f"cpu{cpu}", "topology")
        package, die, core = (
            sysfs.number(at, name) for name in ("physical_package_id", "die_id", "core_id")
        )
        found[cpu] = (max(package or 0, 0), max(die or 0, 0), core)
    return found
