# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files with call frame information, made by hand."""

import struct

from crisis.kernel.maps import Mapping
from crisis.symbols import elf
from crisis.symbols.eh_frame import Table
from crisis.symbols.machine import AARCH64, X86_64
from crisis.symbols.unwind import AddressSpace

REGISTERS = {
    X86_64: {
        name: number
        for number, name in enumerate(["rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp"])
    },
    AARCH64: dict({f"x{i}": i for i in range(30)}, ra=30, sp=31),
}
REGISTERS[X86_64].update({f"r{i}": i for i in range(8, 16)}, ra=16)
BASE, CODE, HEADER, FRAMES, SIZE = 0x400000, 0x1000, 0x100, 0x400, 0x2000
LOADED = 0x7F1200000000  # where a process has the file
JIT = LOADED + (1 << 24)  # and code without a file


def reader(data):
    return lambda length, offset: bytes(data[offset : offset + length])


def table_of(data, machine=X86_64):
    return Table(elf.Elf(data), reader(data), machine)


def uleb(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def sleb(value):
    out = b""
    while not -64 <= value < 64:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value & 127])


def encoded(encoding, value, place):
    """An encoded pointer at a virtual address."""
    value -= place if encoding & 0x70 == 0x10 else 0
    if encoding & 15 in (1, 9):
        return (uleb if encoding & 15 == 1 else sleb)(value)
    return struct.pack(
        {0: "=Q", 2: "=H", 3: "=I", 4: "=Q", 10: "=h", 11: "=i", 12: "=q"}[encoding & 15], value
    )


class Image:
    """An ELF file with .eh_frame_hdr, .eh_frame and code.

    functions: [(offset in the code, size, instructions)]; cie: its instructions;
    header: whether it has a search table, or only the section .eh_frame; link: the column of the
      return address.
    """

    def __init__(
        self,
        functions,
        cie=None,
        machine=X86_64,
        encoding=0x1B,
        augmentation=b"zR",
        size=SIZE,
        header=True,
        link=None,
    ):
        self.data = data = bytearray(size)
        struct.pack_into(
            "=4sBBBB8xHHIQQQIHHHHHH",
            data,
            0,
            b"\x7fELF",
            2,
            1,
            1,
            0,
            3,
            machine.elf,
            1,
            0,
            64,
            0,
            0,
            64,
            56,
            2,
            0,
            0,
            0,
        )
        struct.pack_into("=IIQQQQQQ", data, 64, 1, 5, 0, BASE, BASE, size, size, 4096)
        struct.pack_into(
            "=IIQQQQQQ", data, 120, 0x6474E550, 4, HEADER, BASE + HEADER, BASE + HEADER, 64, 64, 4
        )
        self.at, self.cie = FRAMES if size == SIZE else SIZE, None
        if cie is None:  # the state after a call
            cie = b"\x0c\x1f\x00" if machine.lr else b"\x0c\x07\x08\x90\x01"
        more = b""
        for letter in augmentation[1:].decode():
            more += {"R": bytes([encoding]), "P": b"\x9b\0\0\0\0", "L": b"\x1b"}.get(letter, b"")
        head = (
            b"\x01"
            + augmentation
            + b"\0"
            + uleb(1)
            + sleb(-8)
            + uleb(machine.link if link is None else link)
        )
        self.cie = self.entry(0, head + (uleb(len(more)) + more if augmentation else b"") + cie)
        self.fdes = []
        for start, length, instructions in functions:
            place = BASE + self.at + 8
            pointer = encoded(encoding, BASE + CODE + start, place)
            self.fdes.append(
                (
                    start,
                    self.entry(
                        self.at + 4 - self.cie,
                        pointer
                        + encoded(encoding & 15, length, 0)
                        + (b"\0" if augmentation else b"")
                        + instructions,
                    ),
                )
            )
        if header:
            self.header([(CODE + start - HEADER, at - HEADER) for start, at in sorted(self.fdes)])
        else:
            self.section()

    def entry(self, mark, body):
        """Append a CIE or FDE; returns its offset."""
        at, body = self.at, body + b"\0" * (-len(body) % 4)
        struct.pack_into("=II", self.data, at, len(body) + 4, mark)
        self.data[at + 8 : at + 8 + len(body)] = body
        self.at += 8 + len(body)
        return at

    def section(self):
        """Have the section .eh_frame and its name, and no program header PT_GNU_EH_FRAME."""
        names = b"\0.eh_frame\0"
        self.data[HEADER : HEADER + len(names)] = names
        struct.pack_into(
            "=IIQQQQIIQQ", self.data, HEADER + 128, 1, 1, 2, 0, FRAMES, self.at - FRAMES, 0, 0, 8, 0
        )
        struct.pack_into(
            "=IIQQQQIIQQ", self.data, HEADER + 192, 0, 3, 0, 0, HEADER, len(names), 0, 0, 1, 0
        )
        struct.pack_into("=Q", self.data, 40, HEADER + 64)
        struct.pack_into("=HHH", self.data, 58, 64, 3, 2)
        struct.pack_into("=I", self.data, 120, 0)

    def header(self, pairs, count=None):
        struct.pack_into(
            "=4BiI",
            self.data,
            HEADER,
            1,
            0x1B,
            3,
            0x3B,
            FRAMES - HEADER - 4,
            len(pairs) if count is None else count,
        )
        for i, pair in enumerate(pairs):
            struct.pack_into("=ii", self.data, HEADER + 12 + 8 * i, *pair)

    def table(self, machine=X86_64):
        return table_of(self.data, machine)

    def space(self, machine=X86_64, extra=()):
        """A process that has it, and 64 KB of code without a file 16 MB behind."""
        table = self.table(machine)
        space = AddressSpace(lambda identity: table if identity == "id" else None)
        space.update(
            [
                Mapping(LOADED, LOADED + len(self.data), True, 0, "id", "/file"),
                Mapping(JIT, JIT + 65536, True, 0, "", ""),
                Mapping(LOADED + (1 << 28), LOADED + (1 << 29), False, 0, "id", "/file"),
                *extra,
            ]
        )
        return space


def shown(rules, machine=X86_64):
    """Rules as readelf writes them: the CFA, and {register: text}."""
    names = {number: name for name, number in REGISTERS[machine].items()}
    texts = {
        "offset": "c%+d",
        "val_offset": "v%+d",
        "undefined": "u",
        "same_value": "s",
        "expression": "exp",
        "val_expression": "vexp",
    }
    found = {}
    for register, rule in rules.registers.items():
        text = names[rule.value] if rule.kind == "register" else texts[rule.kind]
        found[names.get(register, register)] = text % rule.value if "%" in text else text
    return "exp" if rules.register is None else f"{names[rules.register]}{rules.offset:+d}", found


# (name, instructions behind those of a call, {bytes from the function's start: (CFA, rules)})
RA = {"ra": "c-8"}
PROGRAMS = [
    (
        "frame pointer",
        b"\x41\x0e\x10\x86\x02\x43\x0d\x06\x4a\x0c\x07\x08\xc6",
        {
            0: ("rsp+8", RA),
            1: ("rsp+16", dict(RA, rbp="c-16")),
            3: ("rsp+16", dict(RA, rbp="c-16")),
            4: ("rbp+16", dict(RA, rbp="c-16")),
            13: ("rbp+16", dict(RA, rbp="c-16")),
            14: ("rsp+8", RA),
            99: ("rsp+8", RA),
        },
    ),
    (
        "remember and restore",
        b"\x41\x0e\x10\x83\x02\x45\x0a\x0e\x08\xc3\x42\x0b\x50\x0e\x30",
        {
            1: ("rsp+16", dict(RA, rbx="c-16")),
            6: ("rsp+8", RA),
            7: ("rsp+8", RA),
            8: ("rsp+16", dict(RA, rbx="c-16")),
            24: ("rsp+48", dict(RA, rbx="c-16")),
        },
    ),
    (
        "advance by 1, 2 and 4 bytes",
        b"\x02\x10\x0e\x10\x03\x40\x00\x0e\x18\x04\x10\x00\x00\x00\x0e\x20",
        {
            15: ("rsp+8", RA),
            16: ("rsp+16", RA),
            79: ("rsp+16", RA),
            80: ("rsp+24", RA),
            96: ("rsp+32", RA),
        },
    ),
    (
        "signed, factored offsets",
        b"\x12\x06\x7e\x11\x03\x7f\x13\x7c",
        {0: ("rbp+32", dict(RA, rbx="c+8"))},
    ),
    (
        "extended registers",
        b"\x05\x0c\x03\x05\x0d\x04\x06\x0d\x2f\x0e\x02",
        {0: ("rsp+8", dict(RA, r12="c-24", r14="c+16"))},
    ),
    ("values", b"\x14\x03\x02\x15\x06\x7f", {0: ("rsp+8", dict(RA, rbx="v-16", rbp="v+8"))}),
    (
        "other rules",
        b"\x07\x0c\x08\x0d\x09\x10\x05",
        {0: ("rsp+8", {"ra": "rdi", "r12": "u", "r13": "s"})},
    ),
    (
        "expressions",
        b"\x0f\x03\x76\x78\x06\x10\x06\x02\x76\x00\x16\x03\x01\x30",
        {0: ("exp", dict(RA, rbp="exp", rbx="vexp"))},
    ),
    ("no change", b"\x2e\x90\x01\0\x41\0\x0e\x10", {0: ("rsp+8", RA), 1: ("rsp+16", RA)}),
    (
        "a large offset",
        b"\x0e\x88\x80\x04\x83\xff\x7f",
        {0: ("rsp+65544", dict(RA, rbx="c-131064"))},
    ),
    ("vector registers", b"\x05\x41\x02", {0: ("rsp+8", RA)}),
]
FRAME = b"\x0e\x20\x83\x02\x86\x03"  # of 32 bytes; saves rbx and rbp
