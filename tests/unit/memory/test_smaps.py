# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of smaps."""

import re

from crisis.memory.process import WINDOW_FIELDS
from crisis.memory.smaps import Vma, parse

SMAPS = b"""55d0c0000000-55d0c0002000 r-xp 00001000 fe:00 1234            /usr/bin/a b (deleted)
Size:                  8 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   8 kB
Pss:                   2 kB
Pss_Dirty:             0 kB
Shared_Clean:          4 kB
Shared_Dirty:          4 kB
Private_Clean:         0 kB
Referenced:            4 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 
Size:               4096 kB
Rss:                2052 kB
Pss:                2052 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Referenced:         2048 kB
AnonHugePages:      2048 kB
Private_Hugetlb:       0 kB
KernelPageSize:        4 kB
VmFlags: rd wr mr mw me ac sd
7f0000400000-7f0000600000 rw-s 00000000 00:0f 99            /anon_hugepage\\012x (deleted)
Size:               2048 kB
Rss:                   0 kB
Pss:                   0 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Referenced:            0 kB
AnonHugePages:         0 kB
Private_Hugetlb:    2048 kB
VmFlags: rd wr sh mr mw me ms de ht sd
"""  # noqa: W291


BINARY = Vma(
    0x55D0C0000000,
    0x55D0C0002000,
    "r-xp",
    b"/usr/bin/a b (deleted)",
    8192,
    2048,
    4096,
    8192,
    b"fe:00 1234",
)
HEAP = Vma(
    0x7F0000000000, 0x7F0000400000, "rw-p", b"", *[2052 << 10] * 2, 2048 << 10, 0, b"00:00 0"
)
HUGETLB = Vma(
    0x7F0000400000, 0x7F0000600000, "rw-s", b"/anon_hugepage\\012x (deleted)", *[0] * 4, b"00:0f 99"
)


def test_mappings_of_new_and_old_kernels():
    sums, mappings = parse(SMAPS)
    assert mappings == [BINARY, HEAP, HUGETLB]
    assert parse(SMAPS, touched=True) == (sums, [BINARY, HEAP])
    assert sums == {
        "Rss": 2060 << 10,
        "Pss": 2054 << 10,
        "Referenced": 2052 << 10,
        "AnonHugePages": 2048 << 10,
        "ShmemPmdMapped": 0,
        "FilePmdMapped": 0,
        "Shared_Hugetlb": 0,
        "Private_Hugetlb": 2048 << 10,
    }


def test_no_mapping():
    assert parse(b"") == (dict.fromkeys(WINDOW_FIELDS, 0), [])


def test_a_name_that_looks_like_a_field():
    raw = SMAPS.replace(b"/usr/bin/a b (deleted)", b"/tmp/Rss:                   9 kB")
    assert parse(raw)[0] == parse(SMAPS)[0]
    assert parse(raw)[1][0].name == b"/tmp/Rss:                   9 kB"


def test_this_kernel_has_the_fields():
    """Against the sum of the lines, one by one."""
    with open("/proc/self/smaps", "rb") as f:
        raw = f.read()
    sums, mappings = parse(raw)
    assert len(mappings) == len(re.findall(rb"^[0-9a-f]+-[0-9a-f]+ ", raw, re.M))
    found = dict.fromkeys(WINDOW_FIELDS, 0)
    for line in raw.decode().splitlines():
        name = line.split(":")[0]
        if name in found:
            found[name] += int(line.split()[1]) << 10
    assert sums == found and found["Rss"] > 0
