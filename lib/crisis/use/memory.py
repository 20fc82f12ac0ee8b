# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory and swap: /proc/meminfo, /proc/vmstat, pressure and the counters of EDAC.

Follows fs/proc/meminfo.c, mm/vmstat.c, mm/vmscan.c and Documentation/driver-api/edac.rst.  Reclaim
at a cgroup's limit is in the pressure and in oom_kill.  It is not in pgscan_direct as long as this
is an event of the system (shrink_inactive_list() of Linux 6.18).  Where it is counted for each node
(7.2), it has the cgroups' reclaim, too, and only a task that enters the system's own direct reclaim
shows that there was some: do_try_to_free_pages(), node_reclaim().
"""

from __future__ import annotations

import os

from ..kernel import sysfs
from ..table import size
from .row import Row, contents, growth, lines, per_second, ratio, stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .row import Counters

__all__ = ["SWAPPED", "Memory"]

SWAPPED = 10  # pages a second
_MEMINFO = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree", "HardwareCorrupted")
_VMSTAT = ("pgscan_kswapd", "pgscan_direct", "pswpin", "pswpout", "oom_kill")
# Counters of direct reclaims, of all zones, and of those of a node that is full.
_RECLAIMS = ("allocstall", "zone_reclaim_")
_EDAC = "/sys/devices/system/edac/mc"


class Memory:
    """A row for memory, and one for swap space where there is any."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        node = f"/sys/devices/system/node/node{sysfs.online_nodes()[0]}/vmstat"
        self.by_node = any(line.startswith("pgscan_direct ") for line in lines(node))

    def read(self) -> Counters:
        """The counters now; those of /proc/meminfo in bytes."""
        found: Counters = {}
        self.missing.clear()
        for line in lines("/proc/meminfo"):
            name, _, rest = line.partition(":")
            if name in _MEMINFO:
                found[name] = int(rest.split()[0]) * 1024
        for line in lines("/proc/vmstat"):
            name, _, value = line.partition(" ")
            if name in _VMSTAT:
                found[name] = int(value)
            elif name.startswith(_RECLAIMS):
                found["reclaims"] = found.get("reclaims", 0) + int(value)
        found.update(stall("/proc/pressure/memory"))
        found.update(_ecc())
        if "psi_some_us" not in found:
            self.missing.append("no pressure of memory. Boot with psi=1")
        if "ecc_corrected" not in found:
            self.missing.append("no EDAC driver: ECC errors are not counted")
        return found

    def rows(self, before: Counters, after: Counters, seconds: float) -> list[Row]:
        """The rows."""
        found = [_memory(before, after, seconds, self.by_node)]
        if after.get("SwapTotal"):
            found.append(_swap(before, after, seconds))
        return found


def _ecc() -> Counters:
    """{"ecc_corrected": errors since the driver was loaded, "ecc_uncorrected": …}, {} without."""
    found: Counters = {}
    names = os.listdir(_EDAC) if os.path.isdir(_EDAC) else []
    for controller in sorted(name for name in names if name.startswith("mc")):
        for key, file in ("ecc_corrected", "ce_count"), ("ecc_uncorrected", "ue_count"):
            text = contents(f"{_EDAC}/{controller}/{file}")
            if text and text.isdigit():
                found[key] = found.get(key, 0) + int(text)
    return found


def _memory(before: Counters, after: Counters, seconds: float, by_node: bool) -> Row:
    total, available = after.get("MemTotal"), after.get("MemAvailable")
    used = None if total is None or available is None else total - available
    kswapd, direct = growth(before, after, "pgscan_kswapd"), growth(before, after, "pgscan_direct")
    scanned = growth(before, after, "pgscan_kswapd", "pgscan_direct")
    if by_node and direct and growth(before, after, "reclaims") == 0:
        direct, scanned = 0, kswapd  # all of it at the limits of cgroups
    psi = ratio(growth(before, after, "psi_some_us"), seconds * 1e6)
    kills = growth(before, after, "oom_kill")
    corrected = growth(before, after, "ecc_corrected")
    uncorrected, corrupted = after.get("ecc_uncorrected"), after.get("HardwareCorrupted")
    errors = growth(before, after, "oom_kill", "ecc_corrected", "ecc_uncorrected")
    oom = after.get("oom_kill")
    notes = [
        f"uncorrected ECC errors: {uncorrected}" if uncorrected else None,
        f"{size(corrupted)} corrupted" if corrupted else None,
        f"corrected ECC errors: {corrected}" if corrected else None,
        f"OOM kills: {kills}" if kills else None,
        f"direct reclaim {_rate(direct, seconds)}" if direct else None,
        f"PSI {100 * psi:.0f}%" if psi and psi >= 0.01 else None,
        None if available is None else f"{size(available)} available",
        f"OOM kills since boot: {oom}" if oom and not kills else None,
    ]
    return Row(
        "memory",
        util=ratio(used, total),
        saturation=per_second(scanned, seconds),
        unit="pages/s",
        errors=errors,
        erroneous=bool(errors or uncorrected or corrupted),
        saturated=bool(direct),
        notes=notes,
        values={
            "total_bytes": total,
            "available_bytes": available,
            "scanned_by_kswapd_pages": kswapd,
            "scanned_directly_pages": direct,
            "psi_some_ratio": psi,
            "oom_kills": kills,
            "oom_kills_since_boot": oom,
            "ecc_corrected": corrected,
            "ecc_uncorrected_since_boot": uncorrected,
            "corrupted_bytes": corrupted,
        },
    )


def _swap(before: Counters, after: Counters, seconds: float) -> Row:
    total, free = after["SwapTotal"], after.get("SwapFree", 0)
    moved = per_second(growth(before, after, "pswpin", "pswpout"), seconds)
    read, written = growth(before, after, "pswpin"), growth(before, after, "pswpout")
    return Row(
        "swap",
        util=ratio(total - free, total),
        saturation=moved,
        unit="pages/s",
        saturated=(moved or 0) >= SWAPPED,
        notes=[
            f"in {_rate(read, seconds)}, out {_rate(written, seconds)}" if moved else None,
            f"{size(free)} of {size(total)} free",
        ],
        values={
            "total_bytes": total,
            "free_bytes": free,
            "swapped_in_pages": read,
            "swapped_out_pages": written,
        },
    )


def _rate(change: int | None, seconds: float) -> str:
    return f"{per_second(change, seconds) or 0:.0f}/s"
