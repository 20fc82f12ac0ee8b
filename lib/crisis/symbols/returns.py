# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a function returns: its return instructions, found by following its machine code.

A return probe (uretprobe) puts an address of its own on the stack, and no
exception can be unwound through that: the program would end.  A probe on each
return instruction is harmless.

Instruction lengths follow the opcode maps of the Intel SDM, volume 2,
appendix A; branches of A64 follow the Arm Architecture Reference Manual.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from .elf import Elf

    Reader = Callable[[int, int], bytes]  # (address, bytes) -> machine code, less at its end

__all__ = ["returns", "function_starts", "jump_slots", "length"]

_MAX_INSTRUCTIONS = 20000  # to follow
_MAX_RETURNS = 64
_MAX_SLOTS = 1 << 16
_MAX_LENGTH = 15  # of an x86 instruction

# What follows the opcode, in 64-bit mode; a row has 16 opcodes:
#   .  nothing                       m  ModRM
#   b  8-bit immediate               B  ModRM, 8-bit immediate
#   z  16 or 32 bits                 Z  ModRM, 16 or 32 bits
#   g  ModRM, 8 bits for /0 and /1   G  ModRM, 16 or 32 bits for /0 and /1
#   v  16, 32 or 64 bits             o  address of 32 or 64 bits
#   w  16 bits                       n  16 and 8 bits
#   r  32-bit displacement           x  invalid
#   p  prefix                        e  escape to another map
_ONE_BYTE = (
    "mmmmbzxxmmmmbzxe"  # 00
    "mmmmbzxxmmmmbzxx"  # 10
    "mmmmbzpxmmmmbzpx"  # 20
    "mmmmbzpxmmmmbzpx"  # 30
    "pppppppppppppppp"  # 40, REX
    "................"  # 50
    "xxemppppzZbB...."  # 60
    "bbbbbbbbbbbbbbbb"  # 70
    "BZxBmmmmmmmmmmmm"  # 80
    "..........x....."  # 90
    "oooo....bz......"  # A0
    "bbbbbbbbvvvvvvvv"  # B0
    "BBw.eeBZn.w..bx."  # C0
    "mmmmxxx.mmmmmmmm"  # D0
    "bbbbbbbbrrxb...."  # E0
    "p.pp..gG......mm"  # F0
)
_TWO_BYTE = (  # 0F
    "mmmmm.....m.mm.B"  # 00
    "mmmmmmmmmmmmmmmm"  # 10
    "mmmmmmmmmmmmmmmm"  # 20
    "........mmmmmmmm"  # 30; 38 and 3A are escapes
    "mmmmmmmmmmmmmmmm"  # 40
    "mmmmmmmmmmmmmmmm"  # 50
    "mmmmmmmmmmmmmmmm"  # 60
    "BBBBmmm.mmmmmmmm"  # 70
    "rrrrrrrrrrrrrrrr"  # 80
    "mmmmmmmmmmmmmmmm"  # 90
    "...mBmmm...mBmmm"  # A0
    "mmmmmmmmmmBmmmmm"  # B0
    "mmBmBBBm........"  # C0
    "mmmmmmmmmmmmmmmm"  # D0
    "mmmmmmmmmmmmmmmm"  # E0
    "mmmmmmmmmmmmmmmm"  # F0
)
_WITH_MODRM = "mBZgG"
_PREFIXES = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3}
_OPERAND_SIZE, _ADDRESS_SIZE = 0x66, 0x67
_REX_W = 8
_VEX3, _VEX2, _EVEX = 0xC4, 0xC5, 0x62


class _Instruction:
    """An x86-64 instruction.

    map: 0 one byte, 1 to 3 those behind 0F, 0F38 and 0F3A, 4 to 6 those of VEX and EVEX only.
    modrm: the ModRM byte, or None.  immediate: bytes of the immediate.
    """

    __slots__ = ("length", "map", "opcode", "modrm", "immediate")

    def __init__(
        self, length: int, map_: int, opcode: int, modrm: int | None, immediate: int
    ) -> None:
        self.length, self.map, self.opcode = length, map_, opcode
        self.modrm, self.immediate = modrm, immediate


def _vector_opcode(code: bytes, at: int) -> tuple[int, int, str, int]:
    """As _opcode(), for a VEX or EVEX prefix."""
    if code[at] == _VEX2:
        map_, at = 1, at + 2
    elif code[at] == _VEX3:
        map_, at = code[at + 1] & 31, at + 3
    else:
        map_, at = code[at + 1] & 7, at + 4
    if not 1 <= map_ <= 6:
        raise ValueError("an unknown opcode map")
    opcode = code[at]
    if map_ == 1 and opcode == 0x77:  # VZEROUPPER
        form = "."
    elif map_ == 3 or (map_ == 1 and _TWO_BYTE[opcode] == "B"):
        form = "B"
    else:
        form = "m"
    return map_, opcode, form, at + 1


def _opcode(code: bytes, at: int) -> tuple[int, int, str, int]:
    """(map, opcode, what follows it, offset behind it) at an offset, behind the prefixes."""
    first = code[at]
    if first in (_VEX2, _VEX3, _EVEX):
        return _vector_opcode(code, at)
    if first != 0x0F:
        if _ONE_BYTE[first] == "x":
            raise ValueError("an invalid opcode")
        return 0, first, _ONE_BYTE[first], at + 1
    opcode = code[at + 1]
    if opcode == 0x38:
        return 2, code[at + 2], "m", at + 3
    if opcode == 0x3A:
        return 3, code[at + 2], "B", at + 3
    return 1, opcode, _TWO_BYTE[opcode], at + 2


def _address_size(code: bytes, at: int, modrm: int) -> int:
    """The bytes of SIB and displacement behind a ModRM byte."""
    mode, base, size = modrm >> 6, modrm & 7, 0
    if mode == 3:
        return 0
    if base == 4:
        base, size = code[at] & 7, 1
    if mode == 1:
        return size + 1
    if mode == 2 or base == 5:
        return size + 4
    return size


def _immediate_size(form: str, modrm: int | None, rex: int, prefixes: set[int]) -> int:
    """The bytes of the immediate."""
    if form in "gG" and modrm is not None and modrm & 0x30:  # only TEST, /0 and /1, has one
        return 0
    if form in "bBg":
        return 1
    if form == "v" and rex & _REX_W:
        return 8
    if form in "vzZG":
        return 2 if _OPERAND_SIZE in prefixes and not rex & _REX_W else 4
    if form == "o":
        return 4 if _ADDRESS_SIZE in prefixes else 8
    return {"r": 4, "w": 2, "n": 3}.get(form, 0)


def _decode(code: bytes) -> _Instruction:
    """The x86-64 instruction that the bytes begin with.

    Raises ValueError for bytes that are not one, IndexError when they end in the middle of it.
    """
    at, rex = 0, 0
    prefixes = set()
    while code[at] in _PREFIXES:
        prefixes.add(code[at])
        at += 1
    if code[at] & 0xF0 == 0x40:
        rex, at = code[at], at + 1
    map_, opcode, form, at = _opcode(code, at)
    modrm = None
    if form in _WITH_MODRM:
        modrm, at = code[at], at + 1
        at += _address_size(code, at, modrm)
    immediate = _immediate_size(form, modrm, rex, prefixes)
    at += immediate
    if at > _MAX_LENGTH:
        raise ValueError("no instruction is so long")
    if at > len(code):
        raise IndexError(at)
    return _Instruction(at, map_, opcode, modrm, immediate)


def length(code: bytes) -> int:
    """The length of the x86-64 instruction that the bytes begin with.

    Raises ValueError for bytes that are not one, IndexError when they end in the middle of it.
    """
    return _decode(code).length


# What an instruction does to the flow of control.
_NEXT, _BRANCH, _JUMP, _RETURN, _END, _INDIRECT = range(6)


class _Flow:
    """The effect of an instruction: its length, its kind, and the target relative to it."""

    __slots__ = ("length", "kind", "target")

    def __init__(self, length: int, kind: int, target: int = 0) -> None:
        self.length, self.kind, self.target = length, kind, target


def _signed(value: int, bits: int) -> int:
    """The low bits of a value as a two's complement number."""
    sign = 1 << bits - 1
    return (value & (1 << bits) - 1 ^ sign) - sign


_X86_KINDS = {  # (map, opcode)
    **dict.fromkeys(((0, 0xC3), (0, 0xC2)), _RETURN),
    **dict.fromkeys(((0, 0xE9), (0, 0xEB)), _JUMP),
    **{(0, opcode): _BRANCH for opcode in (*range(0x70, 0x80), *range(0xE0, 0xE4))},
    **{(1, opcode): _BRANCH for opcode in range(0x80, 0x90)},
    # int3, hlt, far returns, iret, ud2
    **dict.fromkeys(((0, 0xCC), (0, 0xF4), (0, 0xCB), (0, 0xCA), (0, 0xCF), (1, 0x0B)), _END),
}


def _x86_64(code: bytes) -> _Flow:
    found = _decode(code)
    size = found.length
    if found.map == 0 and found.opcode == 0xFF and found.modrm is not None:
        if found.modrm >> 3 & 7 not in (4, 5):  # other than jmp
            return _Flow(size, _NEXT)
        # By a slot relative to rip, or by a register.
        slot = size + int.from_bytes(code[size - 4 : size], "little", signed=True)
        return _Flow(size, _INDIRECT, slot if found.modrm == 0x25 else 0)
    kind = _X86_KINDS.get((found.map, found.opcode), _NEXT)
    if found.map == 1 and kind == _BRANCH and found.immediate != 4:  # a vector instruction
        kind = _NEXT
    if kind not in (_BRANCH, _JUMP):
        return _Flow(size, kind)
    offset = int.from_bytes(code[size - found.immediate : size], "little", signed=True)
    return _Flow(size, kind, size + offset)


_A64_BRANCHES = (  # mask, bits, kind, lowest bit and width of the offset in words
    (0xFC000000, 0x14000000, _JUMP, 0, 26),  # b
    (0xFF000000, 0x54000000, _BRANCH, 5, 19),  # b.cond
    (0x7E000000, 0x34000000, _BRANCH, 5, 19),  # cbz, cbnz
    (0x7E000000, 0x36000000, _BRANCH, 5, 14),  # tbz, tbnz
)


def _aarch64(code: bytes) -> _Flow:
    word = struct.unpack_from("<I", code)[0] if len(code) >= 4 else 0
    for mask, bits, kind, low, width in _A64_BRANCHES:
        if word & mask == bits:
            return _Flow(4, kind, _signed(word >> low, width) * 4)
    if word & 0xFFFFFC1F == 0xD65F0000:  # ret
        return _Flow(4, _RETURN)
    if word in (0xD65F0BFF, 0xD65F0FFF):  # retaa, retab
        raise ValueError("no uprobe can be there: the kernel's arm_probe_decode_insn() rejects it")
    if word & 0xFE200000 == 0xD6000000:  # br and its variants, but not blr
        return _Flow(4, _INDIRECT)
    if word & 0xFFE0001F == 0xD4200000 or not word >> 16:  # brk, udf
        return _Flow(4, _END)
    return _Flow(4, _NEXT)


_FLOWS = {"x86_64": _x86_64, "aarch64": _aarch64}


def _plt_slot(read: Reader, at: int) -> int:
    """The slot by which an A64 stub of the procedure linkage table jumps, 0 for other code.

    at: the address of its br.
    """
    raw = read(at - 12, 12)
    if len(raw) < 12:
        return 0
    page, load = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
    # adrp x16, …; ldr x17, [x16, …]
    if page & 0x9F00001F != 0x90000010 or load & 0xFFC003FF != 0xF9400211:
        return 0
    pages = (_signed(page >> 5 & 0x7FFFF, 19) << 2) + (page >> 29 & 3)
    return (at - 12 & ~4095) + pages * 4096 + (load >> 10 & 0xFFF) * 8


class _Walk:
    """The instructions of one function that are reached from its entry."""

    def __init__(
        self,
        read: Reader,
        flow: Callable[[bytes], _Flow],
        starts: Container[int],
        slots: Mapping[int, int],
    ) -> None:
        self._read, self._flow, self._starts, self._slots = read, flow, starts, slots
        self._seen: set[int] = set()
        self._pending: list[int] = []
        self.found: set[int] = set()  # addresses of return instructions

    def run(self, entry: int) -> bool:
        """Follow the code; False when it is too much.  Raises ValueError, IndexError."""
        self._pending.append(entry)
        while self._pending:
            at: int | None = self._pending.pop()
            while at is not None and at not in self._seen:
                self._seen.add(at)
                if len(self._seen) > _MAX_INSTRUCTIONS or len(self.found) > _MAX_RETURNS:
                    return False
                at = self._step(at)
        return True

    def _step(self, at: int) -> int | None:
        """The address of the next instruction, or None where this path ends."""
        flow = self._flow(self._read(at, 16))
        if flow.kind == _RETURN:
            self.found.add(at)
        elif flow.kind == _INDIRECT:
            slot = at + flow.target if flow.target else 0
            if self._flow is _aarch64:
                slot = _plt_slot(self._read, at)
            if slot in self._slots:
                self._pending.append(self._slots[slot])
        elif flow.kind in (_BRANCH, _JUMP):
            self._pending.append(at + flow.target)
        following = at + flow.length
        if flow.kind not in (_NEXT, _BRANCH) or following in self._starts:
            return None
        return following


def returns(
    read: Reader,
    entry: int,
    starts: Container[int] = (),
    slots: Mapping[int, int] | None = None,
    machine: str | None = None,
) -> list[int] | None:
    """The addresses of a function's return instructions, sorted; also those of its tail calls.

    Jumps by a register or to another file are not followed: what returns behind them is not found.
    None when the code cannot be followed, is too much, or returns by an instruction that cannot be
    probed.

    read: (address, bytes) -> bytes of machine code, fewer at its end.
    entry: the function's address.
    starts: addresses at which functions begin: code that runs on into one, behind a call, does not
            in fact return from that call.
    slots: as jump_slots() gives them.
    machine: as uname(2) names it; by default this one.
    """
    flow = _FLOWS.get(machine or os.uname().machine)
    if flow is None:
        return None
    walk = _Walk(read, flow, starts, slots or {})
    try:
        complete = walk.run(entry)
    except (ValueError, IndexError):
        return None
    return sorted(walk.found) if complete else None


class _Starts:
    """The addresses in .eh_frame_hdr's table, which is sorted; each takes the 8 bytes it has there.

    pairs: 32-bit integers, an address relative to base and that of its FDE in turn.
    """

    def __init__(self, base: int, pairs: memoryview[int]) -> None:
        self._base, self._pairs = base, pairs

    def __len__(self) -> int:
        return len(self._pairs) // 2

    def __getitem__(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(i)
        start: int = self._pairs[2 * i]
        return self._base + start

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, int):
            return False
        i = bisect_left(self, address)
        return i < len(self) and self[i] == address


_POINTER_SIZES = {0x0B: 4, 0x0C: 8}  # DW_EH_PE_sdata4, DW_EH_PE_sdata8


def function_starts(elf: Elf) -> _Starts:
    """The virtual addresses at which functions begin, as a sorted sequence.

    Those of .eh_frame_hdr's table in its usual form; none without.
    Raises ValueError for a file that exceeds its budget.
    """
    nothing = _Starts(0, memoryview(b"").cast("i"))
    raw = elf.section(b".eh_frame_hdr")
    # Version 1; the table's encoding: DW_EH_PE_udata4, DW_EH_PE_datarel | DW_EH_PE_sdata4.
    if len(raw) < 12 or raw[0] != 1 or raw[2:4] != b"\x03\x3b":
        return nothing
    base = _virtual_address(elf, elf.sections[b".eh_frame_hdr"][1])
    at = 4 + _POINTER_SIZES.get(raw[1] & 0x0F, 4)
    count = struct.unpack_from("=I", raw, at)[0] if at + 4 <= len(raw) else 0
    table = memoryview(raw)[at + 4 : at + 4 + 8 * count]
    if base is None or len(table) < 8 * count:
        return nothing
    return _Starts(base, table.cast("i"))


def _virtual_address(elf: Elf, offset: int) -> int | None:
    """The virtual address of a file offset by the first segment that has it, or None."""
    for start, address, size, _ in elf.segments:
        if start <= offset < start + size:
            return address + offset - start
    return None


def jump_slots(elf: Elf) -> dict[int, int]:
    """{slot of the global offset table: function} for functions that the file itself defines.

    Both are virtual addresses.  Raises ValueError for a file that exceeds its budget.
    """
    found: dict[int, int] = {}
    table = elf.dynamic()
    if elf.bits != 64 or table is None:
        return found
    for section in b".rela.plt", b".rela.dyn":
        for slot, info, addend in elf.records(section, "=QQq"):
            number = info >> 32
            if not number or addend:
                continue
            symbol = elf.symbol(table, number)
            if symbol is not None and symbol.is_function and symbol.section and symbol.value:
                found[slot] = symbol.value
                if len(found) > _MAX_SLOTS:
                    raise ValueError(f"it has more than {_MAX_SLOTS} slots for functions")
    return found
