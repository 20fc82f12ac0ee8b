# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a function returns: its return instructions, found by following its machine code.

A return probe (uretprobe) puts an address of its own on the stack, and no
exception can be unwound through that: the program would end.  A probe on each
return instruction harms nobody.

Instruction lengths follow the opcode maps of the Intel SDM, volume 2,
appendix A; branches of A64 follow the Arm Architecture Reference Manual.
"""

import os
import struct
from bisect import bisect_left

__all__ = ["returns", "function_starts", "jump_slots", "length"]

_MOST = 20000           # instructions to follow
_MOST_RETURNS = 64
_MOST_SLOTS = 1 << 16

# 64-bit mode, one-byte opcodes: those with a ModRM byte, those with an immediate.
_MODRM = {op for base in range(0, 0x40, 8) for op in range(base, base + 4)} | {
    0x63, 0x69, 0x6b, *range(0x80, 0x90), 0xc0, 0xc1, 0xc6, 0xc7, *range(0xd0, 0xd4), *range(0xd8, 0xe0),
    0xf6, 0xf7, 0xfe, 0xff}
_IMM8 = {*range(0x04, 0x40, 8), 0x6a, 0x6b, *range(0x70, 0x80), 0x80, 0x83, 0xa8, *range(0xb0, 0xb8), 0xc0, 0xc1, 0xc6,
         0xcd, *range(0xe0, 0xe8), 0xeb}
_IMM32 = {*range(0x05, 0x40, 8), 0x68, 0x69, 0x81, 0xa9, 0xc7}          # 16 bits with an operand size prefix
_REL32 = {0xe8, 0xe9}
_INVALID = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5,
            0xd6, 0xea}
# The 0F map: those without ModRM, those with an immediate byte.
_PLAIN_0F = {0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0e, *range(0x30, 0x38), 0x77, *range(0x80, 0x90), 0xa0, 0xa1, 0xa2,
             0xa8, 0xa9, 0xaa, *range(0xc8, 0xd0)}
_IMM8_0F = {0x0f, 0x70, 0x71, 0x72, 0x73, 0xa4, 0xac, 0xba, 0xc2, 0xc4, 0xc5, 0xc6}
_PREFIXES = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3}


def _decode(code):
    """(length, map, opcode, ModRM or None, bytes of the immediate) of an x86-64 instruction.

    map: 0 one byte, 1 to 3 the 0F maps, 4 and up those that only VEX and EVEX reach.
    Raises ValueError for what is none, IndexError when the bytes end before it does.
    """
    at, prefixes, rex = 0, set(), 0
    while code[at] in _PREFIXES:
        prefixes.add(code[at])
        at += 1
    if code[at] & 0xf0 == 0x40:
        rex, at = code[at], at + 1
    first, vector = code[at], False
    if first in (0xc4, 0xc5, 0x62):
        vector = True
        if first == 0xc5:
            where, at = 1, at + 2
        else:
            where, at = code[at + 1] & (7 if first == 0x62 else 31), at + (4 if first == 0x62 else 3)
        if not 1 <= where <= 6:
            raise ValueError("an unknown opcode map")
        opcode, at = code[at], at + 1
    elif first == 0x0f:
        where, opcode, at = 1, code[at + 1], at + 2
        if opcode in (0x38, 0x3a):
            where, opcode, at = 2 if opcode == 0x38 else 3, code[at], at + 1
    else:
        where, opcode, at = 0, first, at + 1
        if opcode in _INVALID:
            raise ValueError("an invalid opcode")
    has_modrm = opcode in _MODRM if not where else where > 1 or opcode not in _PLAIN_0F or vector and opcode != 0x77
    modrm = None
    if has_modrm:
        modrm, at = code[at], at + 1
        mode, low = modrm >> 6, modrm & 7
        if mode != 3:
            base = low
            if low == 4:
                base, at = code[at] & 7, at + 1
            if mode == 1:
                at += 1
            elif mode == 2 or base == 5:
                at += 4
    short = 0x66 in prefixes and not rex & 8
    if where:
        size = 1 if where == 3 or where == 1 and opcode in _IMM8_0F else \
            4 if where == 1 and 0x80 <= opcode <= 0x8f and not vector else 0
    elif 0xa0 <= opcode <= 0xa3:
        size = 4 if 0x67 in prefixes else 8
    elif 0xb8 <= opcode <= 0xbf:
        size = 8 if rex & 8 else 2 if short else 4
    elif opcode in _IMM32 or opcode == 0xf7 and modrm & 0x30 == 0:
        size = 2 if short else 4
    elif opcode in _IMM8 or opcode == 0xf6 and modrm & 0x30 == 0:
        size = 1
    else:
        size = 4 if opcode in _REL32 else {0xc2: 2, 0xca: 2, 0xc8: 3}.get(opcode, 0)
    at += size
    if at > 15 or at > len(code):
        raise ValueError("no instruction is so long") if at > 15 else IndexError(at)
    return at, where, opcode, modrm, size


def length(code):
    """The length of the x86-64 instruction that the bytes begin with.  Raises ValueError, IndexError."""
    return _decode(code)[0]


# What an instruction does to the flow: (length, kind, where to, relative to it).
_NEXT, _BRANCH, _JUMP, _RETURN, _END, _INDIRECT = range(6)


def _x86_64(code):
    size, where, opcode, modrm, immediate = _decode(code)
    target = size + int.from_bytes(code[size - immediate:size], "little", signed=True)
    if where == 0:
        if opcode in (0xc3, 0xc2):
            return size, _RETURN, 0
        if opcode in (0xe9, 0xeb):
            return size, _JUMP, target
        if 0x70 <= opcode <= 0x7f or 0xe0 <= opcode <= 0xe3:
            return size, _BRANCH, target
        if opcode == 0xff and modrm >> 3 & 7 in (4, 5):         # by a slot relative to rip, or by a register
            slot = size + int.from_bytes(code[size - 4:size], "little", signed=True)
            return size, _INDIRECT, slot if modrm == 0x25 else 0
        if opcode in (0xcc, 0xf4, 0xcb, 0xca, 0xcf):
            return size, _END, 0
    elif where == 1 and 0x80 <= opcode <= 0x8f and immediate == 4:
        return size, _BRANCH, target
    elif where == 1 and opcode == 0x0b:                         # ud2
        return size, _END, 0
    return size, _NEXT, 0


def _signed(value, bits):
    return (value & (1 << bits) - 1 ^ 1 << bits - 1) - (1 << bits - 1)


def _aarch64(code):
    word = struct.unpack_from("<I", code)[0] if len(code) >= 4 else 0
    if word & 0xfc000000 == 0x14000000:                         # b
        return 4, _JUMP, _signed(word, 26) * 4
    if word & 0xff000000 == 0x54000000 or word & 0x7e000000 == 0x34000000:      # b.cond, cbz, cbnz
        return 4, _BRANCH, _signed(word >> 5, 19) * 4
    if word & 0x7e000000 == 0x36000000:                         # tbz, tbnz
        return 4, _BRANCH, _signed(word >> 5, 14) * 4
    if word & 0xfffffc1f == 0xd65f0000:                         # ret
        return 4, _RETURN, 0
    if word in (0xd65f0bff, 0xd65f0fff):                        # retaa, retab
        raise ValueError("no uprobe can be there: arm_probe_decode_insn() of the kernel rejects it")
    if word & 0xfe200000 == 0xd6000000:                         # br and its kin, but not blr
        return 4, _INDIRECT, 0
    if word & 0xffe0001f == 0xd4200000 or not word >> 16:       # brk, udf
        return 4, _END, 0
    return 4, _NEXT, 0


_FLOWS = {"x86_64": _x86_64, "aarch64": _aarch64}


def _slot(read, at):
    """The address of the slot that an A64 stub of the procedure linkage table jumps by; its br is at `at`."""
    raw = read(at - 12, 12)
    if len(raw) < 12:
        return 0
    page, load, _ = struct.unpack("<3I", raw)
    if page & 0x9f00001f != 0x90000010 or load & 0xffc003ff != 0xf9400211:      # adrp x16, …; ldr x17, [x16, …]
        return 0
    return (at - 12 & ~4095) + (_signed(page >> 5 & 0x7ffff, 19) << 14) + (page >> 29 & 3) * 4096 + \
        (load >> 10 & 0xfff) * 8


def returns(read, entry, starts=(), slots=None, machine=None):
    """The addresses of the instructions by which a function returns to its caller, sorted, also after its tail calls.

    Jumps by a register or to another file are not followed: what returns
    behind them is not found.  None when the code cannot be followed, is too
    much, or returns by an instruction that cannot be probed.  read: (address,
    bytes) -> bytes of machine code, fewer at its end.  starts: addresses at
    which functions begin: code that runs on into one, behind a call, does not
    in fact return from that call.  slots: as jump_slots() gives them.
    """
    machine = machine or os.uname().machine
    flow = _FLOWS.get(machine)
    if flow is None:
        return None
    found, seen, pending = set(), set(), [entry]
    while pending:
        at = pending.pop()
        while at not in seen:
            seen.add(at)
            try:
                size, kind, target = flow(read(at, 16))
            except (ValueError, IndexError):
                return None
            if len(seen) > _MOST or len(found) > _MOST_RETURNS:
                return None
            if kind == _INDIRECT:
                slot = _slot(read, at) if machine == "aarch64" else target and at + target
                if slots and slot in slots:
                    pending.append(slots[slot])
                break
            if kind == _RETURN:
                found.add(at)
                break
            if kind == _END:
                break
            if kind in (_BRANCH, _JUMP):
                pending.append(at + target)
            at += size
            if kind == _JUMP or at in starts:
                break
    return sorted(found)


class _Starts:
    """The addresses in .eh_frame_hdr's table, which is in their order; each takes the 8 bytes that it has there."""

    def __init__(self, base, pairs):
        self._base, self._pairs = base, pairs

    def __len__(self):
        return len(self._pairs) // 2

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self._base + self._pairs[2 * i]

    def __contains__(self, address):
        i = bisect_left(self, address)
        return i < len(self) and self[i] == address


def function_starts(elf):
    """The virtual addresses at which functions begin, by .eh_frame_hdr's table of the usual form; empty without.

    Raises ValueError for a file that exceeds its budget.
    """
    name = b".eh_frame_hdr"
    raw = elf.section(name)
    if len(raw) < 12 or raw[0] != 1 or raw[2:4] != b"\x03\x3b":         # DW_EH_PE_udata4; datarel | sdata4
        return frozenset()
    offset = elf.sections[name][1]
    base = next((address + offset - start for start, address, size, _ in elf.segments
                 if start <= offset < start + size), None)
    at = 4 + {0x0b: 4, 0x0c: 8}.get(raw[1] & 0x0f, 4)
    count = struct.unpack_from("=I", raw, at)[0] if at + 4 <= len(raw) else 0
    if base is None or at + 4 + 8 * count > len(raw):
        return frozenset()
    return _Starts(base, memoryview(raw)[at + 4:at + 4 + 8 * count].cast("i"))


def jump_slots(elf):
    """{address of a slot of the global offset table: address of the function} of those that the file itself defines.

    Raises ValueError for a file that exceeds its budget.
    """
    table, found = elf.dynamic(), {}
    if elf.bits != 64 or table is None:
        return found
    for section in b".rela.plt", b".rela.dyn":
        for slot, info, addend in elf.records(section, "=QQq"):
            symbol = elf.symbol(table, info >> 32) if info >> 32 and not addend else None
            if symbol is not None and symbol[1] & 15 == 2 and symbol[2] and symbol[3]:
                found[slot] = symbol[3]
                if len(found) > _MOST_SLOTS:
                    raise ValueError("it has more than %d slots for functions" % _MOST_SLOTS)
    return found
