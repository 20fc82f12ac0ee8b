# SPDX-License-Identifier: GPL-2.0-or-later
import struct
from types import SimpleNamespace

import pytest

from crisis.errors import Error
from crisis.memory.reclaim import Reclaim
from crisis.memory.reclaim_summary import Summary
from crisis.memory.reclaim_tracer import Batch, Totals, name_params
from helpers import load, run

drsnoop = load("drsnoop")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "0"],
        ["-u", "-1"],
        ["-u", "x"],
        ["-d", "0"],
        ["0"],
        ["--kind", "x"],
        ["--summary", "--relative"],
        ["--summary", "1", "0"],
        ["--summary", "-K"],
        ["--nonsense"],
    ],
)
def test_usage_errors(arguments):
    result = run("drsnoop", *arguments)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("drsnoop: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "999999999"],
        ["-t", "999999999"],
        ["-c", "/no/such/cgroup"],
        ["-n", "sixteen_bytes_ok"],
    ],
)
def test_wrong_targets(arguments):
    result = run("drsnoop", "-d", ".1", *arguments)
    assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1
    assert "no " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    # The examples of bcc's drsnoop, then those of libbpf-tools' that differ.
    ["", "-T", "-U", "-p 181", "-t 123", "-u 1000", "-d 10", "-n main", "-v", "-TU"]
    + ["-e", "-d 2 -e", "-p 123 -e", "--extended", "--duration=2", "--pid=123", "--tid=123"]
    + ["1", "1 5", "0.5 2 -e", "-d 10 1"],
)
def test_command_lines_of_the_peers_and_intervals(arguments):
    args = drsnoop.get_parser().parse_args(arguments.split())
    assert len(drsnoop.header(args).split()) >= 5


def test_name_as_words_and_masks():
    words = name_params("stress-ng")
    assert struct.pack("=QQ", words["name0"], words["name1"]) == b"stress-ng\0\0\0\0\0\0\0"
    assert struct.pack("=QQ", words["name_mask0"], words["name_mask1"]) == b"\xff" * 9 + b"\0" * 7
    with pytest.raises(Error):
        name_params("sixteen_bytes_ok")


def record(scanned=64, free=(1 << 64) - 1, stack=()):
    return SimpleNamespace(
        ts=5000000000,
        ns=1234567,
        reclaimed=32,
        scanned=scanned,
        free=free,
        cgroup=77,
        kind=1,
        order=3,
        gfp=0xCC0,
        tgid=10,
        tid=11,
        uid=12,
        comm=b"a\x1bb\0",
        kswapd=b"S\0R\0",
        stack_size=8 * len(stack),
        stack=(*stack, 0),
    )


def test_record():
    reclaim = Reclaim(record(stack=(1, 2)))
    assert (reclaim.kind, reclaim.order, reclaim.gfp, reclaim.tgid, reclaim.tid, reclaim.uid) == (
        "memcg",
        3,
        0xCC0,
        10,
        11,
        12,
    )
    assert (reclaim.comm, reclaim.kswapd, reclaim.free, reclaim.stack) == (
        "a\x1bb",
        "SR",
        None,
        [1, 2],
    )
    # Nothing scanned is nothing known, where the multi-generational LRU does not report it.
    assert Reclaim(record(0), lru_gen=True).scanned is None
    assert Reclaim(record(0)).scanned == 0


def test_text():
    class Names:
        def gfp(self, flags):
            return "GFP_KERNEL"

        def cgroup(self, number):
            return None

        def stack(self, addresses):
            return []

    args = drsnoop.get_parser().parse_args(["--relative", "-U", "-e"])
    head = drsnoop.header(args).split()
    line = drsnoop.render_text(
        args, Reclaim(record(free=1000), lru_gen=True), 4000000000, 0, Names()
    )
    assert head == [
        "TIME(s)",
        "UID",
        "COMM",
        "PID",
        "LAT(ms)",
        "PAGES",
        "FREE(KB)",
        "KIND",
        "ORDER",
        "SCANNED",
        "KSWAPD",
        "CGROUP",
        "GFP_FLAGS",
    ]
    assert line.split(None, 11) == [
        "1.000000000",
        "12",
        "a\\x1bb",
        "10",
        "1.23",
        "32",
        str(1000 * drsnoop.PAGE // 1024),
        "memcg",
        "3",
        "64",
        "SR",
        "id 77, removed       GFP_KERNEL\n",
    ]


def test_summary_of_nothing():
    nothing = SimpleNamespace(count=0, total=0, max=0, slots=[0] * 100)
    summary = Summary(1.0, [nothing] * len(drsnoop.KINDS), [], False)
    assert summary.text(False) == "\nno direct reclaim in 1.0 s\n"
    lines = summary.json(None, {}).splitlines()
    assert len(lines) == len(drsnoop.KINDS)
    for line in lines:
        assert '"count":0' in line and '"max_ns":null' in line and '"p99_us":null' in line


def test_totals():
    totals, events = Totals(), [Reclaim(record()), Reclaim(record())]
    totals.add(Batch(events, {}, None))
    totals.add(Batch(events[:1], {}, 2.5))
    assert (totals.seconds, totals.count, totals.pages) == (2.5, 3, 96)
    assert totals.ns == 3 * 1234567 and totals.kinds == {"global": 0, "memcg": 3, "node": 0}


@pytest.mark.parametrize("options, at", [([], 4), (["-v"], 5), (["-T", "-U"], 6), (["-t", "7"], 4)])
def test_kind_follows_the_classic_columns(options, at):
    """A line by default, which fits 80 columns with -T and -U too."""

    class Names:
        def stack(self, addresses):
            return []

    args = drsnoop.get_parser().parse_args(options)
    reclaim = Reclaim(record(free=10**9))
    head = drsnoop.header(args)
    line = drsnoop.render_text(args, reclaim, 0, 0, Names())
    classic = ["COMM", "TID" if args.tid else "PID", "LAT(ms)", "PAGES"]
    assert [word for word in head.split() if word in classic] == classic
    assert head.split().index("KIND") == at == len(head.split()) - 1
    assert line.split()[at] == "memcg" and max(len(head), len(line)) <= 81
