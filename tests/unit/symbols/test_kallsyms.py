# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel addresses to names, by made-up /proc/kallsyms."""

import pytest

from crisis.errors import NotPermitted, Unavailable
from crisis.symbols.frame import line as frame_line
from crisis.symbols.kallsyms import Kallsyms, check
from helpers import write_tree

KALLSYMS = """\
ffffffff81000000 T _stext
ffffffff81000010 t first
ffffffff81000020 T second
ffffffff81000020 A not_code
ffffffff82000000 D data
ffffffffc0002000 t later\t[mod]
ffffffffc0001000 t earlier\t[mod]
"""


def kernel(tmp_path, text=KALLSYMS):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kallsyms").write_text(text)
    return Kallsyms(str(tmp_path))


def test_kernel_symbols(tmp_path):
    frames = kernel(tmp_path).frames(
        [0xFFFFFFFF81000013, 0xFFFFFFFF81000020, 0xFFFFFFFFC0001004, 0xFFFFFFFFC0002009]
    )
    assert [frame_line(f) for f in frames] == [
        "first+0x3 [kernel]",
        "first+0x10 [kernel]",  # a return address
        "earlier+0x4 [mod]",
        "later+0x9 [mod]",
    ]


def test_hidden_kernel_addresses_name_nothing(tmp_path):
    rows = "".join("0000000000000000" + row[16:] + "\n" for row in KALLSYMS.splitlines())
    frame = kernel(tmp_path, rows).frames([0xFFFFFFFF81000013])[0]
    assert (frame.name, frame.offset, frame_line(frame)) == (None, None, "[unknown] [kernel]")


def test_kernel_symbols_in_many_blocks(tmp_path):
    """More than one block of reading, each address in turn, against a plain search."""
    rows = [(0xFFFFFFFF81000000 + 32 * i, f"function_{i}") for i in range(9000)]
    symbols = kernel(tmp_path, "".join(f"{at:016x} T {name}\n" for at, name in rows))
    wanted = [at + 8 for at, _ in rows[::7]]
    symbols.learn(wanted)
    assert [symbols.frames([a])[0].name for a in wanted] == [name for _, name in rows[::7]]


HIDDEN = "0000000000000000 T _stext\n0000000000000000 t first\n"


@pytest.mark.parametrize(
    "symbols, level, error, words",
    [
        (KALLSYMS, "1", None, ""),
        ("0000000000000000 A fixed_percpu_data\n" + KALLSYMS, "1", None, ""),
        (HIDDEN, "1", NotPermitted, "CAP_SYSLOG"),
        (HIDDEN, "2", Unavailable, "sysctl kernel.kptr_restrict=1"),
        (None, "1", Unavailable, "CONFIG_KALLSYMS"),
    ],
)
def test_whether_kernel_functions_have_names(tmp_path, symbols, level, error, words):
    files = {"proc/sys/kernel/kptr_restrict": level + "\n"}
    if symbols is not None:
        files["proc/kallsyms"] = symbols
    root = write_tree(tmp_path, files)
    if error is None:
        check(root)
        return
    with pytest.raises(error, match=words):
        check(root)
