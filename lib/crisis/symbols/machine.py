# SPDX-License-Identifier: GPL-2.0-or-later
"""What the psABIs of AMD64 and AArch64 (aadwarf64) define that unwinding needs."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["WORD", "Machine", "X86_64", "AARCH64", "MACHINE"]

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
