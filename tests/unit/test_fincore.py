# SPDX-License-Identifier: GPL-2.0-or-later
"""fincore and pagecache without root and without a certain kernel."""

import json

import pytest

from crisis import table
from crisis.memory.mapping import pages_of
from helpers import load, run


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0B"),
        (1, "1B"),
        (1023, "1023B"),
        (1024, "1K"),
        (1025, "1K"),
        (1075, "1K"),
        (1076, "1.1K"),
        (1536, "1.5K"),
        (4500, "4.4K"),
        (1048575, "1024K"),
        (1 << 20, "1M"),
        (4 << 30, "4G"),
        (1 << 40, "1T"),
        (3 << 59, "1.5E"),
        ((1 << 63) - 1, "8E"),
    ],
)
def test_sizes_read_as_those_of_util_linux(size, text):
    assert table.size(size) == text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-o", "nope", "x"],
        ["-o", "RES,\x1b", "x"],
        ["--sort", "nope", "x"],
        ["--top", "0", "x"],
        ["-p", "0"],
        ["--watch", "x"],
        ["--watch=0", "x"],
        ["--count", "2", "x"],
        ["--jobs", "0", "x"],
        ["-J", "-j", "x"],
        ["-J", "--watch=1", "x"],
        ["--watch=1", "--files-from", "-"],
        ["--nonsense"],
    ],
)
def test_fincore_usage_errors(arguments):
    result = run("fincore", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert (
        result.stderr.count("\n") == 1
        and result.stderr.startswith("fincore: ")
        and "\x1b" not in result.stderr
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["evict"],
        ["destroy", "x"],
        ["restore"],
        ["restore", "--files-from", "x"],
        ["touch", "x", "--nonsense"],
    ],
)
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
    assert all(0 <= r["pages"] <= pages_of(r["size_bytes"]) for r in files)
    assert (
        total["files"] == 3
        and total["pages"] == sum(r["pages"] for r in files)
        and total["unknown"] == 0
    )
    document = json.loads(run("fincore", "--json", "-b", "--output-all", str(tmp_path)).stdout)[
        "fincore"
    ]
    assert {
        "res",
        "pages",
        "size",
        "file",
        "dirty",
        "dirty_pages",
        "writeback",
        "writeback_pages",
        "evicted",
        "evicted_pages",
        "recently_evicted",
        "recently_evicted_pages",
        "percent",
    } == set(document[0])
    assert json.loads(run("fincore", "-J", "--exclude", "*", str(tmp_path)).stdout) == {
        "fincore": []
    }


def documented(lines):
    """(arguments, the option that they set, its value) of each line."""
    for line in lines.strip().splitlines():
        arguments, option, value = (part.strip() for part in line.split("|"))
        yield pytest.param(arguments.split(), option, value, id=arguments)


# util-linux's manual page; then vmtouch's examples, whose -p and -b have long names only.
FINCORE = """
-n x               | noheadings      | True
--noheadings x     | noheadings      | True
-b x               | bytes           | True
-c x               | total           | True
-C x               | cachestat       | True
-o +DIRTY x        | output          | +DIRTY
--output FILE x    | output          | FILE
--output-all x     | output_all      | True
-r x               | raw             | True
--raw x            | raw             | True
-J x               | document        | True
--json x           | document        | True
-R x               | recursive       | True
--recursive x      | recursive       | True
-m 4096 x          | max_size        | 4096
-m 1.5G x          | max_size        | 1610612736
-f x               | dereference     | True
-F x               | one_file_system | True
-i .git -i *.bak . | exclude         | ['.git', '*.bak']
-I *.c -I *.h .    | include         | ['*.c', '*.h']
--range 100M-2G x  | range           | (104857600, 2147483648)
--range=-5M x      | range           | (0, 5242880)
--range - x        | range           | (0, None)
--files-from - -0  | null            | True
-v x               | verbose         | True
"""
PAGECACHE = """
touch -m 100M x           | max_size        | 104857600
touch -p 100M-2G x        | range           | (104857600, 2147483648)
touch -p-5M x             | range           | (0, 5242880)
touch -p 5M x             | range           | (0, 5242880)
touch -p - x              | range           | (0, None)
evict -f x                | dereference     | True
evict -F x                | one_file_system | True
lock -i .git -i *.bak .   | exclude         | ['.git', '*.bak']
lock -I *.c -I *.h .      | include         | ['*.c', '*.h']
touch -0 --files-from -   | files_from      | -
"""


@pytest.mark.parametrize("arguments, option, value", documented(FINCORE))
def test_command_lines_of_util_linux_and_vmtouch(arguments, option, value):
    args = load("fincore").get_parser().parse_args(arguments)
    assert str(getattr(args, option)) == value


@pytest.mark.parametrize("arguments, option, value", documented(PAGECACHE))
def test_command_lines_of_vmtouch(arguments, option, value):
    args = load("pagecache").get_parser().parse_args(arguments)
    assert str(getattr(args, option)) == value
