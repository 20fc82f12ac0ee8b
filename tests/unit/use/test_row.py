# SPDX-License-Identifier: GPL-2.0-or-later
"""Which rows are marked, and which are shown."""

import pytest

from crisis.use.row import Row, contents, growth, lines, per_second, ratio, visible


@pytest.mark.parametrize(
    "values, marks",
    [
        ({}, ()),
        ({"util": 0.899}, ()),
        ({"util": 0.9}, ("utilization",)),
        ({"saturation": 5.0}, ()),  # its threshold is not that of all
        ({"saturation": 5.0, "saturated": True}, ("saturation",)),
        ({"errors": 1}, ("errors",)),
        ({"errors": 1, "erroneous": False}, ()),
        ({"errors": 0, "erroneous": True}, ("errors",)),
        ({"util": 1.0, "errors": 1, "saturated": True}, ("errors", "saturation", "utilization")),
    ],
)
def test_marks(values, marks):
    assert Row("disk", "sda", **values).marks == marks


def test_idle():
    assert Row("disk").idle and Row("disk", util=0.009).idle
    assert not Row("disk", util=0.01).idle
    assert not Row("disk", util=0.0, saturation=0.1).idle
    assert not Row("disk", errors=1, erroneous=False).idle
    assert not Row("disk", erroneous=True).idle


def names(rows):
    return "".join(row.name for row in rows)


def test_visible():
    rows = [
        Row("disk", "a"),
        Row("disk", "b", util=0.2),
        Row("disk", "c", util=0.95),
        Row("disk", "d", util=0.5),
        Row("disk", "e", errors=1),
        Row("disk", "f"),
    ]
    shown, rest = visible(rows, 6)
    assert (names(shown), rest) == ("abcdef", [])
    assert tuple(map(names, visible(rows, 5))) == ("abcde", "f")  # the first of the idle ones
    assert tuple(map(names, visible(rows, 3))) == ("cde", "abf")
    assert tuple(map(names, visible(rows, 1))) == ("ce", "abdf")  # marked ones are never left out
    assert visible([], 5) == ([], [])


def test_growth():
    before, after = {"a": 1, "b": 5, "c": 7}, {"a": 4, "b": 5, "c": 6, "d": 1}
    assert growth(before, after, "a") == 3
    assert growth(before, after, "a", "b") == 3
    assert growth(before, after, "a", "d") == 3  # d was not there before
    assert growth(before, after, "d") is None
    assert growth(before, after, "c") is None  # went back
    assert growth(before, after, "a", "c") is None


def test_rates():
    assert per_second(3, 2.0) == 1.5 and per_second(None, 2.0) is None
    assert ratio(1, 4) == 0.25
    assert ratio(1, 0) is None and ratio(None, 1) is None and ratio(1, None) is None


def test_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b" 12\xff\n")
    assert contents(str(path)) == "12\udcff" and lines(str(path)) == [" 12\udcff"]
    assert contents(str(tmp_path / "none")) is None and lines(str(tmp_path / "none")) == []
    assert contents(str(tmp_path)) is None  # a directory opens, but cannot be read
