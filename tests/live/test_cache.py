# SPDX-License-Identifier: GPL-2.0-or-later
"""The program cache under attack: each ends in a correct object, and in a warning where due.

Needs root.
"""

import os
import subprocess
import threading

import pytest

from crisis import bpf
from crisis.bpf import cache as programs

SOURCE = bpf.Source(
    "test.cache",
    None,
    (("raw_tp/sched_switch:on_switch",),),
    text="int on_switch(void *ctx) { return 0; }",
)


@pytest.fixture
def cache(tmp_path):
    """(path, entry, warnings, build) of a cache that has been filled once."""
    path, warnings = str(tmp_path / "cache"), []
    os.chmod(str(tmp_path), 0o700)

    def build():
        del warnings[:]
        obj = programs.build(SOURCE, warn=warnings.append, path=path)
        assert "on_switch" in obj.functions

    build()
    entry = os.path.join(path, programs.key(SOURCE))
    assert os.stat(path).st_mode & 0o7777 == 0o700 and os.stat(entry).st_mode & 0o7777 == 0o600
    build()
    assert not warnings
    return path, entry, warnings, build


def test_foreign_owner(cache):
    path, entry, warnings, build = cache
    os.chown(entry, 65534, 65534)
    build()
    assert warnings and os.stat(entry).st_uid == 0


def test_directory_writable_by_others(cache):
    path, entry, warnings, build = cache
    for mode in 0o770, 0o702:
        os.chmod(path, mode)
        build()
        assert any("mode" in w for w in warnings)


def test_foreign_directory(cache):
    path, entry, warnings, build = cache
    os.chown(path, 65534, 65534)
    build()
    assert any("belongs to uid 65534" in w for w in warnings)


def test_link_instead_of_the_entry(cache, tmp_path):
    path, entry, warnings, build = cache
    os.rename(entry, str(tmp_path / "elsewhere"))
    os.symlink(str(tmp_path / "elsewhere"), entry)
    build()
    assert warnings and not os.path.islink(entry)


def test_link_instead_of_the_directory(cache, tmp_path):
    path, entry, warnings, build = cache
    os.rename(path, str(tmp_path / "elsewhere"))
    os.symlink(str(tmp_path / "elsewhere"), path)
    build()
    assert warnings and all(f"{path} is a symbolic link" in w for w in warnings)
    assert os.listdir(str(tmp_path / "elsewhere")) == [os.path.basename(entry)]


@pytest.mark.parametrize(
    "damage", ["truncate", "flip", "empty", "other source", "fifo", "directory", "hard link"]
)
def test_damaged_entry(cache, damage):
    path, entry, warnings, build = cache
    data = open(entry, "rb").read()
    if damage == "hard link":
        os.link(entry, entry + ".other")
    elif damage in ("fifo", "directory"):
        os.unlink(entry)
        os.mkfifo(entry, 0o600) if damage == "fifo" else os.mkdir(entry)
    else:
        new = {
            "truncate": data[: len(data) // 2],
            "empty": b"",
            "other source": data.replace(b"return 0", b"return 1"),
            "flip": data[:-5] + bytes([data[-5] ^ 4]) + data[-4:],
        }[damage]
        with open(entry, "wb") as f:
            f.write(new)
    build()
    assert warnings
    if damage != "directory":
        build()
        assert not warnings


def test_two_first_starts_at_once(tmp_path):
    os.chmod(str(tmp_path), 0o700)
    path, results = str(tmp_path / "cache"), []

    def one():
        warnings = []
        obj = programs.build(SOURCE, warn=warnings.append, path=path)
        results.append((sorted(obj.functions), warnings))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(["on_switch"], [])] * 2
    assert os.listdir(path) == [programs.key(SOURCE)]


def test_full_disk_only_warns(tmp_path):
    os.chmod(str(tmp_path), 0o700)
    small = str(tmp_path / "small")
    os.mkdir(small)
    if subprocess.call(["mount", "-t", "tmpfs", "-o", "size=4k,mode=700", "tmpfs", small]):
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        with open(small + "/fill", "wb") as f:
            f.write(b"x" * 4096)
        warnings = []
        assert programs.build(SOURCE, warn=warnings.append, path=small).functions
        assert warnings
    finally:
        subprocess.check_call(["umount", small])


def test_directory_that_others_can_read(cache):
    """As packagers make it."""
    path, entry, warnings, build = cache
    before = os.stat(entry).st_ino
    for mode in 0o755, 0o750, 0o711:
        os.chmod(path, mode)
        build()
        assert not warnings and os.stat(entry).st_ino == before


def test_sticky_directory_that_all_can_write(cache):
    path, entry, warnings, build = cache
    os.chmod(path, 0o1777)
    build()
    assert any("can be written by others (mode 1777)" in w for w in warnings)
