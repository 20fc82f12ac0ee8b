# SPDX-License-Identifier: GPL-2.0-or-later
"""PMUs in sysfs: their types, the CPUs that they count on, formats and named events.

Follows Documentation/ABI/testing/sysfs-bus-event_source-devices-*.
"""

from __future__ import annotations

import os

from ..errors import Unavailable
from ..kernel.sysfs import cpu_list, read
from .event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ["pmu_type", "retprobe_bit", "pmu_cpus", "format_bits", "named_event"]

_SYSFS = "/sys/bus/event_source/devices"


def pmu_type(name: str, root: str = _SYSFS) -> int:
    """The number of a dynamic PMU ("kprobe", "uprobe", "msr").  Raises Unavailable."""
    try:
        with open(os.path.join(root, name, "type")) as f:
            return int(f.read())
    except FileNotFoundError:
        raise Unavailable(f"this kernel has no {name} events") from None


def retprobe_bit(name: str, root: str = _SYSFS) -> int:
    """The bit of `config` that turns a kprobe or uprobe event into its return probe."""
    with open(os.path.join(root, name, "format", "retprobe")) as f:
        return 1 << int(f.read().strip().rpartition(":")[2])


def pmu_cpus(pmu: str, root: str = "/") -> list[int] | None:
    """The CPUs that a PMU counts on ("cpus") or is to be read on ("cpumask").

    None if it has no such file.
    """
    for name in "cpus", "cpumask":
        try:
            return cpu_list(read(root, f"sys/bus/event_source/devices/{pmu}/{name}"))
        except FileNotFoundError:
            pass
    return None


def _bits(spec: str) -> list[tuple[int, int]]:
    """[(low, width)] of a format file such as "config:0-7,32-35"."""
    ranges = []
    for part in spec.partition(":")[2].split(","):
        low, _, high = part.partition("-")
        ranges.append((int(low), int(high or low) - int(low) + 1))
    return ranges


def _formats(pmu: str, root: str) -> dict[str, tuple[str, list[tuple[int, int]]]]:
    """{term: (attribute, [(low, width)])} of a PMU's format directory."""
    found: dict[str, tuple[str, list[tuple[int, int]]]] = {}
    directory = os.path.join(root, pmu, "format")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return found
    for name in names:
        with open(os.path.join(directory, name)) as f:
            spec = f.read().strip()
        found[name] = spec.partition(":")[0], _bits(spec)
    return found


def format_bits(
    pmu: str, root: str = _SYSFS, terms: Container[str] | None = None
) -> dict[str, int]:
    """{word: mask} of the bits that the PMU's format directory names.

    The words are config, config1 and config2.

    terms: only of these names.
    """
    masks = {"config": 0, "config1": 0, "config2": 0}
    for term, (attribute, ranges) in _formats(pmu, root).items():
        if terms is None or term in terms:
            for low, width in ranges:
                masks[attribute] = masks.get(attribute, 0) | ((1 << width) - 1) << low
    return masks


def named_event(pmu: str, name: str, root: str = _SYSFS) -> Event:
    """The Event that a PMU's events directory describes: named_event("msr", "aperf").

    Raises Unavailable when there is no such PMU, event, or term.
    """
    type_ = pmu_type(pmu, root)
    try:
        with open(os.path.join(root, pmu, "events", name)) as f:
            terms = f.read().strip()
    except FileNotFoundError:
        raise Unavailable(f"the {pmu} PMU has no event {name} here") from None
    words, formats = {"config": 0, "config1": 0, "config2": 0}, _formats(pmu, root)
    for term in terms.split(","):
        key, _, text = term.partition("=")
        value = int(text, 0) if text else 1
        attribute, ranges = formats.get(key, (key, [(0, 64)]))
        if attribute not in words:
            raise Unavailable(f"event {name} of the {pmu} PMU needs {key}, which is not known")
        for low, width in ranges:
            words[attribute] |= (value & (1 << width) - 1) << low
            value >>= width
    return Event(type_, words["config"], words["config1"], words["config2"], f"{pmu}/{name}/")
