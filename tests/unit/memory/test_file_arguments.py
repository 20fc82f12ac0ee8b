# SPDX-License-Identifier: GPL-2.0-or-later
"""The names in a list."""

from argparse import ArgumentTypeError

import pytest

from crisis.errors import Error
from crisis.memory import PAGE
from crisis.memory.file_arguments import byte_range, byte_size, names_from, span


@pytest.mark.parametrize(
    "text, size",
    [
        ("0", 0),
        ("4096", 4096),
        ("4k", 4096),
        ("4K", 4096),
        ("100M", 100 << 20),
        ("1.5G", 3 << 29),
        (".5k", 512),
        ("2t", 2 << 40),
        (str((1 << 63) - 1), (1 << 63) - 1),
        ("0.3k", 307),
    ],
)
def test_sizes_as_those_of_vmtouch(text, size):
    assert byte_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", ".", "k", "5x", "-5", "1e3", "0x10", " 5", "5 ", "1.2.3", "٣", "1_0", str(1 << 63)]
    + ["9" * 5000, "9" * 5000 + "G", "8388608T", "nan", "inf", "5kk", "1.5.G"],
)
def test_no_sizes(text):
    with pytest.raises(ArgumentTypeError):
        byte_size(text)


@pytest.mark.parametrize(
    "text, whole, of_ten",
    [
        ("-", (0, None), (0, 10)),
        ("0", (0, None), (0, 10)),
        ("0-0", (0, None), (0, 10)),
        (f"{PAGE}", (0, PAGE), (0, 1)),
        (f"-{PAGE}", (0, PAGE), (0, 1)),
        (f"{PAGE + 1}", (0, PAGE + 1), (0, 2)),
        (f"{PAGE + 1}-{3 * PAGE}", (PAGE, 3 * PAGE), (1, 3)),
        (f"{2 * PAGE - 1}-", (PAGE, None), (1, 10)),
        (f"{9 * PAGE}-{50 * PAGE}", (9 * PAGE, 50 * PAGE), (9, 10)),
        (f"{20 * PAGE}-", (20 * PAGE, None), (10, 10)),
    ],
)
def test_ranges_as_those_of_vmtouch(text, whole, of_ten):
    part = byte_range(text)
    assert part == whole
    size = 10 * PAGE - 5  # the last page is one of 10
    assert span(part, size) == tuple(min(page * PAGE, size) for page in of_ten)


@pytest.mark.parametrize("text", ["", "x", "8k-4k", "4096-4096", "1-2-3", "--", "4k--8k", "-5x"])
def test_no_ranges(text):
    with pytest.raises(ArgumentTypeError):
        byte_range(text)


def test_names_from_a_list(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"one\n\ntw\xff o\nlast")
    assert list(names_from(str(path), False)) == ["one", "tw\udcff o", "last"]
    path.write_bytes(b"a\nb\0c\0")
    assert list(names_from(str(path), True)) == ["a\nb", "c"]


def test_names_of_a_list(tmp_path):
    from crisis.memory.file_arguments import names_from

    path = str(tmp_path / "list")
    for null, end in (False, b"\n"), (True, b"\0"):
        for raw, names in (
            (b"", []),
            (b"a", ["a"]),
            (b"a@@b@", ["a", "b"]),
            (b"x" * 60000 + b"@c@", ["x" * 60000, "c"]),
            (b"d@" * 90000, ["d"] * 90000),
            (b"\xff@", ["\udcff"]),
        ):
            (tmp_path / "list").write_bytes(raw.replace(b"@", end))
            assert list(names_from(path, null)) == names
    for name in "/dev/zero", path:
        (tmp_path / "list").write_bytes(b"x" * 200000)
        with pytest.raises(Error, match="more than 65536 bytes"):
            list(names_from(name, False))
