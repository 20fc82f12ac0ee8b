# SPDX-License-Identifier: GPL-2.0-or-later
"""nicstat's choice of rows, on made-up interfaces, and its usage errors."""

import json
from argparse import Namespace

import pytest

from crisis.net import link as links
from helpers import load, run
from made_links import row, sample

nicstat = load("nicstat")


def test_which_rows_are_shown():
    rows = [row(sample(i), sample(i, f"eth{i}", rx_bytes=i * 100, rx_packets=i)) for i in range(5)]
    rows.append(row(sample(9, tx_packets=1), sample(9, "quiet", tx_packets=1)))
    args = Namespace(idle=False, interface=None, top=None, skip_zero=False)

    def names():
        shown, number = nicstat.chosen(args, rows)
        return [one.link.name for one in shown], number

    # eth0 never had a packet, quiet not in the interval
    assert names() == (["eth1", "eth2", "eth3", "eth4", "quiet"], 5)
    args.skip_zero = True
    assert names() == (["eth1", "eth2", "eth3", "eth4"], 5)
    args.top = 2
    assert names() == (["eth3", "eth4"], 5)
    args.top, args.skip_zero, args.idle = None, False, True
    assert names()[1] == 6


def test_json():
    found = row(sample(), sample(name="a\x1b", rx_bytes=7, rx_packets=1, queue=None))
    args = Namespace(tcp=False, udp=False)
    report = Namespace(
        rows=[found], activity=[], softnet=(3, 4), seconds=1.0, removed=2, since_boot=False
    )
    first, soft = map(json.loads, nicstat.render_json(args, report).splitlines())
    assert first["interface"] == "a\x1b" and first["rx_bytes"] == 7
    assert first["queue_drops"] is None and first["queue_bytes"] is None
    assert first["lost"] == {"removed": 2} and (soft["dropped_packets"], soft["squeezed"]) == (3, 4)
    assert set(links.COUNTERS) <= set(first)


@pytest.mark.parametrize(
    "text, speeds",
    [
        ("eth0:100", {"eth0": (100, True)}),
        ("eth0:10h,a:1000FD", {"eth0": (10, False), "a": (1000, True)}),
        ("eth0:10hd", {"eth0": (10, False)}),
    ],
)
def test_speeds(text, speeds):
    assert nicstat.get_parser().parse_args(["-S", text]).speed == speeds


@pytest.mark.parametrize(
    "words",
    [
        ["0"],
        ["x"],
        ["1", "0"],
        ["--top", "0"],
        ["1", "2", "3"],
        ["-i"],
        ["-S", "a:0"],
        ["-S", "a:10x"],
        ["-S", ":10"],
        ["-y"],
    ],
)
def test_usage_errors(words):
    result = run("nicstat", *words)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
