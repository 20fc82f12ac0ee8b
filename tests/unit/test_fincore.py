# SPDX-License-Identifier: GPL-2.0-or-later
"""fincore, pagecache and lib/pagecache without root and without a certain kernel."""

import json
import os

import pytest
from helpers import load, run

from crisis import pagecache, table
from crisis.errors import Error


@pytest.mark.parametrize("size, text", [
    (0, "0B"), (1, "1B"), (1023, "1023B"), (1024, "1K"), (1025, "1K"), (1075, "1K"), (1076, "1.1K"), (1536, "1.5K"),
    (4500, "4.4K"), (1048575, "1024K"), (1 << 20, "1M"), (4 << 30, "4G"), (1 << 40, "1T"), (3 << 59, "1.5E"),
    ((1 << 63) - 1, "8E")])
def test_sizes_read_as_those_of_util_linux(size, text):
    assert table.size(size) == text


@pytest.mark.parametrize("arguments", [
    [], ["-o", "nope", "x"], ["-o", "RES,\x1b", "x"], ["--sort", "nope", "x"], ["--top", "0", "x"], ["-p", "0"],
    ["--watch", "x"], ["--watch=0", "x"], ["--count", "2", "x"], ["--jobs", "0", "x"], ["-J", "-j", "x"],
    ["-J", "--watch=1", "x"], ["--watch=1", "--files-from", "-"], ["--nonsense"]])
def test_fincore_usage_errors(arguments):
    result = run("fincore", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("fincore: ") and "\x1b" not in result.stderr


@pytest.mark.parametrize("arguments", [[], ["evict"], ["destroy", "x"], ["restore"], ["restore", "--files-from", "x"],
                                       ["touch", "x", "--nonsense"]])
def test_pagecache_usage_errors(arguments):
    result = run("pagecache", *arguments)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1


def test_own_files_without_root(tmp_path):
    for i in range(3):
        (tmp_path / str(i)).write_bytes(b"x" * 5000 * i)
    result = run("fincore", "-j", "-c", "--sort", "FILE", str(tmp_path))
    assert result.returncode == 0, result.stderr
    *files, total = map(json.loads, result.stdout.splitlines())
    assert [r["size_bytes"] for r in files] == [0, 5000, 10000] and total["size_bytes"] == 15000
    assert all(0 <= r["pages"] <= pagecache.pages_of(r["size_bytes"]) for r in files)
    assert total["files"] == 3 and total["pages"] == sum(r["pages"] for r in files) and total["unknown"] == 0
    document = json.loads(run("fincore", "--json", "-b", "--output-all", str(tmp_path)).stdout)["fincore"]
    assert {"res", "pages", "size", "file", "dirty", "dirty_pages", "writeback", "writeback_pages", "evicted",
            "evicted_pages", "recently_evicted", "recently_evicted_pages"} == set(document[0])
    assert json.loads(run("fincore", "-J", "--exclude", "*", str(tmp_path)).stdout) == {"fincore": []}


def test_shares_are_disjoint_and_complete(tmp_path):
    for directory in "a", "b":
        (tmp_path / directory).mkdir()
        for i in range(100):
            (tmp_path / directory / str(i)).touch()
    (tmp_path / "top").touch()
    os.link(str(tmp_path / "top"), str(tmp_path / "b" / "again"))
    for parts in 1, 2, 3, 7:
        found = []
        for number in range(parts):
            walk = pagecache.Walk(share=(number, parts))
            found += [os.path.basename(f[1]) + f[0] for f in walk.files([str(tmp_path)])]
        assert len(found) == len(set(found)) == 201


def test_a_tree_deeper_than_path_max(tmp_path):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(40):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        open("file", "w").close()
        os.chdir(tmp_path)
        walk, failed = pagecache.Walk(on_error=lambda *what: failed.append(what)), []
        names = [prefix + name for prefix, name, *_ in walk.files(["."])]
        assert names == ["./" + ("d" * 200 + "/") * 40 + "file"] and not failed
    finally:
        os.chdir(tmp_path)
        for depth in range(40, 0, -1):      # rmtree of Python 3.9 cannot
            os.chdir(tmp_path)
            for _ in range(depth - 1):
                os.chdir("d" * 200)
            if depth == 40:
                os.unlink("d" * 200 + "/file")
            os.rmdir("d" * 200)
        os.chdir(here)


def test_runs_of_pages():
    vector = bytearray(b"\1\1\0\1\0\0")
    assert list(pagecache.runs(vector, 1)) == [(0, 2), (3, 1)]
    assert list(pagecache.runs(vector, 0)) == [(2, 1), (4, 2)]
    assert list(pagecache.runs(bytearray(), 1)) == []


def test_files_of_a_process_by_name_where_map_files_is_closed(tmp_path):
    base = tmp_path / "proc" / "7"
    (base / "fd").mkdir(parents=True)
    library, gone = tmp_path / "lib.so", tmp_path / "gone (deleted)"
    library.write_bytes(b"x")
    os.symlink(str(library), str(base / "fd" / "3"))
    other = tmp_path / "other"
    other.write_bytes(b"y")
    os.symlink("/dev/null", str(base / "fd" / "0"))
    st = os.stat(str(other))
    device = "%02x:%02x" % (os.major(st.st_dev), os.minor(st.st_dev))
    (base / "maps").write_text(
        "1000-2000 r-xp 00000000 %s %d    %s\n" % (device, os.stat(str(library)).st_ino, library) +
        "00400000-00401000 r--p 00000000 %s %d    %s\n" % (device, st.st_ino, other) +
        "3000-4000 r--p 00000000 %s 99999999    %s\n" % (device, gone) +
        "5000-6000 rw-p 00000000 00:00 0    [heap]\n6000-7000 rw-p 00000000 00:00 0\n")
    (base / "map_files").mkdir()
    os.symlink(str(other), str(base / "map_files" / "400000-401000"))
    found, unreachable = pagecache.process_files(7, str(tmp_path))
    assert found == [(str(library), str(base / "fd" / "3")), (str(other), str(base / "map_files" / "400000-401000"))]
    with pytest.raises(Error, match="no such process"):
        pagecache.process_files(8, str(tmp_path))
    (base / "comm").write_text("na\nme\n")
    mapped = pagecache.mappings(str(tmp_path))
    assert mapped[str(other)] == mapped[os.major(st.st_dev), os.minor(st.st_dev), st.st_ino] == {7: "na\nme"}


def test_a_saved_line_is_bytes():
    saved = load("pagecache")._saved
    line = b'{"file":"/a","size_bytes":9,"mtime_ns":1,"page_bytes":65536,"ranges":[[0,1],[3,2]]}'
    assert saved(line) == ("/a", 9, 1, [(0, 65536), (3 * 65536, 5 * 65536)])


def test_names_from_a_list(tmp_path):
    path = tmp_path / "list"
    path.write_bytes(b"one\n\ntw\xff o\nlast")
    assert list(pagecache.names_from(str(path), False)) == ["one", "tw\udcff o", "last"]
    path.write_bytes(b"a\nb\0c\0")
    assert list(pagecache.names_from(str(path), True)) == ["a\nb", "c"]
