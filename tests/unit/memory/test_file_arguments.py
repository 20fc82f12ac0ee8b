# SPDX-License-Identifier: GPL-2.0-or-later
"""The names in a list."""

import pytest

from crisis.errors import Error
from crisis.memory.file_arguments import names_from


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
