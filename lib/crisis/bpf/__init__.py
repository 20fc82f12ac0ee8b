# SPDX-License-Identifier: GPL-2.0-or-later
"""From the C text of a BPF program to the program that runs, and to its maps as records."""

from .loader import field_places, first, load
from .map import NOEXIST, Banks, Map, RingBuffer
from .program import Program, Refused, check
from .source import Source, enumeration
from .syscall import check_permission, grace_period, permitted, possible_cpus

__all__ = [
    "NOEXIST",
    "Banks",
    "Map",
    "Program",
    "Refused",
    "RingBuffer",
    "Source",
    "check",
    "check_permission",
    "enumeration",
    "field_places",
    "first",
    "grace_period",
    "load",
    "permitted",
    "possible_cpus",
]
