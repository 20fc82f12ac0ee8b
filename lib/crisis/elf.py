# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files that somebody else wrote: their segments, sections, notes and symbols, within a budget.

Follows the ELF specification (elf(5)).  Nothing in a file is believed: what is
read in bulk is at most the file's size and _MOST_BYTES in all, and takes at
most _MOST_SECONDS for each question; tables are read in pieces; symbols are
kept as 8 bytes each.  Whatever is wrong with a file raises ValueError.
"""

import os
import struct
import time
from array import array
from bisect import bisect_left, bisect_right

__all__ = ["Elf", "Functions", "NotElf"]

_MOST_BYTES = 256 << 20         # of one file: the symbol tables of a browser with debugging information
_MOST_SECONDS = 10              # for one question to one file
_MOST_SEGMENTS = 256            # to be loaded; linkers make a dozen
_MOST_NAMES = 1 << 17           # places in a string table that may be a name that is looked for
_MOST_NOTES = 1 << 16           # bytes
_MOST_NAME = 4096               # bytes of a symbol's name that are read
_SECTION_NAMES = 1 << 20        # bytes of the table of section names that are read
_PIECE = 1 << 20                # bytes read at a time; a multiple of no symbol's size: see pieces()

_LOAD, _INTERP, _NOTE = 1, 3, 4                         # p_type
_SYMTAB, _NOBITS, _DYNSYM = 2, 8, 11                    # sh_type
_NOTYPE, _FUNC, _IFUNC = 0, 2, 10                       # the type in st_info
_GNU_BUILD_ID = 3
_INDEX_BITS = 24                # of a symbol's number in a key of Functions; the rest is for its address


class NotElf(ValueError):
    """The file is of another format: also a program may map such executable."""


class _Input:
    """The bytes of a file or buffer, within the budget.  source: a descriptor, or bytes."""

    def __init__(self, source):
        self._source = source
        if isinstance(source, int):
            try:
                self.size = os.fstat(source).st_size
            except OSError as exc:
                raise ValueError("it cannot be read: %s" % exc.strerror) from None
        else:
            self.size = len(source)
        self._left = min(self.size, _MOST_BYTES) + _PIECE
        self._deadline = None

    def begin(self):
        """A question begins: its time starts."""
        self._deadline = time.monotonic() + _MOST_SECONDS

    def read(self, size, offset):
        """At most so many bytes of what is there at an offset; for a bounded size only, as it is not charged."""
        size = min(size, self.size - offset)
        if size <= 0 or offset < 0:
            return b""
        if not isinstance(self._source, int):
            return self._source[offset:offset + size]
        try:
            return os.pread(self._source, size, offset)
        except OSError as exc:
            raise ValueError("it cannot be read: %s" % exc.strerror) from None

    def charge(self, size):
        """Take bytes from the budget.  Raises ValueError when it is used up."""
        self._left -= size
        if self._left < 0:
            raise ValueError("its tables are larger than the file, or than %d MB" % (_MOST_BYTES >> 20))

    def pieces(self, offset, size, unit=1):
        """Yield what lies at an offset, piece by piece, each of whole units of that many bytes."""
        size = max(0, min(size, self.size - offset))
        self.charge(size)
        step = _PIECE // unit * unit
        for at in range(0, size // unit * unit, step):
            if time.monotonic() > self._deadline:
                raise ValueError("it takes more than %d seconds" % _MOST_SECONDS)
            piece = self.read(min(step, size // unit * unit - at), offset + at)
            yield piece[:len(piece) // unit * unit]

    def bytes(self, offset, size):
        """What lies at an offset, charged to the budget."""
        return b"".join(self.pieces(offset, size))


class _Table:
    """One symbol table: where its symbols and their names are."""

    __slots__ = ("offset", "size", "strings", "strings_size")

    def __init__(self, offset, size, strings, strings_size):
        self.offset, self.size, self.strings, self.strings_size = offset, size, strings, strings_size


class Elf:
    """An ELF file of this machine's byte order: its symbols and where they are loaded.

    source: a descriptor, which must stay open, or bytes.
    bits: 64 or 32; build_id: hexadecimal or None; segments: the PT_LOADs as
    (file offset, virtual address, bytes in the file, flags); interpreter: the
    dynamic loader's path, or None; sections: {name: (type, offset, size)}.
    Each method raises ValueError for a file that is malformed, cannot be read, or exceeds its budget.
    """

    def __init__(self, source):
        self._input = _Input(source)
        self._input.begin()
        head = self.read(64, 0)
        if head[:4] != b"\x7fELF" or len(head) < 52:
            raise NotElf("it is not an ELF file")
        self.bits = 64 if head[4] == 2 else 32
        if head[5] != (1 if struct.pack("=H", 1)[0] else 2):
            raise ValueError("it is an ELF file of the other byte order")
        try:
            fields = struct.unpack_from("=HHIQQQIHHHHHH" if self.bits == 64 else "=HHIIIIIHHHHHH", head, 16)
            self.type, self.machine, _, _, phoff, shoff, _, _, phsize, phnum, shsize, shnum, shstr = fields
            self._read_segments(phoff, phsize, phnum)
            self._read_sections(shoff, shsize, shnum, shstr)
            self.build_id = self._build_id()
        except struct.error:
            raise ValueError("it is a truncated ELF file") from None

    def read(self, size, offset):
        """At most so many bytes (64 KB) at an offset of the file."""
        return self._input.read(min(size, 1 << 16), offset)

    def _rows(self, offset, size, count, form):
        """Headers, as tuples; none when the file ends before they do."""
        if count and size != struct.calcsize(form):
            raise ValueError("its headers are of an unknown size")
        raw = self._input.bytes(offset, size * count)
        return struct.iter_unpack(form, raw if len(raw) == size * count else b"")

    def _read_segments(self, offset, size, count):
        self.segments, self._notes, self.interpreter = [], [], None
        for row in self._rows(offset, size, count, "=IIQQQQQQ" if self.bits == 64 else "=IIIIIIII"):
            if self.bits == 64:
                kind, flags, start, address, _, length = row[:6]
            else:
                kind, start, address, _, length, _, flags = row[:7]
            if kind == _LOAD:
                self.segments.append((start, address, length, flags))
            elif kind == _INTERP:
                self.interpreter = self.read(min(length, _MOST_NAME), start).rstrip(b"\0")
            elif kind == _NOTE:
                self._notes.append((start, length))
        if len(self.segments) > _MOST_SEGMENTS or len(self._notes) > _MOST_SEGMENTS:
            raise ValueError("it has more than %d segments" % _MOST_SEGMENTS)

    def _read_sections(self, offset, size, count, names_at):
        form = "=IIQQQQIIQQ" if self.bits == 64 else "=IIIIIIIIII"
        found = [(row[0], row[1], row[4], row[5], row[6]) for row in self._rows(offset, size, count, form)]
        self.sections, self._tables = {}, []
        if names_at < len(found):
            names = self._input.bytes(found[names_at][2], min(found[names_at][3], _SECTION_NAMES))
            for at, kind, start, length, _ in found:
                # No name that anybody looks for is longer.
                name = names[at:at + 64]
                self.sections.setdefault(name[:name.find(b"\0")] if b"\0" in name else name, (kind, start, length))
        kinds = []
        for _, kind, start, length, link in found:
            if kind in (_SYMTAB, _DYNSYM) and link < len(found):
                kinds.append(kind)
                self._tables.append(_Table(start, length, *found[link][2:4]))
        if len(set(kinds)) < len(kinds):        # the specification allows one of each
            raise ValueError("it has several symbol tables of a kind")
        self._full = _SYMTAB in kinds and bool(self._tables[kinds.index(_SYMTAB)].size)

    def section(self, name):
        """The bytes of a section, b"" when it has none (or it is only in the debug file)."""
        kind, offset, size = self.sections.get(name, (_NOBITS, 0, 0))
        self._input.begin()
        return b"" if kind == _NOBITS else self._input.bytes(offset, size)

    def records(self, name, form):
        """Yield the records of a section, unpacked by a struct format; none when there is no such section."""
        kind, offset, size = self.sections.get(name, (_NOBITS, 0, 0))
        self._input.begin()
        if kind != _NOBITS:
            for piece in self._input.pieces(offset, size, struct.calcsize(form)):
                yield from struct.iter_unpack(form, piece)

    def _build_id(self):
        places = self._notes
        if not places and b".note.gnu.build-id" in self.sections:
            places = [self.sections[b".note.gnu.build-id"][1:]]
        for offset, size in places:
            raw, at = self.read(min(size, _MOST_NOTES), offset), 0
            while at + 12 <= len(raw):
                name, length, kind = struct.unpack_from("=III", raw, at)
                at += 12
                owner, at = raw[at:at + name], at + (name + 3 & ~3)
                if kind == _GNU_BUILD_ID and owner == b"GNU\0" and 0 < length <= 64 and at + length <= len(raw):
                    return raw[at:at + length].hex()
                at += length + 3 & ~3
        return None

    # Symbols

    def has_symtab(self):
        """True when the file has its full symbol table, not only the names that it exports."""
        return self._full

    def _symbols(self, table):
        """Yield lists of (name's offset, info, section, value) for each piece of a table, in order."""
        form = "=IBBHQQ" if self.bits == 64 else "=IIIBBH"
        for piece in self._input.pieces(table.offset, table.size, struct.calcsize(form)):
            if self.bits == 64:
                yield [(name, info, section, value) for name, info, _, section, value, _
                       in struct.iter_unpack(form, piece)]
            else:
                yield [(name, info, section, value) for name, value, _, info, _, section
                       in struct.iter_unpack(form, piece)]

    def symbol(self, table, number):
        """(name's offset, info, section, value, size) of one symbol of a table, or None."""
        form = "=IBBHQQ" if self.bits == 64 else "=IIIBBH"
        size = struct.calcsize(form)
        raw = self.read(size, table.offset + number * size) if number < table.size // size else b""
        if len(raw) < size:
            return None
        if self.bits == 64:
            name, info, _, section, value, length = struct.unpack(form, raw)
        else:
            name, value, length, info, _, section = struct.unpack(form, raw)
        return name, info, section, value, length

    def name(self, table, at):
        """A name in a table's strings: bytes, cut at the table's end and at _MOST_NAME."""
        raw = b""
        while b"\0" not in raw and len(raw) < _MOST_NAME:
            piece = self.read(min(256 if not raw else _MOST_NAME, table.strings_size - at - len(raw)),
                              table.strings + at + len(raw))
            if not piece:
                break
            raw += piece
        return raw.split(b"\0", 1)[0][:_MOST_NAME]

    def tables(self):
        """The symbol tables, for `symbol`, `name` and `Functions`."""
        return self._tables

    def dynamic(self):
        """The table of .dynsym, or None."""
        place = self.sections.get(b".dynsym", (0, 0, 0))[1:]
        return next((table for table in self._tables if (table.offset, table.size) == place), None)

    def defined(self, names):
        """{name: virtual address} of those functions (names are bytes) that the file defines for others too."""
        self._input.begin()
        found = {}
        for table in self._tables:
            places = self._places(table, names)
            if not places:
                continue
            values = {}
            for symbols in self._symbols(table):
                for name, info, section, value in symbols:
                    # A local one is the file's private business, whatever its name.
                    if name in places and info & 15 == _FUNC and info >> 4 and section and value:
                        values[name] = value
            for at in sorted(values):
                found.setdefault(places[at], values[at])
        return found

    def _places(self, table, names):
        """{offset: name} of where in a table's strings the names stand, also as the tail of a longer string."""
        endings, places, rest, at = {}, {}, b"", 0      # few endings, so that a table is searched few times
        for name in names:
            endings.setdefault((name + b"\0")[-5:], []).append(name + b"\0")
        overlap = max(map(len, names))
        for piece in self._input.pieces(table.strings, table.strings_size):
            block = rest + piece
            if block == bytes(len(block)):      # a hole costs its owner nothing
                at, rest = at + len(piece), b""
                continue
            for ending, whole in endings.items():
                here = block.find(ending)
                while here >= 0:
                    end = here + len(ending)
                    for name in whole:
                        if block.endswith(name, 0, end):
                            places[at - len(rest) + end - len(name)] = name[:-1]
                    if len(places) > _MOST_NAMES:
                        raise ValueError("its string table has a name too often")
                    here = block.find(ending, here + 1)
            at, rest = at + len(piece), block[-overlap:]
        return places

    # Addresses

    def file_offset(self, address):
        """The file offset of a virtual address, or None, also for one behind the file's end."""
        for offset, start, size, _ in self.segments:
            if start <= address < start + size:
                found = address - start + offset
                return found if found < self._input.size else None
        return None

    def address(self, file_offset):
        """The virtual address of a file offset, or None; executable segments first."""
        for offset, start, size, flags in sorted(self.segments, key=lambda s: not s[3] & 1):
            if offset <= file_offset < offset + size:
                return file_offset - offset + start
        return None


class Functions:
    """The functions of the symbol tables of one or more files of one program, by address.

    A function is kept as one key of 64 bits, its address from the lowest one on
    and its number among all symbols; the rest is read again when it is asked for.
    """

    def __init__(self, *elves):
        code = [(start, start + size) for elf in elves for _, start, size, flags in elf.segments if flags & 1]
        self._base, end = (min(code)[0], max(e for _, e in code)) if code else (0, 0)
        if end - self._base >> 64 - _INDEX_BITS:
            raise ValueError("its segments are too far apart")
        self._tables = []               # (number of the first symbol, Elf, table)
        keys, first = array("Q"), 0
        for elf in elves:
            elf._input.begin()
            for table in elf.tables():
                self._tables.append((first, elf, table))
                for symbols in elf._symbols(table):
                    if first + len(symbols) >> _INDEX_BITS:
                        raise ValueError("it has too many symbols")
                    keys.extend([value - self._base << _INDEX_BITS | number
                                 for number, (_, info, section, value) in enumerate(symbols, first)
                                 if section and info & 15 in (_FUNC, _NOTYPE, _IFUNC) and self._base <= value < end
                                 and value])
                    first += len(symbols)
        self._firsts = [table[0] for table in self._tables]
        self._keys = _sorted(keys)

    def __len__(self):
        return len(self._keys)

    def _symbol(self, key):
        """(value, rank, size, Elf, table, name's offset), or None for no function."""
        number = key & (1 << _INDEX_BITS) - 1
        first, elf, table = self._tables[bisect_right(self._firsts, number) - 1]
        found = elf.symbol(table, number - first)
        if found is None:                       # the file has been cut
            return None
        name, info, _, _, size = found
        if info & 15 == _NOTYPE and size:
            return None
        # Of several names for one place: a typed one, a global one.
        rank = (info & 15 == _NOTYPE) << 1 | (info >> 4 == 0)
        return (key >> _INDEX_BITS) + self._base, -rank, size, elf, table, name

    def find(self, address):
        """(name, offset) of the function at an address, or None.  The name is as in the table, less "@VERSION"."""
        best, best_name, nearest = None, b"", None
        wanted = address - self._base
        if wanted < 0 or wanted >> 64 - _INDEX_BITS:
            return None
        at = bisect_left(self._keys, wanted + 1 << _INDEX_BITS) - 1
        for at in range(at, max(at - 64, -1), -1):
            symbol = self._symbol(self._keys[at])
            if symbol is None:
                continue
            value, rank, size, elf, table, name_at = symbol
            if best is not None and value != best[0]:
                break
            if nearest is None:
                nearest = value
            if address < value + size or not size and value == nearest:
                name = elf.name(table, name_at)
                choice = value, rank, -(len(name) - len(name.lstrip(b"_"))), name == b""
                if best is None or choice > best:
                    best, best_name = choice, name
        if not best_name:
            return None
        return best_name.decode("utf-8", "surrogateescape").partition("@")[0], address - best[0]


def _sorted(keys, bits=64):
    """An array of 64-bit keys in order; never more than a part of it as a list, whose items take 40 bytes.

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
        keys.extend(_sorted(part, shift))
        del part[:]
    return keys
