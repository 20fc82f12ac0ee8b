# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame instructions: where a caller's registers are, for one place in the code.

Follows DWARF 5, section 6.4.  The instructions are those of a hostile file: they are bounded, and
whatever is malformed raises ValueError.
"""

from __future__ import annotations

from typing import NamedTuple

from .dwarf import Cursor

TYPE_CHECKING = False  # mypy takes it for true
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Common", "Rule", "Rules", "State"]

_MOST_INSTRUCTIONS = 1 << 14  # call frame instructions of a CIE or FDE
_MOST_REMEMBERED = 32  # depth of DW_CFA_remember_state; compilers use 1
_MOST_REGISTERS = 32  # whose rules are kept: not those of vector and status registers


# Rules, 6.4.1.  A register without a rule keeps its value.


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

    register: int | None
    offset: int
    expression: bytes
    registers: dict[int, Rule]
    link: int
    signal: bool


# Instructions, 6.4.2


class Common(NamedTuple):
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
    initial: State | None


class State:
    """The rules while the instructions of a CIE or FDE are executed."""

    def __init__(self, common: Common, location: int) -> None:
        self.common, self.location = common, location
        self.register: int | None = None
        self.offset, self.expression = 0, b""
        self.rules: dict[int, Rule] = {}
        self.remembered: list[tuple[int | None, int, bytes, dict[int, Rule]]] = []
        initial = common.initial
        if initial is not None:
            self.register, self.offset, self.expression = (
                initial.register,
                initial.offset,
                initial.expression,
            )
            self.rules = dict(initial.rules)

    def run(self, cursor: Cursor, address: int) -> None:
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

    def _primary(self, kind: int, operand: int, cursor: Cursor) -> None:
        """DW_CFA_advance_loc, _offset or _restore, whose operand is in the first byte."""
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

    def _cfa(self, register: int | None, offset: int, expression: bytes = b"") -> None:
        self.register, self.offset, self.expression = register, offset, expression

    def _cfa_part(self, register: int | None = None, offset: int | None = None) -> None:
        """DW_CFA_def_cfa_register and _offset: only for a CFA that is a register and an offset."""
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

    def _jump(self, cursor: Cursor) -> None:
        self.location = cursor.pointer(self.common.encoding)


# Operands are evaluated from left to right, which is the order in which they stand in the table.
_INSTRUCTIONS: dict[int, Callable[[State, Cursor], None]] = {
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
