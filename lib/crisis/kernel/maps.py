# SPDX-License-Identifier: GPL-2.0-or-later
"""The mappings of a process: /proc/PID/maps, as show_map_vma() in fs/proc/task_mmu.c writes it."""

from __future__ import annotations

import os
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    Identity = tuple[bytes, int]  # device as b"fd:01", inode

__all__ = ["Mapping", "mappings"]


class Mapping(NamedTuple):
    """A mapping of a process (struct vm_area_struct)."""

    start: int  # addresses
    end: int
    executable: bool
    offset: int  # bytes, in the file
    identity: Identity  # of the file
    path: str  # without the kernel's " (deleted)"; "" for anonymous memory


def mappings(pid: int, root: str = "/") -> list[Mapping]:
    """The mappings of a process, in order of their addresses.  Raises OSError."""
    with open(os.path.join(root, f"proc/{pid}/maps"), "rb") as f:
        text = f.read()
    found = []
    for row in text.splitlines():
        fields = row.split(None, 5)
        start, _, end = fields[0].partition(b"-")
        path = fields[5].decode("utf-8", "surrogateescape") if len(fields) > 5 else ""
        if path.endswith(" (deleted)"):
            path = path[:-10]
        found.append(
            Mapping(
                int(start, 16),
                int(end, 16),
                fields[1][2:3] == b"x",
                int(fields[2], 16),
                (fields[3], int(fields[4])),
                path.replace("\\012", "\n"),
            )
        )
    return found
