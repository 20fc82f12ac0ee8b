# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of files: mounts, and the search for an inode."""

import os

import pytest

from crisis.memory import file_names

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
    return file_names.Mounts(str(tmp_path))


def dev(major, minor):
    return major << 20 | minor


@pytest.mark.parametrize(
    "device, mode, path, whole",
    [
        ((254, 0), FILE, "/etc/passwd", "/etc/passwd"),
        ((254, 0), FILE, "/srv/bind/x", "/srv/bind/x"),  # the widest mount names it
        ((254, 0), DIRECTORY, "/", "/"),
        ((0, 40), FILE, "/@home/u/file", "/home/u/file"),  # btrfs: the subvolume is in the name
        ((0, 40), FILE, "/@other/file", "[0:40]/@other/file"),  # which is not mounted
        ((0, 40), FILE, "/@homework", "[0:40]/@homework"),
        ((7, 1), FILE, "/only/this/file", "/mnt/part two/file"),
        ((7, 1), DIRECTORY, "/only/this", "/mnt/part two"),
        ((9, 9), FILE, "/far", "[9:9]/far"),
        ((254, 0), BLOCK, None, "/dev/vda"),
        ((254, 1), BLOCK, None, "block device 254:1"),
        ((254, 0), FILE, None, None),
    ],
)
def test_path(mounts, device, mode, path, whole):
    assert mounts.path(file_names.File(5, dev(*device), mode, path)) == whole


def test_path_elsewhere(mounts):
    file = file_names.File(5, dev(7, 9), FILE, "/f")
    assert mounts.path(file) == "[7:9]/f"
    assert mounts.path(file, 77) == "/inner/f"
    assert mounts.path(file, 78) == "[7:9]/f"
    assert mounts.path(file_names.File(5, dev(254, 0), FILE, "/f", deleted=True)) == "/f (deleted)"
    assert mounts.path(file_names.File(5, dev(254, 0), FILE, "/d/f", cut=True)) == ".../d/f"
    assert mounts.filesystem(dev(0, 40)) == ("btrfs", "/home") and mounts.filesystem(dev(9, 9)) == (
        None,
        None,
    )


def test_search_is_bounded(mounts, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("x")
    ino = os.stat(str(tmp_path / "home/file")).st_ino
    search = file_names.Search(mounts)
    assert search.query(dev(0, 40), ino) is None  # never waits
    search.wait(10)
    assert search.query(dev(0, 40), ino) == str(tmp_path / "home/file")
    assert (
        search.query(dev(0, 40), ino + 1) is None and not search.busy
    )  # the file system rests now
