# SPDX-License-Identifier: GPL-2.0-or-later
"""The names and sums of cachesnoop, from records as the program sends them."""

import time
from types import SimpleNamespace

import pytest

from crisis.memory import file_names, page_events
from crisis.memory.page_events import Batch, FileNames, Stamps, Totals
from helpers import write_tree

REGULAR = 0o100644
DEV = 254 << 20 | 1


class Ring:
    def __init__(self):
        self.sent = []

    def send(self, inode, name, ino, path):
        parts = b"".join(part + b"\0" for part in reversed(path.encode().split(b"/")) if part)
        fields = {"inode": inode, "name": name, "ino": ino, "dev": DEV, "mode": REGULAR}
        self.sent.append(SimpleNamespace(**fields, deleted=0, cut=0, length=len(parts), path=parts))

    def records(self):
        found, self.sent = self.sent, []
        return found


@pytest.fixture
def names(monkeypatch, tmp_path):
    mountinfo = {"proc/self/mountinfo": "29 1 254:1 / /mnt rw - ext4 /dev/vda1 rw\n"}
    mounts = file_names.Mounts(write_tree(tmp_path, mountinfo))
    monkeypatch.setattr(page_events, "Mounts", lambda: mounts)
    ring = Ring()
    made = FileNames(ring)
    made.ring = ring
    made.queried = []
    monkeypatch.setattr(
        page_events.Search, "query", lambda search, dev, ino: made.queried.append(ino)
    )
    monkeypatch.setattr(made.mounts, "find_open", lambda pid, dev, ino: None)
    return made


def test_a_file_keeps_its_last_name_when_its_dentry_is_gone(names):
    names.ring.send(1, 10, 100, "/a")
    names.read()
    assert names.path((1, 10, 100), DEV, None) == "/mnt/a"
    assert names.path((1, 0, 100), DEV, None) == "/mnt/a"
    # The same address, another file: the old name is not its own.
    assert names.path((1, 0, 101), DEV, None) is None and names.queried == [101]


def test_a_rename_is_another_name(names):
    names.ring.send(1, 10, 100, "/a")
    names.ring.send(1, 11, 100, "/b")
    names.read()
    assert names.path((1, 10, 100), DEV, None) == "/mnt/a"
    assert names.path((1, 11, 100), DEV, None) == "/mnt/b"
    assert names.path((1, 0, 100), DEV, None) == "/mnt/b"


def test_a_missing_name_is_not_looked_up_for_each_event(names, monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(100):
        assert names.path((1, 10, 100), DEV, 185) is None
    assert names.queried == [100]
    now[0] += page_events.RETRY + 1
    names.path((1, 10, 100), DEV, 185)
    assert names.queried == [100, 100]
    names.ring.send(1, 10, 100, "/late")
    names.read()
    now[0] += page_events.RETRY + 1
    assert names.path((1, 10, 100), DEV, 185) == "/mnt/late"


def test_the_files_used_last_are_remembered(names, monkeypatch):
    monkeypatch.setattr(page_events, "KEPT", 3)
    for number in 1, 2, 3:
        names.ring.send(number, 10, 100 + number, f"/{number}")
    names.read()
    assert names.path((1, 10, 101), DEV, None) == "/mnt/1"  # used: 2 is the oldest now
    names.ring.send(4, 10, 104, "/4")
    names.read()
    assert [names.path((n, 10, 100 + n), DEV, None) for n in (1, 2, 3, 4)] == [
        "/mnt/1",
        None,
        "/mnt/3",
        "/mnt/4",
    ]


def entry(inode, name, ino, added, evicted=0):
    key = SimpleNamespace(inode=inode, name=name, ino=ino)
    return key, SimpleNamespace(added=added, evicted=evicted, dev=DEV)


def test_entries_of_one_file_are_one_row_and_those_of_others_are_not(names):
    names.ring.send(1, 10, 100, "/a")
    names.ring.send(2, 20, 100, "/a")  # freed and read again: another address
    names.ring.send(3, 30, 100, "/new")  # deleted meanwhile, its inode number used again
    names.ring.send(4, 40, 200, "/b")
    names.read()
    entries = [entry(1, 10, 100, 5), entry(2, 20, 100, 1, 2), entry(3, 30, 100, 7)]
    entries.append(entry(4, 40, 200, 8))
    files = page_events.largest(page_events.merged(entries, names), names, None)
    assert [(file.path, file.ino, file.added, file.evicted) for file in files] == [
        ("/mnt/a", 100, 6, 2),
        ("/mnt/b", 200, 8, 0),
        ("/mnt/new", 100, 7, 0),
    ]


def test_only_files_that_are_shown_are_looked_up(names, monkeypatch):
    monkeypatch.setattr(names, "wait", lambda seconds: None)
    files = page_events.merged([entry(n, 10, 100 + n, n) for n in range(1, 9)], names)
    assert len(files) == 8
    assert [file.added for file in page_events.largest(files, names, 2)] == [8, 7]
    assert set(names.queried) == {107, 108}


def test_stamps(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1700000000.0)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    stamps = Stamps("%s", "x")
    assert [stamps.text(int(s * 1e9)) for s in (1000.25, 1000.9995, 1001, 999)] == [
        "1700000000.250x",
        "1700000000.999x",
        "1700000001.000x",
        "1699999999.000x",
    ]


def test_totals():
    totals = Totals()
    runs = [SimpleNamespace(kind=kind, pages=pages) for kind, pages in ((0, 3), (1, 4), (0, 5))]
    totals.add(Batch([(run, None) for run in runs], {"events_lost": 1}, None))
    totals.add(Batch([(runs[0], None)], {"events_lost": 2}, 1.5))
    assert (totals.added, totals.evicted, totals.seconds) == (11, 4, 1.5)
    assert totals.lost == {"events_lost": 3}
