# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of files from what the kernel says and from mountinfo, without root."""

import struct

import pytest

from crisis import filemap
from helpers import load

FILE, DIRECTORY, BLOCK = 0o100644, 0o040755, 0o060660


def dev(major, minor):
    return major << 20 | minor


def record(path, mode=FILE, deleted=0, cut=0):
    return struct.pack("=QQQIIIIII", 0xffff888000000000, 12, 34, dev(8, 1), 0, mode, deleted, cut, len(path)) + path


def test_parse_name():
    inode, name, file = filemap.parse_name(record(b"file\xff\0dir\0", deleted=1))
    assert (inode, name, file.ino, file.dev) == (0xffff888000000000, 34, 12, dev(8, 1))
    assert file.path == "/dir/file\udcff" and file.deleted and not file.cut
    assert filemap.parse_name(record(b""))[2].path is None
    assert filemap.parse_name(record(b"", mode=DIRECTORY))[2].path == "/"
    assert filemap.device(file.dev) == "8:1"


def test_counts():
    """What is derived from the kernel's sums; an event and its explanation on two sides of an edge give no negative."""
    counts = load("cachestat").Counts
    usual = counts([100, 16, 10, 1, 60, 5, 4, 7, 2, 3])
    assert (usual.hits, usual.misses, usual.readahead) == (105, 11, 40)
    assert usual.ratio == pytest.approx(105 / 116)
    edge = counts([0, 0, 10, 0, 0, 5, 0, 0, 0, 0])
    assert (edge.hits, edge.misses, edge.readahead, edge.ratio) == (0, 10, 0, 0)
    assert counts([0] * 10).ratio is None
