# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information (CFI) of ELF files: how to recover a caller's registers at each place in
the code.

It is in .eh_frame, and is found through the search table in .eh_frame_hdr.  Follows Linux Standard
Base Core 5.0, "Exception Frames": .eh_frame, .eh_frame_hdr and augmentation strings.

The files are those of a traced process, and so are hostile: all reads, tables and caches are
bounded, and whatever is malformed raises ValueError.
"""

from __future__ import annotations

import struct
import time
from array import array
from bisect import bisect_right

from .call_frame import Common, Rules, State
from .dwarf import Cursor
from .machine import MACHINE, WORD

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable

    from .elf import Elf
    from .machine import Machine

__all__ = ["Table"]

_MOST_ENTRY = 1 << 16  # bytes of a CIE or FDE; one of GCC's cc1 has 20 KB
_MOST_SEGMENTS = 256  # program headers that are looked at
_MOST_LISTED = 1 << 16  # CIEs and FDEs of a file without a search table
_LIST_SECONDS = 2.0  # to list them, of CPU time
_MOST_AT_ONCE = 1 << 24  # bytes
_BLOCK = 1 << 10  # entries of a search table that are read at once
_MOST_CIES = 64  # kept per file; linkers merge equal ones to a dozen
_PT_GNU_EH_FRAME = 0x6474E550
_OMIT = 0xFF  # DW_EH_PE_omit


class _SearchTable:
    """The binary search table of .eh_frame_hdr: LSB Core, "The .eh_frame_hdr section".

    read: a function (size, virtual address) -> bytes; address: the section's.
    """

    def __init__(self, read: Callable[[int, int], bytes], address: int) -> None:
        self._read, self.address = read, address
        head = Cursor(read(64, address), address)
        version, frames, count, table = (head.byte() for _ in range(4))
        # GNU ld, gold, lld and mold write no other kind; libgcc (unwind-dw2-fde-dip.c) searches no
        # other either.
        if version != 1 or table != 0x3B or _OMIT in (frames, count):
            raise ValueError("a search table of an unknown kind")
        head.pointer(frames, address)
        self._count = min(head.pointer(count, address), 1 << 28)
        self._entries = address + head.at

    def __len__(self) -> int:
        """The number of FDEs."""
        return self._count

    def _pair(self, number: int) -> tuple[int, int]:
        raw = self._read(8, self._entries + 8 * number)
        if len(raw) < 8:
            raise ValueError("a truncated search table")
        start, at = struct.unpack("=ii", raw)
        return self.address + start, self.address + at

    def place(self, number: int) -> int:
        """The address of an FDE by its number in the order of what they describe."""
        return self._pair(number)[1]

    def search(self, address: int) -> int | None:
        """The address of the last FDE that begins at or below an address, or None."""
        low, high = 0, self._count
        while high - low > _BLOCK:
            middle = (low + high) // 2
            if self._pair(middle)[0] <= address:
                low = middle + 1
            else:
                high = middle
        raw = self._read(8 * (high - low), self._entries + 8 * low)
        starts = memoryview(raw)[: len(raw) & ~7].cast("i")[::2]
        low += bisect_right(starts, address - self.address)
        return self.place(low - 1) if low else None


class _Listed:
    """The same made of a list: [(first address that an FDE describes, its own address)]."""

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        pairs.sort()
        self._starts, self._places = (
            array("Q", [pair[0] for pair in pairs]),
            array("Q", [pair[1] for pair in pairs]),
        )

    def __len__(self) -> int:
        return len(self._starts)

    def place(self, number: int) -> int:
        return self._places[number]

    def search(self, address: int) -> int | None:
        number = bisect_right(self._starts, address)
        return self.place(number - 1) if number else None


class Table:
    """The call frame information of one ELF file, by virtual address, read as far as it is
    needed.

    elf: the file; read: a function (length, offset) -> bytes of it, such as one
    made of os.pread; machine: what its code is for; index: its FDEs; cies: by
    address, those that have been read, within a limit.  Raises
    ValueError when it is for another machine, or has no CFI that can be used.
    """

    def __init__(
        self, elf: Elf, read: Callable[[int, int], bytes], machine: Machine = MACHINE
    ) -> None:
        if elf.bits != 64 or elf.machine != machine.elf:
            raise ValueError("a file of another architecture")
        self._elf, self._file, self.machine = elf, read, machine
        self._start, self._data = 0, b""  # while .eh_frame is listed, its address and bytes
        self.cies: dict[int, Common] = {}
        header = self._header()
        self.index = self._list() if header is None else _SearchTable(self._read, header)

    def _header(self) -> int | None:
        """The virtual address of .eh_frame_hdr, by the program header PT_GNU_EH_FRAME, or None."""
        head = self._at(64, 0)
        if len(head) < 64:
            raise ValueError("a truncated ELF file")
        at, size, count = struct.unpack_from("=Q14xHH", head, 32)
        for i in range(min(count, _MOST_SEGMENTS)):
            raw = self._at(56, at + i * size)
            if len(raw) == 56 and struct.unpack_from("=I", raw)[0] == _PT_GNU_EH_FRAME:
                address: int = struct.unpack_from("=Q", raw, 16)[0]
                return address
        return None

    def _list(self) -> _Listed:
        """All FDEs of .eh_frame, for a file without .eh_frame_hdr: gcc -static leaves it out."""
        section = self._elf.sections.get(b".eh_frame")
        if section is None:
            raise ValueError("no frame information")
        # (type, offset, size), or, in an older Elf, with the name's offset in front and the link
        # behind.
        offset, size = section[1:3] if len(section) == 3 else section[2:4]
        at = self.virtual(offset)
        if at is None or at + size > WORD:
            raise ValueError("frame information that is not loaded")
        self._start, self._data = at, self._at(min(size, _MOST_AT_ONCE), offset)
        found: list[tuple[int, int]] = []
        end, deadline = at + size, time.thread_time() + _LIST_SECONDS
        for _ in range(_MOST_LISTED):
            if at + 8 > end or self._read(4, at) == b"\0\0\0\0":  # a terminator
                self._data = b""
                return _Listed(found)
            cursor, mark = self._entry(at)
            if mark:
                found.append((self.entry(at)[1], at))
            at += cursor.end
            if time.thread_time() > deadline:
                break
        raise ValueError("too many functions without a search table")

    def _read(self, size: int, address: int) -> bytes:
        """At most `size` bytes at a virtual address."""
        at = address - self._start
        if 0 <= at < len(self._data) - size:
            return self._data[at : at + size]
        offset = self._elf.file_offset(address) if address <= WORD else None
        if offset is None:
            raise ValueError("an address outside of the file's segments")
        return self._at(size, offset)

    def _at(self, size: int, offset: int) -> bytes:
        """At most `size` bytes at a file offset."""
        if offset >= 1 << 62:
            raise ValueError("an offset behind any file's end")
        try:
            return self._file(size, offset)
        except OSError as exc:
            raise ValueError(f"it cannot be read: {exc.strerror}") from None

    def virtual(self, file_offset: int) -> int | None:
        """The virtual address of what is at a file offset, or None."""
        found: int | None = self._elf.address(file_offset)
        return None if found is None or found > WORD else found

    def rules(self, address: int) -> Rules | None:
        """The rules at a virtual address, or None where no function is described.

        Raises ValueError.
        """
        at = self.index.search(address)
        if at is None:
            return None
        common, start, end, cursor = self.entry(at)
        if not start <= address < end:
            return None
        state = State(common, start)
        state.run(cursor, address)
        if state.register is None and not state.expression:
            raise ValueError("no rule for the CFA")
        return Rules(
            state.register, state.offset, state.expression, state.rules, common.link, common.signal
        )

    def _entry(self, address: int) -> tuple[Cursor, int]:
        """The body of a CIE or FDE behind its length, and the number at its start: 0 for a CIE."""
        raw = self._read(512, address)
        size = struct.unpack_from("=I", raw)[0] if len(raw) >= 8 else 0
        if (
            not 4 <= size <= _MOST_ENTRY
        ):  # 0xffffffff announces a 64-bit length, which no compiler needs
            raise ValueError(f"an entry of {size} bytes")
        if size + 4 > len(raw):
            raw = self._read(size + 4, address)
        cursor = Cursor(raw, address, 4, size + 4)
        if len(raw) < cursor.end:
            raise ValueError("a truncated entry")
        return cursor, cursor.number("=I")

    def entry(self, address: int) -> tuple[Common, int, int, Cursor]:
        """An FDE by its address: its CIE, the first address that it describes, the one behind, its
        instructions.
        """
        cursor, back = self._entry(address)
        if not back:
            raise ValueError("a CIE in place of an FDE")
        common = self._common(address + 4 - back)
        start = cursor.pointer(common.encoding)
        size = cursor.pointer(common.encoding & 15)
        if common.augmented:
            cursor.block(_MOST_ENTRY)
        return common, start, start + size, cursor

    def _common(self, address: int) -> Common:
        common = self.cies.get(address)
        if common is None:
            if len(self.cies) >= _MOST_CIES:
                self.cies.clear()
            common = self.cies[address] = self._read_common(address)
        return common

    def _read_common(self, address: int) -> Common:
        """A CIE.

        LSB Core, "The Common Information Entry Format": versions 1 and 3, augmentations z, P, L, R,
        S, B.
        """
        cursor, mark = self._entry(address)
        version = cursor.byte()
        if mark or version not in (1, 3):
            raise ValueError("an unknown kind of CIE")
        augmentation = cursor.string()
        code, data = cursor.uleb(), cursor.sleb()
        link = cursor.byte() if version == 1 else cursor.uleb()
        if link >= self.machine.registers:
            raise ValueError(f"the return address is in register {link}")
        if augmentation and not augmentation.startswith(b"z"):
            raise ValueError("an unknown augmentation")
        encoding = 0
        if augmentation:
            block = cursor.block()
            encoding = self._augmentation(
                augmentation, Cursor(block, cursor.address + cursor.at - len(block))
            )
        common = Common(code, data, link, encoding, bool(augmentation), b"S" in augmentation, None)
        state = State(common, 0)
        state.run(cursor, WORD)
        return common._replace(initial=state)

    @staticmethod
    def _augmentation(letters: bytes, cursor: Cursor) -> int:
        """The encoding of FDEs' pointers, from the augmentation data."""
        encoding = 0
        for letter in letters[1:].decode("latin-1"):
            if letter == "R":
                encoding = cursor.byte()
            elif letter == "L":  # the encoding of the language's own data
                cursor.byte()
            elif letter == "P":  # the personality routine
                cursor.pointer(cursor.byte() & 15)
            elif letter not in "SBG":  # signal frame; arm64: key B, tagged memory
                raise ValueError("an unknown augmentation")
        if encoding & 0x80:
            raise ValueError("indirect pointers in an FDE")
        return encoding
