# SPDX-License-Identifier: GPL-2.0-or-later
"""psi: its arithmetic and its report, on made-up files."""

import json
from argparse import Namespace

import pytest

from crisis.kernel import pressure
from helpers import load, run

psi = load("psi")


def arguments(**kwargs):
    return Namespace(
        **dict(
            {"json": False, "timestamp": False, "cgroup": None, "by_cgroup": False, "top": 2},
            **kwargs,
        )
    )


def test_text():
    values = {
        ("cpu", "some"): (500000, 0.5),
        ("memory", "some"): (0, 0.0),
        ("io", "full"): (12345, 0.012345),
    }
    assert psi.render_text(arguments(), [psi.Row(None, values)], True) == (
        "CPU_SOME% CPU_FULL% MEM_SOME% MEM_FULL%  IO_SOME%  IO_FULL% IRQ_FULL%\n"
        "    50.00         -      0.00         -         -      1.23         -\n"
    )
    text = psi.render_text(arguments(by_cgroup=True), [psi.Row("/a\x1b[1m\n", values)], False)
    assert text.endswith(r" /a\x1b[1m\x0a" + "\n") and text.startswith("\n 50.00")


def test_json():
    values = {("cpu", "some"): (500000, 0.5)}
    found = json.loads(psi.render_json(1.0, [psi.Row("/a\n", values)], 3))
    assert (
        found["cpu_some_us"] == 500000
        and found["cpu_some_ratio"] == 0.5
        and found["io_full_us"] is None
    )
    assert (
        found["cgroup"] == "/a\n"
        and found["lost"] == {"removed": 3}
        and found["record"] == "cgroup"
    )
    assert len(found) == 4 + 1 + 2 * len(pressure.KEYS)


def stall(avg10=0.0, avg60=0.0, avg300=0.0, total=0):
    return pressure.Stall(avg10, avg60, avg300, total)


def reading(**stalls):
    """A reading of cpu, of {kind: Stall}."""
    return {"cpu": pressure.Sample(b"", 0, stalls)}


def test_averages():
    reader = Namespace(mount="/cg/")
    readings = {
        ("system", None): reading(some=stall(1, 2, 3, 4)),
        ("cgroup", ("/cg", 1)): reading(some=stall(0.5)),
        ("cgroup", ("/cg/idle", 2)): reading(some=stall(total=9**9)),
        ("cgroup", ("/cg/past", 3)): reading(some=stall(avg300=40), full=stall(avg300=30)),
        ("cgroup", ("/cg/now", 4)): reading(some=stall(avg10=35)),
    }
    found = psi.averages(arguments(by_cgroup=True), reader, readings)
    assert [(path, keys) for path, _, keys in found] == [
        (None, [("cpu", "some")]),
        ("/past", [("cpu", "some")]),
        ("/now", [("cpu", "some")]),
    ]
    found = psi.averages(arguments(by_cgroup=True, top=100), reader, readings)
    assert [(path, len(keys)) for path, _, keys in found] == [
        (None, 1),
        ("/past", 2),
        ("/now", 1),
        ("/", 1),  # and none whose averages are all 0
    ]
    text = psi.render_averages(
        arguments(), psi.averages(arguments(), reader, dict([*readings.items()][:1]))
    )
    assert text == (
        "RESOURCE KIND AVG10% AVG60% AVG300% TOTAL(us)\n"
        "cpu      some   1.00   2.00    3.00         4\n\n"
    )
    record = json.loads(
        psi.render_averages_json([("/a", {("cpu", "some"): stall(1, 2, 3, 4)}, [])])
    )
    assert (record["record"], record["cgroup"], len(record)) == ("averages", "/a", 3 + 4 * 7)
    assert record["cpu_some_avg10"] == 1 and record["cpu_some_avg300"] == 3
    assert record["cpu_some_total_us"] == 4 and record["io_full_total_us"] is None


def test_fits_80_columns():
    """With uptimes of years, and room for 29 characters of a path."""
    args, key = arguments(by_cgroup=True), ("memory", "full")
    averages = psi.render_averages(
        args, [("/" + 28 * "x", {key: stall(100, 100, 100, 10**13)}, [key])]
    )
    values = dict.fromkeys(pressure.KEYS, (1, 1.0))
    shares = psi.render_text(args, [psi.Row("/" + 28 * "x", values)], True)
    assert max(map(len, (averages + shares).splitlines())) <= 80


@pytest.mark.parametrize(
    "words", [["0"], ["x"], ["1", "0"], ["-c", "/", "--by-cgroup"], ["--top", "0"], ["1", "2", "3"]]
)
def test_usage_errors(words):
    result = run("psi", *words)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
