# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files of unknown origin: their segments, sections, notes and symbols, within a budget.

Follows the ELF specification (elf(5)).  Nothing in a file is trusted: what is
read in bulk is at most the file's size and _MAX_BYTES in all, and takes at
most _MAX_SECONDS for each call; tables are read in pieces; symbols are kept
as 8 bytes each.  Whatever is wrong with a file raises ValueError.
"""

from __future__ import annotations

import os
import struct
import time
from array import array
from bisect import bisect_left, bisect_right

from ..kernel import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    Segment = tuple[int, int, int, int]  # file offset, virtual address, bytes in the file, flags
    Section = tuple[int, int, int]  # type, file offset, size

__all__ = ["Elf", "Functions", "NotElf", "Symbol", "Table", "sorted_keys"]

_MAX_BYTES = 256 << 20  # of one file: the symbol tables of a browser with debugging information
_MAX_SECONDS = 10  # for one call
_MAX_SEGMENTS = 256  # PT_LOAD; linkers make a dozen
_MAX_PLACES = 1 << 17  # in a string table, that may be a name that is searched for
_MAX_NOTES = 1 << 16  # bytes
_MAX_NAME = 4096  # bytes of a symbol's name that are read
_MAX_READ = 1 << 16  # bytes that read() returns
_SECTION_NAMES = 1 << 20  # bytes of the table of section names that are read
_PIECE = 1 << 20  # bytes read at a time; a multiple of no symbol's size: see pieces()

_PT_LOAD, _PT_INTERP, _PT_NOTE = 1, 3, 4
_PF_X = 1
_SHT_SYMTAB, _SHT_NOBITS, _SHT_DYNSYM = 2, 8, 11
_STT_NOTYPE, _STT_FUNC, _STT_GNU_IFUNC = 0, 2, 10
_INDEX_BITS = 24  # of a symbol's number in a key of Functions; the rest is for its address


def _load_order(segment: Segment) -> bool:
    """A sort key: executable segments first."""
    return not segment[3] & _PF_X


class NotElf(ValueError):
    """The file is of another format, such as another kind of executable mapping."""


class _Input:
    """The bytes of a file or buffer, within the budget.  source: a descriptor, or bytes."""

    def __init__(self, source: int | bytes) -> None:
        self._source = source
        if isinstance(source, int):
            try:
                self.size = os.fstat(source).st_size
            except OSError as exc:
                raise ValueError(f"it cannot be read: {exc.strerror}") from None
        else:
            self.size = len(source)
        self._left = min(self.size, _MAX_BYTES) + _PIECE
        self.begin()

    def begin(self) -> None:
        """Start the time of a call."""
        self._deadline = time.monotonic() + _MAX_SECONDS

    def read(self, size: int, offset: int) -> bytes:
        """At most `size` bytes at an offset.  Not charged to the budget: for bounded sizes only."""
        size = min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
        if not isinstance(self._source, int):
            return self._source[offset : offset + size]
        try:
            return os.pread(self._source, size, offset)
        except OSError as exc:
            raise ValueError(f"it cannot be read: {exc.strerror}") from None

    def charge(self, size: int) -> None:
        """Take bytes from the budget.  Raises ValueError when it is used up."""
        self._left -= size
        if self._left < 0:
            megabytes = _MAX_BYTES >> 20
            raise ValueError(f"its tables are larger than the file, or than {megabytes} MB")

    def pieces(self, offset: int, size: int, unit: int = 1) -> Iterator[bytes]:
        """Yield what lies at an offset, piece by piece, each of whole units of that many bytes."""
        size = max(0, min(size, self.size - offset))
        self.charge(size)
        step = _PIECE // unit * unit
        end = size // unit * unit
        for at in range(0, end, step):
            if time.monotonic() > self._deadline:
                raise ValueError(f"it takes more than {_MAX_SECONDS} seconds")
            piece = self.read(min(step, end - at), offset + at)
            yield piece[: len(piece) // unit * unit]

    def bytes(self, offset: int, size: int) -> bytes:
        """What lies at an offset, charged to the budget."""
        return b"".join(self.pieces(offset, size))


class Table:
    """A symbol table: file offset and size of its symbols and of their names."""

    __slots__ = ("offset", "size", "strings", "strings_size")

    def __init__(self, offset: int, size: int, strings: int, strings_size: int) -> None:
        self.offset, self.size = offset, size
        self.strings, self.strings_size = strings, strings_size


class Symbol:
    """A symbol: where its name is in the table's strings, st_info, section, value and size."""

    __slots__ = ("name", "info", "section", "value", "size")

    def __init__(self, name: int, info: int, section: int, value: int, size: int) -> None:
        self.name, self.info, self.section = name, info, section
        self.value, self.size = value, size

    @property
    def is_function(self) -> bool:
        return self.info & 15 == _STT_FUNC


class Elf:
    """An ELF file of this machine's byte order: its symbols and where they are loaded.

    source: a descriptor, which must stay open, or bytes.
    bits: 64 or 32; build_id: hexadecimal or None; segments: the PT_LOADs as
    (file offset, virtual address, bytes in the file, flags); interpreter: the
    dynamic loader's path, or None; sections: {name: (type, offset, size)}.
    Each method raises ValueError for a file that is malformed, cannot be read, or exceeds its
    budget.
    """

    def __init__(self, source: int | bytes) -> None:
        self._input = _Input(source)
        head = self.read(64, 0)
        if head[:4] != b"\x7fELF" or len(head) < 52:
            raise NotElf("it is not an ELF file")
        self.bits = 64 if head[4] == 2 else 32
        if head[5] != (1 if struct.pack("=H", 1)[0] else 2):
            raise ValueError("it is an ELF file of the other byte order")
        form = "=HHIQQQIHHHHHH" if self.bits == 64 else "=HHIIIIIHHHHHH"
        try:
            fields = struct.unpack_from(form, head, 16)
            self.type, self.machine, _, _, phoff, shoff, _, _, phsize, phnum, *rest = fields
            shsize, shnum, shstrndx = rest
            self._read_segments(phoff, phsize, phnum)
            self._read_sections(shoff, shsize, shnum, shstrndx)
            self.build_id = self._build_id()
        except struct.error:
            raise ValueError("it is a truncated ELF file") from None

    def read(self, size: int, offset: int) -> bytes:
        """At most `size` bytes (64 KB) at an offset of the file."""
        return self._input.read(min(size, _MAX_READ), offset)

    def _rows(self, offset: int, size: int, count: int, form: str) -> Iterator[tuple[Any, ...]]:
        """Headers, as tuples; none when the file ends before they do."""
        if count and size != struct.calcsize(form):
            raise ValueError("its headers are of an unknown size")
        raw = self._input.bytes(offset, size * count)
        return struct.iter_unpack(form, raw if len(raw) == size * count else b"")

    def _read_segments(self, offset: int, size: int, count: int) -> None:
        self.segments: list[Segment] = []
        self.interpreter: bytes | None = None
        self._notes: list[tuple[int, int]] = []  # file offset, size
        form = "=IIQQQQQQ" if self.bits == 64 else "=IIIIIIII"
        for row in self._rows(offset, size, count, form):
            if self.bits == 64:
                kind, flags, start, address, _, length = row[:6]
            else:
                kind, start, address, _, length, _, flags = row[:7]
            if kind == _PT_LOAD:
                self.segments.append((start, address, length, flags))
            elif kind == _PT_INTERP:
                self.interpreter = self.read(min(length, _MAX_NAME), start).rstrip(b"\0")
            elif kind == _PT_NOTE:
                self._notes.append((start, length))
        if len(self.segments) > _MAX_SEGMENTS or len(self._notes) > _MAX_SEGMENTS:
            raise ValueError(f"it has more than {_MAX_SEGMENTS} segments")

    def _read_sections(self, offset: int, size: int, count: int, names_at: int) -> None:
        form = "=IIQQQQIIQQ" if self.bits == 64 else "=IIIIIIIIII"
        found = []  # name's offset, type, file offset, size, link
        for row in self._rows(offset, size, count, form):
            found.append((row[0], row[1], row[4], row[5], row[6]))
        self.sections: dict[bytes, Section] = {}
        if names_at < len(found):
            _, _, start, length, _ = found[names_at]
            names = self._input.bytes(start, min(length, _SECTION_NAMES))
            for at, kind, start, length, _ in found:
                # No name that anybody searches for is longer than 63 bytes.
                name = names[at : at + 64].partition(b"\0")[0]
                self.sections.setdefault(name, (kind, start, length))
        tables: dict[int, Table] = {}
        for _, kind, start, length, link in found:
            if kind in (_SHT_SYMTAB, _SHT_DYNSYM) and link < len(found):
                if kind in tables:  # the specification allows one of each
                    raise ValueError("it has several symbol tables of a kind")
                _, _, strings, strings_size, _ = found[link]
                tables[kind] = Table(start, length, strings, strings_size)
        self._tables = list(tables.values())
        self._full = _SHT_SYMTAB in tables and tables[_SHT_SYMTAB].size > 0

    def section(self, name: bytes) -> bytes:
        """The bytes of a section; b"" for one that is missing, or only in the debug file."""
        kind, offset, size = self.sections.get(name, (_SHT_NOBITS, 0, 0))
        self._input.begin()
        return b"" if kind == _SHT_NOBITS else self._input.bytes(offset, size)

    def records(self, name: bytes, form: str) -> Iterator[tuple[Any, ...]]:
        """Yield the records of a section, unpacked by a struct format; none without the section."""
        kind, offset, size = self.sections.get(name, (_SHT_NOBITS, 0, 0))
        self._input.begin()
        if kind != _SHT_NOBITS:
            for piece in self._input.pieces(offset, size, struct.calcsize(form)):
                yield from struct.iter_unpack(form, piece)

    def _build_id(self) -> str | None:
        places = self._notes
        if not places and b".note.gnu.build-id" in self.sections:
            places = [self.sections[b".note.gnu.build-id"][1:]]
        for offset, size in places:
            found = build.build_id(self.read(min(size, _MAX_NOTES), offset))
            if found is not None:
                return found
        return None

    # Symbols

    def has_symtab(self) -> bool:
        """True when the file has its full symbol table, not only the names that it exports."""
        return self._full

    def symbols(self, table: Table) -> Iterator[list[tuple[int, int, int, int]]]:
        """Yield lists of (name's offset, st_info, section, value), one for each piece of a table.

        Tuples and lists, because a file has up to millions of them.
        """
        form = "=IBBHQQ" if self.bits == 64 else "=IIIBBH"
        for piece in self._input.pieces(table.offset, table.size, struct.calcsize(form)):
            rows = struct.iter_unpack(form, piece)
            if self.bits == 64:
                yield [(name, info, section, value) for name, info, _, section, value, _ in rows]
            else:
                yield [(name, info, section, value) for name, value, _, info, _, section in rows]

    def symbol(self, table: Table, number: int) -> Symbol | None:
        """One symbol of a table, None behind its end."""
        form = "=IBBHQQ" if self.bits == 64 else "=IIIBBH"
        size = struct.calcsize(form)
        if number >= table.size // size:
            return None
        raw = self.read(size, table.offset + number * size)
        if len(raw) < size:
            return None
        if self.bits == 64:
            name, info, _, section, value, length = struct.unpack(form, raw)
        else:
            name, value, length, info, _, section = struct.unpack(form, raw)
        return Symbol(name, info, section, value, length)

    def name(self, table: Table, at: int) -> bytes:
        """A name in a table's strings, cut at the table's end and at 4096 bytes."""
        raw = b""
        while b"\0" not in raw and len(raw) < _MAX_NAME:
            size = _MAX_NAME if raw else 256
            left = table.strings_size - at - len(raw)
            piece = self.read(min(size, left), table.strings + at + len(raw))
            if not piece:
                break
            raw += piece
        return raw.split(b"\0", 1)[0][:_MAX_NAME]

    def tables(self) -> list[Table]:
        """The symbol tables, for `symbol`, `name` and `Functions`."""
        return self._tables

    def dynamic(self) -> Table | None:
        """The table of .dynsym, or None."""
        place = self.sections.get(b".dynsym", (0, 0, 0))[1:]
        for table in self._tables:
            if (table.offset, table.size) == place:
                return table
        return None

    def begin(self) -> None:
        """Start the time of a call that reads symbols()."""
        self._input.begin()

    def defined(self, names: Collection[bytes]) -> dict[bytes, int]:
        """{name: virtual address} of those functions that the file defines and exports."""
        self._input.begin()
        found: dict[bytes, int] = {}
        for table in self._tables:
            places = self._places(table, names)
            if not places:
                continue
            values = {}
            for symbols in self.symbols(table):
                for name, info, section, value in symbols:
                    # st_info >> 4 is STB_LOCAL (0) for a symbol that other files do not see.
                    if (
                        name in places
                        and info & 15 == _STT_FUNC
                        and info >> 4
                        and section
                        and value
                    ):
                        values[name] = value
            for at in sorted(values):
                found.setdefault(places[at], values[at])
        return found

    def _places(self, table: Table, names: Collection[bytes]) -> dict[int, bytes]:
        """{offset in a table's strings: name} of the names, also as the tail of a longer string."""
        # By few endings, so that a table is searched few times.
        endings: dict[bytes, list[bytes]] = {}
        for name in names:
            endings.setdefault((name + b"\0")[-5:], []).append(name + b"\0")
        overlap = max(map(len, names))
        places: dict[int, bytes] = {}
        at, rest = 0, b""
        for piece in self._input.pieces(table.strings, table.strings_size):
            block = rest + piece
            if block == bytes(len(block)):  # a hole of a sparse file
                at, rest = at + len(piece), b""
                continue
            start = at - len(rest)
            for ending, whole in endings.items():
                for end in _ends(block, ending):
                    for name in whole:
                        if block.endswith(name, 0, end):
                            places[start + end - len(name)] = name[:-1]
                    if len(places) > _MAX_PLACES:
                        raise ValueError("its string table has a name too often")
            at, rest = at + len(piece), block[-overlap:]
        return places

    # Addresses

    def file_offset(self, address: int) -> int | None:
        """The file offset of a virtual address, or None, also for one behind the file's end."""
        for offset, start, size, _ in self.segments:
            if start <= address < start + size:
                found = address - start + offset
                return found if found < self._input.size else None
        return None

    def address(self, file_offset: int) -> int | None:
        """The virtual address of a file offset, or None; executable segments first."""
        for offset, start, size, _ in sorted(self.segments, key=_load_order):
            if offset <= file_offset < offset + size:
                return file_offset - offset + start
        return None


def _ends(block: bytes, ending: bytes) -> Iterator[int]:
    """Yield the offset behind each occurrence of `ending`."""
    at = block.find(ending)
    while at >= 0:
        yield at + len(ending)
        at = block.find(ending, at + 1)


class _Candidate:
    """A function that may be the one at an address."""

    __slots__ = ("value", "rank", "size", "elf", "table", "name")

    def __init__(self, value: int, rank: int, size: int, elf: Elf, table: Table, name: int) -> None:
        self.value = value
        self.rank = rank  # the higher the better, of several at one address
        self.size = size
        self.elf, self.table, self.name = elf, table, name


class Functions:
    """The functions of the symbol tables of one or more files of one program, by address.

    A function is kept as one key of 64 bits: its address, from the lowest one on, and its number
    among all symbols; the rest is read again when it is needed.
    Raises ValueError for a file that is malformed or exceeds its budget.
    """

    def __init__(self, *files: Elf) -> None:
        code = []
        for elf in files:
            for _, start, size, flags in elf.segments:
                if flags & _PF_X:
                    code.append((start, start + size))
        self._base = min((start for start, _ in code), default=0)
        self._end = max((end for _, end in code), default=0)
        if self._end - self._base >> 64 - _INDEX_BITS:
            raise ValueError("its segments are too far apart")
        self._tables: list[tuple[int, Elf, Table]] = []  # number of the first symbol, file, table
        keys, first = array("Q"), 0
        for elf in files:
            elf.begin()
            for table in elf.tables():
                self._tables.append((first, elf, table))
                for symbols in elf.symbols(table):
                    if first + len(symbols) >> _INDEX_BITS:
                        raise ValueError("it has too many symbols")
                    keys.extend(self._keys_of(symbols, first))
                    first += len(symbols)
        self._firsts = [first for first, _, _ in self._tables]
        self._keys = sorted_keys(keys)

    def _keys_of(self, symbols: list[tuple[int, int, int, int]], first: int) -> list[int]:
        """The keys of those that may be functions; first: the number of the first one."""
        base, end = self._base, self._end
        return [
            value - base << _INDEX_BITS | number
            for number, (_, info, section, value) in enumerate(symbols, first)
            if section
            and info & 15 in (_STT_FUNC, _STT_NOTYPE, _STT_GNU_IFUNC)
            and base <= value < end
            and value
        ]

    def __len__(self) -> int:
        return len(self._keys)

    def _candidate(self, key: int) -> _Candidate | None:
        """The function of a key, or None for a symbol that is no function."""
        number = key & (1 << _INDEX_BITS) - 1
        first, elf, table = self._tables[bisect_right(self._firsts, number) - 1]
        symbol = elf.symbol(table, number - first)
        if symbol is None:  # the file has been cut
            return None
        untyped = symbol.info & 15 == _STT_NOTYPE
        if untyped and symbol.size:
            return None
        # Of several names for one address, prefer one with a type, then a global one.
        is_local = symbol.info >> 4 == 0
        rank = -(2 * untyped + is_local)
        value = (key >> _INDEX_BITS) + self._base
        return _Candidate(value, rank, symbol.size, elf, table, symbol.name)

    def find(self, address: int) -> tuple[str, int] | None:
        """(name, offset from its start) of the function at an address, or None.

        The name is as in the table, without "@VERSION".
        """
        wanted = address - self._base
        if wanted < 0 or wanted >> 64 - _INDEX_BITS:
            return None
        best, best_choice, best_name = None, None, b""
        nearest = None
        last = bisect_left(self._keys, wanted + 1 << _INDEX_BITS) - 1
        for at in range(last, max(last - 64, -1), -1):
            found = self._candidate(self._keys[at])
            if found is None:
                continue
            if best is not None and found.value != best.value:
                break
            if nearest is None:
                nearest = found.value
            if address < found.value + found.size or (not found.size and found.value == nearest):
                name = found.elf.name(found.table, found.name)
                underscores = len(name) - len(name.lstrip(b"_"))
                choice = found.rank, -underscores, name == b""
                if best_choice is None or choice > best_choice:
                    best, best_choice, best_name = found, choice, name
        if best is None or not best_name:
            return None
        name_text = best_name.decode("utf-8", "surrogateescape").partition("@")[0]
        return name_text, address - best.value


def sorted_keys(keys: array[int], bits: int = 64) -> array[int]:
    """An array of 64-bit keys in order.

    Never more than a part of it is a list, whose items take 40 bytes.
    bits: how many of the low bits differ within the array.
    """
    if len(keys) <= 1 << 18 or bits <= 8:
        return array("Q", sorted(keys))
    parts = [array("Q") for _ in range(256)]
    shift = bits - 8
    for key in keys:
        parts[key >> shift & 255].append(key)
    del keys[:]
    for part in parts:
        keys.extend(sorted_keys(part, shift))
        del part[:]
    return keys
