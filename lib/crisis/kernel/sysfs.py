# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of /sys, and the kernel's lists of CPUs and nodes.

Follows bitmap_parselist() in lib/bitmap.c and
Documentation/admin-guide/cputopology.rst.  Every function takes root="/", so
that a fixture tree can stand in.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "read",
    "text",
    "number",
    "cpu_list",
    "cpu_ranges",
    "online_cpus",
    "online_nodes",
    "lru_gen",
]

_CPUS = 8192  # the largest CONFIG_NR_CPUS


def read(*path: str) -> str:
    """The text of the file whose path has these parts; bytes that are not UTF-8 survive.

    Raises OSError.
    """
    with open(os.path.join(*path), encoding="utf-8", errors="surrogateescape", newline="") as f:
        return f.read()


def text(*path: str) -> str | None:
    """The stripped text of a file.

    None when it cannot be read (EAGAIN: a sensor that has no value now).
    """
    try:
        return read(*path).strip()
    except OSError:
        return None


def number(*path: str) -> int | None:
    """The decimal number in a file; None when it cannot be read or holds something else."""
    try:
        return int(text(*path) or "")
    except ValueError:
        return None


def cpu_list(text: str) -> list[int]:
    """[CPU, …] of the kernel's list format, such as "0-3,8".

    Raises ValueError for anything else.
    """
    found: list[int] = []
    for part in text.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            if int(high or low) >= _CPUS:
                raise ValueError(part)
            found.extend(range(int(low), int(high or low) + 1))
    return found


def cpu_ranges(cpus: Iterable[int]) -> str:
    """CPU numbers as the kernel writes a list: "0-3,8"."""
    parts: list[str] = []
    start = previous = None
    for cpu in [*sorted(cpus), None]:
        if previous is not None and cpu == previous + 1:
            previous = cpu
            continue
        if previous is not None:
            parts.append(f"{start}" if start == previous else f"{start}-{previous}")
        start = previous = cpu
    return ",".join(parts)


def online_cpus(root: str = "/") -> list[int]:
    """[CPU, …] that are online now."""
    return cpu_list(read(root, "sys/devices/system/cpu/online"))


def online_nodes(root: str = "/") -> list[int]:
    """The numbers of the NUMA nodes that are online; [0] where the kernel has no NUMA."""
    try:
        return cpu_list(read(root, "sys/devices/system/node/online"))
    except OSError:
        return [0]


def lru_gen(root: str = "/") -> bool:
    """True where the multi-generational LRU is switched on.

    See Documentation/admin-guide/mm/multigen_lru.rst.
    """
    try:
        return bool(int(read(root, "sys/kernel/mm/lru_gen/enabled"), 16) & 1)
    except OSError:
        return False
