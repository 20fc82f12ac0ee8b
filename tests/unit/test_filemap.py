# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of files from what the kernel says and from mountinfo, without root."""

import os
import struct

import pytest
from crisis import filemap
from helpers import load

MOUNTINFO = b"""\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 254:0 /srv/bind /mnt/bind rw,relatime - ext4 /dev/vda rw
24 22 0:40 /@home /home rw - btrfs /dev/vdb rw
25 22 7:1 /only/this /mnt/part\\040two rw - xfs /dev/loop1 rw
26 22 0:50 / /merged rw - overlay overlay rw
"""
FILE, DIRECTORY, BLOCK = 0o100644, 0o040755, 0o060660


@pytest.fixture
def mounts(tmp_path):
    for pid in "self", "77":
        (tmp_path / "proc" / pid / "ns").mkdir(parents=True)
    os.symlink("mnt:[1]", str(tmp_path / "proc/self/ns/mnt"))
    os.symlink("mnt:[2]", str(tmp_path / "proc/77/ns/mnt"))
    (tmp_path / "proc/self/mountinfo").write_bytes(MOUNTINFO)
    (tmp_path / "proc/77/mountinfo").write_bytes(b"30 29 7:9 / /inner rw - ext4 /dev/loop9 rw\n")
    (tmp_path / "sys/dev/block/254:0").mkdir(parents=True)
    (tmp_path / "sys/dev/block/254:0/uevent").write_text("MAJOR=254\nMINOR=0\nDEVNAME=vda\n")
    return filemap.Mounts(str(tmp_path))


def dev(major, minor):
    return major << 20 | minor


@pytest.mark.parametrize("device, mode, path, whole", [
    ((254, 0), FILE, "/etc/passwd", "/etc/passwd"),
    ((254, 0), FILE, "/srv/bind/x", "/srv/bind/x"),             # the widest mount names it
    ((254, 0), DIRECTORY, "/", "/"),
    ((0, 40), FILE, "/@home/u/file", "/home/u/file"),           # btrfs: the subvolume is in the name
    ((0, 40), FILE, "/@other/file", "[0:40]/@other/file"),      # which is not mounted
    ((0, 40), FILE, "/@homework", "[0:40]/@homework"),
    ((7, 1), FILE, "/only/this/file", "/mnt/part two/file"),
    ((7, 1), DIRECTORY, "/only/this", "/mnt/part two"),
    ((9, 9), FILE, "/far", "[9:9]/far"),
    ((254, 0), BLOCK, None, "/dev/vda"),
    ((254, 1), BLOCK, None, "block device 254:1"),
    ((254, 0), FILE, None, None)])
def test_path(mounts, device, mode, path, whole):
    assert mounts.path(filemap.File(5, dev(*device), mode, path)) == whole


def test_path_elsewhere(mounts):
    file = filemap.File(5, dev(7, 9), FILE, "/f")
    assert mounts.path(file) == "[7:9]/f"
    assert mounts.path(file, 77) == "/inner/f"
    assert mounts.path(file, 78) == "[7:9]/f"
    assert mounts.path(filemap.File(5, dev(254, 0), FILE, "/f", deleted=True)) == "/f (deleted)"
    assert mounts.path(filemap.File(5, dev(254, 0), FILE, "/d/f", cut=True)) == ".../d/f"
    assert mounts.filesystem(dev(0, 40)) == ("btrfs", "/home") and mounts.filesystem(dev(9, 9)) == (None, None)


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


def test_search_is_bounded(mounts, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("x")
    ino = os.stat(str(tmp_path / "home/file")).st_ino
    search = filemap.Search(mounts)
    assert search.ask(dev(0, 40), ino) is None          # never waits
    search.wait(10)
    assert search.ask(dev(0, 40), ino) == str(tmp_path / "home/file")
    assert search.ask(dev(0, 40), ino + 1) is None and not search._busy     # the file system rests now
