# SPDX-License-Identifier: GPL-2.0-or-later
"""How busy the CPUs are: /proc/stat.  Follows fs/proc/stat.c.

Ticks are of the user's clock, sysconf(_SC_CLK_TCK).  Waiting for I/O is idle.  Every function
takes root="/", so that a fixture tree can stand in.
"""

from __future__ import annotations

import re

from ..kernel import sysfs

__all__ = ["total_ticks", "busy_ticks", "utilization"]


def total_ticks(root: str = "/") -> tuple[int, int] | None:
    """(busy, total) ticks of all CPUs since boot; None when they cannot be read."""
    words = (sysfs.text(root, "proc/stat") or "").split("\n", 1)[0].split()
    if not words or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]  # guest time is in user already
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def busy_ticks(root: str = "/") -> dict[int, int]:
    """{CPU: clock ticks since boot that it was not idle} of those online."""
    found: dict[int, int] = {}
    for line in (sysfs.text(root, "proc/stat") or "").splitlines():
        name, *words = line.split()
        if re.match(r"cpu\d+$", name):
            ticks = [int(word) for word in words[:8]]
            found[int(name[3:])] = sum(ticks) - ticks[3] - ticks[4]
    return found


def utilization(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """The busy share of the time between two readings of total_ticks().

    None when no time has passed.
    """
    if not before or not after or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
