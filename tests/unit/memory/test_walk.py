# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk over files."""

import os

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
