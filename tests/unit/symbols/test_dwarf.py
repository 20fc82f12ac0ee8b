# SPDX-License-Identifier: GPL-2.0-or-later
"""Fields and expressions of DWARF data."""

import sys

import pytest

from crisis.symbols.dwarf import Cursor, evaluate
from elf_image import encoded, sleb, uleb


def test_numbers():
    cursor = Cursor(b"\xff\xfe\xff\x01\x02\x03\x04\x05", 0)
    assert cursor.byte() == 255 and cursor.number("=h") == -2 and cursor.at == 3
    assert cursor.number("=I") == int.from_bytes(b"\x01\x02\x03\x04", sys.byteorder)
    with pytest.raises(ValueError):
        cursor.number("=H")
    assert Cursor(b"\x01\x02", 0, at=1).byte() == 2
    for read in (lambda c: c.number("=H"), lambda c: (c.byte(), c.byte())):
        with pytest.raises(ValueError):  # behind the end of the field, within the bytes
            read(Cursor(b"\x01\x02", 0, end=1))


@pytest.mark.parametrize(
    "value", [0, 1, 63, 64, 127, 128, 129, 16256, 1 << 31, (1 << 63) - 1, (1 << 64) - 1]
)
def test_leb128(value):
    """DWARF 5, 7.6, tables 7.7 and 7.8 among them."""
    cursor = Cursor(uleb(value) + b"\xaa", 0)
    assert cursor.uleb() == value and cursor.byte() == 0xAA
    for signed in value, -value:
        if -1 << 63 <= signed < 1 << 63:
            cursor = Cursor(sleb(signed) + b"\xaa", 0)
            assert cursor.sleb() == signed and cursor.byte() == 0xAA


@pytest.mark.parametrize("raw", [b"", b"\x80", b"\xff" * 9, b"\xff" * 10, b"\x80" * 10 + b"\x01"])
def test_leb128_that_does_not_end_or_is_too_long(raw):
    for read in Cursor.uleb, Cursor.sleb:
        with pytest.raises(ValueError):
            read(Cursor(raw, 0))


def test_leb128_of_more_than_64_bits():
    with pytest.raises(ValueError):
        Cursor(uleb(1 << 64), 0).uleb()
    for value in 1 << 63, (-1 << 63) - 1:
        with pytest.raises(ValueError):
            Cursor(sleb(value), 0).sleb()


def test_blocks_and_strings():
    cursor = Cursor(uleb(3) + b"abcxyz\0rest", 0)
    assert cursor.block() == b"abc" and cursor.string() == b"xyz" and cursor.at == 8
    for raw in uleb(4) + b"abc", uleb(300) + bytes(300), b"":
        with pytest.raises(ValueError):
            Cursor(raw, 0).block()
    for raw in b"no end", b"x" * 32 + b"\0", b"":
        with pytest.raises(ValueError):
            Cursor(raw, 0).string()


@pytest.mark.parametrize("encoding", [0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0x0A, 0x0B, 0x0C, 0x1B])
def test_pointers(encoding):
    place = 0x3000
    cursor = Cursor(bytes(8) + encoded(encoding, 0x3123, place + 8), place, at=8)
    assert cursor.pointer(encoding) == 0x3123
    if encoding == 0x0B:  # the same, relative to a base that the caller knows
        raw = encoded(0x0B, 0x123, 0)
        assert Cursor(raw, place).pointer(0x3B, 0x4000) == 0x4123
        for wrong in 0x3B, 0x2B, 0x4B, 0x0D:
            with pytest.raises(ValueError):
                Cursor(raw, place).pointer(wrong)


def test_expressions():
    """Each operation, by values from DWARF 5, 2.5.1."""

    def result(text, initial=None):
        return evaluate(bytes.fromhex(text), initial, lambda r: 1000 * r, lambda a: a + 5)

    assert result("77 08") == 7008 and result("77 78") == 6992 and result("77 08 06") == 7013
    assert result("23 10", 32) == 48 and result("35 33 1c") == 2 and result("35 33 1e") == 15
    assert result("33 35 1c") == 2**64 - 2
    assert (
        result("35 33 1a") == 1
        and result("35 33 21") == 7
        and result("35 33 27") == 6
        and result("35 33 22") == 8
    )
    assert result("35 33 24") == 40 and result("35 31 25") == 2
    assert [result(f"35 33 {op:x}") for op in (0x29, 0x2A, 0x2B, 0x2C, 0x2D, 0x2E)] == [
        0,
        1,
        1,
        0,
        0,
        1,
    ]
    assert [result(f"09 ff 33 {op:x}") for op in (0x2A, 0x2D)] == [0, 1]  # -1 and 3
    assert result("08 ff") == 255 and result("09 ff") == 2**64 - 1 and result("0a 01 02") == 513
    assert result("0b fe ff") == 2**64 - 2 and result("0c 01 00 00 80") == 0x80000001
    assert result("0d 00 00 00 80") == 2**64 - 2**31 and result("0e" + "ff" * 8) == 2**64 - 1
    assert (
        result("0f" + "ff" * 8) == 2**64 - 1
        and result("10 80 01") == 128
        and result("11 80 7f") == 2**64 - 128
    )
    # A PLT entry's: 8 bytes more behind its push.
    plt = "77 08 80 00 3f 1a 3b 2a 33 24 22"
    for ip, cfa in (0x1020, 108), (0x102A, 108), (0x102B, 116), (0x102F, 116):
        assert evaluate(bytes.fromhex(plt), None, {7: 100, 16: ip}.get, None) == cfa
    for wrong in (
        "",
        "06",
        "22",
        "31 22",
        "12 00",
        "2f 00 00",
        "97",
        "77",
        "08",
        "0e 00",
        "77" + "80" * 11,
        "31 " * 65,
    ):
        with pytest.raises(ValueError):
            result(wrong)
