# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of sampled events from copies of registers and stack memory, and where frame pointers end a kernel's own walk.

A BPF program submits a record to a ring buffer for each sample.  Its number stands for the stack until the copy has
been unwound; from then on equal stacks of a process have one key.
"""

import os
import struct
import time

from .eh_frame import MACHINE, Table
from .stacks import mappings
from .unwind import AddressSpace, End, address_mask, unwind

__all__ = ["SampledStacks", "Spaces"]

# What the program submits, followed by the copy: number, instruction pointer, stack pointer, preserved registers in the
# order of Machine.saved (12 words, fewer are used on x86-64), process, bytes copied.  The number is
# ktime << 8 | CPU & 255: one CPU makes one sample at a time.
_RECORD = struct.Struct("=3Q12QII")
_TIME = (1 << 56) - 1           # what remains of ktime in a number: 2.2 years
_FIRST = {"_start", "main", "start_thread", "clone", "__clone", "clone3", "__clone3"}
_SHARE = 20                     # at most 1/20 of the time is spent on reading maps again


class Spaces:
    """An AddressSpace for each process, over the maps and files that a stacks.Symbols holds."""

    def __init__(self, symbols):
        self._symbols, self._tables, self._spaces = symbols, {}, {}

    def space(self, pid):
        """The AddressSpace of a process by its map as it was last held."""
        mapped = self._symbols.mapped(pid)
        space, known = self._spaces.get(pid) or (AddressSpace(self._table), None)
        if known is not mapped:
            space.update(mapped)
            self._spaces[pid] = space, mapped
        return space

    def forget(self, pid):
        """Drop a process: it has ended, or executes another program."""
        self._spaces.pop(pid, None)

    def _table(self, identity):
        """The Table of a file, or of "[vdso]"; None where it has none that can be used."""
        if identity not in self._tables:
            try:
                file = self._symbols.file(identity)
                self._tables[identity] = Table(*file) if file else None
            except (ValueError, OSError):
                self._tables[identity] = None
        return self._tables[identity]

    def ends_without_frame_pointer(self, pid, frames):
        """True when the outermost frame of a walk by frame pointers is known to be in a function that keeps none.

        frames: stacks.Frames, innermost first.  False where it is not known, and in the code of libc that starts a
        program or thread, which has few callers worth a search.
        """
        if not frames or _starts(frames):
            return False
        space = self.space(pid)
        space.begin()
        row = space.row(frames[-1].address - 1)
        if isinstance(row, End) or row.general is not None:
            return False
        # x86-64 functions with a frame pointer find their frame by it; those of arm64 save it in a frame record.
        return row.register != MACHINE.frame and not (MACHINE.lr and MACHINE.frame in dict(row.saved))


def _starts(frames):
    """True when the outermost frame begins a program or thread, by its name, or as libc's caller of other code."""
    name = frames[-1].name or ""
    if name in _FIRST or name.startswith("__libc_start"):
        return True
    libc = [os.path.basename(frame.module or "").startswith(("libc.so", "libc-", "ld-musl")) for frame in frames]
    return libc[-1] and not all(libc)


class SampledStacks:
    """The stacks of the samples that a program has submitted.

    ring: a RingBuffer of records; symbols: the stacks.Symbols that holds the maps of the processes; depth: the most
    frames of a stack.  addresses, ends: by key.
    """

    def __init__(self, ring, symbols, depth):
        self.ring, self._symbols, self._depth = ring, symbols, depth
        self.spaces = Spaces(symbols)
        self.addresses, self.ends = {}, {}
        self._keys = {}         # number of a sample -> key
        self._known = {}        # (process, addresses) -> key
        self._allowed = {}      # process -> when its map may be read again
        self._mask = address_mask(max(row[1] for row in mappings(os.getpid()) if row[5] == "[stack]"))

    def add(self, records):
        """Unwind records of the ring."""
        for raw in records:
            number, ip, sp, *registers, pid, size = _RECORD.unpack_from(raw)
            copy = memoryview(raw)[_RECORD.size:_RECORD.size + size]
            walk = self._walk(pid, ip, sp, registers, copy)
            if walk.end is End.NO_CODE and self._read_again(pid):       # a library has been loaded since
                walk = self._walk(pid, ip, sp, registers, copy)
            key = self._keys[number] = self._known.setdefault((pid, walk.addresses), number)
            self.addresses[key], self.ends[key] = walk.addresses, walk.end

    def _walk(self, pid, ip, sp, registers, copy):
        return unwind(self.spaces.space(pid), ip, sp, registers[:len(MACHINE.saved)], copy, mask=self._mask,
                      limit=self._depth)

    def _read_again(self, pid):
        """Read the map of a process; False when it has ended, or this has been done too often."""
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

    def key(self, number):
        """The key of the stack of a sample; None when it has not been unwound."""
        return self._keys.get(number)

    def keep(self, numbers, newest):
        """Drop what no sample stands for any longer.

        numbers: of the samples that are still wanted; newest: in nanoseconds of the monotonic clock: samples since
        then are kept.
        """
        self._keys = {number: key for number, key in self._keys.items()
                      if number in numbers or (number >> 8) - newest & _TIME < _TIME >> 1}
        keys = set(self._keys.values())
        self._known = {stack: key for stack, key in self._known.items() if key in keys}
        self.addresses = {key: self.addresses[key] for key in keys}
        self.ends = {key: self.ends[key] for key in keys}

    def forget(self, pid):
        """Drop the map of a process: it has ended, or executes another program."""
        self.spaces.forget(pid)
        self._allowed.pop(pid, None)
