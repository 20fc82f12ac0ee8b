# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from crisis.kernel.maps import mappings

MAPS = rb"""55d0c0000000-55d0c0002000 r-xp 00001000 fe:01 1234                       /usr/bin/a b
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000400000-7f0000600000 r-xs 00200000 00:0f 99                         /memfd:jit (deleted)
7f0000600000-7f0000700000 r--p 00000000 fe:01 7                          /tmp/one\012two
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_mappings(tmp_path):
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/maps").write_bytes(MAPS.replace(b"b\n", b"b\xff\n", 1))
    assert mappings(7, str(tmp_path)) == [
        (0x55D0C0000000, 0x55D0C0002000, True, 0x1000, (b"fe:01", 1234), "/usr/bin/a b\udcff"),
        (0x7F0000000000, 0x7F0000400000, False, 0, (b"00:00", 0), ""),
        (0x7F0000400000, 0x7F0000600000, True, 0x200000, (b"00:0f", 99), "/memfd:jit"),
        (0x7F0000600000, 0x7F0000700000, False, 0, (b"fe:01", 7), "/tmp/one\ntwo"),
        (0x7FFC00000000, 0x7FFC00002000, True, 0, (b"00:00", 0), "[vdso]"),
        (0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, True, 0, (b"00:00", 0), "[vsyscall]"),
    ]
    with pytest.raises(OSError):
        mappings(8, str(tmp_path))
