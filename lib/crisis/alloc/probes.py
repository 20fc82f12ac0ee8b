# SPDX-License-Identifier: GPL-2.0-or-later
"""Where in a function to put a uprobe so that it costs one trap and not two.

A uprobe replaces an instruction by a breakpoint.  The kernel emulates some
instructions (jumps, calls, nops, register pushes: branch_setup_xol_ops and
push_setup_xol_ops in arch/x86/kernel/uprobes.c) and single-steps a copy of any
other, which takes a second trap: 1 us on bare metal, 8 us where a hypervisor
intercepts debug exceptions.  So on x86-64 a probe goes to the first emulated
instruction of its function that is reached with the arguments, the stack
pointer and memory as they were at the entry.  Elsewhere it stays at the entry.
"""

from __future__ import annotations

import os

from ..symbols.returns import length

__all__ = ["place", "jumps"]

_LANDING = {"x86_64": b"\xf3\x0f\x1e\xfa", "aarch64": b"\x5f\x24\x03\xd5"}  # endbr64, bti c
_LOOK = 32  # bytes at the entry to look through
_ARGUMENTS = {7, 6, 2}  # rdi rsi rdx
_STACK = 4
_READS = {0x38, 0x39, 0x3A, 0x3B, 0x84, 0x85}  # cmp, test: no result
_LOADS = {0x03, 0x0B, 0x23, 0x2B, 0x33, 0x63, 0x8B, 0x8D}  # to the register in ModRM.reg
_STORES = {0x01, 0x09, 0x21, 0x29, 0x31, 0x89}  # to ModRM.rm, which must be a register


def place(code: bytes, machine: str | None = None) -> int:
    """The offset, from the entry, of the instruction to probe; 0 is the entry itself.

    code: the bytes of the function, as many as are known (more guard better
    against a loop back into its first instructions).
    """
    if (machine or os.uname().machine) != "x86_64":
        return 0
    at = 0
    while at < min(len(code), _LOOK):
        if _emulated(code, at):
            return at if not at or not _jumped_into(code, at) else 0
        length = _harmless(code, at)
        if not length:
            return 0
        at += length
    return 0


def jumps(code: bytes, machine: str | None = None) -> int | None:
    """Where a function goes, from its entry, that is nothing but a jump; None for any other.

    Known of x86-64 and arm64.
    """
    machine = machine or os.uname().machine
    at = 4 if code[:4] == _LANDING.get(machine) else 0
    if machine == "x86_64" and code[at : at + 1] == b"\xe9":
        return at + 5 + int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
    word = int.from_bytes(code[at : at + 4], "little")
    if machine == "aarch64" and word & 0xFC000000 == 0x14000000:  # b, in words of 4 bytes
        return at + 4 * ((word & 0x3FFFFFF ^ 0x2000000) - 0x2000000)
    return None


def _emulated(code: bytes, at: int) -> bool:
    byte = code[at]
    if byte == 0x41:  # REX.B of a push of r8 to r15
        return 0x50 <= code[at + 1 : at + 2].ljust(1)[0] <= 0x57
    if byte == 0x0F:
        return 0x80 <= code[at + 1 : at + 2].ljust(1, b"\0")[0] <= 0x8F
    return 0x50 <= byte <= 0x57 or 0x70 <= byte <= 0x7F or byte in (0x90, 0xE8, 0xE9, 0xEB)


def _harmless(code: bytes, at: int) -> int:
    """The length of an instruction that changes only flags and a register that no probe reads.

    0 for others.  Probes read the first three arguments.
    """
    code = code[at:] + bytes(16)
    if code[:4] == b"\xf3\x0f\x1e\xfa":  # endbr64
        return 4
    try:
        size = length(code)
    except ValueError:
        return 0
    at = int(code[0] == 0x64)  # a load relative to fs: thread-local
    rex = 0
    if code[at] & 0xF0 == 0x40:
        rex, at = code[at], at + 1
    opcode, modrm = code[at], code[at + 1]
    if 0xB8 <= opcode <= 0xBF:  # mov imm, register
        return size if _free(opcode & 7 | (rex & 1) << 3) else 0
    if opcode == 0x0F:
        if modrm not in (0xB6, 0xB7, 0xBE, 0xBF):  # movzx, movsx
            return 0
        opcode, modrm = 0x8B, code[at + 2]
    if opcode in (0x25, 0x3D, 0xA9, 0x0D):  # and, cmp, test, or eax, imm32
        return size
    mode, extension = modrm >> 6, modrm >> 3 & 7
    register, operand = extension | (rex & 4) << 1, modrm & 7 | (rex & 1) << 3
    # cmp and test with a constant
    compares = (opcode in (0x80, 0x81, 0x83) and extension == 7) or (
        opcode in (0xF6, 0xF7) and extension == 0
    )
    if opcode in _READS or compares:
        return size
    if opcode in _LOADS:
        return size if _free(register) else 0
    if mode == 3 and (opcode in _STORES or opcode in (0x80, 0x81, 0x83, 0xC1)):
        return size if _free(operand) else 0
    return 0


def _free(register: int) -> bool:
    return register not in _ARGUMENTS and register != _STACK


def _jumped_into(code: bytes, place_at: int) -> bool:
    """True when a jump in the function may lead behind its entry and up to the place.

    Such a turn would count twice.
    """
    for at in range(len(code) - 1):
        byte = code[at]
        if byte == 0xEB or 0x70 <= byte <= 0x7F:
            target = at + 2 + int.from_bytes(code[at + 1 : at + 2], "little", signed=True)
        elif byte in (0xE9, 0xE8) or byte == 0x0F and 0x80 <= code[at + 1] <= 0x8F:
            skip = 1 if byte != 0x0F else 2
            target = (
                at
                + skip
                + 4
                + int.from_bytes(code[at + skip : at + skip + 4], "little", signed=True)
            )
        else:
            continue
        if 0 < target <= place_at:
            return True
    return False
