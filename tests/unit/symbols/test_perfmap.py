# SPDX-License-Identifier: GPL-2.0-or-later
"""Map files that JITs write for perf, also hostile ones."""

import os
import subprocess
import sys

import pytest

from crisis.symbols.perfmap import PerfMap
from helpers import ROOT, SLOW


def perf_map(tmp_path, text, uid=None, pid=7):
    """The PerfMap of a fixture's process 7, whose PID in its own namespace is 3."""
    process = tmp_path / "proc" / str(pid)
    (process / "root/tmp").mkdir(parents=True)
    owner = os.geteuid() if uid is None else uid
    (process / "status").write_text(f"Name:\tx\nUid:\t0\t{owner}\t0\t0\nNSpid:\t7\t3\n")
    if text is not None:
        (process / "root/tmp/perf-3.map").write_bytes(text)
    return PerfMap(str(process))


def test_perf_map_lines(tmp_path):
    found = perf_map(
        tmp_path,
        b"2000 10 second\n1000 20 first of two\nbad\nxyz 10 no\n-5 1 n\n1000 20 replaced\n"
        b"ffffffffffffffff 1 last\n3000 zz bad size\n4000 10\n5000 10 \xff\x1b\n6000 10 cut",
    )
    assert [
        found.find(at)
        for at in (0xFFF, 0x1000, 0x101F, 0x1020, 0x2008, (1 << 64) - 1, 0x3000, 0x4001)
    ] == [None, ("replaced", 0), ("replaced", 31), None, ("second", 8), ("last", 0), None, None]
    assert (
        found.find(0x5000) == ("\udcff\x1b", 0) and found.find(0x6000) is None and found.cut is None
    )


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "directory", "none", "owner"])
def test_perf_map_that_is_not_the_processs_own_file(tmp_path, kind):
    if kind == "owner":
        assert perf_map(tmp_path, b"0 ffff x\n", os.geteuid() + 1).find(1) is None
        return
    perf_map(tmp_path, None)
    path = tmp_path / "proc/7/root/tmp/perf-3.map"
    if kind == "fifo":
        os.mkfifo(str(path))
    elif kind == "link":
        (tmp_path / "real").write_bytes(b"0 ffff x\n")
        path.symlink_to(tmp_path / "real")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    assert PerfMap(str(tmp_path / "proc/7")).find(1) is None


def test_a_perf_map_without_a_line_break(tmp_path):
    found = perf_map(
        tmp_path,
        b"1000 10 "
        + b"a" * (1 << 19)
        + b"\n4000 10 "
        + b"x" * (5 << 20)
        + b"\n2000 10 b\n3000 10 c",
    )
    assert (
        found.find(0x4000) is None
        and found.find(0x1000) == ("a" * (4096 - 8), 0)
        and found.find(0x2001) == ("b", 1)
    )


COST = """
import resource, sys, time
sys.path.insert(0, %r)
from crisis.symbols.perfmap import PerfMap
before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
found = PerfMap(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.monotonic() - begin,
      found.find(0x7f0000000000), found.find(0x7f0000000000 + 64 * 499999 + 63), found.cut)
"""


@pytest.mark.parametrize("line", ["%x 40 function_%040d", "1 1 a"])
def test_a_large_perf_map(tmp_path, line):
    """32 MB of lines: all are used when they are of the usual length, and cost less than the file
    in any case.
    """
    text = "".join(
        (line + "\n") % ((0x7F0000000000 + 64 * i, i) if "%" in line else ()) for i in range(500000)
    )
    perf_map(tmp_path, (text * (1 if "%" in line else 11)).encode())
    size, seconds, rest = subprocess.run(
        [sys.executable, "-c", COST % os.path.join(ROOT, "lib"), str(tmp_path / "proc/7")],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout.split(" ", 2)
    assert int(size) < 64 << 10 and float(seconds) < 2 * SLOW
    if "%" in line:
        first, last = (f"function_{0:040d}", 0), (f"function_{499999:040d}", 63)
        assert rest == f"{first} {last} None\n"
    else:
        assert "only its first 524288 lines" in rest
