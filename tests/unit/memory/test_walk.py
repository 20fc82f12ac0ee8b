# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk over files."""

import os

import pytest

from crisis.memory import walk as walk_module
from crisis.memory.walk import Walk


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
            walk = Walk(share=(number, parts))
            found += [os.path.basename(f[1]) + f[0] for f in walk.files([str(tmp_path)])]
        assert len(found) == len(set(found)) == 201


@pytest.fixture()
def tree(tmp_path, monkeypatch):
    """Files with as many bytes as their names have characters, below the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in "b.c", "a.txt", "top/x.c", "top/sub.d/abc.c", "top/sub.d/q", "top/ab/z.txt":
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


SUB = ["top/sub.d/abc.c", "top/sub.d/q"]


def names(*paths, **options):
    walk = Walk(**options)
    return [prefix + name for prefix, name, *_ in walk.files(paths)], walk


def test_the_files_of_a_directory_come_by_name_and_before_its_directories(tree, monkeypatch):
    expected = ["./a.txt", "./b.c", "./top/x.c", "./top/ab/z.txt"]
    expected += ["./top/sub.d/abc.c", "./top/sub.d/q"]
    assert names(".")[0] == expected
    assert sorted(names(".", ordered=False)[0]) == sorted(expected)
    monkeypatch.setattr(walk_module, "_SORTED", 1)  # parts of one entry: in the kernel's order
    assert sorted(names(".")[0]) == sorted(expected)


@pytest.mark.parametrize(
    "exclude, include, expected",
    [
        ([], ["*.c"], ["b.c", "top/x.c", "top/sub.d/abc.c"]),
        ([], ["x.c", "q"], ["top/x.c", "top/sub.d/q"]),
        ([], ["*/sub.d/*"], ["top/sub.d/abc.c", "top/sub.d/q"]),
        ([], ["sub.d"], []),  # of files only
        (["*.c"], [], ["a.txt", "top/ab/z.txt", "top/sub.d/q"]),
        (["*.c"], ["?.*", "q"], ["a.txt", "top/ab/z.txt", "top/sub.d/q"]),
        (["sub*"], ["*c"], ["b.c", "top/x.c"]),
        # Without a slash it is one of names: "t*d*" matches the path top/sub.d/q.
        (["t*d*"], [], ["a.txt", "b.c", "top/x.c", "top/ab/z.txt", *SUB]),
        (["top/*d"], [], ["a.txt", "b.c", "top/x.c", "top/ab/z.txt"]),
        (["top"], [], ["a.txt", "b.c"]),
    ],
)
def test_patterns(tree, exclude, include, expected):
    assert names("a.txt", "b.c", "top", exclude=exclude, include=include)[0] == expected


@pytest.mark.parametrize(
    "sizes, expected, small, large",
    [
        ((0, 3), ["b.c", "top/x.c", "top/sub.d/q"], 0, 3),
        ((4, 1 << 63), ["a.txt", "top/ab/z.txt", "top/sub.d/abc.c"], 3, 0),
        ((3, 3), ["b.c", "top/x.c"], 1, 3),
    ],
)
def test_sizes(tree, sizes, expected, small, large):
    found, walk = names("a.txt", "b.c", "top", sizes=sizes)
    assert found == expected and (walk.too_small, walk.too_large) == (small, large)


def test_a_tree_deeper_than_path_max(tmp_path):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(40):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        open("file", "w").close()
        os.chdir(tmp_path)
        walk, failed = Walk(on_error=lambda *what: failed.append(what)), []
        names = [prefix + name for prefix, name, *_ in walk.files(["."])]
        assert names == ["./" + ("d" * 200 + "/") * 40 + "file"] and not failed
    finally:
        os.chdir(tmp_path)
        for depth in range(40, 0, -1):  # rmtree of Python 3.9 cannot
            os.chdir(tmp_path)
            for _ in range(depth - 1):
                os.chdir("d" * 200)
            if depth == 40:
                os.unlink("d" * 200 + "/file")
            os.rmdir("d" * 200)
        os.chdir(here)
