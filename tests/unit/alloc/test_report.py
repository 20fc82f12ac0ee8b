# SPDX-License-Identifier: GPL-2.0-or-later
"""What memleak prints of data that needs no kernel."""

import json
import types

from crisis.alloc import report
from crisis.alloc.blocks import Group
from crisis.alloc.sampling import Sampling
from crisis.symbols.frame import Frame


def arguments(**changes):
    values = {
        "top": None,
        "sort": "size",
        "growth": False,
        "folded": False,
        "sample": None,
        "show_allocs": False,
        "inlines": False,
        "unwind": False,
        "min_size": 0,
        "max_size": 1 << 62,
    }
    return types.SimpleNamespace(**dict(values, **changes))


class FakeTracer:
    user = True

    def learn(self, keys):
        self.keys = keys

    def comm(self, pid):
        return "a\x1bb"

    def frames(self, keys):
        return {
            key: None
            if key[1] == 3
            else [Frame(0x1234, "in\nner", 4, "/x/lib\x1b.so"), Frame(0x99)]
            for key in keys
        }

    def ends(self, stacks):
        return {key: ("short", "at the end") if key[1] == 2 else None for key in stacks}


def group(nbytes, count, bytes_variance=0, count_variance=0, blocks=()):
    made = Group(nbytes, count)
    made.bytes_variance, made.count_variance, made.blocks = bytes_variance, count_variance, blocks
    return made


GROUPS = {
    (7, 1): group(300, 3, blocks=[(0x1000, 100)]),
    (7, 2): group(100, 9),
    (8, 3): group(200, 1),
}


def test_text():
    args = arguments(show_allocs=True)
    text = report.render_text(args, report.rows(args, FakeTracer(), GROUPS, {}), True)
    lines = text.splitlines()
    assert "with outstanding allocations" in lines[0]
    assert lines[1] == "\taddr = 1000 size = 100"
    assert [row for row in lines if "bytes in" in row] == [
        r"	100 bytes in 9 allocations from stack of 7 a\x1bb",
        r"	200 bytes in 1 allocations from stack of 8 a\x1bb",
        r"	300 bytes in 3 allocations from stack of 7 a\x1bb",
    ]
    assert lines[-2:] == [
        "\t\t0x0000000000001234\tin\\x0aner+0x4 [lib\\x1b.so]",
        "\t\t0x0000000000000099\t[unknown]",
    ]
    assert "\t\t[stack information lost]" in lines and "\x1b" not in text
    assert lines.count("\t\t[the walk ended at the end]") == 1


def test_top_sort_and_errors():
    args = arguments(top=1, sort="count", sample=Sampling(nbytes=1000))
    rows = report.rows(
        args, FakeTracer(), {(7, 1): group(300, 3, 10000, 4), (7, 2): group(100.4, 9.2)}, {}
    )
    assert [(r.bytes, r.count, r.bytes_error) for r in rows] == [(100, 9, 0)]
    args = arguments(sample=Sampling(nbytes=1000))
    text = report.render_text(
        args, report.rows(args, FakeTracer(), {(7, 1): group(300, 3, 10000, 4)}, {}), False
    )
    assert "\t300 bytes (+-196) in 3 allocations (+-4) from stack\n" in text


def test_folded():
    args = arguments(folded=True)
    text = report.render_folded(args, report.rows(args, FakeTracer(), GROUPS, {}, True), True)
    assert text.splitlines() == [
        r"a\x1bb;[unknown];in\x0aner 100",
        r"a\x1bb;[stack information lost] 200",
        r"a\x1bb;[unknown];in\x0aner 300",
    ]


def test_json():
    args = arguments(show_allocs=True)
    rows = report.rows(args, FakeTracer(), GROUPS, {})
    text = report.render_json(
        args, rows, 1.5, {"bytes": 600, "allocations": 13}, {"blocks_full": 0}
    )
    records = [json.loads(line) for line in text.splitlines()]
    assert [r["record"] for r in records] == ["stack"] * 3 + ["total"]
    assert records[1]["stack"] is None and records[2]["stack"][0]["name"] == "in\nner"
    assert records[2]["allocs"] == [{"address": "0x1000", "bytes": 100}]
    assert [r["stack_end"] for r in records[:3]] == ["short", None, None]
    assert records[3]["bytes"] == 600 and records[3]["lost"] == {"blocks_full": 0}
    assert all(r["bytes_error"] is None for r in records[:3])
