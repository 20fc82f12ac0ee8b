# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this kernel takes a kind of program or map: a program that does nothing is attached.

By the code that attaches the programs of the commands.  It is detached at once.
"""

from __future__ import annotations

import os
import struct

from ..errors import Error, Unavailable
from .map import RINGBUF, STACK_TRACE, TASK_STORAGE, Map
from .object import Object
from .program import Program
from .requirements import btf_id, by_btf, vmlinux
from .syscall import DENIED, denied, raise_memlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MAPS", "attach", "attach_uprobe", "create"]

_NOTHING = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)  # r0 = 0; exit
# name -> (type, key size, value size, entries)
MAPS = {
    "task_storage": (TASK_STORAGE, 4, 8, 1),
    "ringbuf": (RINGBUF, 0, 0, 0),
    "stack_trace": (STACK_TRACE, 4, 8, 1),
}


def _program(place: str) -> Program:
    """The Program of a function that does nothing, for "kind/target"."""
    ids: dict[str, int | None] = {}
    if by_btf(place):
        btf = vmlinux()
        ids[place] = btf_id(place, btf) if btf is not None else None
    meta: dict[str, Any] = {
        "name": place.partition("/")[0],
        "unusable": None,
        "points": [[f"{place}:nothing"]],
        "probes": [],
        "maps": [],
        "layouts": {},
        "ids": ids,
        "constants": {},
        "counters": [],
        "functions": [("nothing", len(_NOTHING), [], [])],
    }
    return Program(Object(meta, _NOTHING))


def attach(place: str) -> None:
    """Attach to "kind/target", as Program.attach takes it, and detach.

    An iterator is read instead.  Raises Unavailable, NotPermitted.
    """
    kind, _, target = place.partition("/")
    program = _program(place)
    try:
        if kind == "iter":
            program.iterate("nothing", target)
        else:
            program.attach()
    except Unavailable as exc:
        raise Unavailable(str(exc).rpartition(f"{place}: ")[2]) from None
    finally:
        program.close()


def attach_uprobe(kind: str) -> None:
    """Attach to the entry point of our own executable, in this process only, and detach.

    kind: "uprobe", or one of Program.attach_uprobes.  The entry point has been left for good.
    Raises Unavailable, NotPermitted.
    """
    path = "/proc/self/exe"
    program = _program(kind)
    try:
        offset = _entry_point(path)
        if kind == "uprobe":
            program.attach_uprobe("nothing", path, offset, os.getpid())
        else:
            program.attach_uprobes(kind, "nothing", path, {offset: 0}, os.getpid())
    except OSError as exc:
        if exc.errno in DENIED:
            raise denied(f"attach a {kind}", exc) from None
        raise Unavailable(str(exc.strerror)) from None
    finally:
        program.close()


def _entry_point(path: str) -> int:
    """The file offset of an executable's entry point.  Raises Error."""
    from ..symbols.elf import Elf

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (address,) = struct.unpack("=Q", os.pread(fd, 8, 24))  # e_entry
        offset = Elf(fd).file_offset(address)
    finally:
        os.close(fd)
    if offset is None:
        raise Error(f"{path} has no entry point")
    return offset


def create(name: str) -> None:
    """Create a map of MAPS, and free it.  Raises Unavailable, NotPermitted."""
    type_, key, value, entries = MAPS[name]
    raise_memlock()
    try:
        found = Map(name, type_, key, value, entries or os.sysconf("SC_PAGE_SIZE"))
    except OSError as exc:
        if exc.errno in DENIED:
            raise denied("create BPF maps", exc) from None
        raise Unavailable(str(exc.strerror)) from None
    os.close(found.fd)
