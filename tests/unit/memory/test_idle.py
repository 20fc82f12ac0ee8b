# SPDX-License-Identifier: GPL-2.0-or-later
"""Idle page tracking, in a tree of files."""

import array
import os

import pytest

from crisis.errors import NotPermitted, Unavailable
from crisis.memory import PAGE, idle
from crisis.memory.process import Process


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


LRU, HEAD, TAIL, HUGE, NOPAGE, THP, ZERO = (1 << bit for bit in (5, 15, 16, 17, 20, 22, 24))


class Machine:
    """1024 frames: 1-3 small, 200-203 one folio, 300 hugetlb, 301 zero page, 302 on no LRU,
    512-1023 a huge page.
    """

    def __init__(self, root):
        self.root = root
        flags = array.array("Q", [NOPAGE] * 1024)
        for frame in 1, 2, 3:
            flags[frame] = LRU
        for first, count in (200, 4), (512, 512):
            flags[first] = LRU | HEAD
            for frame in range(first + 1, first + count):
                flags[frame] = TAIL
        flags[300], flags[301], flags[302] = HUGE | HEAD, ZERO, 0
        (root / "proc").mkdir(exist_ok=True)
        (root / "proc/kpageflags").write_bytes(flags.tobytes())
        self.bitmap = root / "sys/kernel/mm/page_idle/bitmap"
        self.bitmap.parent.mkdir(parents=True)
        self.bitmap.write_bytes(bytes(1024 // 8))

    def idle(self):
        words = array.array("Q", self.bitmap.read_bytes())
        return {
            index * 64 + bit
            for index, word in enumerate(words)
            for bit in range(64)
            if word >> bit & 1
        }

    def touch(self, *frames):
        words = array.array("Q", self.bitmap.read_bytes())
        for frame in frames:
            words[frame // 64] &= ~(1 << frame % 64)
        self.bitmap.write_bytes(words.tobytes())


def test_idle_pages_small_compound_and_untracked(tmp_path):
    machine = Machine(tmp_path)
    pages = idle.IdlePages(str(tmp_path))
    frames = [1, 3, 201, 202, 300, 301, 302] + list(range(600, 700))
    pages.mark(frames)
    assert machine.idle() == {1, 3, 200, 512}  # heads only, and nobody else's
    machine.touch(3, 512)
    found, begin, end = pages.touched(frames + [2])
    assert begin <= end
    # 2 came after the marking
    assert {f for f, state in found.items() if state} == {2, 3, *range(600, 700)}
    assert [f for f, state in found.items() if state is None] == [300, 301, 302]
    assert not found[1] and not found[201]
    machine.touch(200)
    assert pages.touched([201])[0] == {201: True}


def test_idle_pages_of_a_process(tmp_path):
    Machine(tmp_path)
    entries = array.array("Q", [0] * 64)
    entries[16], entries[17], entries[18], entries[40] = (
        1 << 63 | 1,
        1 << 63 | 3,
        1 << 62 | 9,
        1 << 63 | 200,
    )
    fake_process(
        tmp_path,
        pagemap=entries.tobytes(),
        maps=b"10000-14000 rw-p 00000000 00:00 0    [heap]\n28000-29000 r--s 00000000 00:00 5  "
        b"  /a b\n"
        b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n",
    )
    if PAGE != 4096:
        pytest.skip("the fixture is for pages of 4 KiB")
    pages = idle.IdlePages(str(tmp_path))
    process = Process(77, str(tmp_path))
    assert list(pages.resident(process)) == [
        (0x10000, 0x14000, "rw-p", b"[heap]", [1, 3]),
        (0x28000, 0x29000, "r--s", b"/a b", [200]),
    ]
    hidden = array.array("Q", [1 << 63] * 64)
    (tmp_path / "proc/77/pagemap").write_bytes(hidden.tobytes())
    with pytest.raises(NotPermitted, match="CAP_SYS_ADMIN"):
        list(pages.resident(process))


def test_idle_pages_of_a_cgroup(tmp_path):
    Machine(tmp_path)
    owners = array.array("Q", [7] * 1024)
    owners[2], owners[203] = 9, 10
    (tmp_path / "proc/kpagecgroup").write_bytes(owners.tobytes())
    assert idle.IdlePages(str(tmp_path)).cgroup_frames({9, 10}) == [2, 203]


def test_without_idle_page_tracking(tmp_path):
    with pytest.raises(Unavailable, match="CONFIG_IDLE_PAGE_TRACKING"):
        idle.IdlePages(str(tmp_path))


def test_idle_writes_are_whole_words_of_at_most_a_page(tmp_path, monkeypatch):
    frames = 64 * (PAGE // 8) * 2 + 70
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kpageflags").write_bytes(array.array("Q", [LRU] * frames).tobytes())
    bitmap = tmp_path / "sys/kernel/mm/page_idle/bitmap"
    bitmap.parent.mkdir(parents=True)
    bitmap.write_bytes(bytes((frames // 64 + 1) * 8))
    sizes, write = [], os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, at: (sizes.append((len(data), at)), write(fd, data, at))[1]
    )
    pages = idle.IdlePages(str(tmp_path))
    pages.mark(range(frames))
    assert sizes == [(PAGE, 0), (PAGE, PAGE), (16, 2 * PAGE)]
    found, _, _ = pages.touched(range(frames))
    assert not any(found.values()) and len(found) == frames
