# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/PID: clear_refs, smaps and pagemap, in trees of files."""

import array
import os
import struct

import pytest

from crisis.errors import Error, NotPermitted, Unavailable
from crisis.memory import PAGE
from crisis.memory.process import Process, descendants, flush_is_free, reclaim_scanned

SMAPS = b"""1000-3000 r-xp 00001000 fe:00 1234                       /usr/bin/a
Rss:                   8 kB
Pss:                   2 kB
Shared_Clean:          4 kB
Shared_Dirty:          4 kB
Referenced:            4 kB
"""


def fake_process(root, pid=77, comm=b"a) (b", parent=1, flags=0, **files):
    directory = root / "proc" / str(pid)
    directory.mkdir(parents=True)
    fields = ["S", parent, pid, pid, 0, -1, flags] + [0] * 12 + [4200] + [0] * 20
    (directory / "stat").write_bytes(
        b"%d (%s) " % (pid, comm) + " ".join(map(str, fields)).encode() + b"\n"
    )
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def test_process_and_rollup(tmp_path):
    fake_process(
        tmp_path,
        smaps_rollup=b"1000-2000 ---p 00000000 00:00 0 [rollup]\nRss: 12 kB\nPss: 10 kB\n"
        b"Referenced: 8 kB\nAnonHugePages: 0 kB\n",
        clear_refs=b"",
    )
    process = Process(77, str(tmp_path))
    assert (process.comm, process.parent, process.kernel) == ("a) (b", 1, False)
    assert process.born == 4200 / os.sysconf("SC_CLK_TCK")
    found, begin, end = process.rollup()
    assert (found["Rss"], found["Pss"], found["Referenced"]) == (
        12288,
        10240,
        8192,
    ) and begin <= end
    process.clear(True)
    assert (tmp_path / "proc/77/clear_refs").read_bytes() == b"14"
    (tmp_path / "proc/77/clear_refs").write_bytes(b"")
    process.clear(False)
    assert (tmp_path / "proc/77/clear_refs").read_bytes() == b"1"


def test_without_rollup_smaps_serves_and_without_both_one_line_says_so(tmp_path):
    directory = fake_process(tmp_path, smaps=SMAPS)
    process = Process(77, str(tmp_path))
    assert process.rollup()[0]["Rss"] == 8 << 10
    (directory / "smaps").unlink()
    for act in process.rollup, lambda: process.clear(False):
        with pytest.raises(Unavailable, match="CONFIG_PROC_PAGE_MONITOR"):
            act()
    (directory / "smaps_rollup").write_bytes(b"")
    with pytest.raises(ProcessLookupError):  # a zombie's is empty
        process.rollup()
    (directory / "stat").unlink()
    with pytest.raises(ProcessLookupError):
        process.smaps()
    with pytest.raises(Error, match="no such process: 78"):
        Process(78, str(tmp_path))


def test_frames(tmp_path):
    entries = array.array("Q", [0] * 40)
    entries[16], entries[17], entries[18], entries[30] = (
        1 << 63 | 7,
        1 << 63 | 1 << 56 | 8,
        1 << 62 | 9,
        1 << 63 | 11,
    )
    fake_process(tmp_path, pagemap=entries.tobytes())
    process = Process(77, str(tmp_path))
    assert process.frames(16 * PAGE, 31 * PAGE) == ([7, 11], 1) and process.frames(
        0, 16 * PAGE
    ) == ([], 0)
    entries[16], entries[30] = 1 << 63, 1 << 63
    (tmp_path / "proc/77/pagemap").write_bytes(entries.tobytes())
    with pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"):
        process.frames(16 * PAGE, 31 * PAGE)


def test_descendants(tmp_path):
    for pid, parent in (1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (21, 20):
        fake_process(tmp_path, pid, parent=parent)
    assert descendants([10], str(tmp_path)) == [10, 11, 12]
    assert descendants([11, 20], str(tmp_path)) == [11, 12, 20, 21]


def test_reclaim_is_counted_once(tmp_path):
    (tmp_path / "proc").mkdir()
    assert reclaim_scanned(str(tmp_path)) is None
    (tmp_path / "proc/vmstat").write_text(
        "pgscan_kswapd 100\npgscan_direct 20\npgscan_direct_throttle 5\n"
        "pgscan_anon 80\npgscan_file 43\npgscan_khugepaged 3\npgsteal_kswapd 9\n"
    )
    assert reclaim_scanned(str(tmp_path)) == 123


class _Pagemap:
    """/proc/self/pagemap that has one entry at every address."""

    def __init__(self, monkeypatch, tmp_path, entry):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self/pagemap").write_bytes(b"")
        monkeypatch.setattr(os, "pread", lambda fd, count, at: struct.pack("=Q", entry))


@pytest.mark.parametrize("entry, free", [(1 << 63, True), (1 << 63 | 1 << 55, False), (0, False)])
def test_soft_dirty_bits_forbid_the_flush(monkeypatch, tmp_path, entry, free):
    assert not flush_is_free(str(tmp_path))
    _Pagemap(monkeypatch, tmp_path, entry)
    assert flush_is_free(str(tmp_path)) is free


def test_resident_runs(tmp_path):
    entries = array.array("Q", [0] * 64)
    for page in 16, 17, 20, 32, 33:
        entries[page] = 1 << 63 | page
    entries[21] = 1 << 62  # swapped
    fake_process(
        tmp_path,
        maps=b"10000-18000 rw-p 0 0:0 0\n18000-22000 r--p 0 0:0 0 /x\n",
        pagemap=entries.tobytes(),
    )
    if PAGE == 4096:
        assert Process(77, str(tmp_path)).resident_runs() == [
            (0x10000, 0x12000),
            (0x14000, 0x15000),
            (0x20000, 0x22000),
        ]
