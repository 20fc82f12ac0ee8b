# SPDX-License-Identifier: GPL-2.0-or-later
"""Text and JSON of rows, with hostile names."""

import json

import pytest

from crisis import table


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("plain name", "plain name"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb", r"a\x0ab"),
        ("a\\b", r"a\\b"),
        ("\u202egnp", r"\u202egnp"),
        ("\udcff", r"\xff"),
        ("\x9b", r"\x9b"),
        ("häß", "häß"),
        ('"', '"'),
    ],
)
def test_escape(raw, shown):
    assert table.escape(raw) == shown


def test_decode_keeps_bytes_that_are_not_utf8():
    assert table.escape(table.decode(b"\xffa\0junk")) == r"\xffa"


def test_json_line_is_one_ascii_line():
    line = table.json_line({"comm": '\x1b\n"\udcff', "x": 1 / 3, "n": None})
    assert line.count("\n") == 1 and line.isascii()
    assert json.loads(line) == {"comm": '\x1b\n"\\xff', "x": 0.333333, "n": None}


def test_table_aligns_and_escapes():
    shown = table.text((("A", "%d"), ("NAME", "%-s")), [(1, "x\n"), (100, None)])
    assert shown == "  A NAME\n  1 x\\x0a\n100 -\n"
