# SPDX-License-Identifier: GPL-2.0-or-later
"""The unwinder: call frame programs by hand, whole files against readelf, stacks against gdb, hostile tables."""

import json
import os
import random
import re
import shutil
import struct
import subprocess
import time

import pytest

from crisis import stacks, unwind
from crisis.unwind import AARCH64, X86_64, AddressSpace, End, Table
from helpers import ROOT, SLOW

TRIES = int(os.environ.get("CRISIS_TRIES", "2000"))
NATIVE = os.uname().machine == "x86_64"
REGISTERS = {
    X86_64: {name: i for i, name in enumerate("rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 ra".split())},
    AARCH64: dict({"x%d" % i: i for i in range(30)}, ra=30, sp=31),
}


def needs(*programs):
    """Skip the test where one of these is not installed."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip("%s is not installed" % program)


def reader(data):
    return lambda length, offset: bytes(data[offset:offset + length])


def table_of(data, machine=X86_64):
    return Table(stacks.Elf(reader(data)), reader(data), machine)


def file_table(path, machine=unwind.MACHINE):
    with open(path, "rb") as f:
        return table_of(f.read(), machine)


# Files made by hand

BASE, CODE, HEADER, FRAMES, SIZE = 0x400000, 0x1000, 0x100, 0x400, 0x2000
LOADED = 0x7f1200000000         # where a process has the file


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
    return struct.pack({0: "=Q", 2: "=H", 3: "=I", 4: "=Q", 10: "=h", 11: "=i", 12: "=q"}[encoding & 15], value)


class Image:
    """An ELF file with .eh_frame_hdr, .eh_frame and code.

    functions: [(offset in the code, size, instructions)]; cie: its instructions.
    """

    def __init__(self, functions, cie=None, machine=X86_64, encoding=0x1b, augmentation=b"zR", version=1, size=SIZE):
        self.data = data = bytearray(size)
        struct.pack_into("=4sBBBB8xHHIQQQIHHHHHH", data, 0, b"\x7fELF", 2, 1, 1, 0, 3, machine.elf, 1, 0, 64, 0, 0, 64,
                         56, 2, 0, 0, 0)
        struct.pack_into("=IIQQQQQQ", data, 64, 1, 5, 0, BASE, BASE, size, size, 4096)
        struct.pack_into("=IIQQQQQQ", data, 120, 0x6474e550, 4, HEADER, BASE + HEADER, BASE + HEADER, 64, 64, 4)
        self.at, self.cie = FRAMES if size == SIZE else SIZE, None
        if cie is None:                         # the state after a call
            cie = b"\x0c\x1f\x00" if machine.lr else b"\x0c\x07\x08\x90\x01"
        more = b""
        for letter in augmentation[1:].decode():
            more += {"R": bytes([encoding]), "P": b"\x9b\0\0\0\0", "L": b"\x1b"}.get(letter, b"")
        head = bytes([version]) + augmentation + b"\0" + uleb(1) + sleb(-8) + uleb(machine.link)
        self.cie = self.entry(0, head + (uleb(len(more)) + more if augmentation else b"") + cie)
        self.fdes = []
        for start, length, instructions in functions:
            place = BASE + self.at + 8
            pointer = encoded(encoding, BASE + CODE + start, place)
            self.fdes.append((start, self.entry(self.at + 4 - self.cie, pointer + encoded(encoding & 15, length, 0) +
                                                (b"\0" if augmentation else b"") + instructions)))
        self.header([(CODE + start - HEADER, at - HEADER) for start, at in sorted(self.fdes)])

    def entry(self, mark, body):
        """Append a CIE or FDE; returns its offset."""
        at, body = self.at, body + b"\0" * (-len(body) % 4)
        struct.pack_into("=II", self.data, at, len(body) + 4, mark)
        self.data[at + 8:at + 8 + len(body)] = body
        self.at += 8 + len(body)
        return at

    def header(self, pairs, count=None):
        struct.pack_into("=4BiI", self.data, HEADER, 1, 0x1b, 3, 0x3b, FRAMES - HEADER - 4,
                         len(pairs) if count is None else count)
        for i, pair in enumerate(pairs):
            struct.pack_into("=ii", self.data, HEADER + 12 + 8 * i, *pair)

    def table(self, machine=X86_64):
        return table_of(self.data, machine)

    def space(self, machine=X86_64, extra=()):
        """A process that has it, and 64 KB of code without a file 16 MB behind."""
        table = self.table(machine)
        space = AddressSpace(lambda identity: table if identity == "id" else None)
        space.update([(LOADED, LOADED + len(self.data), True, 0, "id", "/file"), (JIT, JIT + 65536, True, 0, "", ""),
                      (LOADED + (1 << 28), LOADED + (1 << 29), False, 0, "id", "/file"), *extra])
        return space


def shown(rules, machine=X86_64):
    """Rules as readelf writes them: the CFA, and {register: text}."""
    names = {number: name for name, number in REGISTERS[machine].items()}
    texts = {"offset": "c%+d", "val_offset": "v%+d", "undefined": "u", "same_value": "s", "expression": "exp",
             "val_expression": "vexp"}
    found = {}
    for register, rule in rules.registers.items():
        text = names[rule.value] if rule.kind == "register" else texts[rule.kind]
        found[names.get(register, register)] = text % rule.value if "%" in text else text
    return "exp" if rules.register is None else "%s%+d" % (names[rules.register], rules.offset), found


RA = {"ra": "c-8"}
PROGRAMS = [
    ("frame pointer", b"\x41\x0e\x10\x86\x02\x43\x0d\x06\x4a\x0c\x07\x08\xc6",
     {0: ("rsp+8", RA), 1: ("rsp+16", dict(RA, rbp="c-16")), 3: ("rsp+16", dict(RA, rbp="c-16")),
      4: ("rbp+16", dict(RA, rbp="c-16")), 13: ("rbp+16", dict(RA, rbp="c-16")), 14: ("rsp+8", RA), 99: ("rsp+8", RA)}),
    ("remember and restore", b"\x41\x0e\x10\x83\x02\x45\x0a\x0e\x08\xc3\x42\x0b\x50\x0e\x30",
     {1: ("rsp+16", dict(RA, rbx="c-16")), 6: ("rsp+8", RA), 7: ("rsp+8", RA), 8: ("rsp+16", dict(RA, rbx="c-16")),
      24: ("rsp+48", dict(RA, rbx="c-16"))}),
    ("advance by 1, 2 and 4 bytes", b"\x02\x10\x0e\x10\x03\x40\x00\x0e\x18\x04\x10\x00\x00\x00\x0e\x20",
     {15: ("rsp+8", RA), 16: ("rsp+16", RA), 79: ("rsp+16", RA), 80: ("rsp+24", RA), 96: ("rsp+32", RA)}),
    ("signed, factored offsets", b"\x12\x06\x7e\x11\x03\x7f\x13\x7c", {0: ("rbp+32", dict(RA, rbx="c+8"))}),
    ("extended registers", b"\x05\x0c\x03\x05\x0d\x04\x06\x0d\x2f\x0e\x02", {0: ("rsp+8", dict(RA, r12="c-24", r14="c+16"))}),
    ("values", b"\x14\x03\x02\x15\x06\x7f", {0: ("rsp+8", dict(RA, rbx="v-16", rbp="v+8"))}),
    ("other rules", b"\x07\x0c\x08\x0d\x09\x10\x05", {0: ("rsp+8", {"ra": "rdi", "r12": "u", "r13": "s"})}),
    ("expressions", b"\x0f\x03\x76\x78\x06\x10\x06\x02\x76\x00\x16\x03\x01\x30",
     {0: ("exp", dict(RA, rbp="exp", rbx="vexp"))}),
    ("no change", b"\x2e\x90\x01\0\x41\0\x0e\x10", {0: ("rsp+8", RA), 1: ("rsp+16", RA)}),
    ("a large offset", b"\x0e\x88\x80\x04\x83\xff\x7f", {0: ("rsp+65544", dict(RA, rbx="c-131064"))}),
    ("vector registers", b"\x05\x41\x02", {0: ("rsp+8", RA)}),
]


@pytest.mark.parametrize("instructions,places", [row[1:] for row in PROGRAMS], ids=[row[0] for row in PROGRAMS])
def test_programs(instructions, places):
    table = Image([(0x10, 0x100, instructions)]).table()
    found = {at: shown(table.rules(BASE + CODE + 0x10 + at)) for at in places}
    assert found == {at: (cfa, dict(registers)) for at, (cfa, registers) in places.items()}
    assert table.rules(BASE + CODE + 0x0f) is None and table.rules(BASE + CODE + 0x110) is None


def test_set_loc():
    image = Image([(0, 0x100, b"")])
    place = BASE + image.at + 17 + 1
    image = Image([(0, 0x100, b""), (0x200, 0x100, b"\x01" + encoded(0x1b, BASE + CODE + 0x240, place) + b"\x0e\x20")])
    assert [shown(image.table().rules(BASE + CODE + at))[0] for at in (0x200, 0x23f, 0x240)] == ["rsp+8", "rsp+8", "rsp+32"]


@pytest.mark.parametrize("encoding", [0x00, 0x03, 0x04, 0x0b, 0x0c, 0x1b, 0x1c, 0x01, 0x09, 0x19])
@pytest.mark.parametrize("augmentation", [b"zR", b"zPLR", b"zRS", b"zPLRS", b"zRB", b""])
def test_encodings(encoding, augmentation):
    if not augmentation and encoding:
        return                                  # without augmentation pointers are absolute
    image = Image([(0x20, 0x30, b"\x48\x0e\x18"), (0x80, 0x10, b"")], encoding=encoding, augmentation=augmentation)
    rules = image.table().rules(BASE + CODE + 0x2a)
    assert shown(rules) == ("rsp+24", RA) and rules.signal == (b"S" in augmentation)
    assert image.table().rules(BASE + CODE + 0x50) is None and image.table().rules(BASE + CODE + 0x8f)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_search(count):
    """Every address finds its own function, and none in the gaps."""
    table = Image([(i * 16, 12, b"\x0e" + uleb(8 * i + 8)) for i in range(count)], size=1 << 14).table()
    assert len(table) == count
    for at in range(-1, count * 16 + 1):
        rules = table.rules(BASE + CODE + at)
        inside = 0 <= at < count * 16 and at % 16 < 12
        assert (rules.offset if rules else None) == (at // 16 * 8 + 8 if inside else None), at


def test_expressions():
    """Each operation, by values from DWARF 5, 2.5.1."""
    def result(text, initial=None):
        return unwind.evaluate(bytes.fromhex(text), initial, lambda r: 1000 * r, lambda a: a + 5)
    assert result("77 08") == 7008 and result("77 78") == 6992 and result("77 08 06") == 7013
    assert result("23 10", 32) == 48 and result("35 33 1c") == 2 and result("35 33 1e") == 15 and result("33 35 1c") == 2 ** 64 - 2
    assert result("35 33 1a") == 1 and result("35 33 21") == 7 and result("35 33 27") == 6 and result("35 33 22") == 8
    assert result("35 33 24") == 40 and result("35 31 25") == 2
    assert [result("35 33 %x" % op) for op in (0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e)] == [0, 1, 1, 0, 0, 1]
    assert [result("09 ff 33 %x" % op) for op in (0x2a, 0x2d)] == [0, 1]            # -1 and 3
    assert result("08 ff") == 255 and result("09 ff") == 2 ** 64 - 1 and result("0a 01 02") == 513
    assert result("0b fe ff") == 2 ** 64 - 2 and result("0c 01 00 00 80") == 0x80000001
    assert result("0d 00 00 00 80") == 2 ** 64 - 2 ** 31 and result("0e" + "ff" * 8) == 2 ** 64 - 1
    assert result("0f" + "ff" * 8) == 2 ** 64 - 1 and result("10 80 01") == 128 and result("11 80 7f") == 2 ** 64 - 128
    # A PLT entry's: 8 bytes more behind its push.
    plt = "77 08 80 00 3f 1a 3b 2a 33 24 22"
    for ip, cfa in (0x1020, 108), (0x102a, 108), (0x102b, 116), (0x102f, 116):
        assert unwind.evaluate(bytes.fromhex(plt), None, {7: 100, 16: ip}.get, None) == cfa
    for wrong in "", "06", "22", "31 22", "12 00", "2f 00 00", "97", "77", "08", "0e 00", "77 " + "80 " * 11 + "00", "31 " * 65:
        with pytest.raises(ValueError):
            result(wrong)


# Stacks made by hand

JIT = LOADED + (1 << 24)
SP = 0x7ffd00001000


def stack(words, size=4096):
    """A copy of a stack: {offset from the stack pointer: word}."""
    data = bytearray(size)
    for at, word in words.items():
        struct.pack_into("=Q", data, at, word)
    return bytes(data)


def at(offset):
    return LOADED + CODE + offset


FRAME = b"\x0e\x20\x83\x02\x86\x03"             # of 32 bytes; saves rbx and rbp
FUNCTIONS = [(0, 0x20, FRAME), (0x20, 0x20, b"\x0c\x03\x10"), (0x40, 0x20, b"\x0c\x06\x10\x86\x02"), (0x60, 0x20, b"\x07\x10")]


def walk(space, ip, words, saved=(0,) * 6, **options):
    return unwind.unwind(space, ip, SP, saved, stack(words), machine=X86_64, **options)


def test_walk():
    """A frame by the stack pointer, by a register that the one before has saved, by the frame pointer; the outermost."""
    words = {24: at(0x25), 16: SP + 48, 8: SP + 256, 48 + 8: at(0x45), 256: 1, 264: at(0x65)}
    found = walk(Image(FUNCTIONS).space(), at(5), words)
    assert found == ((at(5), at(0x25), at(0x45), at(0x65)), End.OUTERMOST)


def test_walk_through_code_without_information():
    """Code compiled at run time keeps frame pointers: frames of it are between those of a file."""
    words = {24: JIT + 0x10, 8: SP + 64, 64: SP + 128, 72: JIT + 0x20, 128: SP + 512, 136: at(0x45), 512: 1, 520: at(0x65)}
    found = walk(Image(FUNCTIONS).space(), at(5), words)
    assert found == ((at(5), JIT + 0x10, JIT + 0x20, at(0x45), at(0x65)), End.OUTERMOST)
    words[72] = 0
    assert walk(Image(FUNCTIONS).space(), at(5), words) == ((at(5), JIT + 0x10), End.OUTERMOST)
    # What such code has done to other registers is not known.
    words[72] = at(0x25)
    assert walk(Image(FUNCTIONS).space(), at(5), words) == ((at(5), JIT + 0x10, at(0x25)), End.NO_REGISTER)


def test_first_address():
    """The instruction pointer at a probe is exact, a return address is that of the instruction behind the call."""
    functions = [(0, 0x20, FRAME), (0x20, 0x20, b""), (0x60, 0x20, b"\x07\x10")]
    words = {24: at(0x65), 0: at(0x61)}
    assert walk(Image(functions).space(), at(0x20), words).addresses == (at(0x20), at(0x65))
    assert walk(Image(functions).space(), at(0x20), words, call=False).addresses == (at(0x20), at(0x61))


def test_signal_frame():
    """The interrupted instruction may be the first of its function; registers come from the signal's frame."""
    functions = Image([(0, 0x20, b"\x0e\x10"), (0x80, 0x40, FRAME), (0xc0, 0x20, b""), (0x60, 0x20, b"\x07\x10")]).table()
    # The stack pointer is 160 bytes above, the instruction pointer 40, rbx 32.
    signal = Image([(0x20, 0x20, b"\x0f\x04\x77\xa0\x01\x06" b"\x10\x07\x03\x77\xa0\x01" b"\x10\x10\x02\x77\x28"
                                 b"\x10\x03\x02\x77\x20")], augmentation=b"zRS").table()
    space = AddressSpace(lambda identity: {"id": functions, "other": signal}[identity])
    other = LOADED + (1 << 20)
    space.update([(LOADED, LOADED + SIZE, True, 0, "id", "/file"), (other, other + SIZE, True, 0, "other", "/other")])
    words = {8: other + CODE + 0x25, 16 + 160: SP + 512, 16 + 40: at(0xc0), 16 + 32: 7, 512: at(0x65)}
    assert walk(space, at(5), words) == ((at(5), other + CODE + 0x25, at(0xc0), at(0x65)), End.OUTERMOST)
    words[16 + 160] = SP + (1 << 30)            # a signal stack: what it has interrupted is on another
    assert walk(space, at(5), words) == ((at(5), other + CODE + 0x25, at(0xc0)), End.SHORT)


UPROBES = LOADED + (1 << 30)


@pytest.mark.parametrize("words,why,count", [
    ({24: 0x1234}, End.NO_CODE, 1),
    ({24: LOADED + (1 << 28)}, End.NO_CODE, 1),                     # mapped, but not executable
    ({24: at(0x85)}, End.NO_TABLE, 2),                              # no function, and rbp is 0
    ({24: at(0x85), 8: SP + 33}, End.NO_TABLE, 2),
    ({24: at(0x85), 8: SP + 24}, End.NO_TABLE, 2),                  # a frame pointer below its frame
    ({24: at(0x85), 8: SP + 4088}, End.NO_TABLE, 2),
    ({24: at(0x45), 8: SP + 4088}, End.SHORT, 2),
    ({24: at(0x45), 8: SP + (1 << 40)}, End.SHORT, 2),
    ({24: at(0x45), 8: (1 << 64) - 8}, End.SHORT, 2),
    ({24: at(0x45), 8: SP + 65}, End.BAD_TABLE, 2),                 # a CFA that is not aligned
    ({24: at(0x45), 8: SP}, End.BAD_TABLE, 2),                      # one below the frame
    ({24: UPROBES + 5}, End.RETURN_PROBE, 1),
    ({24: 0}, End.OUTERMOST, 1),
])
def test_ends(words, why, count):
    space = Image(FUNCTIONS).space(extra=[(UPROBES, UPROBES + 4096, True, 0, ("00:00", 0), "[uprobes]")])
    found = walk(space, at(5), words)
    assert (found.end, len(found.addresses), found.addresses[0]) == (why, count, at(5))


def test_where_the_copy_ends():
    space = Image(FUNCTIONS).space()
    for size in range(0, 40):
        found = unwind.unwind(space, at(5), SP, (0,) * 6, stack({24: at(0x65)})[:size], machine=X86_64)
        assert found == ((at(5), at(0x65)), End.OUTERMOST) if size >= 32 else ((at(5),), End.SHORT)
    # Registers below the copy: nothing writes there that lasts.
    space = Image([(0, 0x20, b"\x0e\x08\x83\x03"), (0x60, 0x20, b"\x07\x10")]).space()
    assert walk(space, at(5), {0: at(0x65)}) == ((at(5),), End.SHORT)


def test_depth():
    space = Image([(0, 0x20, b"\x0e\x08"), (0x60, 0x20, b"\x07\x10")]).space()
    words = {8 * i: at(5) for i in range(512)}
    assert walk(space, at(5), words) == ((at(5),) * 127, End.DEPTH)
    assert walk(space, at(5), words, limit=3) == ((at(5),) * 3, End.DEPTH)
    words[8] = at(0x65)
    assert walk(space, at(5), words, limit=3) == ((at(5), at(5), at(0x65)), End.OUTERMOST)


def test_mappings_change():
    """What is known of an address is forgotten with its mapping."""
    first, second = Image(FUNCTIONS).table(), Image([(0, 0x20, b"\x0e\x10"), (0x60, 0x20, b"\x07\x10")]).table()
    space = AddressSpace({"a": first, "b": second}.get)
    words, rows = {24: at(0x65), 8: at(0x65)}, [LOADED, LOADED + SIZE, True, 0]
    space.update([(*rows, "a", "/a")])
    assert walk(space, at(5), words) == ((at(5), at(0x65)), End.OUTERMOST)
    words[24] = 5
    space.update([(*rows, "b", "/b")])
    assert walk(space, at(5), words) == ((at(5), at(0x65)), End.OUTERMOST)
    space.update([])
    assert walk(space, at(5), words) == ((at(5),), End.NO_CODE)
    space.update([(*rows, "c", "/c")])
    assert walk(space, at(5), words) == ((at(5),), End.NO_TABLE)


def test_parts_of_a_file():
    """A mapping need not begin at the file's start."""
    table = Image(FUNCTIONS).table()
    space = AddressSpace({"id": table}.get)
    space.update([(LOADED + 4096, LOADED + SIZE, True, 4096, "id", "/file")])
    assert walk(space, at(5), {24: at(0x65)}) == ((at(5), at(0x65)), End.OUTERMOST)


# arm64, by hand

ARM = [(0, 0x20, b"\x2d"), (0x20, 0x20, b"\x2d\x0e\x20\x9d\x04\x9e\x03"), (0x60, 0x20, b"\x07\x1e")]
MASK = unwind.address_mask(0xffffe8a21000)
CODED = 0x2a << 48              # a pointer authentication code


def arm_walk(words, x29=0, x30=at(0x28), ip=at(4), **options):
    saved = (0,) * 10 + (x29, x30)
    return unwind.unwind(Image(ARM, machine=AARCH64).space(AARCH64), ip, SP, saved, stack(words), machine=AARCH64,
                         mask=MASK, **options)


def test_arm64():
    """A leaf has its return address in the link register; signed ones are cut."""
    words = {0: SP + 64, 8: at(0x68) | CODED}
    assert arm_walk(words, x30=at(0x28) | CODED, call=False) == ((at(4), at(0x28), at(0x68)), End.OUTERMOST)
    words[8] = at(8)            # only the innermost frame can be a leaf
    assert arm_walk(words, call=False) == ((at(4), at(0x28), at(8)), End.BAD_TABLE)
    words[8] = at(0x28)
    words.update({32 + 8: at(0x68)})
    assert arm_walk(words, call=False) == ((at(4), at(0x28), at(0x28), at(0x68)), End.OUTERMOST)


def test_arm64_frame_records():
    """Behind a frame record the stack pointer is not known: the walk goes on by frame records."""
    words = {256: SP + 512, 264: at(0x28) | CODED, 512: SP + 1024, 520: at(0x68)}
    found = arm_walk(words, x29=SP + 256, ip=JIT + 8)
    assert found == ((JIT + 8, at(0x28), at(0x68)), End.OUTERMOST)
    words[512] = words[520] = 0
    assert arm_walk(words, x29=SP + 256, ip=JIT + 8) == ((JIT + 8, at(0x28)), End.OUTERMOST)


def test_address_mask():
    assert unwind.address_mask(0xffffe8a21000) == (1 << 48) - 1 and unwind.address_mask(0x7fe8a21000) == (1 << 39) - 1
    assert unwind.address_mask(0x1000) == (1 << 36) - 1


# Whole files

def interpreted(path, readelf="readelf", arguments=()):
    """{(first address, address behind): {address: (CFA, {register: rule})}} of each FDE, by readelf."""
    text = subprocess.run([readelf, "-W", "--debug-dump=frames-interp", *arguments, path], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env=dict(os.environ, LC_ALL="C"),
                          universal_newlines=True).stdout
    found, rows, columns = {}, None, ()
    for line in text.splitlines():
        head = re.search(r" FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)", line)
        fields = line.split()
        if head:
            rows = found.setdefault((int(head.group(1), 16), int(head.group(2), 16)), {})
        elif " CIE " in line or line.startswith("Contents of"):
            rows = None
        elif fields[:2] == ["LOC", "CFA"]:
            columns = fields[2:]
        elif rows is not None and len(fields) > 1 and re.fullmatch("[0-9a-f]{8,16}", fields[0]):
            # A register's number has its name behind it.
            rules = [field.strip("()") for field, after in zip(fields, fields[1:] + [""]) if not after.startswith("(")]
            rows[int(fields[0], 16)] = rules[1], dict(zip(columns, rules[2:]))
    assert found
    return found


def compare(path, machine, readelf="readelf", most=4000):
    """All FDEs of a file, and some thousand of their rows; returns how many."""
    needs(readelf)
    table, expected, wrong = file_table(path, machine), interpreted(path, readelf), []
    spans = [table.entry(table.search(table.start(i)))[1:3] for i in range(len(table))]
    assert sorted(spans) == sorted(expected)
    rows = [(location, row) for fde in expected.values() for location, row in fde.items()]
    step = max(1, len(rows) // most) if TRIES < 20000 else 1
    rows = rows[::step] + [row for row in rows if row[1][0] == "exp" or "exp" in row[1][1].values()]
    for location, (cfa, registers) in rows:
        found_cfa, found = shown(table.rules(location), machine)
        # readelf prints "u" for a register without a rule.
        own = {name: found.get(name, "u") for name in registers if name in REGISTERS[machine]}
        ours = {name: text for name, text in registers.items() if name in REGISTERS[machine]}
        if found_cfa != cfa or own != ours or set(found) - set(registers):
            wrong.append((hex(location), cfa, registers, found_cfa, found))
    assert not wrong, "%d of %d: %s" % (len(wrong), len(rows), wrong[:5])
    return len(rows), len(spans)


def installed(*names):
    """The first of these files that exists, or a skip."""
    for name in names:
        if os.path.exists(name):
            return os.path.realpath(name)
    pytest.skip("%s is not installed" % names[0])


LIBRARIES = "/usr/lib/%s-linux-gnu/" % os.uname().machine, "/usr/lib64/"


@pytest.mark.parametrize("names", [["libc.so.6"], ["libpython3.11.so.1.0", "/usr/bin/python3"], ["/usr/bin/git"],
                                   ["libcrypto.so.3"], ["libstdc++.so.6"]], ids=lambda names: os.path.basename(names[-1]))
def test_files(names):
    path = installed(*[os.path.join(directory, name) for name in names for directory in LIBRARIES])
    rows, functions = compare(path, unwind.MACHINE)
    assert rows > 1000 and functions > 500


def test_files_of_arm64():
    path = installed("/usr/aarch64-linux-gnu/lib/libc.so.6")
    rows, functions = compare(path, AARCH64, "aarch64-linux-gnu-readelf")
    assert rows > 1000 and functions > 500


# Stacks of programs

def mappings(text):
    """The rows of /proc/PID/maps, as stacks.mappings returns them."""
    found = []
    for row in text.splitlines():
        fields = row.split(None, 5)
        start, _, end = fields[0].partition("-")
        found.append((int(start, 16), int(end, 16), fields[1][2] == "x", int(fields[2], 16), (fields[3], int(fields[4])),
                      fields[5].strip() if len(fields) > 5 else ""))
    return found


class Process:
    """The address space of a program that has run, from its files.  files: {identity: (Elf, Table or None)}."""

    def __init__(self, machine):
        self.machine, self.files, self.paths, self.rows = machine, {}, {}, None
        self.space = AddressSpace(self.table)

    def table(self, identity):
        if identity not in self.files and identity in self.paths:
            with open(self.paths[identity], "rb") as f:
                data = f.read()
            elf = stacks.Elf(reader(data))
            try:
                self.files[identity] = elf, Table(elf, reader(data), self.machine)
            except ValueError:
                self.files[identity] = elf, None
        return self.files.get(identity, (None, None))[1]

    def update(self, rows):
        if rows != self.rows:
            self.rows = rows
            self.paths.update({row[4]: row[5] for row in rows if row[5].startswith("/")})
            self.space.update(rows)

    def is_code(self, address):
        return any(row[2] and row[0] <= address < row[1] for row in self.rows)

    def names(self, addresses, path, exact=()):
        """The functions, of those addresses that are in a file, by its full symbol table."""
        found = []
        for address in addresses:
            for start, end, _, offset, identity, name in self.rows:
                if start <= address - 1 < end and name == path:
                    elf = self.files[identity][0]
                    found.append(function(path, elf.address(address - 1 - start + offset)))
        return found


def function(path, address, cache={}):
    """The name of the function at a virtual address, by nm."""
    if path not in cache:
        rows = subprocess.run(["nm", "-n", path], stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout
        cache[path] = [(int(row[0], 16), row[2]) for row in map(str.split, rows.splitlines())
                       if len(row) == 3 and row[1] in "tTwW"]
    return [name for start, name in cache[path] if start <= address][-1]


def captured(command, path, machine):
    """What tests/fixtures/nested.c has written: the walk, its Process and the copy of the stack."""
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60 * SLOW).stdout
    head, size = struct.unpack_from("=16Q", raw), struct.unpack_from("=Q", raw, 16)[0]
    process = Process(machine)
    process.update(mappings(raw[128 + size:].decode()))
    highest = max(row[1] for row in process.rows if row[1] < 1 << 56)
    mask = unwind.address_mask(highest) if machine.lr and os.uname().machine == "aarch64" else (1 << 48) - 1
    copy = raw[128:128 + size]
    walked = unwind.unwind(process.space, head[0], head[1], head[3:3 + len(machine.saved)], copy, machine=machine, mask=mask)
    return walked, process, copy


NESTED = ["capture", "handler", "compare", "middle", "aligned", "outer", "main", "_start"]


def built(directory, compiler, *flags):
    needs(compiler, "nm")
    path = str(directory / "nested")
    subprocess.run([compiler, "-O2", *flags, "-o", path, os.path.join(ROOT, "tests/fixtures/nested.c")], check=True)
    return path


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("signal", [False, True])
def test_nested_calls(tmp_path, compiler, signal):
    """libc's qsort, a signal's frame, a realigned one, one of variable size, and the outermost."""
    path = built(tmp_path, compiler, "-fomit-frame-pointer")
    found, process, _ = captured([path, *["signal"] * signal], path, unwind.MACHINE)
    assert process.names(found.addresses, path) == NESTED and found.end is End.OUTERMOST
    assert len(found.addresses) >= len(NESTED) + 3 + 2 * signal


@pytest.mark.parametrize("flags", [(), ("-fomit-frame-pointer",), ("-mbranch-protection=standard",), ("-static",)], ids=str)
def test_nested_calls_of_arm64(tmp_path, flags):
    """The same under qemu-user, also with signed return addresses."""
    needs("aarch64-linux-gnu-gcc", "qemu-aarch64-static")
    path = built(tmp_path, "aarch64-linux-gnu-gcc", *flags)
    found, process, copy = captured(["qemu-aarch64-static", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu", path], path, AARCH64)
    assert [name for name in process.names(found.addresses, path) if name in NESTED] == NESTED
    assert found.end is End.OUTERMOST
    signed = [word for word in struct.unpack("=%dQ" % (len(copy) // 8), copy[:len(copy) // 8 * 8])
              if word & MASK in found.addresses and word >> 48]
    assert bool(signed) == ("-mbranch-protection=standard" in flags)


# Runs in gdb: stops at an instruction of libc's malloc, or where the program stops itself, and writes one JSON object a stop.
GDB = r"""
import gdb, json, os
for setting in ("pagination off", "backtrace past-main on", "backtrace past-entry on", "debuginfod enabled off",
                "breakpoint pending on", "confirm off"):
    try:
        gdb.execute("set " + setting)
    except gdb.error:
        pass
out, most, every = open(os.environ["STOPS"], "w"), int(os.environ["MOST"]), int(os.environ["EVERY"])
if every:
    gdb.execute("break __libc_start_main")
    gdb.execute("run")
    gdb.execute("delete")
    # Not the first instruction: a uprobe of others may be there.
    start = int(gdb.parse_and_eval("(long)&__libc_malloc"))
    gdb.execute("break *%d" % gdb.newest_frame().architecture().disassemble(start, count=2)[1]["addr"])
    gdb.execute("continue")
else:
    gdb.execute("handle SIGUSR1 nostop noprint pass")
    gdb.execute("run")
for _ in range(most):
    process = gdb.selected_inferior()
    if not process.pid:
        break
    frame = gdb.newest_frame()
    registers = {name: int(frame.read_register(name)) & (1 << 64) - 1
                 for name in ("rip", "rsp", "rbx", "rbp", "r12", "r13", "r14", "r15")}
    maps = open("/proc/%d/maps" % process.pid).read()
    sp = registers["rsp"]
    ends = [int(row.split()[0].split("-")[1], 16) for row in maps.splitlines()]
    end = min(end for end in ends if end > sp)
    chain = []
    while frame is not None and frame.is_valid():
        if frame.type() in (gdb.NORMAL_FRAME, gdb.SIGTRAMP_FRAME):       # tail calls and inlined ones have no frame
            chain.append(frame.pc())
        frame = frame.older()
    copy = process.read_memory(sp, min(16384, end - sp)).tobytes()
    out.write(json.dumps({"registers": registers, "stack": copy.hex(), "chain": chain, "maps": maps}) + "\n")
    gdb.execute("continue %d" % every if every else "continue")
out.close()
gdb.execute("kill")
"""


def stops(directory, command, most, every, **options):
    """[(walk, gdb's chain up to the first address that is no code)] of a program, for each stop, and the Process."""
    needs("gdb")
    if not NATIVE:
        pytest.skip("written for the registers of x86-64")
    script, results = directory / "stops.py", directory / "stops"
    script.write_text(GDB)
    env = dict(os.environ, STOPS=str(results), MOST=str(most), EVERY=str(every), LC_ALL="C", SHELL="/bin/sh")
    result = subprocess.run(["gdb", "-nx", "-q", "-batch", "-x", str(script), "--args", *command], env=env, timeout=120 * SLOW,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", **options)
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    if not rows:
        pytest.skip("gdb cannot run a program here, or has no Python: %s" % " ".join(result.stdout.split())[-300:])
    found, process = [], Process(X86_64)
    for row in rows:
        process.update(mappings(row["maps"]))
        registers = row["registers"]
        saved = [registers[name] for name in ("rbx", "rbp", "r12", "r13", "r14", "r15")]
        walked = unwind.unwind(process.space, registers["rip"], registers["rsp"], saved, bytes.fromhex(row["stack"]),
                               call=False, machine=X86_64)
        chain = row["chain"]
        good = [i == 0 or process.is_code(address - 1) for i, address in enumerate(chain)] + [False]
        found.append((walked, tuple(chain[:good.index(False)])))
    return found, process


def test_nested_calls_against_gdb(tmp_path):
    path = built(tmp_path, "gcc", "-fomit-frame-pointer")
    for arguments in ["stop"], ["signal", "stop"]:
        (found, *_), process = stops(tmp_path, [path, *arguments], 1, 0)
        walked, chain = found
        assert walked == (chain, End.OUTERMOST) and process.names(chain, path) == NESTED


@pytest.mark.parametrize("program,command,every,least", [
    ("dash", ["-c", "for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6; do eval \"x$i$j=foo$i\"; done; done; true | cat"], 1, 30),
    ("python3", ["-I", "-c", "import json, argparse"], 30, 40),
    ("git", ["init", "-q", "new"], 3, 40),
])
def test_stacks_against_gdb(tmp_path, program, command, every, least):
    """At malloc: each stack is gdb's, or, where the copy is too short, its beginning."""
    needs(program)
    found, _ = stops(tmp_path, ["/usr/bin/" + program, *command], 60, every, cwd=str(tmp_path))
    wrong = [(walked, chain) for walked, chain in found if walked.addresses != chain and
             not (walked.end is End.SHORT and walked.addresses == chain[:len(walked.addresses)])]
    assert len(found) >= least and not wrong, wrong[:2]
    assert sum(walked.end is End.OUTERMOST for walked, _ in found) >= .9 * len(found)


# Hostile files

def bad(image, offset=5, machine=X86_64):
    """The reason at a function of a file, and the seconds that it took."""
    begin = time.monotonic()
    try:
        table = image.table(machine)
    except ValueError:
        return None
    found = table.row(BASE + CODE + offset)
    assert time.monotonic() - begin < 2 * SLOW
    return found


@pytest.mark.parametrize("instructions", [
    b"\x0e" + b"\x80" * 9 + b"\x02", b"\x0e" + b"\x80" * 500 + b"\x01", b"\x41\x0e\xff",
    b"\x0a" * 40, b"\x0b", b"\x3f", b"\x1c", b"\x0f\x80\x80\x04", b"\x0f\x81\x02" + b"\x30" * 257, b"\x0f\x00", b"\x10\x03\x7f",
    b"\x0f\x01\x30\x0e\x10", b"\x0f\x01\x30\x0d\x06", b"\x04\x01", b"\x0a\x0b" * 8192 + b"\x00", b"\x07\x10\xd0\x40\x0f\x00",
], ids=lambda text: text[:12].hex())
def test_bad_programs(instructions):
    assert bad(Image([(0, 0x20, instructions)], size=SIZE if len(instructions) < 1024 else 1 << 17)) is End.BAD_TABLE


def test_bad_entries():
    def changed(place, form, *values):
        image = Image([(0, 0x20, b"\x0e\x10")])
        at = {"cie": image.cie, "fde": image.fdes[0][1], "header": HEADER, "program": 120}
        struct.pack_into(form, image.data, at[place[0]] + place[1], *values)
        return bad(image)
    for size in 0, 3, 1 << 15, 1 << 17, 0xfffffff0, 0xffffffff:
        assert changed(("fde", 0), "=I", size) is End.BAD_TABLE
        assert changed(("cie", 0), "=I", size) is End.BAD_TABLE
    for back in 0, 1, 1 << 20, 0xffffffff, 4:
        assert changed(("fde", 4), "=I", back) is End.BAD_TABLE
    assert changed(("cie", 4), "=I", 7) is End.BAD_TABLE                        # an FDE in the place of a CIE
    assert changed(("cie", 8), "=B", 9) is End.BAD_TABLE                        # version
    for augmentation in b"zX\0", b"x\0", b"eh\0", b"zRRRRRRRRRRRRRRRRRRRRRRR":
        assert changed(("cie", 9), "=%ds" % len(augmentation), augmentation) is End.BAD_TABLE
    assert changed(("cie", 14), "=B", 3) is End.BAD_TABLE                       # another return address
    for encoding in 0xff, 0x9b, 0x2b, 0x3b, 0x4b, 0x5b, 0x1d, 0x16:
        assert changed(("cie", 16), "=B", encoding) is End.BAD_TABLE
    for version, frames, count, table in (2, 0x1b, 3, 0x3b), (1, 0xff, 3, 0x3b), (1, 0x1b, 0xff, 0x3b), (1, 0x1b, 3, 0x1b), \
            (1, 0x1b, 3, 0xff), (1, 0x5b, 3, 0x3b):
        assert changed(("header", 0), "=4B", version, frames, count, table) is None
    assert changed(("header", 16), "=i", 1 << 30) is End.BAD_TABLE              # where the FDE is
    assert changed(("header", 16), "=i", -(1 << 30)) is End.BAD_TABLE
    assert changed(("header", 8), "=I", 0) is End.NO_TABLE
    assert changed(("header", 8), "=I", 0xffffffff) in (End.BAD_TABLE, End.NO_TABLE)
    assert changed(("program", 16), "=Q", 1 << 63) is None
    assert changed(("program", 0), "=I", 0) is None
    assert bad(Image([(0, 0x20, b"")], cie=b"\xc6")) is End.BAD_TABLE           # a CIE that restores
    assert bad(Image([(0, 0x20, b"")], cie=b"")) is End.BAD_TABLE               # no CFA, no return address
    with pytest.raises(ValueError):
        Image([(0, 0x20, b"")], machine=AARCH64).table(X86_64)


def test_a_file_that_cannot_be_read():
    """It may be cut, or its device fail, while it is in use."""
    image = Image(FUNCTIONS)
    elf = stacks.Elf(reader(image.data))

    def failing(length, offset):
        if offset >= FRAMES:
            raise OSError(5, "Input/output error")
        return bytes(image.data[offset:offset + length])
    assert Table(elf, failing, X86_64).row(BASE + CODE) is End.BAD_TABLE
    with pytest.raises(ValueError):
        Table(elf, lambda length, offset: failing(length, 1 << 20), X86_64)
    for size in range(0, SIZE, 37):
        try:
            assert Table(elf, lambda length, offset: bytes(image.data[:size][offset:offset + length]),
                         X86_64).row(BASE + CODE + 5) in (End.BAD_TABLE, image.table().row(BASE + CODE + 5))
        except ValueError:
            assert size < FRAMES


def test_time(monkeypatch):
    """Frame information that takes long ends the walk; a process's time is charged, and that of others is not."""
    slow = b"".join(b"\x05" + bytes([i]) + b"\x02" for i in range(17, 64)) + b"\x0a\x0b" * 8000 + b"\x0e\x08"
    image = Image([(i * 16, 16, slow) for i in range(40)], size=1 << 20)
    words = {8 * i - 8: at(i * 16 + 5) for i in range(1, 40)}
    space = image.space()
    begin = time.monotonic()
    found = walk(space, at(5), words)
    assert found.end is End.TIME and time.monotonic() - begin < 1 * SLOW
    assert space.rows                           # and the next walk begins with what this one has read
    monkeypatch.setattr(unwind, "_PROCESS_SECONDS", .01)
    space = image.space()
    assert walk(space, at(5), words).end is End.TIME
    begin = time.monotonic()
    assert walk(space, at(0x105), words) == ((at(0x105),), End.TIME) and time.monotonic() - begin < .01 * SLOW


def test_memory(monkeypatch):
    """Addresses without end do not fill the memory."""
    monkeypatch.setattr(unwind, "_MOST_ROWS", 100)
    image = Image(FUNCTIONS)
    space, table = image.space(), image.table()
    for i in range(1000):
        walk(space, at(i), {})
        table.row(BASE + CODE + i)
        assert len(space.rows) <= 100 and len(table._rows) <= 100


def mutated(random_, data, places):
    """Change some bytes of some of these places: [(first, behind)]; returns what undoes it."""
    undo = []
    for _ in range(random_.choice((1, 1, 2, 5, 20))):
        first, behind = random_.choice(places)
        at = random_.randrange(first, behind - 8)
        new = random_.choice((
            lambda: bytes([random_.randrange(256)]), lambda: bytes([data[at] ^ 1 << random_.randrange(8)]),
            lambda: struct.pack("=I", random_.choice((0, 1, 0x7fffffff, 0x80000000, 0xffffffff, random_.getrandbits(32)))),
            lambda: b"\x80" * 8, lambda: b"\xff" * 8, lambda: bytes(random_.choice((0x0a, 0x0b, 0x0f, 0x10, 0x16, 0x2e, 0x01))
                                                                   for _ in range(random_.randrange(1, 8)))))()
        undo.append((at, bytes(data[at:at + len(new)])))
        data[at:at + len(new)] = new
    return undo


def everything(image):
    """A file with all kinds of instructions, and where its tables are."""
    programs = [text for _, text, _ in PROGRAMS] + [FRAME, b"\x07\x10", b"\x0c\x06\x10\x86\x02"]
    made = Image([(i * 32, 32, text) for i, text in enumerate(programs)], augmentation=b"zPLRS")
    return made.data, [(CODE + i * 32 + k, ) for i in range(len(programs)) for k in (0, 9, 30)], [(FRAMES, made.at), (HEADER, HEADER + 130)]


def test_fuzz():
    """Mutated tables: a walk returns, soon, whatever they say.  CRISIS_TRIES: how many times."""
    seed = int(os.environ.get("CRISIS_SEED", "11"))
    random_, slowest, ends = random.Random(seed), 0, {}
    files = []
    data, addresses, places = everything(None)
    files.append((data, [a[0] for a in addresses], places + [(64, 176)], X86_64))
    for path, machine in [("/bin/dash", unwind.MACHINE), ("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1", AARCH64)]:
        if os.path.exists(path):
            with open(path, "rb") as f:
                data = bytearray(f.read())
            table, elf = table_of(data, machine), stacks.Elf(reader(data))
            starts = [elf.file_offset(table.start(i)) for i in range(0, len(table), 7)]
            frames = elf.file_offset(table._header)
            files.append((data, [s + k for s in starts for k in (0, 5, 20)], [(frames, frames + 8 * len(table) + 12 + 6000)], machine))
    for number in range(TRIES):
        data, addresses, places, machine = random_.choice(files)
        undo = mutated(random_, data, places)
        try:
            words = [random_.choice((LOADED + random_.choice(addresses), SP + 8 * random_.randrange(512), random_.getrandbits(64)))
                     for _ in range(512)]
            space = AddressSpace(lambda identity: made)
            try:
                made = table_of(data, machine)
            except ValueError:
                made = None
            space.update([(LOADED, LOADED + len(data), True, 0, "id", "/file")])
            for _ in range(4):
                begin = time.monotonic()
                saved = [random_.choice(words) for _ in machine.saved]
                found = unwind.unwind(space, LOADED + random_.choice(addresses), SP, saved, struct.pack("=512Q", *words),
                                      machine=machine)
                slowest = max(slowest, time.monotonic() - begin)
                assert isinstance(found.end, End) and 1 <= len(found.addresses) <= 127
                ends[found.end] = ends.get(found.end, 0) + 1
        except Exception as exc:
            raise AssertionError("try %d of CRISIS_SEED=%d: %r" % (number, seed, exc)) from exc
        finally:
            for place, old in reversed(undo):
                data[place:place + len(old)] = old
    assert slowest < 1 * SLOW
    # The mutations reach what they are for.
    assert {End.BAD_TABLE, End.NO_CODE, End.SHORT, End.NO_TABLE, End.OUTERMOST} <= set(ends), ends
    print("%d tries, the slowest walk %.1f ms: %s" % (TRIES, slowest * 1e3, {end.name: n for end, n in ends.items()}))
