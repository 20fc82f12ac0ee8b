# SPDX-License-Identifier: GPL-2.0-or-later
"""delays: the report, on made-up data."""

import json
from argparse import Namespace

import pytest

from crisis.net import taskstats
from crisis.net import taskstats_waits as waits
from helpers import load, run

delays = load("delays")


def arguments(**options):
    defaults = {"json": False, "average": False, "timestamp": False, "tid": None, "sort": "total"}
    return Namespace(**dict(defaults, **options))


def test_report():
    values = {name: (index + 1, 1000 * (index + 1)) for index, name in enumerate(taskstats.DELAYS)}
    accounts = dict(values, blkio=(None, None), swapin=(0, 0), cpu=(4, 2500000))
    rows, names = [waits.Row(7, "a\x1b\n", False, accounts)], taskstats.DELAYS
    head, line = delays.render_text(arguments(), rows, names).splitlines()
    assert head.split() == (
        "CPU BLKIO SWAPIN RECLAIM THRASH COMPACT WPCOPY IRQ PID COMM (in ms)".split()
    )
    assert line.split()[:3] == ["2.5", "-", "0.0"] and line.endswith(r"7 a\x1b\x0a")
    head, line = delays.render_text(arguments(average=True), rows, names).splitlines()
    assert line.split()[:3] == ["625.0", "-", "-"] and head.endswith("COMM (in us)")
    found = json.loads(delays.render_json(arguments(), 1.0, rows, {"ended": 2}))
    assert found["cpu_count"] == 4 and found["cpu_avg_us"] == 625
    assert found["blkio_total_ns"] is None and found["swapin_avg_us"] is None
    assert found["lost"] == {"ended": 2} and found["kernel_thread"] is False
    assert len(found) == 7 + 3 * 8


def test_fits_80_columns():
    accounts = dict.fromkeys(taskstats.DELAYS, (1, 9999 * 10**5))
    rows = [waits.Row(999999, "fifteen-letters", False, accounts)]
    text = delays.render_text(arguments(), rows, taskstats.DELAYS)
    assert max(map(len, text.splitlines())) <= 80


def test_sort_value():
    accounts = dict.fromkeys(taskstats.DELAYS, (2, 3000))
    for sort, average, value in (
        ("total", False, 24000),
        ("reclaim", False, 3000),
        ("reclaim", True, 1.5),
    ):
        assert delays.sort_value(arguments(sort=sort, average=average))(accounts) == value
    assert delays.sort_value(arguments(sort="irq"))(dict(accounts, irq=(None, None))) is None


@pytest.mark.parametrize(
    "words",
    [
        ["0"],
        ["x"],
        ["1", "0"],
        ["-p", "0"],
        ["-p", "1,x"],
        ["-t", "x"],
        ["-p", "1", "-t", "1"],
        ["--sort", "x"],
        ["--top", "0"],
        ["1", "2", "3"],
    ],
)
def test_usage_errors(words):
    result = run("delays", *words)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
