# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information (CFI) of ELF files: how to recover a caller's registers at each place in
the code.

It is in .eh_frame, and is found through the search table in .eh_frame_hdr.  Follows:

- Linux Standard Base Core 5.0, "Exception Frames": .eh_frame, .eh_frame_hdr,
  pointer encodings, augmentation strings;
- DWARF 5, sections 6.4 (call frame instructions) and 2.5 (expressions);
- the psABIs of AMD64 and AArch64 (aadwarf64) for the numbers of registers.

The files are those of a traced process, and so are hostile: all reads, tables,
instructions, expressions and caches are bounded, and whatever is malformed
raises ValueError.
"""

import os
import struct
import time
from array import array
from bisect import bisect_right
from typing import Callable, NamedTuple, Optional

from .elf import Elf

__all__ = ["WORD", "Machine", "X86_64", "AARCH64", "MACHINE", "Rule", "Rules", "Table", "evaluate"]

_MOST_ENTRY = 1 << 16  # bytes of a CIE or FDE; one of GCC's cc1 has 20 KB
_MOST_INSTRUCTIONS = 1 << 14  # call frame instructions of a CIE or FDE
_MOST_REMEMBERED = 32  # depth of DW_CFA_remember_state; compilers use 1
_MOST_EXPRESSION = 256  # bytes of a DWARF expression; those of libc's signal frames have 4
_MOST_OPERANDS = 64  # on an expression's stack
_MOST_SEGMENTS = 256  # program headers that are looked at
_MOST_LISTED = 1 << 16  # CIEs and FDEs of a file without a search table
_LIST_SECONDS = 2.0  # to list them, of CPU time
_MOST_AT_ONCE = 1 << 24  # bytes
_BLOCK = 1 << 10  # entries of a search table that are read at once
_MOST_CIES = 64  # kept per file; linkers merge equal ones to a dozen
_MOST_REGISTERS = 32  # whose rules are kept: not those of vector and status registers
_PT_GNU_EH_FRAME = 0x6474E550
_OMIT = 0xFF  # DW_EH_PE_omit
WORD = (1 << 64) - 1


class Machine(NamedTuple):
    """What the psABI of an architecture defines; registers by their DWARF numbers.

    elf: e_machine; saved: the registers that a call preserves, in the order in
    which a sample has them; stack, frame: the stack and frame pointer; link: the
    column of the return address; registers: how many are followed; lr: whether
    a call leaves the return address in `link` and not on the stack.
    """

    elf: int
    saved: tuple[int, ...]
    stack: int
    frame: int
    link: int
    registers: int
    lr: bool


X86_64 = Machine(62, (3, 6, 12, 13, 14, 15), stack=7, frame=6, link=16, registers=17, lr=False)
AARCH64 = Machine(183, tuple(range(19, 31)), stack=31, frame=29, link=30, registers=32, lr=True)
MACHINE = AARCH64 if os.uname().machine == "aarch64" else X86_64


# Rules, DWARF 5, 6.4.1.  A register without a rule keeps its value.


class Rule(NamedTuple):
    """How to recover one register.

    kind: "offset" (at CFA + value), "val_offset" (CFA + value), "register" (in
    that one), "expression" (at its result), "val_expression" (its result),
    "undefined" or "same_value"; block: the expression.
    """

    kind: str
    value: int = 0
    block: bytes = b""


class Rules(NamedTuple):
    """The rules of one place in the code.

    The CFA is a register plus an offset, or, where `register` is None, the
    result of an expression.  link: the column of the return address; signal: a
    signal has interrupted the caller, so that its address is not that of a call.
    """

    register: Optional[int]
    offset: int
    expression: bytes
    registers: dict[int, Rule]
    link: int
    signal: bool


# Reading, within bounds


class _Cursor:
    """Where the next field is read in some bytes.  Each method raises ValueError behind their end.

    address: the virtual address of the first byte, for pointers relative to it.
    """

    def __init__(self, data: bytes, address: int, at: int = 0, end: Optional[int] = None) -> None:
        self.data, self.address, self.at = data, address, at
        self.end = len(data) if end is None else end

    def number(self, form: str) -> int:
        """A number of a fixed size, by a format of struct."""
        at = self.at
        self.at += struct.calcsize(form)
        if self.at > self.end:
            raise ValueError("a truncated field")
        value: int = struct.unpack_from(form, self.data, at)[0]
        return value

    def byte(self) -> int:
        if self.at >= self.end:
            raise ValueError("a truncated field")
        self.at += 1
        return self.data[self.at - 1]

    def _leb(self) -> tuple[int, int]:
        """A LEB128 number's bits, and how many there are: DWARF 5, 7.6."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value, shift + 7
        raise ValueError("a LEB128 number of more than 10 bytes")

    def uleb(self) -> int:
        """An unsigned LEB128 number of at most 64 bits."""
        value, _ = self._leb()
        if value > WORD:
            raise ValueError("a LEB128 number of more than 64 bits")
        return value

    def sleb(self) -> int:
        """A signed LEB128 number of at most 64 bits."""
        value, bits = self._leb()
        if value >> bits - 1:
            value -= 1 << bits
        if not -1 << 63 <= value < 1 << 63:
            raise ValueError("a LEB128 number of more than 64 bits")
        return value

    def block(self, most: int = _MOST_EXPRESSION) -> bytes:
        """Bytes behind their number in LEB128."""
        size = self.uleb()
        if size > most or self.at + size > self.end:
            raise ValueError(f"a block of {size} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def string(self, most: int = 32) -> bytes:
        """Bytes before a NUL."""
        stop = self.data.find(b"\0", self.at, min(self.end, self.at + most))
        if stop < 0:
            raise ValueError("an augmentation without an end")
        text, self.at = self.data[self.at : stop], stop + 1
        return text

    def pointer(self, encoding: int, base: Optional[int] = None) -> int:
        """An encoded pointer: LSB Core, "DWARF Exception Header Encoding".

        base: what "datarel" is relative to.  An indirect one has the address at which the pointer
          is.
        """
        place = self.address + self.at
        form = _FORMATS.get(encoding & 15)
        if form is not None:
            value = self.number(form)
        elif encoding & 15 == 1:
            value = self.uleb()
        elif encoding & 15 == 9:
            value = self.sleb()
        else:
            raise ValueError(f"a pointer of format {encoding & 15}")
        relative = encoding & 0x70
        if relative == 0x10:
            value += place
        elif relative == 0x30 and base is not None:
            value += base
        elif relative:
            raise ValueError(f"a pointer relative to an unknown base ({relative:#x})")
        return value & WORD


_FORMATS = {0: "=Q", 2: "=H", 3: "=I", 4: "=Q", 10: "=h", 11: "=i", 12: "=q"}  # DW_EH_PE_*


# Call frame instructions, DWARF 5, 6.4.2


class _Common(NamedTuple):
    """A CIE: what its FDEs share.

    code, data: the alignment factors; link: the column of the return address;
    encoding: of the FDEs' pointers; augmented: whether they have augmentation
    data; initial: the rules behind its instructions.
    """

    code: int
    data: int
    link: int
    encoding: int
    augmented: bool
    signal: bool
    initial: Optional["_State"]


class _State:
    """The rules while the instructions of a CIE or FDE are executed."""

    def __init__(self, common: _Common, location: int) -> None:
        self.common, self.location = common, location
        self.register: Optional[int] = None
        self.offset, self.expression = 0, b""
        self.rules: dict[int, Rule] = {}
        self.remembered: list[tuple[Optional[int], int, bytes, dict[int, Rule]]] = []
        initial = common.initial
        if initial is not None:
            self.register, self.offset, self.expression = (
                initial.register,
                initial.offset,
                initial.expression,
            )
            self.rules = dict(initial.rules)

    def run(self, cursor: _Cursor, address: int) -> None:
        """Execute instructions up to the row of an address.  Raises ValueError."""
        for _ in range(_MOST_INSTRUCTIONS):
            if cursor.at >= cursor.end:
                return
            code = cursor.byte()
            if code >> 6:
                self._primary(code >> 6, code & 63, cursor)
            else:
                instruction = _INSTRUCTIONS.get(code)
                if instruction is None:
                    raise ValueError(f"an unknown call frame instruction ({code:#x})")
                instruction(self, cursor)
            if self.location > address:
                return
        raise ValueError(f"more than {_MOST_INSTRUCTIONS} call frame instructions")

    def _primary(self, kind: int, operand: int, cursor: _Cursor) -> None:
        """An instruction with an operand in its first byte: DW_CFA_advance_loc, _offset, _restore."""
        if kind == 1:
            self.location += operand * self.common.code
        elif kind == 2:
            self._set(operand, "offset", cursor.uleb() * self.common.data)
        else:
            self._restore(operand)

    def _set(self, register: int, kind: str, value: int = 0, block: bytes = b"") -> None:
        if register < _MOST_REGISTERS:
            self.rules[register] = Rule(kind, value, block)

    def _restore(self, register: int) -> None:
        initial = self.common.initial
        if initial is None:
            raise ValueError("a CIE restores a register")
        if register in initial.rules:
            self.rules[register] = initial.rules[register]
        else:
            self.rules.pop(register, None)

    def _cfa(self, register: Optional[int], offset: int, expression: bytes = b"") -> None:
        self.register, self.offset, self.expression = register, offset, expression

    def _cfa_part(self, register: Optional[int] = None, offset: Optional[int] = None) -> None:
        """DW_CFA_def_cfa_register and _offset: valid only when the CFA is a register and an offset."""
        if self.register is None:
            raise ValueError("the CFA has no register to change")
        self.register = self.register if register is None else register
        self.offset = self.offset if offset is None else offset

    def _remember(self) -> None:
        if len(self.remembered) >= _MOST_REMEMBERED:
            raise ValueError(f"more than {_MOST_REMEMBERED} remembered states")
        self.remembered.append((self.register, self.offset, self.expression, dict(self.rules)))

    def _recall(self) -> None:
        if not self.remembered:
            raise ValueError("no remembered state")
        self.register, self.offset, self.expression, self.rules = self.remembered.pop()

    def _ignore(self, operand: int = 0) -> None:
        """DW_CFA_nop, and what changes no rule."""

    def _advance(self, units: int) -> None:
        self.location += units * self.common.code

    def _jump(self, cursor: _Cursor) -> None:
        self.location = cursor.pointer(self.common.encoding)


# Operands are evaluated from left to right, which is the order in which they stand in the table.
_INSTRUCTIONS: dict[int, Callable[[_State, _Cursor], None]] = {
    0x00: lambda s, c: s._ignore(),  # nop
    0x01: lambda s, c: s._jump(c),  # set_loc
    0x02: lambda s, c: s._advance(c.number("=B")),  # advance_loc1
    0x03: lambda s, c: s._advance(c.number("=H")),  # advance_loc2
    0x04: lambda s, c: s._advance(c.number("=I")),  # advance_loc4
    0x05: lambda s, c: s._set(c.uleb(), "offset", c.uleb() * s.common.data),  # offset_extended
    0x06: lambda s, c: s._restore(c.uleb()),  # restore_extended
    0x07: lambda s, c: s._set(c.uleb(), "undefined"),  # undefined
    0x08: lambda s, c: s._set(c.uleb(), "same_value"),  # same_value
    0x09: lambda s, c: s._set(c.uleb(), "register", c.uleb()),  # register
    0x0A: lambda s, c: s._remember(),  # remember_state
    0x0B: lambda s, c: s._recall(),  # restore_state
    0x0C: lambda s, c: s._cfa(c.uleb(), c.uleb()),  # def_cfa
    0x0D: lambda s, c: s._cfa_part(register=c.uleb()),  # def_cfa_register
    0x0E: lambda s, c: s._cfa_part(offset=c.uleb()),  # def_cfa_offset
    0x0F: lambda s, c: s._cfa(None, 0, c.block()),  # def_cfa_expression
    0x10: lambda s, c: s._set(c.uleb(), "expression", 0, c.block()),  # expression
    0x11: lambda s, c: s._set(c.uleb(), "offset", c.sleb() * s.common.data),  # offset_extended_sf
    0x12: lambda s, c: s._cfa(c.uleb(), c.sleb() * s.common.data),  # def_cfa_sf
    0x13: lambda s, c: s._cfa_part(offset=c.sleb() * s.common.data),  # def_cfa_offset_sf
    0x14: lambda s, c: s._set(c.uleb(), "val_offset", c.uleb() * s.common.data),  # val_offset
    0x15: lambda s, c: s._set(c.uleb(), "val_offset", c.sleb() * s.common.data),  # val_offset_sf
    0x16: lambda s, c: s._set(c.uleb(), "val_expression", 0, c.block()),  # val_expression
    # Which return addresses are signed does not matter here: the code is cut off all.
    0x2C: lambda s, c: s._ignore(),  # AARCH64_negate_ra_state_with_pc
    0x2D: lambda s, c: s._ignore(),  # AARCH64_negate_ra_state
    0x2E: lambda s, c: s._ignore(c.uleb()),  # GNU_args_size
    # GNU_negative_offset_extended
    0x2F: lambda s, c: s._set(c.uleb(), "offset", -c.uleb() * s.common.data),
}


# Expressions, DWARF 5, 2.5: those operations that linkers' PLT entries, signal frames and realigned
# stacks need


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: lambda a, b: a & b,
    0x1C: lambda a, b: a - b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b if b < 64 else 0,
    0x25: lambda a, b: a >> b if b < 64 else 0,
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: a == b,
    0x2A: lambda a, b: _signed(a) >= _signed(b),
    0x2B: lambda a, b: _signed(a) > _signed(b),
    0x2C: lambda a, b: _signed(a) <= _signed(b),
    0x2D: lambda a, b: _signed(a) < _signed(b),
    0x2E: lambda a, b: a != b,
}
_CONSTANTS: dict[int, Callable[[_Cursor], int]] = {
    0x03: lambda c: c.number("=Q"),
    0x08: lambda c: c.number("=B"),
    0x09: lambda c: c.number("=b"),
    0x0A: lambda c: c.number("=H"),
    0x0B: lambda c: c.number("=h"),
    0x0C: lambda c: c.number("=I"),
    0x0D: lambda c: c.number("=i"),
    0x0E: lambda c: c.number("=Q"),
    0x0F: lambda c: c.number("=q"),
    0x10: lambda c: c.uleb(),
    0x11: lambda c: c.sleb(),
}


def evaluate(
    expression: bytes,
    initial: Optional[int],
    register: Callable[[int], int],
    word: Callable[[int], int],
) -> int:
    """The result of a DWARF expression.

    initial: pushed first; register, word: return the value of a register and
    of the word at an address.  Without branches, it takes at most as many steps
    as bytes.  Raises ValueError, also for operations that are not supported.
    """
    cursor, operands = _Cursor(expression, 0), [] if initial is None else [initial & WORD]
    while cursor.at < cursor.end:
        code = cursor.byte()
        if code in _BINARY and len(operands) > 1:
            last = operands.pop()
            value = int(_BINARY[code](operands.pop(), last))
        elif code in _CONSTANTS:
            value = _CONSTANTS[code](cursor)
        elif 0x30 <= code < 0x50:  # DW_OP_lit0 to lit31
            value = code - 0x30
        elif 0x70 <= code < 0x90:  # DW_OP_breg0 to breg31
            value = register(code - 0x70) + cursor.sleb()
        elif code == 0x06 and operands:  # DW_OP_deref
            value = word(operands.pop())
        elif code == 0x23 and operands:  # DW_OP_plus_uconst
            value = operands.pop() + cursor.uleb()
        else:
            raise ValueError(f"an unsupported operation ({code:#x}) in an expression")
        operands.append(value & WORD)
        if len(operands) > _MOST_OPERANDS:
            raise ValueError(f"an expression with more than {_MOST_OPERANDS} operands")
    if not operands:
        raise ValueError("an empty expression")
    return operands[-1]


# Files


class _SearchTable:
    """The binary search table of .eh_frame_hdr: LSB Core, "The .eh_frame_hdr section".

    read: a function (size, virtual address) -> bytes; address: the section's.
    """

    def __init__(self, read: Callable[[int, int], bytes], address: int) -> None:
        self._read, self.address = read, address
        head = _Cursor(read(64, address), address)
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

    def search(self, address: int) -> Optional[int]:
        """The address of the last FDE that begins at or below an address;

        None where there is none.
        """
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

    def search(self, address: int) -> Optional[int]:
        number = bisect_right(self._starts, address)
        return self.place(number - 1) if number else None


class Table:
    """The call frame information of one ELF file, by virtual address; reads of it what is asked
    for.

    elf: the file; read: a function (length, offset) -> bytes of it, such as one
    made of os.pread; machine: what its code is for; index: its FDEs.  Raises
    ValueError when it is for another machine, or has no CFI that can be used.
    """

    def __init__(
        self, elf: Elf, read: Callable[[int, int], bytes], machine: Machine = MACHINE
    ) -> None:
        if elf.bits != 64 or elf.machine != machine.elf:
            raise ValueError("a file of another architecture")
        self._elf, self._file, self.machine = elf, read, machine
        self._start, self._data = 0, b""  # while .eh_frame is listed, its address and bytes
        self._cies: dict[int, _Common] = {}
        header = self._header()
        self.index = self._list() if header is None else _SearchTable(self._read, header)

    def _header(self) -> Optional[int]:
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
        """At most so many bytes at a virtual address."""
        at = address - self._start
        if 0 <= at < len(self._data) - size:
            return self._data[at : at + size]
        offset = self._elf.file_offset(address) if address <= WORD else None
        if offset is None:
            raise ValueError("an address outside of the file's segments")
        return self._at(size, offset)

    def _at(self, size: int, offset: int) -> bytes:
        """At most so many bytes at a file offset."""
        if offset >= 1 << 62:
            raise ValueError("an offset behind any file's end")
        try:
            return self._file(size, offset)
        except OSError as exc:
            raise ValueError(f"it cannot be read: {exc.strerror}") from None

    def virtual(self, file_offset: int) -> Optional[int]:
        """The virtual address of what is at a file offset, or None."""
        found: Optional[int] = self._elf.address(file_offset)
        return None if found is None or found > WORD else found

    def rules(self, address: int) -> Optional[Rules]:
        """The rules at a virtual address, or None where no function is described.

        Raises ValueError.
        """
        at = self.index.search(address)
        if at is None:
            return None
        common, start, end, cursor = self.entry(at)
        if not start <= address < end:
            return None
        state = _State(common, start)
        state.run(cursor, address)
        if state.register is None and not state.expression:
            raise ValueError("no rule for the CFA")
        return Rules(
            state.register, state.offset, state.expression, state.rules, common.link, common.signal
        )

    def _entry(self, address: int) -> tuple[_Cursor, int]:
        """The body of a CIE or FDE behind its length, and the number at its start: 0 for a CIE."""
        raw = self._read(512, address)
        size = struct.unpack_from("=I", raw)[0] if len(raw) >= 8 else 0
        if (
            not 4 <= size <= _MOST_ENTRY
        ):  # 0xffffffff announces a 64-bit length, which no compiler needs
            raise ValueError(f"an entry of {size} bytes")
        if size + 4 > len(raw):
            raw = self._read(size + 4, address)
        cursor = _Cursor(raw, address, 4, size + 4)
        if len(raw) < cursor.end:
            raise ValueError("a truncated entry")
        return cursor, cursor.number("=I")

    def entry(self, address: int) -> tuple[_Common, int, int, _Cursor]:
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

    def _common(self, address: int) -> _Common:
        common = self._cies.get(address)
        if common is None:
            if len(self._cies) >= _MOST_CIES:
                self._cies.clear()
            common = self._cies[address] = self._read_common(address)
        return common

    def _read_common(self, address: int) -> _Common:
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
                augmentation, _Cursor(block, cursor.address + cursor.at - len(block))
            )
        common = _Common(code, data, link, encoding, bool(augmentation), b"S" in augmentation, None)
        state = _State(common, 0)
        state.run(cursor, WORD)
        return common._replace(initial=state)

    @staticmethod
    def _augmentation(letters: bytes, cursor: _Cursor) -> int:
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
