# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information: programs and encodings by hand, and malformed tables."""

import struct
import time

import pytest

from crisis.symbols import eh_frame
from crisis.symbols.eh_frame import Table
from crisis.symbols.elf import Elf
from crisis.symbols.machine import AARCH64, X86_64
from elf_image import (
    BASE,
    CODE,
    FRAME,
    FRAMES,
    HEADER,
    PROGRAMS,
    RA,
    SIZE,
    Image,
    encoded,
    reader,
    shown,
    uleb,
)
from helpers import SLOW


@pytest.mark.parametrize(
    "instructions,places", [row[1:] for row in PROGRAMS], ids=[row[0] for row in PROGRAMS]
)
def test_programs(instructions, places):
    table = Image([(0x10, 0x100, instructions)]).table()
    found = {at: shown(table.rules(BASE + CODE + 0x10 + at)) for at in places}
    assert found == {at: (cfa, dict(registers)) for at, (cfa, registers) in places.items()}
    assert table.rules(BASE + CODE + 0x0F) is None and table.rules(BASE + CODE + 0x110) is None


def test_set_loc():
    image = Image([(0, 0x100, b"")])
    place = BASE + image.at + 17 + 1
    image = Image(
        [
            (0, 0x100, b""),
            (0x200, 0x100, b"\x01" + encoded(0x1B, BASE + CODE + 0x240, place) + b"\x0e\x20"),
        ]
    )
    cfas = [shown(image.table().rules(BASE + CODE + at))[0] for at in (0x200, 0x23F, 0x240)]
    assert cfas == ["rsp+8", "rsp+8", "rsp+32"]


@pytest.mark.parametrize("encoding", [0x00, 0x03, 0x04, 0x0B, 0x0C, 0x1B, 0x1C, 0x01, 0x09, 0x19])
@pytest.mark.parametrize("augmentation", [b"zR", b"zPLR", b"zRS", b"zPLRS", b"zRB", b""])
def test_encodings(encoding, augmentation):
    if not augmentation and encoding:
        return  # without augmentation pointers are absolute
    image = Image(
        [(0x20, 0x30, b"\x48\x0e\x18"), (0x80, 0x10, b"")],
        encoding=encoding,
        augmentation=augmentation,
    )
    rules = image.table().rules(BASE + CODE + 0x2A)
    assert shown(rules) == ("rsp+24", RA) and rules.signal == (b"S" in augmentation)
    assert image.table().rules(BASE + CODE + 0x50) is None and image.table().rules(
        BASE + CODE + 0x8F
    )


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


# Hostile files

BAD, NO_TABLE, NO_FUNCTION, GOOD = "malformed", "no table", "no function", "good"


def verdict(image):
    """What becomes of a file whose first function is looked up."""
    begin = time.thread_time()
    try:
        table = image.table()
    except ValueError:
        return NO_TABLE
    try:
        found = GOOD if table.rules(BASE + CODE + 5) else NO_FUNCTION
    except ValueError:
        found = BAD
    assert time.thread_time() - begin < 2 * SLOW
    return found


@pytest.mark.parametrize(
    "instructions",
    [
        b"\x0e" + b"\x80" * 9 + b"\x02",
        b"\x0e" + b"\x80" * 500 + b"\x01",
        b"\x41\x0e\xff",
        b"\x0a" * 40,
        b"\x0b",
        b"\x3f",
        b"\x1c",
        b"\x0f\x80\x80\x04",
        b"\x0f\x81\x02" + b"\x30" * 257,
        b"\x0f\x00",
        b"\x10\x03\x7f",
        b"\x0f\x01\x30\x0e\x10",
        b"\x0f\x01\x30\x0d\x06",
        b"\x04\x01",
        b"\x0a\x0b" * 8192 + b"\x00",
        b"\x07\x10\xd0\x40\x0f\x00",
    ],
    ids=lambda text: text[:12].hex(),
)
def test_bad_programs(instructions):
    assert (
        verdict(
            Image([(0, 0x20, instructions)], size=SIZE if len(instructions) < 1024 else 1 << 17)
        )
        is BAD
    )


def test_bad_entries():
    def changed(place, form, *values):
        image = Image([(0, 0x20, b"\x0e\x10")])
        at = {"cie": image.cie, "fde": image.fdes[0][1], "header": HEADER, "program": 120}
        struct.pack_into(form, image.data, at[place[0]] + place[1], *values)
        return verdict(image)

    for size in 0, 3, 1 << 15, 1 << 17, 0xFFFFFFF0, 0xFFFFFFFF:
        assert changed(("fde", 0), "=I", size) is BAD
        assert changed(("cie", 0), "=I", size) is BAD
    for back in 0, 1, 1 << 20, 0xFFFFFFFF, 4:
        assert changed(("fde", 4), "=I", back) is BAD
    assert changed(("cie", 4), "=I", 7) is BAD  # an FDE in the place of a CIE
    assert changed(("cie", 8), "=B", 9) is BAD  # version
    for augmentation in b"zX\0", b"x\0", b"eh\0", b"zRRRRRRRRRRRRRRRRRRRRRRR":
        assert changed(("cie", 9), f"={len(augmentation)}s", augmentation) is BAD
    assert changed(("cie", 14), "=B", 17) is BAD  # the column of the return address
    for encoding in 0xFF, 0x9B, 0x2B, 0x3B, 0x4B, 0x5B, 0x1D, 0x16:
        assert changed(("cie", 16), "=B", encoding) is BAD
    for fields in (
        b"\2\x1b\3\x3b",
        b"\1\xff\3\x3b",
        b"\1\x1b\xff\x3b",
        b"\1\x1b\3\x1b",
        b"\1\x1b\3\xff",
        b"\1\x5b\3;",
    ):
        assert changed(("header", 0), "=4s", fields) is NO_TABLE
    assert changed(("header", 16), "=i", 1 << 30) is BAD  # where the FDE is
    assert changed(("header", 16), "=i", -(1 << 30)) is BAD
    assert changed(("header", 8), "=I", 0) is NO_FUNCTION
    assert changed(("header", 8), "=I", 0xFFFFFFFF) in (BAD, NO_FUNCTION)
    assert changed(("program", 16), "=Q", 1 << 63) is NO_TABLE
    assert changed(("program", 0), "=I", 0) is NO_TABLE  # no header and no section
    assert verdict(Image([(0, 0x20, b"")], cie=b"\xc6")) is BAD  # a CIE that restores
    assert verdict(Image([(0, 0x20, b"")], cie=b"")) is BAD  # no CFA, no return address
    with pytest.raises(ValueError):
        Image([(0, 0x20, b"")], machine=AARCH64).table(X86_64)


def test_a_file_that_cannot_be_read():
    """It may be cut, or its device fail, while it is in use."""
    image = Image([(0, 0x20, FRAME)])
    elf = Elf(image.data)

    def failing(length, offset):
        if offset >= FRAMES:
            raise OSError(5, "Input/output error")
        return bytes(image.data[offset : offset + length])

    with pytest.raises(ValueError):
        Table(elf, failing, X86_64).rules(BASE + CODE)
    with pytest.raises(ValueError):
        Table(elf, lambda length, offset: failing(length, 1 << 20), X86_64)
    for size in range(0, SIZE, 37):
        cut = reader(image.data[:size])
        try:
            assert Table(elf, cut, X86_64).rules(BASE + CODE + 5) == image.table().rules(
                BASE + CODE + 5
            )
        except ValueError:
            assert size < image.at


def test_list_without_a_search_table(monkeypatch):
    """It is bounded in number and time, and malformed entries leave the file without a table."""
    functions = [(i * 16, 16, b"") for i in range(20)]
    assert len(Image(functions, header=False).table().index) == 20
    for place in "cie", "fde":
        image = Image(functions, header=False)
        struct.pack_into("=I", image.data, image.cie if place == "cie" else image.fdes[9][1], 2)
        with pytest.raises(ValueError):
            image.table()
    for address in -FRAMES & (1 << 64) - 1, -FRAMES - 64 & (1 << 64) - 1, -1 & (1 << 64) - 1:
        image = Image(functions, header=False)
        struct.pack_into("=Q", image.data, 64 + 16, address)  # where the segment is loaded
        with pytest.raises(ValueError):
            image.table()
    image = Image(functions, header=False)
    struct.pack_into("=I", image.data, image.fdes[9][1], 0)  # a terminator
    assert len(image.table().index) == 9
    struct.pack_into("=Q", image.data, HEADER + 128 + 32, 1 << 62)  # the section's size
    assert len(image.table().index) == 9
    monkeypatch.setattr(eh_frame, "_MOST_LISTED", 20)
    with pytest.raises(ValueError):
        Image(functions, header=False).table()
    monkeypatch.setattr(eh_frame, "_MOST_LISTED", 21 + 1)
    monkeypatch.setattr(eh_frame, "_LIST_SECONDS", -1)
    with pytest.raises(ValueError):
        Image(functions, header=False).table()


def test_memory(monkeypatch):
    """CIEs without end do not fill the memory."""
    image, pairs = Image([], size=1 << 14), []
    for start in range(0, 400, 8):
        cie = image.entry(0, bytes(image.data[image.cie + 8 : image.cie + 24]))
        pointer = encoded(0x1B, BASE + CODE + start, BASE + image.at + 8)
        fde = image.entry(image.at + 4 - cie, pointer + encoded(0xB, 8, 0) + b"\0" + FRAME)
        pairs.append((CODE + start - HEADER, fde - HEADER))
    image.header(pairs)
    monkeypatch.setattr(eh_frame, "_MOST_CIES", 20)
    table = image.table()
    for i in range(400):
        assert table.rules(BASE + CODE + i).offset == 32 and len(table.cies) <= 20
