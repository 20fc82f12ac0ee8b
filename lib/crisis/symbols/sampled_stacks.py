# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of sampled events, from copies of registers and stack memory.

A BPF program submits a record to a ring buffer for each sample.  Its number stands for the stack;
when the copy has been unwound, equal stacks of a process have one key.

Also reports where a walk by frame pointers, the kernel's, is known to have ended early.
"""

from __future__ import annotations

import os
import time

from ..kernel.maps import mappings
from .eh_frame import Table
from .machine import MACHINE
from .unwind import AddressSpace, End, address_mask, unwind

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Protocol

    from .frame import Frame
    from .process import Processes
    from .unwind import Walk

    class Ring(Protocol):
        """A ring buffer, such as bpf.RingBuffer."""

        fd: int

        def records(self) -> list[Any]: ...


__all__ = ["SampledStacks", "Spaces"]

_TIME = (1 << 56) - 1  # of ktime in a number, which is ktime << 8 | CPU & 255: 2.2 years
_SHARE = 20  # at most 1/20 of the time is spent on reading the map of a process again
_FIRST = {"_start", "main", "start_thread", "clone", "__clone", "clone3", "__clone3"}


class Spaces:
    """An AddressSpace for each process, over the maps and files that a Processes holds."""

    def __init__(self, symbols: Processes) -> None:
        self._symbols = symbols
        self._tables: dict[Any, Table | None] = {}
        self._spaces: dict[int, tuple[AddressSpace, Any]] = {}

    def space(self, pid: int) -> AddressSpace:
        """The AddressSpace of a process, by its map as it was last held."""
        mapped = self._symbols.mapped(pid)
        space, known = self._spaces.get(pid) or (AddressSpace(self._table), None)
        if known is not mapped:
            space.update(mapped)
            self._spaces[pid] = space, mapped
        return space

    def forget(self, pid: int) -> None:
        """Drop a process: it has ended, or executes another program."""
        self._spaces.pop(pid, None)

    def _table(self, identity: Any) -> Table | None:
        """The Table of a file, or of "[vdso]"; None where it has none that can be used."""
        if identity not in self._tables:
            self._tables[identity] = None
            try:
                file = self._symbols.file(identity)
                if file is not None:
                    self._tables[identity] = Table(*file)
            except (ValueError, OSError):
                pass
        return self._tables[identity]

    def ends_without_frame_pointer(self, pid: int, frames: Sequence[Frame]) -> bool:
        """True when a walk by frame pointers is known to have ended in a function that has none.

        frames: innermost first.  False where it is not known, and in the code of libc that starts
        a program or thread, whose callers are of no interest.
        """
        if not frames or _starts(frames):
            return False
        space = self.space(pid)
        space.begin()
        row = space.row(frames[-1].address - 1)
        if isinstance(row, End) or row.general is not None:
            return False
        if MACHINE.lr:  # arm64: a function with a frame pointer saves its caller's
            return MACHINE.frame not in dict(row.saved)
        return row.register != MACHINE.frame


def _starts(frames: Sequence[Frame]) -> bool:
    """True when the outermost frame begins a program or thread.

    That is known by its name, or because it is in libc and called code outside of it.
    """
    name = frames[-1].name or ""
    if name in _FIRST or name.startswith("__libc_start"):
        return True
    files = [os.path.basename(frame.module or "") for frame in frames]
    libc = [file.startswith(("libc.so", "libc-", "ld-musl")) for file in files]
    return libc[-1] and not all(libc)


class SampledStacks:
    """The stacks of the samples that a program has submitted.

    ring: the buffer of the records, struct sample of memleak.bpf.c; symbols: holds the maps of the
    processes; depth: the most frames of a stack.
    addresses, ends: of each key, the addresses from the innermost frame and the End of the walk.
    """

    def __init__(self, ring: Ring, symbols: Processes, depth: int) -> None:
        self.ring, self._symbols, self._depth = ring, symbols, depth
        self._spaces = Spaces(symbols)
        self.addresses: dict[int, tuple[int, ...]] = {}
        self.ends: dict[int, End] = {}
        self._keys: dict[int, int] = {}  # number of a sample -> key
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}  # (process, addresses) -> key
        self._allowed: dict[int, float] = {}  # process -> when its map may be read again
        highest = max(row.end for row in mappings(os.getpid()) if row.path == "[stack]")
        self._mask = address_mask(highest)

    def add(self, samples: Iterable[Any]) -> None:
        """Unwind records of the ring."""
        for sample in samples:
            number, pid, ip, sp = sample.number, sample.tgid, sample.ip, sample.sp
            saved = sample.registers[: len(MACHINE.saved)]
            copy = memoryview(sample.copy)[: sample.size]
            walk = self._walk(pid, ip, sp, saved, copy)
            # A library may have been loaded since.
            if walk.end is End.NO_CODE and self._read_again(pid):
                walk = self._walk(pid, ip, sp, saved, copy)
            key = self._known.setdefault((pid, walk.addresses), number)
            self._keys[number] = key
            self.addresses[key], self.ends[key] = walk.addresses, walk.end

    def _walk(self, pid: int, ip: int, sp: int, saved: Sequence[int], copy: memoryview) -> Walk:
        space = self._spaces.space(pid)
        return unwind(space, ip, sp, saved, copy, mask=self._mask, limit=self._depth)

    def _read_again(self, pid: int) -> bool:
        """Read the map of a process; False when it has ended, or it is too early for that."""
        begin = time.monotonic()
        if begin < self._allowed.get(pid, 0):
            return False
        try:
            self._symbols.hold(pid)
        except OSError:
            return False
        now = time.monotonic()
        self._allowed[pid] = now + _SHARE * (now - begin)
        return True

    def key(self, number: int) -> int | None:
        """The key of the stack of a sample; None when it has not been unwound."""
        return self._keys.get(number)

    def keep(self, numbers: set[int], newest: int) -> None:
        """Drop what no sample stands for any longer.

        numbers: of the samples that are still wanted; newest: samples later than this are kept,
        too.  In nanoseconds of the monotonic clock.
        """
        self._keys = {
            number: key
            for number, key in self._keys.items()
            if number in numbers or ((number >> 8) - newest & _TIME) < _TIME >> 1
        }
        keys = set(self._keys.values())
        self._known = {stack: key for stack, key in self._known.items() if key in keys}
        self.addresses = {key: self.addresses[key] for key in keys}
        self.ends = {key: self.ends[key] for key in keys}

    def forget(self, pid: int) -> None:
        """Drop the map of a process: it has ended, or executes another program."""
        self._spaces.forget(pid)
        self._allowed.pop(pid, None)
