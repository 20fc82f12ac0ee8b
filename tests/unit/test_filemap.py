# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of files from what the kernel says, and the counts of cachestat, without root."""

import pytest

from crisis.bpf.record import Record
from crisis.memory import file_names
from crisis.memory.cache_counts import Counts

FILE, DIRECTORY = 0o100644, 0o040755


def dev(major, minor):
    return major << 20 | minor


def test_named():
    fields = ["inode", "ino", "name", "dev", "rdev", "mode", "deleted", "cut", "length", "path"]
    layout = Record.named("name_record", fields)

    def named(path, mode=FILE, deleted=0, cut=0):
        record = layout(
            (
                0xFFFF888000000000,
                12,
                34,
                dev(8, 1),
                0,
                mode,
                deleted,
                cut,
                len(path),
                path + b"rest",
            )
        )
        return file_names.File.named(record)

    file = named(b"file\xff\0dir\0", deleted=1)
    assert (file.ino, file.dev) == (12, dev(8, 1))
    assert file.path == "/dir/file\udcff" and file.deleted and not file.cut
    assert named(b"").path is None
    assert named(b"", mode=DIRECTORY).path == "/"
    assert file_names.device(file.dev) == "8:1"


def test_counts():
    """What is derived from the kernel's sums; an event and its explanation on two sides of an edge
    give no negative.
    """
    fields = [
        "read",
        "read_fresh",
        "faults",
        "fault_fresh",
        "added",
        "fault_added",
        "write",
        "metadata",
        "read_miss",
        "fault_miss",
        "dirtied",
        "reclaimed",
        "dropped",
    ]

    def counts(**sums):
        return Counts(dict(dict.fromkeys(fields, 0), **sums))

    usual = counts(
        read=100,
        read_fresh=60,
        faults=10,
        fault_fresh=4,
        added=120,
        fault_added=32,
        write=5,
        metadata=3,
        read_miss=20,
        fault_miss=1,
        dirtied=7,
    )
    assert (usual.hits, usual.misses, usual.mmap_hits, usual.mmap_misses) == (40, 80, 6, 32)
    assert usual.ratio == pytest.approx(40 / 120) and usual.readahead == 80 + 32 - 21
    assert usual.columns(demand=False) == [40, 80, 7, "33.33%", 6, 32]
    assert usual.columns(demand=True) == [80, 20, 7, "80.00%", 9, 1]
    edge = counts(read_fresh=10, fault_fresh=2, write=5, metadata=-3, read_miss=4)
    assert (edge.hits, edge.misses, edge.mmap_hits, edge.readahead, edge.metadata) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert (
        counts().ratio is None
        and counts().demand_ratio is None
        and counts().columns(False)[3] == "-"
    )
