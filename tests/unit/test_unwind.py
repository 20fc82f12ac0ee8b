# SPDX-License-Identifier: GPL-2.0-or-later
"""The unwinder: call frame programs, expressions and stacks by hand, and hostile tables."""

import os
import random
import struct
import time

import pytest

from crisis import stacks, unwind
from crisis.unwind import AARCH64, X86_64, AddressSpace, End, Table
from elf_image import BASE, CODE, FRAMES, HEADER, JIT, LOADED, SIZE, Image, encoded, reader, shown, table_of, uleb
from helpers import SLOW

TRIES = int(os.environ.get("CRISIS_TRIES", "2000"))

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
    ("extended registers", b"\x05\x0c\x03\x05\x0d\x04\x06\x0d\x2f\x0e\x02",
     {0: ("rsp+8", dict(RA, r12="c-24", r14="c+16"))}),
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
    cfas = [shown(image.table().rules(BASE + CODE + at))[0] for at in (0x200, 0x23f, 0x240)]
    assert cfas == ["rsp+8", "rsp+8", "rsp+32"]


@pytest.mark.parametrize("encoding", [0x00, 0x03, 0x04, 0x0b, 0x0c, 0x1b, 0x1c, 0x01, 0x09, 0x19])
@pytest.mark.parametrize("augmentation", [b"zR", b"zPLR", b"zRS", b"zPLRS", b"zRB", b""])
def test_encodings(encoding, augmentation):
    if not augmentation and encoding:
        return                                  # without augmentation pointers are absolute
    image = Image([(0x20, 0x30, b"\x48\x0e\x18"), (0x80, 0x10, b"")], encoding=encoding, augmentation=augmentation)
    rules = image.table().rules(BASE + CODE + 0x2a)
    assert shown(rules) == ("rsp+24", RA) and rules.signal == (b"S" in augmentation)
    assert image.table().rules(BASE + CODE + 0x50) is None and image.table().rules(BASE + CODE + 0x8f)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 16])
def test_search(count, header):
    """Every address finds its own function, and none in the gaps; also without a search table."""
    functions = [(i * 16, 12, b"\x0e" + uleb(8 * i + 8)) for i in reversed(range(count))]
    table = Image(functions, header=header).table()
    assert len(table.index) == count
    for at in range(-1, count * 16 + 1):
        rules = table.rules(BASE + CODE + at)
        inside = 0 <= at < count * 16 and at % 16 < 12
        assert (rules.offset if rules else None) == (at // 16 * 8 + 8 if inside else None), at


def test_expressions():
    """Each operation, by values from DWARF 5, 2.5.1."""
    def result(text, initial=None):
        return unwind.evaluate(bytes.fromhex(text), initial, lambda r: 1000 * r, lambda a: a + 5)
    assert result("77 08") == 7008 and result("77 78") == 6992 and result("77 08 06") == 7013
    assert result("23 10", 32) == 48 and result("35 33 1c") == 2 and result("35 33 1e") == 15
    assert result("33 35 1c") == 2 ** 64 - 2
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
    for wrong in "", "06", "22", "31 22", "12 00", "2f 00 00", "97", "77", "08", "0e 00", "77" + "80" * 11, "31 " * 65:
        with pytest.raises(ValueError):
            result(wrong)


# Stacks made by hand

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
FUNCTIONS = [(0, 0x20, FRAME), (0x20, 0x20, b"\x0c\x03\x10"), (0x40, 0x20, b"\x0c\x06\x10\x86\x02"),
             (0x60, 0x20, b"\x07\x10")]


def walk(space, ip, words, saved=(0,) * 6, **options):
    return unwind.unwind(space, ip, SP, saved, stack(words), machine=X86_64, **options)


def test_walk():
    """A frame by the stack pointer, by a register that the one before has saved, by the frame pointer; the last."""
    words = {24: at(0x25), 16: SP + 48, 8: SP + 256, 48 + 8: at(0x45), 256: 1, 264: at(0x65)}
    found = walk(Image(FUNCTIONS).space(), at(5), words)
    assert found == ((at(5), at(0x25), at(0x45), at(0x65)), End.OUTERMOST)


def test_walk_through_code_without_information():
    """Code compiled at run time keeps frame pointers: frames of it are between those of a file."""
    words = {24: JIT + 0x10, 8: SP + 64, 64: SP + 128, 72: JIT + 0x20, 128: SP + 512, 136: at(0x45),
             512: 1, 520: at(0x65)}
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
    functions = Image([(0, 0x20, b"\x0e\x10"), (0x80, 0x40, FRAME), (0xc0, 0x20, b""),
                       (0x60, 0x20, b"\x07\x10")]).table()
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
    ({24: UPROBES}, End.RETURN_PROBE, 1),
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


# Hostile files

def bad(image, offset=5, machine=X86_64):
    """The reason at a function of a file, and the seconds that it took."""
    begin = time.thread_time()
    try:
        table = image.table(machine)
    except ValueError:
        return None
    found = table.row(BASE + CODE + offset)
    assert time.thread_time() - begin < 2 * SLOW
    return found


@pytest.mark.parametrize("instructions", [
    b"\x0e" + b"\x80" * 9 + b"\x02", b"\x0e" + b"\x80" * 500 + b"\x01", b"\x41\x0e\xff",
    b"\x0a" * 40, b"\x0b", b"\x3f", b"\x1c", b"\x0f\x80\x80\x04", b"\x0f\x81\x02" + b"\x30" * 257, b"\x0f\x00",
    b"\x10\x03\x7f", b"\x0f\x01\x30\x0e\x10", b"\x0f\x01\x30\x0d\x06", b"\x04\x01", b"\x0a\x0b" * 8192 + b"\x00",
    b"\x07\x10\xd0\x40\x0f\x00",
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
    for fields in b"\2\x1b\3\x3b", b"\1\xff\3\x3b", b"\1\x1b\xff\x3b", b"\1\x1b\3\x1b", b"\1\x1b\3\xff", b"\1\x5b\3;":
        assert changed(("header", 0), "=4s", fields) is None
    assert changed(("header", 16), "=i", 1 << 30) is End.BAD_TABLE              # where the FDE is
    assert changed(("header", 16), "=i", -(1 << 30)) is End.BAD_TABLE
    assert changed(("header", 8), "=I", 0) is End.NO_TABLE
    assert changed(("header", 8), "=I", 0xffffffff) in (End.BAD_TABLE, End.NO_TABLE)
    assert changed(("program", 16), "=Q", 1 << 63) is None
    assert changed(("program", 0), "=I", 0) is None                             # no header and no section
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
        cut = reader(image.data[:size])
        try:
            found = Table(elf, cut, X86_64).row(BASE + CODE + 5)
            assert found in (End.BAD_TABLE, image.table().row(BASE + CODE + 5))
        except ValueError:
            assert size < FRAMES


def test_list_without_a_search_table(monkeypatch):
    """It is bounded in number and time, and malformed entries leave the file without a table."""
    functions = [(i * 16, 16, b"") for i in range(20)]
    assert len(Image(functions, header=False).table().index) == 20
    for place in "cie", "fde":
        image = Image(functions, header=False)
        struct.pack_into("=I", image.data, image.cie if place == "cie" else image.fdes[9][1], 2)
        with pytest.raises(ValueError):
            image.table()
    image = Image(functions, header=False)
    struct.pack_into("=I", image.data, image.fdes[9][1], 0)         # a terminator
    assert len(image.table().index) == 9
    struct.pack_into("=Q", image.data, HEADER + 128 + 32, 1 << 63)      # the section's size
    assert len(image.table().index) == 9
    monkeypatch.setattr(unwind, "_MOST_LISTED", 20)
    with pytest.raises(ValueError):
        Image(functions, header=False).table()
    monkeypatch.setattr(unwind, "_MOST_LISTED", 21 + 1)
    monkeypatch.setattr(unwind, "_LIST_SECONDS", -1)
    with pytest.raises(ValueError):
        Image(functions, header=False).table()


def test_time(monkeypatch):
    """Frame information that takes long ends the walk; a process's time is charged, and that of others is not."""
    slow = b"".join(b"\x05" + bytes([i]) + b"\x02" for i in range(17, 64)) + b"\x0a\x0b" * 8000 + b"\x0e\x08"
    image = Image([(i * 16, 16, slow) for i in range(40)], size=1 << 20)
    words = {8 * i - 8: at(i * 16 + 5) for i in range(1, 40)}
    space = image.space()
    begin = time.thread_time()
    assert len(walk(space, at(5), words).addresses) >= 3 and time.thread_time() - begin < 1 * SLOW
    monkeypatch.setattr(unwind, "_STACK_SECONDS", .01)
    space = image.space()
    assert walk(space, at(5), words).end is End.TIME
    assert space.rows                           # and the next walk begins with what this one has read
    monkeypatch.setattr(unwind, "_PROCESS_SECONDS", .01)
    space = image.space()
    assert walk(space, at(5), words).end is End.TIME
    begin = time.thread_time()
    assert walk(space, at(0x105), words) == ((at(0x105),), End.TIME) and time.thread_time() - begin < .01 * SLOW


def test_memory(monkeypatch):
    """Addresses without end do not fill the memory."""
    monkeypatch.setattr(unwind, "_MOST_ROWS", 100)
    image = Image(FUNCTIONS)
    space, table = image.space(), image.table()
    for i in range(1000):
        walk(space, at(i), {})
        table.row(BASE + CODE + i)
        assert len(space.rows) <= 100 and len(table._rows) <= 100


KINDS = [
    lambda r, data, at: bytes([r.randrange(256)]),
    lambda r, data, at: bytes([data[at] ^ 1 << r.randrange(8)]),
    lambda r, data, at: struct.pack("=I", r.choice((0, 1, 0x7fffffff, 0x80000000, 0xffffffff, r.getrandbits(32)))),
    lambda r, data, at: r.choice((b"\x80", b"\xff")) * 8,
    lambda r, data, at: bytes(r.choice(b"\x0a\x0b\x0f\x10\x16\x2e\x01") for _ in range(r.randrange(1, 8))),
]


def mutated(r, data, places):
    """Change some bytes of some of these places: [(first, behind)]; returns what undoes it."""
    undo = []
    for _ in range(r.choice((1, 1, 2, 5, 20))):
        first, behind = r.choice(places)
        place = r.randrange(first, behind - 8)
        new = r.choice(KINDS)(r, data, place)
        undo.append((place, bytes(data[place:place + len(new)])))
        data[place:place + len(new)] = new
    return undo


def targets():
    """[(a file's data, offsets of code, what to change, machine)]"""
    programs = [row[1] for row in PROGRAMS] + [FRAME, b"\x07\x10", b"\x0c\x06\x10\x86\x02"]
    functions = [(i * 32, 32, text) for i, text in enumerate(programs)]
    code = [CODE + i * 32 + k for i in range(len(programs)) for k in (0, 9, 30)]
    found = []
    for header in True, False:
        image = Image(functions, augmentation=b"zPLRS" if header else b"zR", header=header)
        found.append((image.data, code, [(FRAMES, image.at), (HEADER, HEADER + 256), (64, 176)], X86_64))
    arm = Image(ARM, machine=AARCH64)
    code = [CODE + place for place in (0, 5, 0x25, 0x65)]
    found.append((arm.data, code, [(FRAMES, arm.at), (HEADER, HEADER + 40)], AARCH64))
    if unwind.MACHINE is X86_64:
        with open("/bin/sh", "rb") as f:
            data = bytearray(f.read())
        table, elf = table_of(data), stacks.Elf(reader(data))
        starts = [elf.file_offset(table.entry(table.index.place(i))[1]) for i in range(0, len(table.index), 7)]
        first = elf.file_offset(table.index.address)
        code = [start + k for start in starts for k in (0, 5, 20)]
        found.append((data, code, [(first, first + 8 * len(table.index) + 6000)], X86_64))
    return found


def walks(r, data, code, machine):
    """Four walks of random stacks."""
    def word():
        return r.choice((LOADED + r.choice(code), SP + 8 * r.randrange(512), r.getrandbits(64)))
    try:
        table = table_of(data, machine)
    except ValueError:
        table = None
    space = AddressSpace(lambda identity: table)
    space.update([(LOADED, LOADED + len(data), True, 0, "id", "/file")])
    copy = struct.pack("=512Q", *[word() for _ in range(512)])
    for _ in range(4):
        saved = [word() for _ in machine.saved]
        yield unwind.unwind(space, LOADED + r.choice(code), SP, saved, copy, machine=machine)


def test_fuzz():
    """Mutated tables: a walk returns, soon, whatever they say.  CRISIS_TRIES: how many times."""
    seed, ends, slowest = int(os.environ.get("CRISIS_SEED", "11")), {}, 0
    r, files = random.Random(seed), targets()
    for number in range(TRIES):
        data, code, places, machine = r.choice(files)
        undo = mutated(r, data, places)
        try:
            begin = time.thread_time()
            for found in walks(r, data, code, machine):
                slowest = max(slowest, time.thread_time() - begin)
                assert isinstance(found.end, End) and 1 <= len(found.addresses) <= 127
                ends[found.end] = ends.get(found.end, 0) + 1
                begin = time.thread_time()
        except Exception as exc:
            raise AssertionError("try %d of CRISIS_SEED=%d: %r" % (number, seed, exc)) from exc
        finally:
            for place, old in reversed(undo):
                data[place:place + len(old)] = old
    print("%d tries, the slowest walk %.1f ms: %s" % (TRIES, slowest * 1e3, {end.name: n for end, n in ends.items()}))
    assert slowest < 1 * SLOW
    # The mutations reach what they are for.
    assert {End.BAD_TABLE, End.NO_CODE, End.SHORT, End.NO_TABLE, End.OUTERMOST} <= set(ends), ends
