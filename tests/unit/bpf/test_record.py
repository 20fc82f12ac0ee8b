# SPDX-License-Identifier: GPL-2.0-or-later
"""record: layouts from bcc's descriptions, and records from bytes."""

import json
import struct

import pytest

from crisis.bpf import record

# As bcc 0.18, 0.26, 0.31 and 0.35 describe them.
HIST = """["hist", [["count","unsigned long long"], ["total","unsigned long long"],
    ["comm","char", [16]], ["slots","unsigned long long", [100]] ], "struct_packed"]"""
PADDED = """["odd", [["c","char"], ["__pad_1","char",[7]], ["d","long long"], ["flag","_Bool"],
    ["__pad_7","char",[3]],
    ["names",["names", [["levels","unsigned int"], ["of","char", [4]] ], "struct_packed"]],
    ["pages","unsigned short", [2]], ["__pad_end","char",[4]] ], "struct_packed"]"""


@pytest.mark.parametrize(
    "text, size, layout",
    [
        ('"unsigned int"', 4, "I"),
        ('"int"', 4, "i"),
        ('"unsigned char"', 1, "B"),
        ('"long"', 8, "q"),
        (HIST, 832, "count:Q total:Q comm:16s slots:100Q"),
        (PADDED, 36, "c:b 7x d:q flag:? 3x names_levels:I names_of:4s pages:2H 4x"),
        (
            '["key", [["a","unsigned long long"], ["b","unsigned int"], '
            '["__pad_end","char",[4]] ], "struct_packed"]',
            16,
            "a:Q b:I 4x",
        ),
    ],
)
def test_describe(text, size, layout):
    assert record.describe(json.loads(text), size) == layout


# the latter of a ring buffer
@pytest.mark.parametrize(
    "text, size",
    [
        ('["bits", [["a","unsigned int", 3], ["b","unsigned int", 5] ], "struct"]', 4),
        ('["un", [["a","unsigned int"], ["b","unsigned long long"] ], "union"]', 8),
        (
            '["ev", [["u",["", [["a","unsigned int"] ], "union"]], ["c","unsigned int"] ], '
            '"struct_packed"]',
            8,
        ),
        ('["n", [["of","char", [4]] ], "struct"]', 32),  # char of[4][8]
        ('["n", [["of",["m", [["a","int"] ], "struct"], [3]] ], "struct"]', 12),
        ('["n", [["f","float"] ], "struct"]', 4),
        ('"unsigned int"', 0),
    ],
)
def test_what_records_cannot_have(text, size):
    assert record.describe(json.loads(text), size) is None


def test_unpack():
    layout = record.Layout("c:b 7x d:q flag:? 3x names_levels:I names_of:4s pages:2H 4x", "odd")
    data = struct.pack("=b7xq?3xI4s2H4x", -1, -2, True, 3, b"ab", 5, 6)
    found = layout.unpack(data)
    assert found == (-1, -2, True, 3, b"ab\0\0", (5, 6)) and layout.size == len(data)
    assert (found.c, found.names_of, found.pages) == (-1, b"ab\0\0", (5, 6)) and type(
        found
    ).__name__ == "odd"


def test_a_last_array_may_be_shorter():
    layout = record.Layout("count:Q comm:4s slots:100Q")
    assert (layout.size, layout.sized(3), layout.sized(0)) == (812, 36, 12)
    data = struct.pack("=Q4s3Q", 9, b"x", 1, 2, 3)
    assert (
        layout.unpack(data) == (9, b"x\0\0\0", (1, 2, 3)) and layout.unpack(data[:12]).slots == ()
    )
    path = record.Layout("length:I path:8192s")
    assert path.unpack(struct.pack("=I", 3) + b"a\0b") == (3, b"a\0b")
    # Padding behind it is not part of it.
    padded = record.Layout("a:Q tail:3H 2x")
    assert padded.unpack(struct.pack("=Q3H2x", 1, 2, 3, 4)).tail == (2, 3, 4)


def test_an_array_before_the_last_member():
    layout = record.Layout("pages:2Q events:Q")
    assert layout.unpack(struct.pack("=3Q", 1, 2, 3)) == ((1, 2), 3)


def test_numbers():
    layout = record.Layout("I")
    assert layout.unpack(layout.pack(7)) == 7 and layout.fields == () and layout.size == 4


def test_keys():
    layout = record.Layout("tid:I bank:I", "key")
    assert layout.pack(7, 1) == struct.pack("=II", 7, 1)
    key = layout.unpack(layout.pack(7, 1))
    assert (key.tid, key.bank) == (7, 1) and layout.pack(*key) == layout.pack(7, 1)
    assert [k.tid for k in layout.unpack_all(struct.pack("=IIII", 7, 1, 8, 0))] == [7, 8]


def test_offset():
    layout = record.Layout("c:b 7x d:q names_of:4s pages:2H 4x last:B")
    assert [layout.offset(field) for field in layout.fields] == [0, 8, 16, 20, 28]


def test_a_record_shows_its_fields():
    assert (
        repr(record.Layout("tid:I comm:4s", "key").unpack(b"\1\0\0\0ab\0\0"))
        == "key(tid=1, comm=b'ab\\x00\\x00')"
    )


def test_members_named_as_methods_of_tuples():
    assert record.Layout("count:I index:I").unpack(struct.pack("=II", 3, 4)).count == 3
