# SPDX-License-Identifier: GPL-2.0-or-later
"""Address space that processes reserve, make accessible and unmap, beside the blocks."""

from __future__ import annotations

import os

from .kinds import MPROTECT, RESERVED
from .ranges import Range, Ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Mappings"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Mappings:
    """Reservations, and holes: {PID: [(ns, start, end)]} of what was unmapped.

    Memory is what mprotect(2) gives access to of a reservation.
    """

    def __init__(self) -> None:
        self._reserved: dict[int, Ranges] = {}
        self.holes: dict[int, list[tuple[int, int, int]]] = {}

    def learn(self, pid: int) -> None:
        """Read the reservations of a process unless they are known.  Raises OSError."""
        if pid not in self._reserved:
            self._reserved[pid] = _reserved(pid)

    def inherit(self, pid: int, parent: int) -> None:
        """Take the reservations of a process to be those of its parent, as after fork(2)."""
        if parent in self._reserved:
            self._reserved[pid] = Ranges(self._reserved[parent])

    def forget(self, pid: int) -> None:
        """Drop the reservations of a process."""
        self._reserved.pop(pid, None)

    def reserved(self, pid: int) -> list[Range]:
        """[(start, end)] of the reservations of a process."""
        return list(self._reserved.get(pid, ()))

    def change(self, event: Any) -> list[tuple[int, int]]:
        """Take in an event of one of the kinds UNMAPPED, RESERVED, MPROTECT.

        Returns [(address, bytes)] of what becomes memory.
        """
        start, end = event.address, event.address + (event.size + _PAGE - 1 & -_PAGE)
        reserved = self._reserved.setdefault(event.tgid, Ranges())
        there = reserved.remove(start, end)
        if event.kind == MPROTECT:
            return [(begin, until - begin) for begin, until in there]
        if event.kind == RESERVED:
            reserved.add(start, end)
        self.holes.setdefault(event.tgid, []).append((event.ns, start, end))
        return []


def _reserved(pid: int) -> Ranges:
    """The Ranges of a process's private memory that it cannot access.  Raises OSError."""
    with open(f"/proc/{pid}/maps", "rb") as f:
        rows = [line.split(b" ", 1)[0] for line in f if b" ---p 00000000 00:00 0 " in line]
    bounds = [row.split(b"-") for row in rows]
    return Ranges((int(start, 16), int(end, 16)) for start, end in bounds)
