# SPDX-License-Identifier: GPL-2.0-or-later
"""Fields and expressions of DWARF data.

Follows DWARF 5, sections 7.6 (LEB128) and 2.5 (expressions), and Linux Standard Base Core 5.0,
"DWARF Exception Header Encoding" (pointers).  All reads and expressions are bounded, and whatever
is malformed raises ValueError.
"""

from __future__ import annotations

import struct

from .machine import WORD

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cursor", "evaluate"]

_MOST_EXPRESSION = 256  # bytes of a DWARF expression; those of libc's signal frames have 4
_MOST_OPERANDS = 64  # on an expression's stack


class Cursor:
    """Where the next field is read in some bytes.  Each method raises ValueError behind their end.

    address: the virtual address of the first byte, for pointers relative to it.
    """

    def __init__(self, data: bytes, address: int, at: int = 0, end: int | None = None) -> None:
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

    def pointer(self, encoding: int, base: int | None = None) -> int:
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


# Expressions: those operations that linkers' PLT entries, signal frames and realigned stacks need


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
_CONSTANTS: dict[int, Callable[[Cursor], int]] = {
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
    initial: int | None,
    register: Callable[[int], int],
    word: Callable[[int], int],
) -> int:
    """The result of a DWARF expression.

    initial: pushed first; register, word: return the value of a register and
    of the word at an address.  Without branches, it takes at most as many steps
    as bytes.  Raises ValueError, also for operations that are not supported.
    """
    cursor, operands = Cursor(expression, 0), [] if initial is None else [initial & WORD]
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
