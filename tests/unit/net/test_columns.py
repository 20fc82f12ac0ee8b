# SPDX-License-Identifier: GPL-2.0-or-later
"""nicstat's columns: precision, and 80 columns where the cells allow that."""

import pytest

from crisis.net import columns


@pytest.mark.parametrize(
    "value, wide, narrow, fine",
    [
        (0, "0.00", "0.00", "0.000"),
        (9.994, "9.99", "9.99", "9.994"),
        (10, "10.00", "10.0", "10.00"),
        (99.5, "99.50", "99.5", "99.50"),
        (100, "100.0", "100", "100.0"),
        (9999, "9999.0", "9999", "9999.0"),
        (10000, "10000.0", "10000", "10000"),
        (123456, "123456", "123456", "123456"),
        (None, "-", "-", "-"),
    ],
)
def test_precision_is_the_classics(value, wide, narrow, fine):
    found = [columns.number(value, one) for one in (columns.WIDE, columns.NARROW, columns.FINE)]
    assert found == [wide, narrow, fine]


def test_lines_fit_where_they_can():
    plain = columns.aligned([-8, 7, 7], [["a", "b", "c"], ["x" * 3, "1", "2"]])
    assert plain == ["a              b       c", "xxx            1       2"]
    long = columns.aligned([8, *[7] * 9], [["x" * 20, *["1.00"] * 9]])
    assert len(long[0]) == 80
    assert len(columns.aligned([8, 7], [["x" * 90, "1"]])[0]) == 92


@pytest.mark.parametrize("style, width", [("full", 78), ("extended", 80), ("summary", 47)])
def test_the_default_columns_fit_a_terminal(style, width):
    cells = columns.interfaces(style)
    names = [10] if style == "extended" else [8, 8]
    assert sum(names) + sum(cell.width for cell in cells) + len(names) + len(cells) - 1 == width
