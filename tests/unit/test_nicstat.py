# SPDX-License-Identifier: GPL-2.0-or-later
"""nicstat's arithmetic and choice of rows, on made-up interfaces; and netlink's messages."""

import json
from argparse import Namespace

import pytest

from crisis.net import link as links
from helpers import load, run
from made_links import link, row

nicstat = load("nicstat")


def test_which_rows_are_shown():
    rows = [row(link(i), link(i, f"eth{i}", rx_bytes=i * 100, rx_packets=i)) for i in range(5)] + [
        row(link(9), link(9, "down", up=False))
    ]
    args = Namespace(all=False, interface=None, top=3)

    def names(rows_):
        shown, hidden = nicstat.chosen(args, rows_)
        return [r.link.name for r in shown], hidden

    assert names(rows) == (["eth2", "eth3", "eth4"], 1)
    assert names([rows[0], rows[5]]) == (["eth0"], 0) and names([rows[5]]) == ([], 0)
    args.all = True
    assert len(names(rows)[0]) == 6


def test_json():
    found = row(link(), link(name="a\x1b", rx_bytes=7, rx_packets=1, queue=None))
    first, soft = map(json.loads, nicstat.render_json([found], (3, 4), 1.0, 2).splitlines())
    assert first["interface"] == "a\x1b" and first["rx_bytes"] == 7
    assert first["queue_drops"] is None and first["queue_bytes"] is None
    assert first["lost"] == {"removed": 2} and (soft["dropped_packets"], soft["squeezed"]) == (3, 4)
    assert set(links.COUNTERS) <= set(first)


@pytest.mark.parametrize(
    "words", [["0"], ["x"], ["1", "0"], ["--top", "0"], ["1", "2", "3"], ["-i"]]
)
def test_usage_errors(words):
    result = run("nicstat", *words)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
